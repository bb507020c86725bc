"""Flows that a reader can touch: one HTML file for any browser, and a panel in a notebook."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from nbflows import extras
from nbflows.explorer.describe import describe
from nbflows.explorer.page import write_page
from nbflows.flow import Flow

if TYPE_CHECKING:
    from nbflows.explorer.panel import Panel
    from nbflows.explorer.plane import Film, Knots

__all__ = ["describe", "explore", "film", "knots", "write_page"]


def explore(flow: Flow, image: Tensor | None = None, context: Tensor | None = None, seed: int = 0) -> "Panel":
    """Returns a panel for a notebook: sliders move the latents of a flow of images, and its picture follows.

    A flow given a class has a slider for it, and one that ``guidance.guided`` can steer by the class another.

    Args:
        flow: any flow of images, also one that was just trained.
        image: start from the latents of this image ``(C, H, W)`` instead of noise.
        context: the context of one picture, ``(1, *flow.context_shape)``, for a flow that takes one.
        seed: random seed of the noise.
    """
    with extras.explained():
        from nbflows.explorer.panel import Panel
    return Panel(flow, image, context, seed)


def knots(
    function: Callable[[Tensor], Tensor], low: float, high: float, count: int = 9, names: tuple[str, str] = ("x", "z")
) -> "Knots":
    """Returns a widget with an increasing curve whose knots can be dragged, and the density of x that follows.

    Args:
        function: the curve to begin with: x ``(count,)`` in ascending order to z, both float64.
        low, high: the ends of the curve.
        count: number of knots.
        names: labels of the axes of x and z.
    """
    with extras.explained():
        from nbflows.explorer.plane import Knots
    return Knots(function, low, high, count, names)


def film(stages: dict[str, Tensor], data: Tensor) -> "Film":
    """Returns a widget with a slider through the stages of a training: points that bend into the data.

    Args:
        stages: label -> the same points ``(N, 2)`` at each stage; the first one gives them their colours.
        data: points ``(S, 2)`` to compare with.
    """
    with extras.explained():
        from nbflows.explorer.plane import Film
    return Film(stages, data)
