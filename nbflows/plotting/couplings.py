"""Couplings: masks, the graph of a coupling, and its effect on an image."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from torch import Tensor

from nbflows.plotting.diagrams import LINE, arrow
from nbflows.plotting.page import as_array, entitle

__all__ = ["coupling_diagram", "coupling_masks", "coupling_step"]

# The colours of kept and moved numbers in all figures.
KEPT, MOVED = "#0173b2", "#f3dcc0"
_NET = "#dcdcdc"


def coupling_masks(masks: dict[str, Tensor], title: str | None = None) -> Figure:
    """Masks side by side: which places are kept and which are moved. Several channels are drawn in a square.

    Args:
        masks: label -> bool ``(C, H, W)``, True where x is kept.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(masks), figsize=(8, 8 / len(masks) + 0.9), squeeze=False)
    for axes, (label, mask) in zip(all_axes[0], masks.items(), strict=True):
        channels, height, width = mask.shape
        across = int(np.ceil(np.sqrt(channels)))
        gap = 0.08 * width * (across > 1)
        for c in range(channels):
            left, top = c % across * (width + gap), c // across * (height + gap)
            for i, j in np.ndindex(height, width):
                colour = KEPT if mask[c, i, j] else MOVED
                axes.add_patch(Rectangle((left + j, top + i), 1, 1, facecolor=colour, edgecolor="white"))
        down = -(-channels // across)
        axes.set(xlim=(0, across * (width + gap) - gap), ylim=(down * (height + gap) - gap, 0), aspect="equal")
        axes.set_title(label, size=12)
        axes.axis("off")
    legend_of_masks(figure, "kept: the network sees it", "moved")
    entitle(figure, title)
    return figure


def legend_of_masks(figure: Figure, kept: str, moved: str) -> None:
    """Explains the two colours of masks below the panels."""
    figure.legend(
        handles=[Patch(color=KEPT, label=kept), Patch(color=MOVED, label=moved)],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=12,
    )


def coupling_diagram(title: str | None = None) -> Figure:
    """The graph of a coupling that shifts first, forward and inverse: the same picture with some arrows turned.

    Args:
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, 2, figsize=(8, 4.6))
    for axes, forward in zip(all_axes, (True, False), strict=True):
        axes.set(xlim=(-0.75, 4.55), ylim=(-0.5, 5.6), aspect="equal")
        axes.axis("off")
        axes.set_title("forward: data to latent" if forward else "inverse: latent to data", size=12)
        kept, net, moved = 0.0, 1.9, 3.7
        for x, y, text, colour in (
            (kept, 5, "kept", KEPT),
            (kept, 0, "kept", KEPT),
            (moved, 5, "moved, x", MOVED),
            (moved, 0, "moved, z", MOVED),
            (net, 3.4, "net", _NET),
            (net, 1.7, "bound, exp", _NET),
        ):
            _box(axes, x, y, text, colour)
        for y, symbol in ((3.4, "+" if forward else "−"), (1.7, "×" if forward else "÷")):
            axes.text(
                moved,
                y,
                symbol,
                size=17,
                ha="center",
                va="center",
                bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": LINE},
            )
        # Down is forward. Only the arrows of the moved half turn round; the network always reads the kept half.
        kept_path = [(kept, 4.65), (kept, 0.35)]
        moved_path = [[(moved, 4.65), (moved, 3.8)], [(moved, 3.0), (moved, 2.1)], [(moved, 1.3), (moved, 0.35)]]
        for start, end in [kept_path, *moved_path]:
            arrow(axes, *((start, end) if forward else (end, start)))
        arrow(axes, (kept, 3.4), (net - 0.72, 3.4))
        arrow(axes, (net + 0.72, 3.4), (moved - 0.42, 3.4))
        arrow(axes, (net, 3.05), (net, 2.05))
        axes.text(net + 0.12, 2.55, "r", size=12, ha="left", va="center", style="italic")
        arrow(axes, (net + 0.72, 1.7), (moved - 0.42, 1.7))
        for y, symbol in ((3.4, "$t$"), (1.7, "$e^s$")):
            axes.text((net + moved) / 2 + 0.07, y + 0.12, symbol, ha="center", va="bottom", size=12, style="italic")
    entitle(figure, title)
    return figure


def coupling_step(
    before: Tensor,
    shift: Tensor,
    scale: Tensor,
    after: Tensor,
    mask: Tensor,
    reach: float = 4.0,
    title: str | None = None,
) -> Figure:
    """One coupling applied to one image: before, kept pixels, after; shift and scale of the moved pixels, the change.

    Args:
        before, after: real numbers ``(H, W)``, drawn in the same grey levels.
        shift, scale: t and exp(s), ``(H, W)``; drawn where the mask is False only, blue-grey elsewhere.
        mask: bool ``(H, W)``, True where the image is kept.
        reach: values up to -reach are black, values from reach on are white.
        title: the finding.
    """
    # The exponent of two puts halving and doubling at the same distance from white.
    x, t, exponent, z = as_array(before), as_array(shift), np.log2(as_array(scale)), as_array(after)
    moved = ~mask.cpu().numpy()
    grey = {"cmap": "gray", "vmin": -reach, "vmax": reach}
    most, factor = np.abs(t[moved]).max(), np.abs(exponent[moved]).max()
    diverging = {"cmap": "PuOr_r", "vmin": -factor, "vmax": factor}
    change = z - x
    far = np.abs(change).max()
    panels = [
        ("before", x, grey, "value"),
        ("kept: the net's input", np.where(moved, np.nan, x), grey, "value"),
        ("after", z, grey, "value"),
        ("shift t", np.where(moved, t, np.nan), {"cmap": "PuOr_r", "vmin": -most, "vmax": most}, "added"),
        ("scale exp(s)", np.where(moved, exponent, np.nan), diverging, "multiplied by"),
        ("after minus before", change, {"cmap": "PuOr_r", "vmin": -far, "vmax": far}, "difference"),
    ]
    figure, all_axes = plt.subplots(2, 3, figsize=(9, 7.4))
    for axes, (name, values, style, label) in zip(all_axes.flat, panels, strict=True):
        axes.set_facecolor("#9db8c9")
        picture = axes.imshow(values, **style)
        axes.set_title(name, size=13)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        bar = figure.colorbar(picture, ax=axes, orientation="horizontal", shrink=0.85, label=label)
        if label == "multiplied by":
            bar.set_ticks([-factor, 0, factor], labels=[f"{2**-factor:.2f}", "1", f"{2**factor:.2f}"])
    entitle(figure, title)
    return figure


def _box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    shape = FancyBboxPatch((x - 0.62, y - 0.25), 1.24, 0.5, boxstyle="round,pad=0.1", facecolor=colour, edgecolor=LINE)
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", size=11, color="white" if colour == KEPT else "black")
