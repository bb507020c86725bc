"""Residual flows: fixed points, norms, the series of a log-determinant, its estimates, and the memory of gradients."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from nbflows.plotting.page import as_array, entitle, legend_below

__all__ = [
    "activation_slopes",
    "estimate_histograms",
    "fixed_point_walks",
    "kept_memory",
    "norm_steps",
    "partial_sums",
]


def fixed_point_walks(
    x: Tensor, panels: dict[str, tuple[Tensor, Tensor]], target: float, title: str | None = None
) -> Figure:
    """A map z = x + g(x), and below it the iteration x <- z - g(x) that inverts it, as cobwebs.

    Args:
        x: ascending ``(N,)``.
        panels: title of the column -> g at x ``(N,)``, and walks ``(S, T)``, their starts included.
        target: the z to invert.
        title: the finding.
    """
    figure, all_axes = plt.subplots(
        2, len(panels), figsize=(8, 6.4), layout="constrained", squeeze=False, sharex=True, height_ratios=[1, 1.15]
    )
    places = as_array(x)
    for (above, below), (label, (g, walks)) in zip(all_axes.T, panels.items(), strict=True):
        z = places + as_array(g)
        crossed = np.flatnonzero(np.diff(np.sign(z - target)))
        solutions = places[crossed] + (target - z[crossed]) * np.diff(places)[crossed] / np.diff(z)[crossed]
        above.plot(places, z, color="C0", linewidth=2)
        above.axhline(target, color="C7", linewidth=1.5)
        above.plot(solutions, np.full_like(solutions, target), "o", color="C3", markersize=8)
        count = f"{len(solutions)} solution{'s' if len(solutions) != 1 else ''}"
        above.set_title(f"{label}: {count}", size=12)
        below.plot(places, places, color="black", linewidth=1)
        below.plot(places, target - as_array(g), color="C0", linewidth=2)
        for walk, colour in zip(as_array(walks), ("C1", "C4"), strict=False):
            # Each step goes to the curve, then to the diagonal.
            corners = np.repeat(walk, 2)
            below.plot(corners[:-1], corners[1:], color=colour, linewidth=1.6)
            below.plot(walk[0], walk[0], "s", color=colour, markersize=7, label="start")
        below.plot(solutions, solutions, "o", color="C3", markersize=8, label="solution")
        below.set(xlabel="x", xlim=(places[0], places[-1]), ylim=(places[0], places[-1]))
    all_axes[0, 0].set_ylabel("z = x + g(x)")
    all_axes[1, 0].set_ylabel("next x = z - g(x)")
    handles, labels = all_axes[1, 0].get_legend_handles_labels()
    seen = dict(zip(labels, handles, strict=True))
    all_axes[1, 0].legend(seen.values(), seen.keys(), loc="lower right", fontsize=11)
    entitle(figure, title)
    return figure


def norm_steps(estimates: Tensor, levels: dict[str, float], title: str | None = None) -> Figure:
    """The estimate of power iteration after each step, with reference values as lines.

    Args:
        estimates: the norm after 0, 1, ... steps ``(T,)``.
        levels: name -> reference value.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
    axes.plot(as_array(estimates), color="C0", linewidth=2.5, label="power iteration")
    for i, (name, value) in enumerate(levels.items()):
        axes.axhline(value, color=f"C{i + 1}", linestyle=["--", ":"][i % 2], linewidth=2, label=name)
    axes.set(xlabel="steps of power iteration", ylabel="largest factor of length")
    axes.set_ylim(0, 1.15 * max(estimates.max().item(), *levels.values()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right", fontsize=11)
    axes.set_title(title or "", size=13)
    return figure


def activation_slopes(x: Tensor, curves: dict[str, tuple[Tensor, Tensor, Tensor]], title: str | None = None) -> Figure:
    """Activations, their slopes and their second derivatives: one panel each, one colour per activation.

    Args:
        x: ``(N,)``.
        curves: name -> value, slope and second derivative at x, ``(N,)`` each.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, 3, figsize=(8, 3.4), layout="constrained")
    styles = ["-", "--", ":"]
    for i, (name, values) in enumerate(curves.items()):
        for axes, value in zip(all_axes, values, strict=True):
            axes.plot(as_array(x), as_array(value), styles[i % 3], color=f"C{i}", linewidth=2.2, label=name)
    for axes, label in zip(all_axes, ("value", "slope", "second derivative"), strict=True):
        axes.set_title(label, size=12)
        axes.set(xlabel="x", xlim=(x.min().item(), x.max().item()))
    all_axes[1].axhline(1, color="black", linewidth=1)
    legend_below(figure, all_axes[0])
    entitle(figure, title)
    return figure


def partial_sums(sums: Tensor, exact: float, bounds: Tensor, title: str | None = None) -> Figure:
    """Partial sums of a series, its limit, and the range that a bound allows.

    Args:
        sums: partial sums of 1, 2, ... terms ``(T,)``.
        exact: the limit.
        bounds: bounds of the distance between partial sum and limit ``(T,)``.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
    heights, reaches, terms = as_array(sums), as_array(bounds), np.arange(1, len(sums) + 1)
    axes.fill_between(terms, exact - reaches, exact + reaches, color="C0", alpha=0.15, linewidth=0, label="bound")
    axes.axhline(exact, color="black", linestyle="--", linewidth=1.5, label="exact")
    axes.plot(terms, heights, "o-", color="C0", markersize=6, label="sum of the first terms")
    # The first bounds may be far wider than the sums.
    reach = 1.6 * np.abs(heights - exact).max()
    axes.set(xlabel="terms", ylabel="nats", xlim=(0.5, len(sums) + 0.5), ylim=(exact - reach, exact + reach))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right", fontsize=11)
    axes.set_title(title or "", size=13)
    return figure


def estimate_histograms(
    estimates: dict[str, Tensor],
    exact: float,
    limits: tuple[float, float],
    xlabel: str,
    title: str | None = None,
    bins: int = 80,
) -> Figure:
    """Histograms of estimates, one above the other, each with its mean; the exact value is a line through all.

    Args:
        estimates: name -> draws ``(N,)``; the mean and its standard error join the name.
        exact: what they estimate.
        limits: ends of the axis; a label counts the draws outside.
        xlabel: the estimated quantity.
        title: the finding.
        bins: number of bins of the histograms.
    """
    figure, all_axes = plt.subplots(
        len(estimates), 1, figsize=(8, 0.9 + 1.55 * len(estimates)), layout="constrained", sharex=True, squeeze=False
    )
    for i, (axes, (name, draws)) in enumerate(zip(all_axes[:, 0], estimates.items(), strict=True)):
        draws = as_array(draws)
        mean, error = draws.mean(), draws.std(ddof=1) / math.sqrt(len(draws))
        axes.hist(draws, bins=bins, range=limits, color=f"C{i}", alpha=0.55, linewidth=0)
        axes.axvline(mean, color=f"C{i}", linewidth=2.5)
        axes.axvline(exact, color="black", linestyle="--", linewidth=1.5)
        beyond = int(((draws < limits[0]) | (draws > limits[1])).sum())
        outside = f" ({beyond} of {len(draws):,} draws are outside)" if beyond else ""
        axes.set_title(f"{name}: mean {mean:.3f} ± {error:.3f}{outside}", size=12, loc="left")
        axes.set(yticks=[], xlim=limits)
        axes.grid(False, axis="y")
    all_axes[-1, 0].set_xlabel(f"{xlabel}\ndashed: exact; full line: mean of the draws")
    entitle(figure, title)
    return figure


def kept_memory(
    panels: dict[str, tuple[Sequence[int], dict[str, Sequence[float]]]], title: str | None = None
) -> Figure:
    """Memory over a growing quantity, one line for each method; the panels share their vertical axis.

    Args:
        panels: growing quantity -> its values, and method -> MiB at each value; the same methods in all panels.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(panels), figsize=(8, 4.2), layout="constrained", squeeze=False, sharey=True)
    markers, styles = "osD^", ["-", "-", "--", "--"]
    for axes, (label, (values, lines)) in zip(all_axes[0], panels.items(), strict=True):
        for i, (name, mebibytes) in enumerate(lines.items()):
            style = {"marker": markers[i % 4], "linestyle": styles[i % 4], "color": f"C{i}"}
            axes.plot(values, mebibytes, linewidth=2, markersize=6, label=name, **style)
        axes.set(xlabel=label, xticks=list(values))
    all_axes[0, 0].set(ylabel="MiB kept for backward", ylim=(0, None))
    legend_below(figure, all_axes[0, 0], columns=2)
    entitle(figure, title)
    return figure
