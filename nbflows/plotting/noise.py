"""Learned noise: its posterior within a bin, the path of a draw, its mean by group and by pixel, and logits."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from nbflows.plotting.diagrams import arrow, blank, box
from nbflows.plotting.page import as_array, entitle

__all__ = ["bin_posteriors", "logit_densities", "noise_maps", "noise_path", "noise_spread"]


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


def noise_path(title: str | None = None) -> Figure:
    """The path of a draw of learned noise, from uniform base noise to the latent, with its log-determinants.

    Args:
        title: the finding.
    """
    steps = (
        ("base noise\ne ~ U[0, 1)", ""),
        ("logit", "-log e - log(1 - e)"),
        ("couplings,\nsee x", "sum of s"),
        ("sigmoid", "log u + log(1 - u)"),
        ("(x + u) / K,\nlogit, flow", "log p(x + u)"),
    )
    figure = plt.figure(figsize=(8.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    blank(axes, (-1.2, 13.2), (-1.75, 2.3))
    for i, (name, term) in enumerate(steps):
        box(axes, 3 * i, 0, 2.0, 1.1, "#fdd0a2" if i in (1, 2, 3) else "#9ecae1", name)
        # A minus sign, not a hyphen.
        axes.text(3 * i, -0.95, term.replace("-", "\u2212"), ha="center", va="center", size=11)
        if i:
            arrow(axes, (3 * i - 2, 0), (3 * i - 1, 0))
            axes.text(3 * i - 1.5, 0.12, ("", "e", "logits", "logits", "u")[i], ha="center", va="bottom", size=10)
    box(axes, 9, 1.85, 2.0, 0.7, "#9ecae1", "image x")
    arrow(axes, (8, 1.75), (6.4, 0.6))
    arrow(axes, (10, 1.75), (11.6, 0.6))
    axes.text(6, -1.5, "the three sums are \u2212log q(u | x)", ha="center", va="center", size=12, color="#a04000")
    entitle(figure, title)
    return figure


def noise_maps(images: Tensor, noise: Tensor, num_grey_levels: int = 256, title: str | None = None) -> Figure:
    """Images, and below each the mean of its dequantization noise at every pixel.

    Args:
        images: integers ``(N, 1, H, W)``.
        noise: draws of u in [0, 1], ``(R, N, 1, H, W)``.
        num_grey_levels: K, the number of grey levels.
        title: the finding.
    """
    figure, all_axes = plt.subplots(2, len(images), figsize=(1.2 * len(images) + 0.9, 3.1), squeeze=False)
    means = as_array(noise.mean(0))
    for i, (above, below) in enumerate(all_axes.T):
        above.imshow(as_array(images[i, 0]), cmap="gray", vmin=0, vmax=num_grey_levels - 1)
        below.imshow(means[i, 0], cmap="viridis", vmin=0, vmax=0.6)
        for axes in (above, below):
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
    figure.colorbar(all_axes[1, 0].images[0], ax=all_axes[1], label="mean of u", aspect=8)
    entitle(figure, title)
    return figure


def noise_spread(
    groups: dict[str, Tensor], noise: dict[str, Tensor], xlabels: dict[str, str], title: str | None = None
) -> Figure:
    """The mean of dequantization noise in groups of pixels, a panel for each way to group, against uniform noise.

    The bars are two standard errors between images: the pixels of one image do not count as independent.

    Args:
        groups: name of the panel -> integers ``(N, ...)``, the group of each pixel; pixels below 0 are left out.
        noise: name of the panel -> draws of u in [0, 1], ``(R, N, ...)``.
        xlabels: name of the panel -> what the groups are.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(groups), figsize=(4.1 * len(groups), 3.5), sharey=True, squeeze=False)
    for axes, (name, grouped) in zip(all_axes[0], groups.items(), strict=True):
        values = [value for value in grouped.unique().tolist() if value >= 0]
        means, errors = zip(*(_mean_and_error(noise[name].mean(0), grouped == value) for value in values), strict=True)
        axes.axhline(0.5, color="black", linestyle="--", linewidth=1.5, label="uniform noise")
        axes.errorbar(values, means, yerr=[2 * error for error in errors], fmt="o-", capsize=3, label="learned noise")
        axes.set(xlabel=xlabels[name], ylim=(0, 0.75))
        axes.set_title(name, size=12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    all_axes[0, 0].set_ylabel("mean of u, in widths of a bin")
    all_axes[0, 0].legend(fontsize=11, loc="upper left")
    entitle(figure, title)
    return figure


def _mean_and_error(noise: Tensor, chosen: Tensor) -> tuple[float, float]:
    """The mean over the chosen pixels of all images, and its standard error between images."""
    totals, counts = (torch.where(chosen, noise, 0.0).flatten(1).double().sum(1), chosen.flatten(1).sum(1))
    mean = totals.sum() / counts.sum()
    return mean.item(), ((totals - mean * counts).square().sum().sqrt() / counts.sum()).item()


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
