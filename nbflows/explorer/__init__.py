"""Flows that a reader can touch: one HTML file for any browser, and a panel in a notebook."""

from typing import TYPE_CHECKING

from torch import Tensor

from nbflows import extras
from nbflows.explorer.describe import describe
from nbflows.explorer.page import write_page
from nbflows.flow import Flow

if TYPE_CHECKING:
    from nbflows.explorer.panel import Panel

__all__ = ["describe", "explore", "write_page"]


def explore(flow: Flow, image: Tensor | None = None, context: Tensor | None = None, seed: int = 0) -> "Panel":
    """Returns a panel for a notebook: sliders move the latents of a flow of images, and its picture follows.

    Args:
        flow: any flow of images, also one that was just trained.
        image: start from the latents of this image ``(C, H, W)`` instead of noise.
        context: the context of one picture, ``(1, *flow.context_shape)``, for a flow that takes one.
        seed: random seed of the noise.
    """
    with extras.explained():
        from nbflows.explorer.panel import Panel
    return Panel(flow, image, context, seed)
