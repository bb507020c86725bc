"""Densities and bent grids: the effect of a flow on a line, on the plane, and on volumes."""

import itertools
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from nbflows.plotting.page import as_array, entitle, legend_below

__all__ = ["bent_grids", "bent_squares", "density_maps", "log_densities"]


def bent_squares(
    function: Callable[[Tensor], Tensor], corner: Tensor, sides: Sequence[float], title: str | None = None
) -> Figure:
    """Shows what a function of the plane makes of squares at a point, and the parallelogram of its Jacobian there.

    Args:
        function: maps points ``(..., 2)`` to points.
        corner: the lower left corner of all squares ``(2,)``.
        sides: the sides of the squares, one panel each.
        title: the finding.
    """
    columns = torch.autograd.functional.jacobian(function, corner).T
    walk = corner.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    steps = torch.linspace(0, 1, 60, dtype=corner.dtype)[:, None]
    outline = torch.cat([torch.lerp(a, b, steps) for a, b in itertools.pairwise(walk)])
    figure, all_axes = plt.subplots(1, len(sides), figsize=(8, 3.4), layout="constrained", squeeze=False)
    for axes, side in zip(all_axes[0], sides, strict=True):
        image = as_array(function(corner + side * outline))
        straight = as_array(function(corner) + side * walk @ columns)
        x, y = image.T
        ratio = abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2 / side**2
        axes.fill(x, y, color="C0", alpha=0.6, linewidth=0, label="image of the square")
        axes.plot(*straight.T, "--", color="C3", linewidth=2, label="parallelogram of J")
        axes.set_title(f"side {side:g}: area × {ratio:.2f}", size=12)
        axes.set_aspect("equal", adjustable="datalim")
        axes.tick_params(labelsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    all_axes[0, 0].set_ylabel("second coordinate")
    all_axes[0, len(sides) // 2].set_xlabel("first coordinate")
    entitle(figure, title)
    legend_below(figure, all_axes[0, 0])
    return figure


def log_densities(
    panels: dict[str, Tensor],
    extent: tuple[float, float, float, float],
    title: str | None = None,
) -> Figure:
    """Densities in the plane side by side, on one logarithmic scale of colours, from a thousandth of the highest.

    Args:
        panels: label -> density ``(rows, columns)`` on a grid, the first row lowest.
        extent: left, right, bottom and top of all grids.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(panels), figsize=(8, 4), layout="constrained", squeeze=False, sharey=True)
    highest = max(density.max().item() for density in panels.values())
    # Steps instead of a gradient show contours, and the picture takes a quarter of the bytes.
    steps = np.geomspace(highest / 1000, highest, 13)
    for axes, (label, density) in zip(all_axes[0], panels.items(), strict=True):
        values = np.clip(as_array(density), steps[0] / 10, None)
        picture = axes.contourf(
            values, steps, extent=extent, cmap="viridis", norm=LogNorm(steps[0], highest), extend="min"
        )
        axes.set_facecolor("black")
        axes.set_aspect("equal")
        axes.set(title=label, xlabel="first coordinate", xlim=extent[:2], ylim=extent[2:])
        axes.grid(False)
    all_axes[0, 0].set_ylabel("second coordinate")
    bar = figure.colorbar(picture, ax=all_axes, orientation="horizontal", label="density", shrink=0.7, aspect=40)
    ticks = [tick for tick in (0.001, 0.01, 0.1, 1, 10) if steps[0] <= tick <= highest]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
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
