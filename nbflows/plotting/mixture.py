"""Mixture couplings: a density pushed through a curve, and the search that inverts it."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from nbflows.plotting.page import as_array, entitle, legend_below

__all__ = ["mixture_curves", "pushed_densities", "search_steps"]


def pushed_densities(
    panels: dict[str, tuple[Tensor, Tensor]],
    x: Tensor,
    density: Tensor,
    edges: Tensor,
    reference: tuple[str, Tensor, Tensor] | None = None,
    title: str | None = None,
    names: tuple[str, str] = ("x", "z"),
) -> Figure:
    """Increasing curves, with the density of x below them and the density of z at their left, in bands.

    A band has the same colour and the same area in both densities.

    Args:
        panels: title of the panel -> the curve z at x and its slope dz/dx there, each ``(N,)``.
        x: ascending ``(N,)``.
        density: density of x at these points.
        edges: ends of the bands, ascending ``(K + 1,)``.
        reference: name, positions and values of the density that z should have, drawn dashed.
        title: the finding.
        names: labels of the axes of x and z.
    """
    figure = plt.figure(figsize=(8, 5), layout="constrained")
    grid = figure.add_gridspec(2, 2 * len(panels), width_ratios=[1, 2.1] * len(panels), height_ratios=[2.1, 1])
    places, heights, borders = as_array(x), as_array(density), as_array(edges)
    ends = borders[0], borders[-1]
    reach = max(np.abs(np.interp(ends, places, as_array(z))).max() for z, _ in panels.values())
    tallest = max((heights / as_array(slope)).max() for _, slope in panels.values())
    for i, (label, (z, slope)) in enumerate(panels.items()):
        z, slope = as_array(z), as_array(slope)
        main = figure.add_subplot(grid[0, 2 * i + 1], xlim=ends, ylim=(-reach, reach), title=label)
        below = figure.add_subplot(grid[1, 2 * i + 1], sharex=main, xlabel=names[0], ylabel="density of x")
        left = figure.add_subplot(grid[0, 2 * i], sharey=main, ylabel=names[1], xlabel="density of z")
        colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.95, len(borders) - 1))
        for low, high, colour in zip(borders[:-1], borders[1:], colours, strict=True):
            inside = np.unique(np.clip(places, low, high))
            z_inside = np.interp(inside, places, z)
            below.fill_between(inside, np.interp(inside, places, heights), color=colour, linewidth=0)
            left.fill_betweenx(z_inside, np.interp(inside, places, heights / slope), color=colour, linewidth=0)
            main.plot(inside, z_inside, color=colour, linewidth=3)
        if reference is not None:
            name, z_places, z_heights = reference
            left.plot(as_array(z_heights), as_array(z_places), "--", color="C3", linewidth=1.8, label=name)
        below.set_ylim(0, 1.1 * heights.max())
        # The density of z grows from the curve's axis to the left.
        left.set_xlim(1.1 * tallest, 0)
        main.tick_params(labelbottom=False, labelleft=False)
        below.tick_params(labelleft=False)
        left.tick_params(labelbottom=False)
        for axes in (below, left):
            axes.grid(False)
    if reference is not None:
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower left", frameon=False, fontsize=11)
    entitle(figure, title)
    return figure


def mixture_curves(
    x: Tensor, panels: dict[str, tuple[Tensor, Tensor]], names: Sequence[str], title: str | None = None
) -> Figure:
    """A mixture and its components in several quantities: one panel each, the mixture in black.

    Args:
        x: ``(N,)``.
        panels: label of the vertical axis -> the mixture's values ``(N,)`` and the components' ``(M, N)``.
        names: names of the M components.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(panels), figsize=(8, 3.5), layout="constrained", squeeze=False)
    for axes, (label, (mixture, components)) in zip(all_axes[0], panels.items(), strict=True):
        for i, (name, values) in enumerate(zip(names, components, strict=True)):
            axes.plot(as_array(x), as_array(values), "--", color=f"C{i}", linewidth=1.8, label=name)
        axes.plot(as_array(x), as_array(mixture), color="black", linewidth=2.2, label="mixture")
        axes.set(xlabel="x", ylabel=label, xlim=(x.min().item(), x.max().item()))
        # Single components may extend far beyond the range of their mixture.
        low, high = mixture.min().item(), mixture.max().item()
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    legend_below(figure, all_axes[0, 0])
    entitle(figure, title)
    return figure


def search_steps(
    x: Tensor, curve: Tensor, target: float, trace: Tensor, tangents: Tensor, title: str | None = None
) -> Figure:
    """The steps of a search for the root of an increasing curve: bracket, trial point and its tangent.

    Args:
        x, curve: the curve, ``(N,)`` each.
        target: the height whose x is sought.
        trace: ``(T, 3)``: the trial point of each step, and the low and high end of the bracket before it.
        tangents: ``(T, 2)``: height and slope of the curve at each trial point.
        title: the finding.
    """
    count = len(trace) - 1
    rows = -(-count // 2)
    figure, all_axes = plt.subplots(
        rows, 2, figsize=(8, 2.9 * rows), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    steps, lines = as_array(trace), as_array(tangents)
    for i, axes in enumerate(all_axes.flat[:count]):
        (point, low, high), (height, slope), following = steps[i], lines[i], steps[i + 1, 0]
        guess = point - (height - target) / slope
        taken = abs(guess - following) < 1e-6 * (1 + abs(guess))
        axes.axvspan(low, high, color="#d5ece4", linewidth=0, zorder=0, label="bracket")
        axes.plot(as_array(x), as_array(curve), color="black", linewidth=2, label="curve")
        axes.axhline(target, color="C7", linewidth=1.5, label="target")
        axes.axline((point, height), slope=slope, color="C0", linestyle="--", linewidth=1.5, label="tangent")
        axes.plot(point, height, "o", color="C0", markersize=8, label="tried")
        axes.plot(following, target, "X", color="C3", markersize=10, label="next")
        axes.set_title(f"step {i + 1}: {'Newton' if taken else 'the tangent misleads: middle'}", size=12)
    all_axes.flat[0].set(xlim=(x.min().item(), x.max().item()), ylim=(curve.min().item(), curve.max().item()))
    for axes in all_axes.flat[count:]:
        axes.set_visible(False)
    legend_below(figure, all_axes.flat[0])
    for axes in all_axes[-1]:
        axes.set_xlabel("x")
    for axes in all_axes[:, 0]:
        axes.set_ylabel("logit F(x)")
    entitle(figure, title)
    return figure
