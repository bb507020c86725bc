"""Densities and bent grids: the effect of a flow on a line, on the plane, and on volumes."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from nbflows.plotting.page import as_array, entitle

__all__ = ["bent_grids", "contributions", "densities_1d", "densities_2d", "density_maps"]


def densities_1d(
    panels: dict[str, tuple[Tensor, Tensor]],
    edges: dict[str, Tensor],
    samples: dict[str, Tensor] | None = None,
    title: str | None = None,
) -> Figure:
    """Densities on a line side by side, cut into bands: a band has the same colour and the same area in all panels.

    Args:
        panels: label of the axis -> ascending positions ``(N,)`` and the density there ``(N,)``.
        edges: the same labels -> the ends of the bands, ascending, ``(K + 1,)``; K is the same in all panels.
        samples: some of the labels -> draws ``(S,)``, shown as a histogram.
        title: the finding.
    """
    samples = samples or {}
    figure, all_axes = plt.subplots(1, len(panels), figsize=(8, 3.1), squeeze=False)
    for axes, (label, (x, density)) in zip(all_axes[0], panels.items(), strict=True):
        x, density, borders = as_array(x), as_array(density), as_array(edges[label])
        colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.95, len(borders) - 1))
        for low, high, colour in zip(borders[:-1], borders[1:], colours, strict=True):
            # The band's ends are added so that neighbours meet without a gap.
            inside = np.unique(np.clip(x, max(low, x[0]), min(high, x[-1])))
            axes.fill_between(inside, np.interp(inside, x, density), color=colour, linewidth=0)
        axes.plot(x, density, color="black", linewidth=1.5, label="formula")
        if label in samples:
            values, style = as_array(samples[label]), {"color": "C3", "linewidth": 1.5, "label": "samples"}
            counts, bins = np.histogram(values, bins=40, range=(x[0], x[-1]))
            axes.stairs(counts / (len(values) * np.diff(bins)), bins, **style)
            axes.legend()
        axes.set(xlabel=label, xlim=(x[0], x[-1]), ylim=(0, 1.15 * density.max()))
        axes.grid(False)
    all_axes[0, 0].set_ylabel("density")
    entitle(figure, title)
    return figure


def densities_2d(
    panels: dict[str, tuple[Tensor, tuple[float, float, float, float]]],
    points: dict[str, Tensor],
    names: tuple[str, str] = ("first coordinate", "second coordinate"),
    title: str | None = None,
) -> Figure:
    """Densities in the plane side by side, in 16 equal steps, the highest in the lightest colour, with points on top.

    Args:
        panels: label -> density ``(rows, columns)`` on a grid, the first row lowest, and the grid's
            (left, right, bottom, top).
        points: the same labels -> ``(S, 2)``.
        names: labels of the two axes.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(panels), figsize=(8, 5.3), squeeze=False)
    for axes, (label, (density, extent)) in zip(all_axes[0], panels.items(), strict=True):
        values = as_array(density)
        # Steps instead of a gradient show contours, and the picture takes a quarter of the bytes.
        picture = axes.contourf(values, np.linspace(0, values.max(), 17), extent=extent, cmap="viridis")
        axes.set_aspect("equal")
        axes.scatter(*as_array(points[label]).T, s=6, color="white", edgecolor="black", linewidth=0.4)
        axes.set(title=label, xlabel=names[0], xlim=extent[:2], ylim=extent[2:])
        axes.grid(False)
        bar = figure.colorbar(picture, ax=axes, orientation="horizontal", label="density", shrink=0.9)
        bar.set_ticks(MaxNLocator(5).tick_values(0, values.max())[:-1])
    all_axes[0, 0].set_ylabel(names[1])
    entitle(figure, title)
    return figure


def density_maps(
    panels: dict[str, Tensor], extent: tuple[float, float, float, float], title: str | None = None
) -> Figure:
    """Densities in the plane side by side, on one scale of colours: dark is zero.

    Args:
        panels: label -> density ``(rows, columns)`` on a grid, the first row lowest.
        extent: left, right, bottom and top of all grids.
        title: the finding.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, all_axes = plt.subplots(
        rows, columns, figsize=(8, 0.7 + 2.45 * rows), layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    # A very high density at one point would darken all others.
    brightest = max(np.quantile(as_array(density), 0.995) for density in panels.values())
    for axes, (label, density) in zip(all_axes.flat, panels.items(), strict=False):
        picture = axes.contourf(
            np.minimum(as_array(density), brightest), np.linspace(0, brightest, 17), extent=extent, cmap="viridis"
        )
        axes.set_aspect("equal")
        axes.set_title(label, size=11)
        axes.grid(False)
    for axes in all_axes.flat[len(panels) :]:
        axes.set_visible(False)
    bar = figure.colorbar(picture, ax=all_axes, shrink=0.8, label="density")
    ticks = np.linspace(0, brightest, 5)
    bar.set_ticks(ticks, labels=[f"{tick:.2f}" for tick in ticks])
    figure.supxlabel("first coordinate", size=12)
    figure.supylabel("second coordinate", size=12)
    entitle(figure, title)
    return figure


def bent_grids(
    panels: dict[str, Tensor],
    points: dict[str, Tensor] | None = None,
    radius: float = float("inf"),
    square: int = 10,
    columns: int = 3,
    names: tuple[str, str] = ("first coordinate", "second coordinate"),
    title: str | None = None,
) -> Figure:
    """A chessboard at several stages of a flow: each cell keeps its colour wherever it moves.

    Each quarter of the first board has a colour, and each of its squares a shade.

    Args:
        panels: label -> the corners of the cells ``(rows, columns, 2)``, in the order of the stages. The first is a
            regular grid.
        points: label -> ``(S, 2)``; drawn in a panel of their own if no grid has this label.
        radius: only the cells within this distance of the middle of the first grid are drawn.
        square: number of cells along the side of a square, so that squares can bend.
        columns: panels in a row.
        names: labels of the two axes.
        title: the finding.
    """
    points = points or {}
    labels = list(dict.fromkeys([*panels, *points]))
    columns = min(columns, len(labels))
    rows = -(-len(labels) // columns)
    figure, all_axes = plt.subplots(rows, columns, figsize=(8, 0.5 + 8.2 * rows / columns), squeeze=False)
    colours = _chessboard(as_array(next(iter(panels.values()))), radius, square)
    for axes, label in zip(all_axes.flat, labels, strict=False):
        if label in panels:
            _draw_cells(axes, as_array(panels[label]), colours)
        if label in points:
            axes.scatter(*as_array(points[label]).T, s=4, color="black", linewidth=0)
        axes.set_title(label, size=12)
        axes.set_aspect("equal", adjustable="datalim")
        axes.tick_params(labelsize=10)
        axes.grid(False)
    for axes in all_axes.flat[len(labels) :]:
        axes.set_visible(False)
    figure.supxlabel(names[0], size=12)
    figure.supylabel(names[1], size=12)
    entitle(figure, title)
    return figure


def contributions(
    labels: Sequence[str], values: Tensor, errors: Tensor | None = None, title: str | None = None, axis: str = "nats"
) -> Figure:
    """Terms of a sum as bars from top to bottom, each with its value.

    Args:
        labels: names of the terms; the last is the sum.
        values: the terms and their sum, ``(N,)``.
        errors: standard errors of the values, drawn as error bars.
        title: the finding.
        axis: label of the axis.
    """
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.32 * len(labels)))
    heights = as_array(values)
    colours = ["C0" if height >= 0 else "C1" for height in heights[:-1]] + ["C7"]
    bars = axes.barh(range(len(labels)), heights, color=colours, xerr=None if errors is None else as_array(errors))
    axes.bar_label(bars, [f"{height:+.1f}" if abs(height) >= 0.05 else "0.0" for height in heights], padding=4, size=11)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=1)
    axes.margins(x=0.15)
    axes.set_xlabel(axis)
    axes.grid(False, axis="y")
    axes.set_title(title or "")
    return figure


def _chessboard(grid: np.ndarray, radius: float, square: int) -> np.ndarray:
    """Returns the RGBA colours of the cells of a regular grid; cells beyond the radius are transparent."""
    from_middle = (grid[1:, 1:] + grid[:-1, :-1]) / 2 - grid.mean((0, 1))
    quarter = (from_middle[..., 0] > 0) + 2 * (from_middle[..., 1] > 0)
    palette = np.array([to_rgb(f"C{i}") for i in (0, 1, 2, 4)])
    rows, columns = np.indices(quarter.shape) // square
    light = ((rows + columns) % 2 == 0)[..., None]
    colours = np.where(light, 0.4 * palette[quarter] + 0.6, palette[quarter])
    return np.dstack([colours, np.hypot(*np.moveaxis(from_middle, -1, 0)) <= radius])


def _draw_cells(axes: Axes, grid: np.ndarray, colours: np.ndarray) -> None:
    axes.pcolormesh(grid[..., 0], grid[..., 1], colours, rasterized=True)
    # Without the transparent cells, which would widen the limits.
    seen = grid[:-1, :-1][colours[..., 3] > 0]
    axes.dataLim.update_from_data_xy(seen, ignore=True)
    axes.autoscale_view()
