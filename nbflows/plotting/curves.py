"""Scores over the time of training."""

import math

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from nbflows.plotting.page import entitle

__all__ = ["scores_over_minutes", "training_curve"]


def training_curve(
    history: list[dict[str, float]], title: str | None = None, references: dict[str, float] | None = None
) -> Figure:
    """Bits/dim of the training batches and the validation images, over the steps.

    Args:
        history: rows of the training log, ``TrainingResult.history``.
        title: the finding.
        references: name -> bits/dim of models that need no training, drawn as lines.
    """
    references = references or {}
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, label, alpha, marker in (
        ("bits_per_dim", "training batch", 0.5, ""),
        ("validation_bits_per_dim", "validation, averaged weights", 1, "o"),
    ):
        points = [(row["step"], row[key]) for row in history if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, alpha=alpha, marker=marker)
    values = sorted(row["bits_per_dim"] for row in history if "bits_per_dim" in row)
    if values:
        # The first steps are far above all others and would flatten the rest.
        highest = max(values[int(0.95 * (len(values) - 1))], *references.values(), -math.inf)
        axes.set_ylim(values[0] - 0.05, highest + 0.1)
    for i, (name, value) in enumerate(references.items()):
        axes.axhline(value, color=f"C{i + 2}", linestyle="--", linewidth=1.8, label=f"{name}: {value:.2f}")
    axes.set(xlabel="training step", ylabel="bits/dim (M = 1)")
    axes.set_title(title or "")
    axes.legend()
    return figure


def scores_over_minutes(
    scores: dict[str, dict[str, dict[float, tuple[float, float]]]],
    reference: tuple[str, float],
    title: str | None = None,
) -> Figure:
    """Test bits/dim of models after budgets of training, in a panel for each kind of value.

    Args:
        scores: kind, such as "exact" -> name -> minutes -> bits/dim and standard error. Names are listed from the
            worst to the best at the last budget.
        reference: name and bits/dim of a model that needs no training, a line.
        title: the finding.
    """
    figure, panels = plt.subplots(1, len(scores), figsize=(9, 4.4), sharey=True, squeeze=False, layout="constrained")
    colours = iter(f"C{i}" for i in range(10))
    for axes, (kind, named) in zip(panels[0], scores.items(), strict=True):
        axes.axhline(reference[1], color="black", linestyle="--", linewidth=1.5, label=reference[0])
        for name, over in sorted(named.items(), key=lambda item: -item[1][max(item[1])][0]):
            means, errors = zip(*over.values(), strict=True)
            axes.errorbar(
                list(over), means, [2 * error for error in errors], fmt="o-", capsize=3, color=next(colours), label=name
            )
        ticks = sorted({minutes for over in named.values() for minutes in over})
        axes.set(xscale="log", xlabel="minutes of one CPU core")
        axes.margins(x=0.1)
        axes.set_xticks(ticks, [f"{minutes:g}" for minutes in ticks])
        axes.set_xticks([], minor=True)
        axes.set_title(kind, size=12)
    panels[0, 0].set_ylabel("test bits/dim\n(bars: ± 2 standard errors)")
    handles = {
        label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    entitle(figure, title)
    return figure
