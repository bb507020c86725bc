"""Conditional flows: several answers to a question, derivatives by input and context, two flows that are related."""

from collections.abc import Sequence
from math import prod

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from nbflows.plotting.diagrams import arrow, blank, box, times
from nbflows.plotting.images import _panels
from nbflows.plotting.page import as_array, entitle

__all__ = ["answers", "context_derivatives", "related_flows"]

_SOURCE, _RELATION, _TARGET = "#9ecae1", "#eeeeee", "#fdd0a2"


def answers(
    panels: dict[str, Tensor], num_grey_levels: int = 256, title: str | None = None, image_inches: float = 0.55
) -> Figure:
    """Questions and their answers, one row per question: the source, several samples, their mean, the target.

    Args:
        panels: name above the panel -> ``(N, R, C, H, W)``, R images for each of N questions.
        num_grey_levels: grey levels; num_grey_levels - 1 is white.
        title: the finding.
        image_inches: width of one image.
    """
    grids = [(name, images.flatten(0, 1), images.shape[1], None) for name, images in panels.items()]
    return _panels(grids, num_grey_levels, title, None, image_inches)


def context_derivatives(panels: dict[str, tuple[Tensor, Sequence[str]]], title: str | None = None) -> Figure:
    """Derivatives of the two halves of a coupling's output, as matrices; white is exactly zero.

    Args:
        panels: name -> derivatives ``(D, K)``, one row per number of z, and the names of the groups of equal size that
            the K columns fall into.
        title: the finding.
    """
    sizes = [matrix.shape[1] for matrix, _ in panels.values()]
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(8, 3.1), squeeze=False, width_ratios=sizes, layout="constrained"
    )
    values = [np.abs(as_array(matrix)) for matrix, _ in panels.values()]
    top = max(matrix.max() for matrix in values)
    for axes, (name, (_, groups)), matrix in zip(all_axes[0], panels.items(), values, strict=True):
        rows, columns = matrix.shape
        picture = axes.imshow(np.where(matrix > 0, matrix, np.nan), cmap="viridis_r", norm=LogNorm(1e-3 * top, top))
        axes.axhline(rows / 2 - 0.5, color="#888888", linewidth=1)
        width = columns / len(groups)
        for i, _ in enumerate(groups[1:], start=1):
            axes.axvline(i * width - 0.5, color="#888888", linewidth=1)
        axes.set_xticks([(i + 0.5) * width - 0.5 for i in range(len(groups))], groups, size=11)
        axes.set_yticks([])
        axes.set_title(name, size=12)
        axes.grid(False)
    all_axes[0, 0].set_yticks([rows / 4 - 0.5, 3 * rows / 4 - 0.5], ["kept", "moved"], size=11)
    all_axes[0, 0].set_ylabel("number of z")
    bar = figure.colorbar(picture, ax=all_axes[0], label="size of the derivative", shrink=0.75, extend="min")
    bar.ax.tick_params(labelsize=10)
    entitle(figure, title)
    return figure


def related_flows(shape: Sequence[int], level_shapes: Sequence[Sequence[int]], title: str | None = None) -> Figure:
    """Dual-Glow: two flows side by side, and a Gaussian from each level of one to the same level of the other.

    Args:
        shape: ``(C, H, W)`` of both images.
        level_shapes: shapes of the latents, finest first.
        title: the finding.
    """
    count = len(level_shapes)
    figure = plt.figure(figsize=(8, 0.9 + 1.1 * count), layout="constrained")
    axes = figure.add_subplot()
    columns, wide, tall, step = (0.95, 3.4, 5.85, 8.3), 1.7, 0.85, 1.3
    middle = -(count - 1) * step / 2
    blank(axes, (0, columns[-1] + 0.95), (-(count - 1) * step - 0.55, 1.1))

    box(axes, columns[0], middle, wide, tall, _SOURCE, f"source\n{times(shape)}")
    box(axes, columns[3], middle, wide, tall, _TARGET, f"target\n{times(shape)}")
    for i, level in enumerate(level_shapes):
        y, name = -i * step, f"level {i}: {times(level)}\n= {prod(level)} numbers"
        box(axes, columns[1], y, wide, tall, _SOURCE, name)
        box(axes, columns[2], y, wide, tall, _TARGET, name)
        arrow(axes, (columns[0] + wide / 2, middle), (columns[1] - wide / 2, y))
        arrow(axes, (columns[1] + wide / 2, y), (columns[2] - wide / 2, y))
        arrow(axes, (columns[2] + wide / 2, y), (columns[3] - wide / 2, middle), "<|-|>")
        axes.text((columns[1] + columns[2]) / 2, y + 0.1, f"$\\mu_{i},\\ \\sigma_{i}$", ha="center", size=12)
    heads = {
        (columns[0] + columns[1]) / 2: "flow R",
        columns[1]: "latents D",
        (columns[1] + columns[2]) / 2: "relation",
        columns[2]: "latents L",
        (columns[2] + columns[3]) / 2: "flow T",
    }
    for x, text in heads.items():
        axes.text(x, 0.85, text, ha="center", va="center", size=12, weight="bold")
    entitle(figure, title)
    return figure
