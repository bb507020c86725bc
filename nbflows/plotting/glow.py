"""Glow: its architecture, activations through many steps, matrices over channels."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from nbflows.plotting.diagrams import arrow, blank, box, times
from nbflows.plotting.page import entitle

__all__ = ["channel_matrices", "channel_statistics", "glow_diagram"]

# A diverging map with equal lightness at both ends, readable without telling red from green.
_SIGNED = "RdBu_r"
_STEP, _EXIT = "#cfe0f3", "#f6e3c5"


def channel_statistics(stacks: dict[str, tuple[Tensor, Tensor]], title: str | None = None) -> Figure:
    """Mean and standard deviation of each channel after every step, one column per flow, one line per channel.

    Args:
        stacks: name -> means and standard deviations, ``(steps + 1, C)`` each; row 0 is the input.
        title: the finding.
    """
    figure, all_axes = plt.subplots(
        2, len(stacks), figsize=(8, 5.2), sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    for column, (name, statistics) in zip(all_axes.T, stacks.items(), strict=True):
        for axes, values, label, ideal in zip(column, statistics, ("mean", "standard deviation"), (0, 1), strict=True):
            axes.axhline(ideal, color="black", linestyle="--", linewidth=1.2)
            for c, line in enumerate(values.detach().cpu().T.tolist()):
                axes.plot(line, color=f"C{c}", linewidth=1.8, label=f"channel {c}")
            if axes in all_axes[:, 0]:
                axes.set_ylabel(label)
        column[0].set_title(name, size=12)
        column[1].set_xlabel("step")
        column[1].set_ylim(0, None)
    all_axes[1, 0].legend(fontsize=10, ncols=2, loc="center right")
    entitle(figure, title)
    return figure


def channel_matrices(matrices: dict[str, Tensor], title: str | None = None) -> Figure:
    """Matrices over the channels as pictures, on one scale of colours, log|det| below each.

    Args:
        matrices: name -> ``(C, C)``; rows are output channels, columns input channels.
        title: the finding.
    """
    count = len(matrices)
    figure, all_axes = plt.subplots(
        1, count, figsize=(8, 8 / count + 1.35), squeeze=False, layout="constrained", sharey=True
    )
    largest = max(matrix.abs().max().item() for matrix in matrices.values())
    for axes, (name, matrix) in zip(all_axes[0], matrices.items(), strict=True):
        picture = axes.imshow(matrix.detach().cpu().numpy(), cmap=_SIGNED, vmin=-largest, vmax=largest)
        # Adding zero turns a rounded -0.00 into 0.00.
        log_det = round(matrix.detach().double().slogdet().logabsdet.item(), 2) + 0.0
        axes.set_title(name, size=12)
        axes.set_xlabel(f"channel in\nlog|det W| = {log_det:.2f}", size=11)
        axes.grid(False)
        axes.set_xticks(range(0, len(matrix), 2))
        axes.set_yticks(range(0, len(matrix), 2))
        axes.tick_params(labelsize=10)
    all_axes[0, 0].set_ylabel("channel out", size=11)
    bar = figure.colorbar(picture, ax=all_axes, orientation="horizontal", aspect=50, shrink=0.6, label="entry of W")
    bar.ax.tick_params(labelsize=10)
    entitle(figure, title)
    return figure


def glow_diagram(
    shape: Sequence[int], level_shapes: Sequence[Sequence[int]], num_steps: int, title: str | None = None
) -> Figure:
    """Glow's levels from left to right with the exits of the latents, and one step in detail below.

    Args:
        shape: ``(C, H, W)`` of the image.
        level_shapes: the latents of the levels, finest first, as in ``Multiscale.latent_shapes``.
        num_steps: steps per level.
        title: the finding.
    """
    figure = plt.figure(figsize=(8, 3.6), layout="constrained")
    axes, apart, last = figure.add_subplot(), 4.9, len(level_shapes)
    right = apart * last + 2.1
    blank(axes, (-1.4, right), (-5.4, 1.0))
    box(axes, 0, 0, 2.6, 1.8, "#dddddd", f"image\n{times(shape)}")
    for i, exiting in enumerate(level_shapes, start=1):
        x, channels = apart * i, exiting[0] * (1 if i == last else 2)
        arrow(axes, (x - apart + (1.3 if i == 1 else 1.7), 0), (x - 1.7, 0))
        if i > 1:
            axes.text(x - apart / 2, 0.15, "other\nhalf", size=10, ha="center", va="bottom")
        inside = times((channels, *exiting[1:]))
        box(axes, x, 0, 3.4, 1.8, _STEP, f"level {i - 1}:\nsqueeze, {num_steps} steps\n{inside}")
        arrow(axes, (x, -0.9), (x, -1.7))
        prior = "prior N(0, I)" if i == last else "prior given the\ncontinuing half"
        box(axes, x, -2.4, 3.9, 1.4, _EXIT, f"{prior}\nlatent {times(exiting)}")
    step = ["ActNorm", "1×1 convolution", "affine coupling"]
    middle, wide = (right - 1.4) / 2, 3.6
    axes.text(middle - 1.5 * wide - 1.1, -4.7, "one step:", ha="right", va="center", size=12, weight="bold")
    for i, name in enumerate(step):
        x = middle + (i - 1) * (wide + 0.8)
        box(axes, x, -4.7, wide, 1.0, _STEP, name)
        if i:
            arrow(axes, (x - wide / 2 - 0.8, -4.7), (x - wide / 2, -4.7))
    entitle(figure, title)
    return figure
