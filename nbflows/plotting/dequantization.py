"""Dequantization: how noise is spread over the bins of grey levels."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor


def noise_histogram(
    images: Tensor, noise: Tensor, levels: Sequence[int], title: str | None = None, bins: int = 40
) -> Figure:
    """How dequantization noise is spread over its bin, for some grey levels, against the uniform density.

    Args:
        images: integers of any shape.
        noise: u in [0, 1] for each of them, the same shape.
        levels: the grey levels to draw, one panel each.
        title: the finding.
        bins: of the histogram.
    """
    figure, all_axes = plt.subplots(
        1, len(levels), figsize=(3 * len(levels), 3.2), sharex=True, sharey=True, squeeze=False
    )
    for axes, level in zip(all_axes[0], levels, strict=True):
        values = noise[images == level].detach().cpu().numpy()
        axes.hist(values, bins=bins, range=(0, 1), density=len(values) > 0, color="C0", label="learned")
        axes.axhline(1, color="C1", linestyle="--", linewidth=2, label="uniform")
        axes.set(title=f"grey level {level} ({len(values):,} draws)", xlabel="noise u")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.title.set_size("medium")
    all_axes[0, 0].set_ylabel("density")
    all_axes[0, 0].legend()
    if title:
        figure.suptitle(title)
    return figure
