"""The figures of conditional flows."""

import numpy as np
import pytest
import torch

from nbflows import plotting
from tests.figures import inside, texts


def test_answers_stand_in_one_row_per_question():
    samples = torch.full((2, 3, 1, 4, 4), 8, dtype=torch.uint8)
    figure = plotting.answers({"source": samples[:, :1], "three samples": samples}, 17, "answers", image_inches=0.6)
    assert [axes.get_title() for axes in figure.axes] == ["source", "three samples"]
    one, three = (axes.images[0].get_array() for axes in figure.axes)
    # Four pixels each, and a gap of one.
    assert one.shape == (9, 4, 3) and three.shape == (9, 14, 3)
    assert one[0, 0].tolist() == [0.5, 0.5, 0.5] and one[4, 0].tolist() == [1, 1, 1]
    inside(figure)


def test_answers_show_the_order_of_rows_and_samples():
    samples = torch.arange(4, dtype=torch.uint8).view(2, 2, 1, 1, 1).expand(2, 2, 1, 4, 4)
    (axes,) = plotting.answers({"samples": samples}, 4).axes
    picture = np.asarray(axes.images[0].get_array())
    assert [picture[0, 0, 0], picture[0, 5, 0], picture[5, 0, 0], picture[5, 5, 0]] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )


def test_context_derivatives_leave_zeros_white_and_name_the_groups():
    triangle, context = torch.eye(4), torch.ones(4, 6)
    context[:2] = 0
    panels = {"by x": (triangle, ["kept", "moved"]), "by the context": (context, ["all"])}
    figure = plotting.context_derivatives(panels, "derivatives")
    by_x, by_context = figure.axes[:2]
    assert [label.get_text() for label in by_x.get_xticklabels()] == ["kept", "moved"]
    assert [label.get_text() for label in by_x.get_yticklabels()] == ["kept", "moved"]
    assert np.ma.getmaskarray(by_x.images[0].get_array()).sum() == 12
    assert np.ma.getmaskarray(by_context.images[0].get_array()).sum() == 12
    assert by_x.images[0].norm.vmax == by_context.images[0].norm.vmax == 1
    inside(figure)


def test_related_flows_have_a_box_per_image_and_level_and_an_arrow_per_relation():
    figure = plotting.related_flows((3, 8, 8), [(6, 4, 4), (24, 2, 2)], "two flows")
    (axes,) = figure.axes
    written = texts(axes)
    assert written.count("level 0: 6×4×4\n= 96 numbers") == written.count("level 1: 24×2×2\n= 96 numbers") == 2
    assert "source\n3×8×8" in written and "target\n3×8×8" in written
    # Six boxes; per level from source, over, and to the target.
    assert len(axes.patches) == 6 + 2 * 3
    inside(figure)
