"""Comparisons of models image by image: means of paired differences."""

import math

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from nbflows.plotting.page import entitle

__all__ = ["gains_with_errors"]


def gains_with_errors(
    gains: dict[str, dict[str, Tensor]], title: str | None = None, xlabel: str = "bits/dim saved", errors: float = 2
) -> Figure:
    """Mean paired gains with error bars: one row each, grouped.

    Args:
        gains: group -> name -> difference for each image ``(N,)``.
        title: the finding.
        xlabel: what a gain is, and relative to what.
        errors: length of a bar to each side, in standard errors.
    """
    rows = [(group, name, values) for group, named in gains.items() for name, values in named.items()]
    figure, axes = plt.subplots(figsize=(7.5, 0.5 * len(rows) + 0.45 * len(gains) + 1.2), layout="constrained")
    y, ticks, labels, colours = 0.0, [], [], {}
    for i, (group, name, values) in enumerate(rows):
        if i == 0 or group != rows[i - 1][0]:
            y += 0.9
            heading = axes.text(0.01, y - 0.62, group, transform=axes.get_yaxis_transform(), va="center", size=11)
            # Keeps the number readable on top of a line.
            heading.set(weight="bold", backgroundcolor="white")
        values = values.detach().cpu().double()
        mean, error = values.mean().item(), values.std().item() / math.sqrt(len(values))
        colour = colours.setdefault(name, f"C{len(colours)}")
        axes.errorbar(mean, y, xerr=errors * error, fmt="o", color=colour, capsize=4, linewidth=2)
        ticks.append(y)
        labels.append(f"{name}:  {mean:+.3f} ± {error:.3f}")
        y += 1
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(ticks, labels)
    axes.set(ylim=(y - 0.4, -0.1), xlabel=f"{xlabel}\nbars: ± {errors:g} standard errors")
    axes.grid(axis="y", visible=False)
    entitle(figure, title)
    return figure
