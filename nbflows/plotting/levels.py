"""Several scales: what a squeeze does to pixels, where the levels leave, and walks through all latents."""

from collections.abc import Sequence
from math import prod

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor

from nbflows.plotting.couplings import KEPT, MOVED, legend_of_masks

# Positions in a 2x2 block, row by row: light, so that numbers stay readable on them.
_BLOCK_COLOURS = ("#9ecae1", "#fdd0a2", "#a1d9a4", "#dcb8e6")


def squeeze_diagram(
    image: Tensor, squeezed: Tensor, title: str | None = None, names: Sequence[str] = ("first half", "second half")
) -> Figure:
    """Where each pixel of an image goes in a squeeze: the pixels in four colours, by their place in a 2x2 block.

    Args:
        image: different numbers ``(H, W)``.
        squeezed: the same numbers ``(4, H/2, W/2)``, in whatever order of channels.
        title: the finding.
        names: of the two halves of the channels.
    """
    image, squeezed = image.tolist(), squeezed.tolist()
    height, width = len(image), len(image[0])
    colours = {value: _BLOCK_COLOURS[2 * (i % 2) + j % 2] for i, row in enumerate(image) for j, value in enumerate(row)}
    gap, start, tall = 0.7, width + 1.9, height / 2
    across = start + width + gap
    figure = plt.figure(figsize=(0.53 * across + 0.2, 0.53 * (height + 2.9) + 0.1), layout="constrained")
    axes = _blank(figure, (-0.1, across + 0.1), (height + gap + 1.3, -0.9))
    _numbers(axes, image, 0, gap / 2 + 0.35, colours)
    axes.text(width / 2, 0.5, f"image, 1×{height}×{width}", ha="center", va="bottom", size=12)
    axes.add_patch(_arrow((width + 0.3, gap / 2 + height / 2 + 0.35), (start - 0.5, gap / 2 + height / 2 + 0.35)))
    for channel, grid in enumerate(squeezed):
        left, top = start + channel % 2 * (width / 2 + gap), channel // 2 * (tall + gap + 0.75)
        _numbers(axes, grid, left, top, colours)
        axes.text(left + width / 4, top - 0.12, f"channel {channel}", ha="center", va="bottom", size=12)
    for half, name in enumerate(names):
        axes.text(
            start + (width + gap) / 2, half * (tall + gap + 0.75) + tall + 0.12, name, ha="center", va="top", size=12
        )
    if title:
        figure.suptitle(title, size=13)
    return figure


def kept_pixels(
    masks: dict[str, Tensor], channel_names: Sequence[str], title: str | None = None, block: int = 2
) -> Figure:
    """Which pixels a coupling of halves keeps and which it moves, one row of small images per way to squeeze.

    Args:
        masks: label -> bool ``(C, H, W)``, True where the pixel is kept.
        channel_names: of the C channels.
        title: the finding.
        block: side of the blocks that the squeeze folds; they are drawn apart by thicker lines.
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
    if title:
        figure.suptitle(title, size=13)
    return figure


def level_ladder(
    shape: Sequence[int],
    level_shapes: Sequence[Sequence[int]],
    num_couplings: Sequence[int],
    title: str | None = None,
) -> Figure:
    """The multi-scale ladder: couplings at each resolution, and the exits where latents leave.

    Args:
        shape: ``(C, H, W)`` of the image.
        level_shapes: of the latents of the levels, finest first, as in ``Multiscale.latent_shapes``.
        num_couplings: at full resolution, then in every level.
        title: the finding.
    """
    full = tuple(shape)
    squeezed = [(2 * c, h, w) for c, h, w in level_shapes[:-1]] + [tuple(level_shapes[-1])]
    columns, step = [full, *squeezed], 3.0
    figure = plt.figure(figsize=(min(8, 2.6 * len(columns) + 0.2), 4.1), layout="constrained")
    axes = _blank(figure, (-1.15, step * (len(columns) - 1) + 1.15), (-2.45, 1.6))
    for i, (column, count) in enumerate(zip(columns, num_couplings, strict=True)):
        x, side = i * step, 0.42 + 1.5 * column[1] / full[1]
        _box(axes, x, 0.45, max(side, 1.7), side, _BLOCK_COLOURS[0])
        axes.text(x, 0.45, f"{count} couplings\n{_times(column)}", ha="center", va="center", size=11)
        if i + 1 < len(columns):
            half, following = max(side, 1.7) / 2, max(0.42 + 1.5 * columns[i + 1][1] / full[1], 1.7) / 2
            axes.add_patch(_arrow((x + half, 0.45), (x + step - following, 0.45)))
            goes_on = "squeeze" if i == 0 else "half goes on,\nsqueeze"
            axes.text(x + (half + step - following) / 2, 0.6, goes_on, ha="center", va="bottom", size=10)
        if i > 0:
            latent = level_shapes[i - 1]
            axes.add_patch(_arrow((x, 0.45 - side / 2), (x, -1.35)))
            leaves = "half leaves" if i + 1 < len(columns) else "all that is left"
            axes.text(x + 0.1, -0.95, leaves, ha="left", va="center", size=10)
            _box(axes, x, -1.85, 2.1, 0.95, _BLOCK_COLOURS[1])
            axes.text(
                x, -1.85, f"level {i}: {_times(latent)}\n= {prod(latent)} numbers", ha="center", va="center", size=11
            )
    axes.text(0, -1.85, f"image: {_times(full)}\n= {prod(full)} numbers", ha="center", va="center", size=11)
    axes.add_patch(_arrow((0, -1.5), (0, -0.55)))
    if title:
        figure.suptitle(title, size=13)
    return figure


def walk_lengths(
    lengths: dict[str, Tensor], num_dims: int, title: str | None = None, noise_lengths: Tensor | None = None
) -> Figure:
    """How long z is on the way from one code to another, for several pairs, and how long noise is.

    Args:
        lengths: name of the walk -> ``(pairs, points)``; the points are evenly spaced from start to end.
        num_dims: D; a line stands at the square root of D.
        title: the finding.
        noise_lengths: of draws of noise; 95 % of them lie in the band that is drawn.
    """
    figure, axes = plt.subplots(figsize=(6.2, 3.3))
    if noise_lengths is not None:
        low, high = np.quantile(noise_lengths.detach().cpu().numpy(), [0.025, 0.975])
        axes.axhspan(low, high, color="#d5ece4", zorder=0, linewidth=0, label="95 % of all noise")
    axes.axhline(num_dims**0.5, color="C2", linewidth=1.5, label=f"√{num_dims}")
    for colour, (style, (name, pairs)) in enumerate(zip(("-", "--", ":"), lengths.items(), strict=False)):
        place = np.linspace(0, 1, pairs.shape[1])
        for i, pair in enumerate(pairs.tolist()):
            axes.plot(place, pair, style, color=f"C{colour}", label=name if i == 0 else None)
    axes.set(xlabel="place on the walk: 0 is the first code, 1 the second", ylabel="length of z")
    axes.set_ylim(bottom=0)
    if title:
        axes.set_title(title, size=13)
    axes.legend(loc="lower center", ncols=2)
    return figure


def _blank(figure: Figure, across: tuple[float, float], down: tuple[float, float]) -> Axes:
    axes = figure.add_subplot()
    axes.set(xlim=across, ylim=down, aspect="equal")
    axes.axis("off")
    return axes


def _numbers(axes: Axes, grid: list[list[int]], left: float, top: float, colours: dict[int, str]) -> None:
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            axes.add_patch(
                Rectangle((left + j, top + i), 1, 1, facecolor=colours[value], edgecolor="white", linewidth=2)
            )
            axes.text(left + j + 0.5, top + i + 0.5, str(value), ha="center", va="center", size=12)


def _box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, facecolor=colour, edgecolor="#555555"))


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    return FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=16, color="#444444", shrinkA=0, shrinkB=0)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
