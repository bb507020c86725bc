"""Translation: dependencies between latents, and shared blocks."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from matplotlib.typing import LineStyleType
from torch import Tensor

from nbflows.plotting.diagrams import LINE, arrow, blank, box, times
from nbflows.plotting.page import as_array, entitle

__all__ = [
    "block_tables",
    "conditional_flow_diagram",
    "dependency_diagrams",
    "dependency_matrices",
]

_SOURCE, _TARGET, _DROPPED = "#9ecae1", "#fdd0a2", "#b5b5b5"
# Kind of a link: its meaning, colour and line in all figures.
_LINKS: dict[str, tuple[str, str, LineStyleType]] = {
    "same": ("source, same level", "C0", "-"),
    "coarser": ("source, coarser level", "C2", "--"),
    "finer": ("source, finer level", "C3", "-."),
    "target": ("target, coarser level", "C4", "-"),
}


def dependency_diagrams(panels: dict[str, Tensor], title: str | None = None) -> Figure:
    """The latents of source and target as two columns of circles, finest on top, and an arrow for each dependency.

    Args:
        panels: name -> bool ``(n, 2n)``: the latents that level L_i of the target (row i) depends on: L_0, ..., L_n-1,
            then D_0, ..., D_n-1 of the source; level 0 is the finest. Links of other panels are dotted.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(panels), figsize=(8, 4.4), squeeze=False, layout="constrained")
    links = {name: as_array(panel).astype(bool) for name, panel in panels.items()}
    anywhere = np.logical_or.reduce(list(links.values()))
    n = len(anywhere)
    for axes, (name, panel) in zip(all_axes[0], links.items(), strict=True):
        axes.set(xlim=(-0.4, 2.5), ylim=(n - 0.55, -0.5), aspect="equal")
        axes.axis("off")
        axes.set_title(name, size=12)
        for i, column in sorted(zip(*np.nonzero(anywhere), strict=True), key=lambda link: panel[link]):
            _link(axes, i, column, n, bool(panel[i, column]))
        for level in range(n):
            for x, letter, colour in ((0, "D", _SOURCE), (1.5, "L", _TARGET)):
                axes.add_patch(Circle((x, level), 0.24, facecolor=colour, edgecolor=LINE, zorder=3))
                axes.text(x, level, f"${letter}_{level}$", ha="center", va="center", size=14, zorder=4)
    all_axes[0, 0].text(0, -0.32, "finest", size=11, ha="center")
    all_axes[0, 0].text(0, n - 0.58, "coarsest", size=11, ha="center")
    handles = [Line2D([], [], color=c, linestyle=s, linewidth=2, label=text) for text, c, s in _LINKS.values()]
    handles.append(Line2D([], [], color=_DROPPED, linestyle=":", linewidth=1.5, label="dropped"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    entitle(figure, title)
    return figure


def _kind(i: int, column: int, n: int) -> str:
    if column < n:
        return "target"
    return "same" if column - n == i else "coarser" if column - n > i else "finer"


def _link(axes: Axes, i: int, column: int, n: int, kept: bool) -> None:
    _, colour, line = _LINKS[_kind(i, column, n)]
    if column < n:
        # Around the circles in between, on the right.
        start, end = (1.72, column - 0.1), (1.72, i + 0.1)
        style = f"arc3,rad={0.45 if column - i == 1 else 0.55}"
    else:
        across, down = 1.5, i - (column - n)
        length = math.hypot(across, down)
        start = (0.25 * across / length, column - n + 0.25 * down / length)
        end, style = (across - 0.27 * across / length, i - 0.27 * down / length), "arc3"
    look = {"color": colour, "linestyle": line, "linewidth": 2} if kept else {"color": _DROPPED, "linestyle": ":"}
    head = {"arrowstyle": "-|>", "mutation_scale": 14} if kept else {"arrowstyle": "-", "linewidth": 1.2}
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=style, shrinkA=0, shrinkB=0, **look, **head))


def dependency_matrices(matrices: dict[str, Tensor], title: str | None = None) -> Figure:
    """Dependencies of the levels of z on latent levels, one matrix per model, in the colours of the diagram.

    Args:
        matrices: name -> bool ``(n, 2n)``; rows: z of level i; columns: L_0, ..., L_n-1, D_0, ..., D_n-1.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(matrices), figsize=(8, 2.9), squeeze=False, layout="constrained")
    for axes, (name, matrix) in zip(all_axes[0], matrices.items(), strict=True):
        matrix = as_array(matrix).astype(bool)
        n = len(matrix)
        for i, column in np.ndindex(matrix.shape):
            own = column == i
            colour = LINE if own else _LINKS[_kind(i, column, n)][1]
            x = column + 0.3 * (column >= n)
            face = colour if matrix[i, column] else "white"
            axes.add_patch(Rectangle((x, i), 0.92, 0.92, facecolor=face, edgecolor="#999999", linewidth=0.8))
        places = [column + 0.3 * (column >= n) + 0.46 for column in range(2 * n)]
        axes.set(xlim=(-0.1, 2 * n + 0.35), ylim=(n + 0.02, -0.1), aspect="equal")
        axes.set_xticks(places, [f"${letter}_{level}$" for letter in "LD" for level in range(n)], size=12)
        axes.set_yticks([i + 0.46 for i in range(n)], [f"$z_{i}$" for i in range(n)], size=11)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(name, size=12)
    for axes in all_axes[0, 1:]:
        axes.set_yticklabels([])
    handles = [Line2D([], [], marker="s", markersize=9, linestyle="", color=LINE, label="the level itself")]
    handles += [
        Line2D([], [], marker="s", markersize=9, linestyle="", color=_LINKS[kind][1], label=_LINKS[kind][0])
        for kind in ("target", "same", "coarser")
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    entitle(figure, title)
    return figure


def conditional_flow_diagram(shapes: Sequence[Sequence[int]], title: str | None = None) -> Figure:
    """The conditional flow of the finest level: a block per scale, its context, and its exiting latent.

    Args:
        shapes: ``(C, H, W)`` of the target's levels, finest first.
        title: the finding.
    """
    n, step = len(shapes), 3.1
    figure, axes = plt.subplots(figsize=(8, 3.9), layout="constrained")
    blank(axes, (-2.75, step * (n - 1) + 1.3), (-2.55, 2.35))
    box(axes, -2.0, 0, 1.3, 0.95, _TARGET, f"$L_0$\n{times(shapes[0])}")
    arrow(axes, (-1.35, 0), (-0.95, 0))
    channels = shapes[0][0]
    for j in range(n):
        x, folded = j * step, (4 * channels, shapes[j][1] // 2, shapes[j][2] // 2)
        box(axes, x, 0, 1.9, 0.95, "#dcdcdc", f"squeeze, steps\n{times(folded)}")
        box(axes, x, 1.75, 1.5, 0.7, _SOURCE, "$D_0$" if j == 0 else f"$L_{j}$, $D_{j}$")
        arrow(axes, (x, 1.4), (x, 0.475))
        axes.text(x + 0.12, 0.95, "context", size=10, va="center")
        leaving = folded if j == n - 1 else (folded[0] // 2, *folded[1:])
        box(axes, x, -1.95, 1.9, 0.95, "#d5ece4", f"latent of scale {j}\n{times(leaving)}")
        arrow(axes, (x, -0.475), (x, -1.475))
        axes.text(x + 0.12, -0.95, "the rest" if j == n - 1 else "half exits", size=10, va="center")
        if j < n - 1:
            arrow(axes, (x + 0.95, 0), (x + step - 0.95, 0))
            axes.text(x + step / 2, 0.12, "half\ncontinues", size=10, ha="center", va="bottom")
        channels *= 2
    entitle(figure, title)
    return figure


def block_tables(tables: dict[str, Tensor], title: str | None = None) -> Figure:
    """The blocks of CAFLOW; blocks that share weights have the same number and colour.

    Args:
        tables: name -> integers ``(n, n)``; rows are levels, columns scales; -1 where there is no block.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(tables), figsize=(8, 4.9), squeeze=False, layout="constrained")
    largest = max(int(table.max()) for table in tables.values())
    colours = plt.get_cmap("tab20", max(largest + 1, 20))
    for axes, (name, table) in zip(all_axes[0], tables.items(), strict=True):
        n = len(table)
        for i, row in enumerate(table.tolist()):
            for j, number in enumerate(row):
                if number < 0:
                    continue
                # Hatched, so that shared blocks are visible without colours.
                shared = int((table == number).sum()) > 1
                face = (*colours(number)[:3], 0.45)
                hatch = "///" if shared else None
                axes.add_patch(Rectangle((j, i), 0.94, 0.94, facecolor=face, edgecolor=LINE, hatch=hatch))
                label = axes.text(j + 0.47, i + 0.47, str(number + 1), ha="center", va="center", size=13)
                label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85})
        places = [i + 0.47 for i in range(n)]
        axes.set(xlim=(-0.05, n), ylim=(n, -0.05), aspect="equal", xlabel="scale j")
        axes.set_xticks(places, range(n))
        axes.set_yticks(places, [f"$G_{i}$" for i in range(n)], size=13)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(name, size=12)
    entitle(figure, title)
    return figure
