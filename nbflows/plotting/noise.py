"""Learned noise: its posterior within a bin, its spread by grey level, what it does to a density."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor


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
    v, density = v.detach().cpu().numpy(), density.detach().cpu().numpy()
    for x, (points, values) in enumerate(zip(v, density, strict=True)):
        top.fill_between(points, values, color=f"C{x}", alpha=0.3)
        top.plot(points, values, color=f"C{x}")
    top.set(xlabel="real grey value v = x + u", ylabel="model density p(v)", xlim=(0, len(v)), ylim=(0, None))
    top.set_xticks(range(len(v) + 1))
    below = None
    for x, (values, gap) in enumerate(zip(density, gaps, strict=True)):
        below = figure.add_subplot(grid[1, x], sharey=below)
        below.plot(v[x] - x, values / values.mean(), color=f"C{x}", linewidth=2, label="posterior")
        below.axhline(1, color="black", linestyle="--", label="uniform")
        below.set(xlabel="noise u", xlim=(0, 1), ylim=(0, None))
        below.set_title(f"level {x}: gap {gap:.2f} bits", size=11)
        below.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        if x == 0:
            below.set_ylabel("p(u | x)")
            below.legend(fontsize=10)
        else:
            below.tick_params(labelleft=False)
    if title:
        figure.suptitle(title)
    return figure


def noise_spread(groups: Tensor, noise: Tensor, xlabel: str, title: str | None = None) -> Figure:
    """Mean and standard deviation of dequantization noise in each group of pixels, against those of uniform noise.

    Args:
        groups: integers of any shape, the group of each pixel: its grey level, or how many bright neighbours it has.
        noise: u in [0, 1] for each of them, the same shape.
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
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(ncols=2, fontsize=11, loc="upper center")
    if title:
        axes.set_title(title)
    return figure


def logit_densities(
    levels: Tensor, panels: dict[str, Tensor], bounds: Sequence[float], title: str | None = None, bins: int = 120
) -> Figure:
    """How often each logit occurs, stacked by grey level, one panel above the other.

    Args:
        levels: the grey level of each pixel, of any shape.
        panels: name of the noise -> z = logit((x + u) / K) for each pixel, the same shape.
        bounds: left and right end of the axis.
        title: the finding.
        bins: of the histogram.
    """
    figure, all_axes = plt.subplots(len(panels), 1, figsize=(7.5, 2.4 * len(panels) + 0.6), sharex=True, sharey=True)
    names = sorted(levels.unique().tolist())
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, len(names)))
    edges = np.linspace(*bounds, bins + 1)
    for axes, (label, z) in zip(np.atleast_1d(all_axes), panels.items(), strict=True):
        values = [z[levels == name].detach().cpu().numpy() for name in names]
        # Each pixel weighs the same, those beyond the bounds too: the areas are the frequencies of the levels.
        weights = [np.full(len(v), 1 / (z.numel() * (edges[1] - edges[0]))) for v in values]
        # Outlines: a bar for each level in each bin would take seconds to draw.
        axes.hist(values, edges, weights=weights, stacked=True, color=colours, histtype="stepfilled", linewidth=0)
        axes.set(ylabel="density")
        axes.set_title(label, size=12)
    np.atleast_1d(all_axes)[-1].set_xlabel("logit of the noisy pixel, z = logit((x + u) / K)")
    scale = plt.cm.ScalarMappable(plt.Normalize(names[0], names[-1]), "viridis")
    figure.colorbar(scale, ax=all_axes, label="grey level x", aspect=30)
    if title:
        figure.suptitle(title)
    return figure
