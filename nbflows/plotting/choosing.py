"""Choosing a flow: all models side by side, probable and improbable images, code lengths, orders of patches."""

import math

import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle
from torch import Tensor

from nbflows.plotting.page import as_array, entitle

__all__ = [
    "bits_of_kinds",
    "code_lengths",
    "patch_errors",
    "patch_orders",
    "points_over_time",
]


def bits_of_kinds(
    bits: dict[str, Tensor],
    images: dict[str, Tensor],
    reference: tuple[str, float] | None = None,
    complexity: dict[str, Tensor] | None = None,
    num_grey_levels: int = 256,
    log: bool = False,
    title: str | None = None,
) -> Figure:
    """Bits/dim of several kinds of images, with an example of each: a dot for each image, and the mean.

    Args:
        bits: kind -> bits/dim of each image ``(N,)``, from top to bottom.
        images: kind -> uint8 ``(N, C, H, W)``; the first two are drawn.
        reference: name and bits/dim of the images that the model was trained on, a vertical line.
        complexity: kind -> bits/dim of the same images in another code, whose mean is drawn as a diamond.
        num_grey_levels: grey levels of the images.
        log: whether the axis is logarithmic.
        title: the finding.
    """
    rows = len(bits)
    figure, axes = plt.subplots(figsize=(8, 0.52 * rows + 1.5), layout="none")
    figure.subplots_adjust(
        left=0.37, right=0.97, top=1 - 0.72 / figure.get_figheight(), bottom=0.68 / figure.get_figheight()
    )
    for row, (kind, values) in enumerate(bits.items()):
        values = values.detach().cpu().double()
        mean, error = values.mean().item(), values.std().item() / math.sqrt(len(values))
        axes.plot(values, [row] * len(values), "o", color="C0", alpha=0.25, markersize=4, markeredgewidth=0)
        axes.errorbar(mean, row, xerr=2 * error, fmt="o", color="C0", capsize=4, linewidth=2)
        if complexity is not None:
            axes.plot(complexity[kind].mean().item(), row, "D", color="C3", markersize=6, fillstyle="none")
        for place, image in enumerate(images[kind][:2]):
            picture = as_array(image).transpose(1, 2, 0).repeat(3 // len(image), 2) / (num_grey_levels - 1)
            box = OffsetImage(picture, zoom=28 / picture.shape[0], interpolation="nearest")
            where = (-0.13 + 0.08 * place, row)
            axes.add_artist(
                AnnotationBbox(box, where, xycoords=axes.get_yaxis_transform(), pad=0.08, annotation_clip=False)
            )
        axes.text(-0.185, row, kind, ha="right", va="center", size=11, transform=axes.get_yaxis_transform())
    handles = [Line2D([], [], marker="o", color="C0", label="the model")]
    if complexity is not None:
        handles.append(Line2D([], [], marker="D", color="C3", linestyle="", fillstyle="none", label="PNG"))
    if reference is not None:
        line = axes.axvline(reference[1], color="black", linestyle="--", linewidth=1.2, label=reference[0])
        handles.append(line)
    axes.set(ylim=(rows - 0.4, -0.6), yticks=[], xlabel="bits/dim (bars: ± 2 standard errors)")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    above = 1 - 0.3 / figure.get_figheight()
    figure.legend(
        handles=handles, loc="upper center", ncols=3, fontsize=10.5, bbox_to_anchor=(0.6, above), frameon=False
    )
    if title:
        figure.suptitle(title, size=13, y=1 - 0.06 / figure.get_figheight(), va="top")
    return figure


def code_lengths(lengths: dict[str, float], highlight: str | None = None, title: str | None = None) -> Figure:
    """Bytes per image in several codes, as bars.

    Args:
        lengths: code -> bytes per image.
        highlight: prefix of the names whose bars are coloured.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(lengths) + 1.2), layout="constrained")
    colours = ["C1" if highlight and name.startswith(highlight) else "C7" for name in lengths]
    bars = axes.barh(list(lengths), list(lengths.values()), color=colours)
    axes.bar_label(bars, [f"{value:.1f}" for value in lengths.values()], padding=4, size=11)
    axes.set(xlabel="bytes per image", xlim=(0, 1.12 * max(lengths.values())))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    entitle(figure, title)
    return figure


def patch_orders(side: int, position: int, title: str | None = None) -> Figure:
    """The patches that determine the scale and shift of a patch, in a forward and in a backward block.

    Args:
        side: patches in a row and in a column.
        position: index of the patch, counted row by row from 0.
        title: the finding.
    """
    light = ("C0", 0.75)  # numbers on it stay legible
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.7), layout="constrained")
    for axes, name in zip(panels, ("a block forwards", "a block backwards"), strict=True):
        for i in range(side**2):
            read = i < position if name.endswith("forwards") else i > position
            colour = "C1" if i == position else light if read else "white"
            corner = i % side, side - 1 - i // side
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="0.4"))
            axes.text(corner[0] + 0.5, corner[1] + 0.5, str(i), ha="center", va="center", size=12)
        axes.set(xlim=(-0.02, side + 0.02), ylim=(-0.02, side + 0.02), aspect="equal")
        axes.axis("off")
        axes.set_title(name, size=12)
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="0.4", label=label)
        for colour, label in (("C1", "is scaled and shifted"), (light, "is read for it"), ("white", "is not read"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=11)
    entitle(figure, title)
    return figure


def points_over_time(stages: dict[str, Tensor], title: str | None = None) -> Figure:
    """Points in the plane on their way from noise to data.

    Args:
        stages: name -> points ``(N, 2)``, in order of time.
        title: the finding.
    """
    figure, panels = plt.subplots(1, len(stages), figsize=(8, 2.2), sharex=True, sharey=True, layout="constrained")
    for axes, (name, points) in zip(panels, stages.items(), strict=True):
        axes.plot(*as_array(points.T), "o", color="C0", markersize=2, markeredgewidth=0)
        axes.set(aspect="equal", xticks=[-3, 0, 3], yticks=[-3, 0, 3], xlim=(-4, 4), ylim=(-4, 4))
        axes.set_title(name, size=11)
    entitle(figure, title)
    return figure


def patch_errors(panels: dict[str, Tensor], title: str | None = None) -> Figure:
    """How far each patch is from its value at the end, after each pass of an iteration; logarithmic shades.

    Args:
        panels: name -> errors ``(passes, patches)``.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(panels), figsize=(8, 3.9), sharey=True, layout="constrained", squeeze=False)
    for axes, (name, errors) in zip(all_axes[0], panels.items(), strict=True):
        values = as_array(errors)
        picture = axes.imshow(values.clip(1e-7), cmap="viridis_r", norm=LogNorm(1e-7, 1), aspect="auto")
        axes.grid(False)
        axes.set_xticks(range(0, values.shape[1], 5), map(str, range(0, values.shape[1], 5)))
        axes.set_yticks(range(0, len(values), 5), map(str, range(1, len(values) + 1, 5)))
        axes.set(xlabel="patch")
        axes.set_title(name, size=12)
    all_axes[0, 0].set_ylabel("pass")
    figure.colorbar(picture, ax=all_axes[0], label="distance from the result", shrink=0.9, extend="both")
    entitle(figure, title)
    return figure
