"""Mixture couplings: a density pushed through a curve, the search that inverts it, and what attention looks at."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from nbflows.plotting.page import as_array


def pushed_densities(
    panels: dict[str, tuple[Tensor, Tensor]],
    x: Tensor,
    density: Tensor,
    edges: Tensor,
    reference: tuple[str, Tensor, Tensor] | None = None,
    title: str | None = None,
) -> Figure:
    """Increasing curves with the density that goes in below them and the one that comes out at their left, in bands.

    A band has one colour and one area before and after.

    Args:
        panels: title of the panel -> the curve z at x and its slope dz/dx there, each ``(N,)``.
        x: ascending ``(N,)``.
        density: of x, there.
        edges: where the bands begin and end, ascending ``(K + 1,)``.
        reference: name, positions and density of what z should look like, drawn dashed.
        title: the finding.
    """
    figure = plt.figure(figsize=(8, 5), layout="constrained")
    grid = figure.add_gridspec(2, 2 * len(panels), width_ratios=[1, 2.1] * len(panels), height_ratios=[2.1, 1])
    x, density, edges = as_array(x), as_array(density), as_array(edges)
    reach = max(np.abs(np.interp(edges[[0, -1]], x, as_array(z))).max() for z, _ in panels.values())
    tallest = max((density / as_array(slope)).max() for _, slope in panels.values())
    for i, (label, (z, slope)) in enumerate(panels.items()):
        z, slope = as_array(z), as_array(slope)
        main = figure.add_subplot(grid[0, 2 * i + 1], xlim=edges[[0, -1]], ylim=(-reach, reach), title=label)
        below = figure.add_subplot(grid[1, 2 * i + 1], sharex=main, xlabel="x", ylabel="density of x")
        left = figure.add_subplot(grid[0, 2 * i], sharey=main, ylabel="z", xlabel="density of z")
        colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.95, len(edges) - 1))
        for low, high, colour in zip(edges[:-1], edges[1:], colours, strict=True):
            inside = np.unique(np.clip(x, low, high))
            below.fill_between(inside, np.interp(inside, x, density), color=colour, linewidth=0)
            left.fill_betweenx(
                np.interp(inside, x, z), np.interp(inside, x, density / slope), color=colour, linewidth=0
            )
            main.plot(inside, np.interp(inside, x, z), color=colour, linewidth=3)
        if reference is not None:
            name, places, values = reference
            left.plot(as_array(values), as_array(places), "--", color="C3", linewidth=1.8, label=name)
        below.set_ylim(0, 1.1 * density.max())
        # The density of z grows from the curve's axis to the left.
        left.set_xlim(1.1 * tallest, 0)
        main.tick_params(labelbottom=False, labelleft=False)
        below.tick_params(labelleft=False)
        left.tick_params(labelbottom=False)
        for axes in (below, left):
            axes.grid(False)
    if reference is not None:
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower left", frameon=False, fontsize=11)
    if title:
        figure.suptitle(title, size=13)
    return figure


def mixture_curves(
    x: Tensor, panels: dict[str, tuple[Tensor, Tensor]], names: Sequence[str], title: str | None = None
) -> Figure:
    """A mixture and its components in several quantities: one panel each, the mixture in black.

    Args:
        x: ``(N,)``.
        panels: label of the vertical axis -> the mixture's values ``(N,)`` and the components' ``(M, N)``.
        names: of the M components.
        title: the finding.
    """
    figure, all_axes = plt.subplots(1, len(panels), figsize=(8, 3.5), layout="constrained", squeeze=False)
    for axes, (label, (mixture, components)) in zip(all_axes[0], panels.items(), strict=True):
        for i, (name, values) in enumerate(zip(names, components, strict=True)):
            axes.plot(as_array(x), as_array(values), "--", color=f"C{i}", linewidth=1.8, label=name)
        axes.plot(as_array(x), as_array(mixture), color="black", linewidth=2.2, label="mixture")
        axes.set(xlabel="x", ylabel=label, xlim=(x.min().item(), x.max().item()))
        # Single components may run far out of the picture of their mixture.
        low, high = mixture.min().item(), mixture.max().item()
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    handles, labels = all_axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=11)
    if title:
        figure.suptitle(title, size=13)
    return figure


def search_steps(
    x: Tensor, curve: Tensor, target: float, trace: Tensor, tangents: Tensor, title: str | None = None
) -> Figure:
    """The steps of a search for the root of an increasing curve: the bracket, the point that is tried, its tangent.

    Args:
        x, curve: the curve, ``(N,)`` each.
        target: the height whose x is sought.
        trace: ``(T, 3)``: the point tried at each step, and the bracket's low and high end before it.
        tangents: ``(T, 2)``: height and slope of the curve at each point tried.
        title: the finding.
    """
    count = len(trace) - 1
    rows = -(-count // 2)
    figure, all_axes = plt.subplots(
        rows, 2, figsize=(8, 2.9 * rows), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    trace, tangents = as_array(trace), as_array(tangents)
    for i, axes in enumerate(all_axes.flat[:count]):
        (point, low, high), (height, slope), following = trace[i], tangents[i], trace[i + 1, 0]
        guess = point - (height - target) / slope
        taken = abs(guess - following) < 1e-6 * (1 + abs(guess))
        axes.axvspan(low, high, color="#d5ece4", linewidth=0, zorder=0, label="bracket")
        axes.plot(as_array(x), as_array(curve), color="black", linewidth=2, label="curve")
        axes.axhline(target, color="C7", linewidth=1.5, label="target")
        axes.axline((point, height), slope=slope, color="C0", linestyle="--", linewidth=1.5, label="tangent")
        axes.plot(point, height, "o", color="C0", markersize=8, label="tried")
        axes.plot(following, target, "X", color="C3", markersize=10, label="next")
        axes.set_title(f"step {i + 1}: {'Newton' if taken else 'the tangent misleads: middle'}", size=12)
    all_axes.flat[0].set(xlim=(x.min().item(), x.max().item()), ylim=(curve.min().item(), curve.max().item()))
    for axes in all_axes.flat[count:]:
        axes.set_visible(False)
    handles, labels = all_axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=11)
    for axes in all_axes[-1]:
        axes.set_xlabel("x")
    for axes in all_axes[:, 0]:
        axes.set_ylabel("logit F(x)")
    if title:
        figure.suptitle(title, size=13)
    return figure


def iteration_histogram(counts: dict[str, Tensor], title: str | None = None) -> Figure:
    """How many elements need how many steps of a search, for several searches.

    Args:
        counts: name of the search -> steps of each element, whole numbers ``(N,)``.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    last = max(int(steps.max()) for steps in counts.values())
    for i, (name, steps) in enumerate(counts.items()):
        share = np.bincount(steps.detach().cpu().numpy(), minlength=last + 1) / len(steps)
        axes.bar(np.arange(last + 1), 100 * share, width=0.9, color=f"C{i}", alpha=0.8, label=name)
    axes.set(xlabel="steps until the element is found", ylabel="elements, in %", xlim=(0, last + 1))
    axes.grid(False, axis="x")
    axes.legend()
    if title:
        axes.set_title(title, size=13)
    return figure


def position_codes(codes: Tensor, similarity: Tensor, title: str | None = None) -> Figure:
    """A code per position, as rows of a picture, and how alike the codes of two positions are.

    Args:
        codes: ``(P, C)``.
        similarity: ``(P, P)``, scalar products of the codes.
        title: the finding.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
    largest = codes.abs().max().item()
    pictures = {
        left: (codes, "channel of the code", {"cmap": "PuOr_r", "vmin": -largest, "vmax": largest}),
        right: (similarity, "position", {"cmap": "viridis"}),
    }
    for axes, (values, xlabel, colours) in pictures.items():
        picture = axes.imshow(as_array(values), aspect="auto", **colours)
        axes.set(xlabel=xlabel, ylabel="position")
        axes.grid(False)
        figure.colorbar(picture, ax=axes, shrink=0.85)
    left.set_title("the codes", size=12)
    right.set_title("their scalar products", size=12)
    if title:
        figure.suptitle(title, size=13)
    return figure


def attention_maps(
    images: dict[str, Tensor], weights: Tensor, place: tuple[int, int], title: str | None = None
) -> Figure:
    """What one position looks at, a row per image: the image with the position marked, then a map of weights per head.

    Args:
        images: label of the row -> ``(H, W)``.
        weights: attention weights of that position, ``(len(images), heads, h, w)``.
        place: its row and column.
        title: the finding.
    """
    heads, height, width = weights.shape[1:]
    figure, all_axes = plt.subplots(
        len(images), heads + 1, figsize=(8, 1.45 * len(images) + 0.8), layout="constrained", squeeze=False
    )
    # In units of positions, whatever the image's own resolution.
    extent = (0, width, height, 0)
    # A single large weight should not turn all others to black.
    colours = PowerNorm(0.5, 0, weights.max().item())
    for i, (label, image) in enumerate(images.items()):
        all_axes[i, 0].imshow(as_array(image), cmap="gray", extent=extent)
        all_axes[i, 0].set_ylabel(label, size=11)
        for axes, values in zip(all_axes[i, 1:], weights[i], strict=True):
            picture = axes.imshow(as_array(values), cmap="viridis", norm=colours, extent=extent)
        for axes in all_axes[i]:
            y, x = place
            axes.add_patch(Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, fill=False, edgecolor="#e8590c", linewidth=2.5))
            axes.set(xticks=[], yticks=[])
    for head, axes in enumerate(all_axes[0]):
        axes.set_title(f"head {head}" if head else "image", size=12)
    figure.colorbar(picture, ax=all_axes, shrink=0.8, label="attention weight")
    if title:
        figure.suptitle(title, size=13)
    return figure
