"""The training curve."""

import math

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

__all__ = ["training_curve"]


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
