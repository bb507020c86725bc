"""Multi-scale flows: what a squeeze does to pixels, which pixels a coupling keeps, and the exits of the levels."""

from collections.abc import Sequence
from math import prod

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from nbflows.plotting.couplings import KEPT, MOVED, legend_of_masks
from nbflows.plotting.diagrams import arrow, blank, box, times
from nbflows.plotting.page import entitle

__all__ = ["kept_pixels", "level_ladder", "squeeze_diagram"]

# The positions in a 2x2 block, row by row, in light colours on which numbers are readable.
_BLOCK_COLOURS = ("#9ecae1", "#fdd0a2", "#a1d9a4", "#dcb8e6")


def squeeze_diagram(
    image: Tensor, squeezed: Tensor, title: str | None = None, names: Sequence[str] = ("first half", "second half")
) -> Figure:
    """The path of each pixel through a squeeze: four colours for the places in a 2x2 block.

    Args:
        image: different numbers ``(H, W)``.
        squeezed: the same numbers ``(4, H/2, W/2)``, with the channels in any order.
        title: the finding.
        names: the two halves of the channels.
    """
    rows = image.tolist()
    height, width = image.shape
    colours = {value: _BLOCK_COLOURS[2 * (i % 2) + j % 2] for i, row in enumerate(rows) for j, value in enumerate(row)}
    gap, start, tall = 0.7, width + 1.9, height / 2
    across = start + width + gap
    figure = plt.figure(figsize=(0.53 * across + 0.2, 0.53 * (height + 2.9) + 0.1), layout="constrained")
    axes = figure.add_subplot()
    blank(axes, (-0.1, across + 0.1), (height + gap + 1.3, -0.9))
    _numbers(axes, rows, 0, gap / 2 + 0.35, colours)
    axes.text(width / 2, 0.5, f"image, 1×{height}×{width}", ha="center", va="bottom", size=12)
    arrow(axes, (width + 0.3, gap / 2 + height / 2 + 0.35), (start - 0.5, gap / 2 + height / 2 + 0.35))
    for channel, grid in enumerate(squeezed.tolist()):
        left, top = start + channel % 2 * (width / 2 + gap), channel // 2 * (tall + gap + 0.75)
        _numbers(axes, grid, left, top, colours)
        axes.text(left + width / 4, top - 0.12, f"channel {channel}", ha="center", va="bottom", size=12)
    for half, name in enumerate(names):
        axes.text(
            start + (width + gap) / 2, half * (tall + gap + 0.75) + tall + 0.12, name, ha="center", va="top", size=12
        )
    entitle(figure, title)
    return figure


def kept_pixels(
    masks: dict[str, Tensor], channel_names: Sequence[str], title: str | None = None, block: int = 2
) -> Figure:
    """The pixels that a coupling keeps and moves, one row of small images for each way to squeeze.

    Args:
        masks: label -> bool ``(C, H, W)``, True where the pixel is kept.
        channel_names: names of the C channels.
        title: the finding.
        block: side of the blocks that the squeeze turns into channels; thicker lines separate them.
    """
    count = len(channel_names)
    height, width = next(iter(masks.values())).shape[1:]
    figure, all_axes = plt.subplots(
        len(masks), count, figsize=(1.45 * count + 2.4, 1.4 * len(masks) + 0.9), squeeze=False
    )
    for i, (row, (label, mask)) in enumerate(zip(all_axes, masks.items(), strict=True)):
        for axes, name, channel in zip(row, channel_names, mask.tolist(), strict=True):
            axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
            if i == 0:
                axes.set_title(name, size=12)
            for y, x in np.ndindex(height, width):
                colour = KEPT if channel[y][x] else MOVED
                axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white"))
            for line in range(0, max(height, width) + 1, block):
                axes.axhline(line, color="black", linewidth=1.5)
                axes.axvline(line, color="black", linewidth=1.5)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", size=12)
    legend_of_masks(figure, "first half: kept", "second half: moved")
    entitle(figure, title)
    return figure


def level_ladder(
    shape: Sequence[int],
    level_shapes: Sequence[Sequence[int]],
    num_couplings: Sequence[int],
    title: str | None = None,
) -> Figure:
    """A multi-scale flow: couplings at each resolution, and the exits of the latents.

    Args:
        shape: ``(C, H, W)`` of the image.
        level_shapes: the latents of the levels, finest first, as in ``Multiscale.latent_shapes``.
        num_couplings: couplings at full resolution, then in every level.
        title: the finding.
    """
    full = tuple(shape)
    squeezed = [(2 * c, h, w) for c, h, w in level_shapes[:-1]] + [tuple(level_shapes[-1])]
    columns, step = [full, *squeezed], 3.0
    figure = plt.figure(figsize=(min(8, 2.6 * len(columns) + 0.2), 4.1), layout="constrained")
    axes = figure.add_subplot()
    blank(axes, (-1.15, step * (len(columns) - 1) + 1.15), (-2.45, 1.6))
    for i, (column, count) in enumerate(zip(columns, num_couplings, strict=True)):
        x, side = i * step, 0.42 + 1.5 * column[1] / full[1]
        box(axes, x, 0.45, max(side, 1.7), side, _BLOCK_COLOURS[0], f"{count} couplings\n{times(column)}")
        if i + 1 < len(columns):
            half, following = max(side, 1.7) / 2, max(0.42 + 1.5 * columns[i + 1][1] / full[1], 1.7) / 2
            arrow(axes, (x + half, 0.45), (x + step - following, 0.45))
            label = "squeeze" if i == 0 else "half\ncontinues,\nsqueeze"
            axes.text(x + (half + step - following) / 2, 0.6, label, ha="center", va="bottom", size=10)
        if i > 0:
            latent = level_shapes[i - 1]
            arrow(axes, (x, 0.45 - side / 2), (x, -1.35))
            label = "half exits" if i + 1 < len(columns) else "the rest"
            axes.text(x + 0.1, -0.95, label, ha="left", va="center", size=10)
            text = f"level {i - 1}: {times(latent)}\n= {prod(latent)} numbers"
            box(axes, x, -1.85, 2.1, 0.95, _BLOCK_COLOURS[1], text)
    axes.text(0, -1.85, f"image: {times(full)}\n= {prod(full)} numbers", ha="center", va="center", size=11)
    arrow(axes, (0, -1.5), (0, -0.55))
    entitle(figure, title)
    return figure


def _numbers(axes: Axes, grid: list[list[int]], left: float, top: float, colours: dict[int, str]) -> None:
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            axes.add_patch(
                Rectangle((left + j, top + i), 1, 1, facecolor=colours[value], edgecolor="white", linewidth=2)
            )
            axes.text(left + j + 0.5, top + i + 0.5, str(value), ha="center", va="center", size=12)
