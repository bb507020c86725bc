"""The figures of translation flows."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from nbflows import plotting
from tests.figures import inside, texts


def links(n):
    i, j = torch.arange(n)[:, None], torch.arange(n)
    every = torch.ones(n, n, dtype=torch.bool)
    return {"all": torch.cat([j > i, every], 1), "same": torch.cat([~every, j == i], 1)}


def arrows(axes):
    return [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]


def test_dependency_diagrams_draw_every_link_and_dot_those_that_are_dropped():
    figure = plotting.dependency_diagrams(links(3), "links")
    everything, same = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["all", "same"]
    assert [arrow.get_linestyle() for arrow in arrows(everything)].count(":") == 0
    dotted = [arrow for arrow in arrows(same) if arrow.get_linestyle() == ":"]
    assert (len(arrows(everything)), len(arrows(same)), len(dotted)) == (12, 12, 9)
    # Drawn before the others, so that no link is hidden by one that is not there.
    assert arrows(same)[:9] == dotted
    circles = [patch for patch in same.patches if isinstance(patch, Circle)]
    assert len(circles) == 6 and {"$D_0$", "$L_2$"} < set(texts(same))
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "dropped"
    inside(figure)


@pytest.mark.parametrize("column, kind", [(1, "target"), (3, "same"), (5, "coarser")])
def test_dependency_diagrams_have_one_colour_for_each_kind_of_link(column, kind):
    matrix = torch.zeros(3, 6, dtype=torch.bool)
    matrix[0, column] = True
    figure = plotting.dependency_diagrams({"one": matrix})
    (arrow,) = arrows(figure.axes[0])
    # In the order of the legend: the same level, coarser, finer, of the target.
    handle = figure.legends[0].legend_handles[{"same": 0, "coarser": 1, "target": 3}[kind]]
    assert np.allclose(arrow.get_edgecolor()[:3], to_rgb(handle.get_color()))
    inside(figure)


def test_a_link_from_a_finer_source_level_is_drawn_as_such():
    matrix = torch.zeros(3, 6, dtype=torch.bool)
    matrix[2, 3] = True
    figure = plotting.dependency_diagrams({"one": matrix})
    assert arrows(figure.axes[0])[0].get_linestyle() == "-."


def test_dependency_matrices_fill_what_depends():
    figure = plotting.dependency_matrices({"one": links(3)["same"], "two": links(3)["all"]}, "matrices")
    filled = [
        sum(patch.get_facecolor()[:3] != (1, 1, 1) for patch in axes.patches if isinstance(patch, Rectangle))
        for axes in figure.axes
    ]
    assert filled == [3, 12] and all(len(axes.patches) == 18 for axes in figure.axes)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][:4] == ["$L_0$", "$L_1$", "$L_2$", "$D_0$"]
    inside(figure)


def test_the_conditional_flow_loses_no_number_on_the_way():
    figure = plotting.conditional_flow_diagram([(2, 8, 8), (4, 4, 4), (16, 2, 2)], "flow")
    written = texts(figure.axes[0])
    latents = [text.split("\n")[1] for text in written if text.startswith("latent of scale")]
    assert latents == ["4×4×4", "8×2×2", "32×1×1"] and 4 * 16 + 8 * 4 + 32 == 2 * 64
    assert {"$D_0$", "$L_1$, $D_1$", "$L_2$, $D_2$"} < set(written)
    inside(figure)


def test_block_tables_hatch_the_blocks_that_appear_twice():
    shared = torch.tensor([[0, 1, 2], [-1, 3, 2], [-1, -1, 4]])
    figure = plotting.block_tables({"shared": shared}, "blocks")
    boxes = figure.axes[0].patches
    assert [bool(box.get_hatch()) for box in boxes] == [False, False, True, False, True, False]
    assert texts(figure.axes[0]) == ["1", "2", "3", "4", "3", "5"]
    figure = plotting.block_tables({"unshared": torch.arange(16).view(4, 4), "shared": torch.zeros(4, 4)}, "blocks")
    inside(figure)
