"""Glow: activations through many steps, matrices over channels, predictions of a prior."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from nbflows.plotting.page import entitle

__all__ = ["channel_matrices", "channel_statistics", "predicted_latents"]

# A diverging map with equal lightness at both ends, readable without telling red from green.
_SIGNED = "RdBu_r"


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


def predicted_latents(
    images: Tensor, maps: dict[str, Tensor], std: Tensor, num_grey_levels: int = 256, title: str | None = None
) -> Figure:
    """Images, and a prior's predictions of their latents: one row per image, one column per map.

    Args:
        images: uint8 ``(N, 1, H, W)``.
        maps: name -> ``(N, h, w)``: the latent, its predicted mean, the noise; on one diverging scale around 0.
        std: the predicted standard deviations ``(N, h, w)``, the last column.
        num_grey_levels: grey levels of the images.
        title: the finding.
    """
    largest = max(values.abs().max().item() for values in maps.values())
    figure, all_axes = plt.subplots(
        len(images),
        len(maps) + 2,
        figsize=(1.6 * (len(maps) + 2), 1.35 * len(images) + 1.2),
        squeeze=False,
        layout="constrained",
    )
    for axes, image in zip(all_axes[:, 0], images.cpu().numpy(), strict=True):
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=num_grey_levels - 1)
    for column, values in zip(all_axes.T[1:-1], maps.values(), strict=True):
        for axes, one in zip(column, values.detach().cpu().numpy(), strict=True):
            signed = axes.imshow(one, cmap=_SIGNED, vmin=-largest, vmax=largest)
    for axes, one in zip(all_axes[:, -1], std.detach().cpu().numpy(), strict=True):
        positive = axes.imshow(one, cmap="viridis", vmin=0, vmax=std.max().item())
    for axes, name in zip(all_axes[0], ["image", *maps, "predicted std"], strict=True):
        axes.set_title(name, size=12)
    for axes in all_axes.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    bars = (signed, all_axes[:, 1:-1], 30, "value"), (positive, all_axes[:, -1], 10, "std")
    for picture, beside, aspect, label in bars:
        bar = figure.colorbar(picture, ax=beside, orientation="horizontal", aspect=aspect, pad=0.03)
        bar.set_label(label, size=11)
        bar.ax.tick_params(labelsize=10)
    entitle(figure, title)
    return figure
