"""Dequantization: the distribution of noise within the bins, peaks of densities, rounding errors, bounds."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from nbflows.plotting.page import entitle

__all__ = ["bound_over_draws", "fit_and_gap", "level_densities", "rounding_errors"]


def fit_and_gap(
    widths: Tensor,
    exact: Tensor,
    bound: Tensor,
    ceiling: float,
    densities: tuple[Tensor, dict[float, Tensor]],
    steps: tuple[Tensor, Tensor],
    title: str | None = None,
) -> Figure:
    """Densities with a peak at every grey level; and the mean of log P and its bound for peaks of each width.

    Args:
        widths: the widths of the peaks, ``(W,)``.
        exact, bound: log P and the bound at each width, in nats per pixel; the gap between them is shaded.
        ceiling: the highest mean that log-probabilities of integers can have.
        densities: y ``(N,)``, and width of the peaks -> density at y.
        steps: edges of the bins ``(K + 1,)`` and the data's density in each ``(K,)``, drawn behind the densities.
        title: the finding.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
    edges, heights = (values.tolist() for values in steps)
    left.stairs(heights, edges, fill=True, color="0.8", label="data + noise")
    y, named = densities
    for i, (width, density) in enumerate(named.items()):
        left.plot(y.tolist(), density.tolist(), color=f"C{i}", linewidth=2, label=f"width {width:g}")
    left.set(xlabel="grey level", ylabel="density", xlim=(round(y.min().item()), round(y.max().item())))
    left.legend(loc="upper left")
    x = widths.tolist()
    right.axhline(ceiling, color="0.2", linestyle=":", linewidth=2, label="limit of log P")
    right.plot(x, exact.tolist(), color="C4", linewidth=2.5, label="fit: log P")
    right.plot(x, bound.tolist(), color="C3", linestyle="--", linewidth=2.5, label="bound (ELBO)")
    right.fill_between(x, bound.tolist(), exact.tolist(), color="C3", alpha=0.2, label="gap: KL")
    best = bound.argmax()
    right.plot(x[best], bound[best].item(), "o", color="C3", markersize=10)
    right.annotate("best bound", (x[best], bound[best].item()), (0, -32), textcoords="offset points", ha="center")
    # Where the two lines part; further on, the bound falls out of sight.
    right.set(
        xscale="log", xlabel="width of the peaks", ylabel="mean, nats per pixel", ylim=(ceiling - 0.45, ceiling + 0.05)
    )
    ticks = [tick for tick in (0.1, 0.2, 0.4, 0.8, 1.6) if widths.min() <= tick <= widths.max()]
    right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set_xticks([], minor=True)
    right.invert_xaxis()
    right.legend(loc="lower left")
    entitle(figure, title)
    return figure


def level_densities(z: Tensor, densities: Tensor, title: str | None = None) -> Figure:
    """One slice of density per grey level, at its place on the real line.

    Args:
        z: the places of grey level k in row k, ascending, ``(K, N)``.
        densities: at z, the same shape.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(7, 3.3))
    colors = plt.get_cmap("viridis")
    for level, (x, density) in enumerate(zip(z, densities, strict=True)):
        color = colors(level / max(1, len(z) - 1))
        axes.fill_between(x.tolist(), density.tolist(), color=color, linewidth=0)
        # The label is at the median, because the tails of black and white reach far out.
        middle = len(x) // 2
        ink = "white" if level < len(z) / 2 else "black"
        axes.text(x[middle].item(), 0.4 * density[middle].item(), str(level), ha="center", va="center", color=ink)
    axes.set(xlabel="z, after the logit", ylabel="density", xlim=(-8, 8), ylim=(0, None))
    axes.set_title(title or "")
    return figure


def rounding_errors(errors: dict[str, Tensor], title: str | None = None) -> Figure:
    """Largest rounding error of z at each grey level, on a logarithmic scale.

    Args:
        errors: how z was computed -> error per grey level, ``(K,)``.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(7, 3.3))
    for i, (label, error) in enumerate(errors.items()):
        axes.plot(range(len(error)), error.tolist(), color=f"C{i}", linestyle=["-", "--"][i % 2], label=label)
    axes.set(yscale="log", xlabel="grey level, black to white", ylabel="largest error of z")
    axes.legend()
    axes.set_title(title or "")
    return figure


def bound_over_draws(num_draws: Sequence[int], bits_per_dim: Tensor, title: str | None = None) -> Figure:
    """The bound over M with standard errors over the images: its mean, and its paired change from M = 1.

    Args:
        num_draws: the values of M, 1 first.
        bits_per_dim: the bound of every image at each M, ``(M, N)``.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, 2, figsize=(8, 3.3))
    change = bits_per_dim - bits_per_dim[:1]
    panels = (bits_per_dim, "mean over the images"), (change, "change from M = 1, image by image")
    for axes, (values, label) in zip(all_axes, panels, strict=True):
        error = values.std(1) / values.shape[1] ** 0.5
        axes.errorbar(num_draws, values.mean(1).tolist(), yerr=error.tolist(), marker="o", capsize=3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(num_draws[::2], map(str, num_draws[::2]))
        axes.set(xlabel="noise draws per image, M")
        axes.set_title(label, size="medium")
    all_axes[0].set_ylabel("bits/dim")
    entitle(figure, title)
    return figure
