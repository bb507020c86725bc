"""The figures of autoregressive flows."""

import numpy as np
import pytest
import torch

from nbflows import plotting
from nbflows.layers import Spline
from tests.figures import inside, texts


def test_mask_matrices_write_numbers_where_a_matrix_is_not_zero():
    jacobian = torch.tensor([[0.5, 0.0], [-1.25, 2.0]])
    panels = {"mask": (torch.ones(3, 2).bool(), "hidden", "input"), "jacobian": (jacobian, "latent", "input")}
    figure = plotting.mask_matrices(panels, title="triangle")
    mask, triangle = figure.axes
    assert texts(mask) == ["1"] * 6 and texts(triangle) == ["0.5", "-1.2", "2.0"]
    shades = triangle.images[0].get_array()
    assert shades[0, 1] == 0 and shades.max() == shades[1, 1] and shades[0, 0] > 0.25
    assert triangle.get_ylabel() == "latent" and figure.get_suptitle() == "triangle"
    inside(figure)


def test_spline_knots_draws_each_slope_as_a_tangent():
    x = torch.linspace(-3, 3, 50)
    knots = Spline(4, bound=2.0).knots(torch.randn(11, 1))
    xs, ys, slopes = (part[:, 0] for part in knots)
    densities = {"truth": (x, x.square()), "model": (x, 2 - x / 3)}
    figure = plotting.spline_knots((x, x), (xs, ys, slopes), densities, title="steep")
    left, right = figure.axes
    _, *tangents, points = left.lines
    assert np.allclose(points.get_xdata(), xs)
    for tangent, slope in zip(tangents, slopes.tolist(), strict=True):
        (x0, x1), (y0, y1) = tangent.get_xdata(), tangent.get_ydata()
        assert (y1 - y0) / (x1 - x0) == pytest.approx(slope, rel=1e-4)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["truth", "model"] and len(right.lines) == 2
    inside(figure)


def test_interval_parts_are_as_long_as_probabilities():
    rows = {"a": torch.tensor([0.5, 0.3, 0.2]), "b": torch.tensor([0.01, 0.98, 0.01])}
    figure = plotting.interval_parts(rows, [2, 1], [0.9, 0.505], title="parts")
    (axes,) = figure.axes
    lengths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert lengths[0] == pytest.approx([0.5, 0.3, 0.2]) and lengths[1] == pytest.approx([0.2])
    assert axes.containers[1][0].get_x() == pytest.approx(0.8)
    # No number below the mark, and none in a part that is too short.
    assert texts(axes) == ["0", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    inside(figure)
