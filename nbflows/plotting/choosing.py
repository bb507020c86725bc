"""Choosing a flow: all models side by side, probable and improbable images, code lengths, orders of patches."""

import math

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from nbflows.plotting.page import as_array, entitle

__all__ = [
    "bits_against_complexity",
    "bits_of_kinds",
    "code_lengths",
    "model_overview",
    "patch_orders",
    "points_over_time",
    "two_rankings",
]


def model_overview(groups: dict[str, dict[str, dict]], title: str | None = None) -> Figure:
    """One row for each model: bits/dim, parameters, time to evaluate and to sample, memory.

    Args:
        groups: what was modelled -> model -> "bits_per_dim" and "standard_error", "parameters", "evaluate_seconds" and
            "sample_seconds" per image, "evaluate_mib" and "sample_mib"; missing values are not drawn. Each group has
            its own axis of bits/dim.
        title: the finding.
    """
    heights = [len(models) + 0.4 for models in groups.values()]
    figure = plt.figure(figsize=(8, 0.235 * sum(heights) + 0.56 * (len(groups) - 1) + 1.75), layout="none")
    inches = figure.get_figheight()
    grid = figure.add_gridspec(
        len(groups),
        4,
        height_ratios=heights,
        # The gap between groups holds the ticks of one and the name of the next.
        hspace=0.56 / (0.235 * sum(heights) / len(groups)),
        wspace=0.12,
        left=0.235,
        right=0.985,
        top=1 - 1.05 / inches,
        bottom=0.62 / inches,
    )
    columns = {
        "parameters": [("parameters", "o", "C0")],
        "ms an image": [("evaluate_ms", "o", "C2"), ("sample_ms", "D", "C3")],
        "memory, MiB": [("evaluate_mib", "o", "C2"), ("sample_mib", "D", "C3")],
    }
    first: list[Axes | None] = [None] * len(columns)
    for row, (group, models) in enumerate(groups.items()):
        y = list(range(len(models)))[::-1]
        axes = figure.add_subplot(grid[row, 0])
        for at, about in zip(y, models.values(), strict=True):
            bars = 2 * about["standard_error"]
            axes.errorbar(about["bits_per_dim"], at, xerr=bars, fmt="o", color="black", markersize=5, capsize=2)
        axes.set_yticks(y, list(models), size=10)
        axes.text(-0.55, len(models) - 0.12, group, weight="bold", size=10.5, transform=axes.get_yaxis_transform())
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
        panels = [axes]
        for column, (name, marks) in enumerate(columns.items()):
            panel = figure.add_subplot(grid[row, column + 1], sharex=first[column])
            first[column] = first[column] or panel
            panel.set_xscale("linear" if "MiB" in name else "log")
            for at, about in zip(y, models.values(), strict=True):
                for key, marker, colour in marks:
                    value = 1000 * about.get(key[:-2] + "seconds", math.nan) if key[-2:] == "ms" else about.get(key)
                    if value is not None and math.isfinite(value):
                        panel.plot(value, at, marker, color=colour, markersize=5)
            panel.set_yticks(y, [])
            panel.tick_params(labelbottom=row == len(groups) - 1)
            panels.append(panel)
            if row == len(groups) - 1:
                panel.set_xlabel(name, size=11)
                if "MiB" in name:
                    # Only after all are drawn, because it also fixes the other end for every group.
                    panel.set_xlim(left=0)
        for panel in panels:
            panel.set_ylim(-0.6, len(models) - 0.4)
            panel.tick_params(axis="x", labelsize=10, pad=1)
            panel.minorticks_off()
        if row == len(groups) - 1:
            axes.set_xlabel("test bits/dim", size=11)
    handles = [
        Line2D([], [], marker=marker, color=colour, linestyle="", label=label)
        for label, marker, colour in (("to evaluate", "o", "C2"), ("to sample", "D", "C3"))
    ]
    figure.legend(handles=handles, loc="upper right", ncols=2, fontsize=10, bbox_to_anchor=(0.99, 1 - 0.36 / inches))
    if title:
        figure.suptitle(title, size=13, y=1 - 0.08 / inches, va="top")
    return figure


def two_rankings(
    rows: dict[str, tuple[tuple[float, float], tuple[float, float]]],
    names: tuple[str, str],
    title: str | None = None,
    ideal: float | None = None,
) -> Figure:
    """Two measures of each model side by side, in the given order, to compare how they rank the models.

    Args:
        rows: model -> (first measure, its standard error), (second measure, its standard error).
        names: the two measures, for the axes.
        title: the finding.
        ideal: best value of the second measure, a dashed line.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8, 0.4 * len(rows) + 1.5), sharey=True, layout="constrained")
    y = list(range(len(rows)))[::-1]
    for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
        values, errors = zip(*(row[i] for row in rows.values()), strict=True)
        axes.plot(values, y, color=f"C{i}", alpha=0.35)
        axes.errorbar(values, y, xerr=[2 * error for error in errors], fmt="o", color=f"C{i}", capsize=3, linewidth=2)
        axes.set_xlabel(f"{name}\nbars: ± 2 standard errors")
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(y, list(rows))
    if ideal is not None:
        panels[1].axvline(ideal, color="black", linestyle="--", linewidth=1)
    entitle(figure, title)
    return figure


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


def bits_against_complexity(kinds: dict[str, tuple[Tensor, Tensor]], title: str | None = None) -> Figure:
    """A dot for each image: its size as a PNG against its bits/dim under a model; on the diagonal both agree.

    Args:
        kinds: kind of images -> the PNG's bits/dim and the model's, ``(N,)`` each.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(6.8, 4.6), layout="constrained")
    markers = "osD^vP*X"
    top = max(max(x.max().item(), y.max().item()) for x, y in kinds.values())
    axes.plot([0, top], [0, top], color="black", linestyle="--", linewidth=1, label="equal")
    for i, (kind, (x, y)) in enumerate(kinds.items()):
        axes.plot(as_array(x), as_array(y), markers[i], color=f"C{i}", label=kind, alpha=0.7, markersize=6)
    axes.set(xlabel="size as a PNG, bits/dim", ylabel="bits/dim of the flow")
    axes.legend(fontsize=10.5)
    axes.set_title(title or "")
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
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.7), layout="constrained")
    for axes, name in zip(panels, ("a block forwards", "a block backwards"), strict=True):
        for i in range(side**2):
            read = i < position if name.endswith("forwards") else i > position
            colour = "C1" if i == position else "C0" if read else "white"
            corner = i % side, side - 1 - i // side
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="0.4", alpha=0.75 if read else 1))
            turn = i if name.endswith("forwards") else side**2 - 1 - i
            axes.text(corner[0] + 0.5, corner[1] + 0.5, str(turn + 1), ha="center", va="center", size=12)
        axes.set(xlim=(-0.02, side + 0.02), ylim=(-0.02, side + 0.02), aspect="equal")
        axes.axis("off")
        axes.set_title(name, size=12)
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="0.4", label=label)
        for colour, label in (("C1", "is scaled and shifted"), ("C0", "is read for it"), ("white", "is not"))
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
