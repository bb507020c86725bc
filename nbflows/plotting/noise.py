"""Learned noise: its posterior within a bin, its mean and spread by grey level, its effect on a density."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from nbflows.plotting.page import as_array, entitle

__all__ = ["bin_posteriors", "logit_densities", "noise_spread"]


def bin_posteriors(v: Tensor, density: Tensor, gaps: Sequence[float], title: str | None = None) -> Figure:
    """A density over real grey values, and below it the posterior of the noise in each bin against uniform noise.

    Args:
        v: evenly spaced points ``(levels, points)``, row x within the bin [x, x + 1).
        density: p(v), of the same shape.
        gaps: KL(uniform || posterior) of each level, in bits.
        title: the finding.
    """
    figure = plt.figure(figsize=(8, 5.4))
    grid = figure.add_gridspec(2, len(v), height_ratios=[1, 1.1])
    top = figure.add_subplot(grid[0, :])
    bins, densities = as_array(v), as_array(density)
    for x, (points, values) in enumerate(zip(bins, densities, strict=True)):
        top.fill_between(points, values, color=f"C{x}", alpha=0.3)
        top.plot(points, values, color=f"C{x}")
    top.set(xlabel="real grey value v = x + u", ylabel="model density p(v)", xlim=(0, len(v)), ylim=(0, None))
    top.set_xticks(range(len(v) + 1))
    below = None
    for x, (values, gap) in enumerate(zip(densities, gaps, strict=True)):
        below = figure.add_subplot(grid[1, x], sharey=below)
        below.plot(bins[x] - x, values / values.mean(), color=f"C{x}", linewidth=2, label="posterior")
        below.axhline(1, color="black", linestyle="--", label="uniform")
        below.set(xlabel="noise u", xlim=(0, 1), ylim=(0, None))
        below.set_title(f"level {x}: gap {gap:.2f} bits", size=11)
        below.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        if x == 0:
            below.set_ylabel("p(u | x)")
            below.legend(fontsize=10)
        else:
            below.tick_params(labelleft=False)
    entitle(figure, title)
    return figure


def noise_spread(groups: Tensor, noise: Tensor, xlabel: str, title: str | None = None) -> Figure:
    """Mean and standard deviation of dequantization noise in each group of pixels, against those of uniform noise.

    Args:
        groups: integers of any shape, the group of each pixel: its grey level, or its number of bright neighbours.
        noise: u in [0, 1] of each, the same shape.
        xlabel: what the groups are.
        title: the finding.
    """
    names = sorted(groups.unique().tolist())
    chosen = [noise[groups == name].detach().cpu() for name in names]
    figure, axes = plt.subplots(figsize=(7, 4))
    for i, (label, values, uniform) in enumerate(
        (
            ("mean", [u.mean().item() for u in chosen], 0.5),
            ("standard deviation", [u.std(correction=0).item() for u in chosen], 1 / math.sqrt(12)),
        )
    ):
        axes.plot(names, values, f"{'os'[i]}-", color=f"C{i}", label=f"{label}, learned")
        axes.axhline(uniform, color=f"C{i}", linestyle="--", linewidth=1.5, label=f"{label}, uniform ({uniform:.3g})")
    axes.set(xlabel=xlabel, ylabel="noise u, in widths of a bin", ylim=(0, 0.75))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(ncols=2, fontsize=11, loc="upper center")
    axes.set_title(title or "")
    return figure


def logit_densities(
    levels: Tensor, panels: dict[str, Tensor], bounds: tuple[float, float], title: str | None = None, bins: int = 120
) -> Figure:
    """Histograms of logits, stacked by grey level, one panel above the other.

    Args:
        levels: the grey level of each pixel, of any shape.
        panels: name of the noise -> z = logit((x + u) / K) for each pixel, the same shape.
        bounds: left and right end of the axis.
        title: the finding.
        bins: number of bins of the histogram.
    """
    figure, all_axes = plt.subplots(len(panels), 1, figsize=(7.5, 2.4 * len(panels) + 0.6), sharex=True, sharey=True)
    names = sorted(levels.unique().tolist())
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, len(names)))
    edges = np.linspace(*bounds, bins + 1)
    for axes, (label, z) in zip(np.atleast_1d(all_axes), panels.items(), strict=True):
        values = [z[levels == name].detach().cpu().numpy() for name in names]
        # Pixels beyond the bounds count in the total, so that areas are the frequencies of the grey levels.
        weights = [np.full(len(v), 1 / (z.numel() * (edges[1] - edges[0]))) for v in values]
        # Outlines, because bars for each level in each bin would take seconds to draw.
        axes.hist(values, edges, weights=weights, stacked=True, color=colours, histtype="stepfilled", linewidth=0)
        axes.set(ylabel="density")
        axes.set_title(label, size=12)
    np.atleast_1d(all_axes)[-1].set_xlabel("logit of the noisy pixel, z = logit((x + u) / K)")
    scale = ScalarMappable(Normalize(names[0], names[-1]), "viridis")
    figure.colorbar(scale, ax=all_axes, label="grey level x", aspect=30)
    entitle(figure, title)
    return figure
