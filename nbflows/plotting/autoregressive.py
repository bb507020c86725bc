"""Autoregressive priors: how latents still depend on each other, the channel loop, order and cost of sampling."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

from nbflows.plotting.diagrams import LINE, arrow, box, times
from nbflows.plotting.page import entitle

__all__ = ["channel_correlations", "channel_loop", "jacobian_blocks", "sampling_cost", "sampling_order"]

_CHANNEL, _FLOW = "#fdd0a2", "#9ecae1"


def channel_correlations(panels: dict[str, Tensor], title: str | None = None) -> Figure:
    """Correlations of the exiting channels with themselves and with the continuing ones, one row of squares each.

    Args:
        panels: what was correlated -> ``(C, 2C)``: exiting channels against the exiting ones, then the continuing ones.
        title: the finding.
    """
    figure, all_axes = plt.subplots(
        len(panels), 1, figsize=(6.4, 2.25 * len(panels) + 0.7), layout="constrained", squeeze=False
    )
    limit = max(0.1, max(_without_ones(matrix).abs().max().item() for matrix in panels.values()))
    for axes, (label, matrix) in zip(all_axes[:, 0], panels.items(), strict=True):
        count, both = matrix.shape
        picture = axes.imshow(matrix.detach().cpu().numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axes.axvline(count - 0.5, color="black", linewidth=2)
        axes.grid(False)
        axes.set_xticks(range(both), [str(i % count) for i in range(both)], size=10)
        axes.set_yticks(range(count), map(str, range(count)), size=10)
        axes.set_ylabel("exiting channel", size=11)
        axes.set_title(label, size=12)
    axes.set_xlabel(f"exiting channels 0 to {count - 1}, then continuing channels 0 to {count - 1}", size=11)
    figure.colorbar(picture, ax=all_axes[:, 0], label="correlation", aspect=30, extend="max")
    entitle(figure, title)
    return figure


def _without_ones(matrix: Tensor) -> Tensor:
    # A channel's correlation with itself, 1, would dominate every colour scale.
    return matrix.where(matrix.abs() < 0.999, 0)


def jacobian_blocks(panels: dict[str, Tensor], num_channels: int, title: str | None = None) -> Figure:
    """Jacobians side by side, sorted by channel: which input moves which output; white is exactly zero.

    Args:
        panels: name -> dz/dx of one example ``(D, D)``, as ``checks.jacobian`` returns it.
        num_channels: number of channels; lines are drawn between them.
        title: the finding.
    """
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(8, 6.6 / len(panels) + 0.7), layout="constrained", squeeze=False
    )
    sizes = [matrix.detach().abs().cpu().numpy() for matrix in panels.values()]
    top = max(size.max() for size in sizes)
    for axes, label, size in zip(all_axes[0], panels, sizes, strict=True):
        positions = len(size) // num_channels
        picture = axes.imshow(np.where(size > 0, size, np.nan), cmap="viridis_r", norm=LogNorm(1e-3 * top, top))
        for line in range(1, num_channels):
            axes.axhline(line * positions - 0.5, color="#888888", linewidth=1)
            axes.axvline(line * positions - 0.5, color="#888888", linewidth=1)
        axes.grid(False)
        middles = [(i + 0.5) * positions - 0.5 for i in range(num_channels)]
        axes.set_xticks(middles, map(str, range(num_channels)), size=11)
        axes.set_yticks(middles, map(str, range(num_channels)), size=11)
        axes.set(xlabel="channel of the input")
        axes.set_title(label, size=12)
    all_axes[0, 0].set_ylabel("channel of the output")
    figure.colorbar(picture, ax=all_axes[0], label="size of the derivative", shrink=0.7, extend="min")
    entitle(figure, title)
    return figure


def channel_loop(title: str | None = None) -> Figure:
    """The channel loop of an autoregressive prior: three steps of its network and what each reads.

    Args:
        title: the finding.
    """
    figure = plt.figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.6, 9.6), ylim=(-0.25, 4.6))
    axes.axis("off")
    reads, returns = ("0", "$v_1$", "$v_2$"), ("$\\mu_1, \\sigma_1$", "$\\mu_2, \\sigma_2$", "$\\mu_3, \\sigma_3$")
    for step, (read, returned) in enumerate(zip(reads, returns, strict=True)):
        x = 1.0 + 3.3 * step
        box(axes, x, 2.3, 1.6, 0.8, _FLOW, "ConvLSTM")
        box(axes, x - 0.4, 1.1, 0.65, 0.55, _CHANNEL, read)
        arrow(axes, (x - 0.4, 1.38), (x - 0.4, 1.9))
        arrow(axes, (x + 0.45, 0.3), (x + 0.45, 1.9))
        arrow(axes, (x, 2.7), (x, 3.25))
        axes.text(x, 3.5, returned, ha="center", va="center", size=13)
        axes.text(x, 4.15, f"of channel $v_{step + 1}$", ha="center", va="center", size=11)
        if step < 2:
            arrow(axes, (x + 0.8, 2.3), (x + 2.5, 2.3))
            axes.text(x + 1.65, 2.42, "memory,\nhidden state", ha="center", va="bottom", size=10)
    axes.plot([0.4, 8.05], [0.3, 0.3], color=LINE, linewidth=1.2)
    axes.text(0.4, 0.2, "features of the continuing half $h$, read in every step", va="top", size=11)
    arrow(axes, (8.4, 2.3), (9.3, 2.3))
    axes.text(9.35, 2.3, "…", va="center", size=15)
    entitle(figure, title)
    return figure


def sampling_order(latent_shapes: Sequence[Sequence[int]], shape: Sequence[int], title: str | None = None) -> Figure:
    """The order in which a flow with autoregressive priors is sampled: numbered channels, deepest level first.

    Args:
        latent_shapes: the levels' latents, finest first, as in ``Multiscale.latent_shapes``.
        shape: ``(C, H, W)`` of the image.
        title: the finding.
    """
    count, height = len(latent_shapes), 1.75
    figure = plt.figure(figsize=(8, 1.55 * count + 0.7), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 9.4), ylim=(height * count + 0.25, 0.3))
    axes.axis("off")
    done = 0
    for row, (channels, h, w) in enumerate(reversed(latent_shapes)):
        y, level = height * row + 0.85, count - row - 1
        axes.text(0.05, y, f"level {level}\n{channels}×{h}×{w}", va="center", size=11)
        shown = list(range(channels)) if channels <= 6 else [0, 1, 2, None, channels - 2, channels - 1]
        places = [1.75 + 0.85 * i for i in range(len(shown))]
        for i, (x, channel) in enumerate(zip(places, shown, strict=True)):
            if channel is None:
                axes.text(x, y, "…", ha="center", va="center", size=15)
            else:
                box(axes, x, y, 0.58, 0.58, _CHANNEL, str(done + channel + 1))
            if i:
                arrow(axes, (x - 0.55, y), (x - 0.31, y), head=12)
        done += channels
        arrow(axes, (places[-1] + 0.31, y), (7.0, y), head=12)
        box(axes, 8.1, y, 2.1, 0.78, _FLOW, f"undo the steps\nof level {level}")
        if row:
            # The deeper level's result is part of this level's input, and the context of each of its channels.
            line = y - 0.62
            axes.plot([8.1, places[0]], [line, line], color=LINE, linewidth=1.2)
            for x, channel in zip(places, shown, strict=True):
                if channel is not None:
                    arrow(axes, (x, line), (x, y - 0.31), head=12)
            axes.text(4.6, line - 0.06, "the continuing half, seen by every channel", ha="center", va="bottom", size=10)
        if row + 1 < count:
            arrow(axes, (8.1, y + 0.39), (8.1, y + height - 0.39), head=12)
    y = height * count - 0.02
    arrow(axes, (8.1, y - 0.49), (8.1, y - 0.14), head=12)
    axes.text(8.1, y - 0.08, f"image {times(shape)}", ha="center", va="top", size=11)
    note = f"orange: the channels of the latents, one after the other; {done} steps in all"
    axes.text(0.05, y - 0.08, note, va="top", size=10)
    entitle(figure, title)
    return figure


def sampling_cost(
    steps: dict[str, dict[int, int]], seconds: dict[str, dict[int, float]], title: str | None = None
) -> Figure:
    """Counted sequential steps and measured seconds of sampling, over the side of the image.

    Args:
        steps: name -> {N: steps}.
        seconds: name -> {N: seconds}; a name has the same colour as in ``steps``.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, 2, figsize=(8, 4.3), layout="constrained")
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys([*steps, *seconds]))}
    panels = ((steps, "sequential steps", "counted", "-"), (seconds, "seconds", "measured, one thread", "o-"))
    for axes, (lines, ylabel, label, style) in zip(all_axes, panels, strict=True):
        for name, points in lines.items():
            axes.loglog(list(points), list(points.values()), style, color=colours[name], label=name)
        sides = sorted({side for points in lines.values() for side in points})
        axes.set_xticks(sides, map(str, sides))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if axes is all_axes[1] else (1,)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.set(xlabel="side N of an N×N colour image", ylabel=ylabel)
        axes.set_title(label, size=12)
    handles = {name: line for axes in all_axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, fontsize=11, frameon=False)
    entitle(figure, title)
    return figure
