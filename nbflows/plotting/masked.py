"""Autoregressive flows: masks as matrices, splines and their knots, the unit interval cut into grey levels."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from nbflows.plotting.page import as_array, entitle, legend_below

__all__ = ["interval_parts", "mask_matrices", "spline_knots"]


def mask_matrices(panels: dict[str, tuple[Tensor, str, str]], title: str | None = None) -> Figure:
    """Matrices side by side with their numbers: exact zeros are white, the larger the size the darker.

    Args:
        panels: name -> matrix, label of its rows, label of its columns.
        title: the finding.
    """
    heights = [matrix.shape[0] for matrix, _, _ in panels.values()]
    widths = [matrix.shape[1] for matrix, _, _ in panels.values()]
    # Each column has a share for the label of its rows.
    inches = min(0.42, 8 / (sum(widths) + 2.4 * len(widths)))
    figure, all_axes = plt.subplots(
        1,
        len(panels),
        figsize=(8, inches * max(heights) + 1.3),
        width_ratios=[width + 1.6 for width in widths],
        layout="constrained",
        squeeze=False,
    )
    for axes, (name, (matrix, rows, columns)) in zip(all_axes[0], panels.items(), strict=True):
        values = as_array(matrix)
        size = np.abs(values) / np.abs(values).max()
        # 0.25 and more: a small number must not look like a zero.
        axes.imshow(np.where(size > 0, 0.25 + 0.55 * size, 0), cmap="Blues", vmin=0, vmax=1)
        whole = (values == values.round()).all()
        for i, j in zip(*np.nonzero(values), strict=True):
            text = f"{values[i, j]:.0f}" if whole else f"{values[i, j].round(1) + 0:.1f}"  # + 0: no -0.0
            axes.text(j, i, text, ha="center", va="center", size=10, color="white" if size[i, j] > 0.6 else "black")
        axes.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
        axes.grid(False)
        axes.grid(which="minor", color="#bbbbbb", linewidth=0.8)
        axes.tick_params(which="minor", length=0)
        axes.set_xticks(range(values.shape[1]), map(str, range(values.shape[1])), size=10)
        axes.set_yticks(range(values.shape[0]), map(str, range(values.shape[0])), size=10)
        axes.set_xlabel(columns, size=11)
        axes.set_ylabel(rows, size=11)
        axes.set_title(name, size=12)
    entitle(figure, title)
    return figure


def spline_knots(
    curve: tuple[Tensor, Tensor],
    knots: tuple[Tensor, Tensor, Tensor],
    densities: dict[str, tuple[Tensor, Tensor]],
    names: tuple[str, str] = ("x", "z"),
    title: str | None = None,
) -> Figure:
    """A spline with its knots and slopes, and beside it densities on the same axis.

    Args:
        curve: positions ``(N,)`` and values there ``(N,)``.
        knots: positions, values and slopes of the knots, each ``(K + 1,)``.
        densities: name -> positions ``(N,)`` and density there ``(N,)``.
        names: labels of the two axes of the curve.
        title: the finding.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.9), layout="constrained")
    x, z = map(as_array, curve)
    left.plot(x, z, color="C0", linewidth=2)
    xs, ys, slopes = map(as_array, knots)
    # Pieces of tangents, equally long on the page if both axes have the same scale.
    reach = 0.035 * (x[-1] - x[0]) / np.sqrt(1 + slopes**2)
    for place, value, slope, half in zip(xs, ys, slopes, reach, strict=True):
        left.plot([place - half, place + half], [value - slope * half, value + slope * half], color="C3", linewidth=2)
    left.plot(xs, ys, "o", color="black", markersize=5)
    left.set(xlabel=names[0], ylabel=names[1], xlim=(x[0], x[-1]))
    left.set_title("curve, knots and slopes", size=12)
    for i, (name, (positions, density)) in enumerate(densities.items()):
        style = {"color": "black", "linestyle": "--"} if i == 0 else {"color": f"C{i - 1}"}
        right.plot(as_array(positions), as_array(density), label=name, linewidth=2, **style)
    right.set(xlabel=names[0], ylabel="density", xlim=(x[0], x[-1]), ylim=(0, None))
    right.set_title("density", size=12)
    legend_below(figure, right)
    entitle(figure, title)
    return figure


def interval_parts(
    rows: dict[str, Tensor], chosen: Sequence[int], places: Sequence[float], title: str | None = None
) -> Figure:
    """The unit interval cut into parts as long as the probabilities of grey levels, one bar for each pixel.

    Args:
        rows: name of the pixel -> probabilities ``(K,)``; a part has the shade of its grey level.
        chosen: the grey level of each pixel; its part is framed.
        places: the place of each pixel within [0, 1), drawn as a mark.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(8, 0.75 * len(rows) + 1.1), layout="constrained")
    for y, (values, level, place) in enumerate(zip(rows.values(), chosen, places, strict=True)):
        sizes = as_array(values)
        ends = np.concatenate([[0], sizes.cumsum()])
        shades = plt.get_cmap("gray")(np.linspace(0.08, 1, len(sizes)))
        axes.barh(y, sizes, 0.55, ends[:-1], color=shades, edgecolor="#777777", linewidth=0.5)
        axes.barh(y, sizes[level], 0.62, ends[level], color="none", edgecolor="C3", linewidth=2.5)
        axes.plot(place, y, "v", color="C1", markersize=11, markeredgecolor="black")
        for start, size, number in zip(ends, sizes, range(len(sizes)), strict=False):
            if size > 0.045 and abs(start + size / 2 - place) > 0.02:
                colour = "black" if number > len(sizes) / 2 else "white"
                axes.text(start + size / 2, y, str(number), ha="center", va="center", size=10, color=colour)
    axes.set_yticks(range(len(rows)), list(rows), size=11)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set(xlim=(-0.005, 1.005), xlabel="v: the grey level is the part that contains v")
    entitle(figure, title)
    return figure
