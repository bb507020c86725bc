"""The figures of dequantization."""

import pytest
import torch

from nbflows import plotting


def test_fit_and_gap_draws_densities_over_the_data_at_the_left_and_the_best_bound_at_the_right():
    y, widths = torch.linspace(0, 3, 50), torch.tensor([1.0, 0.4, 0.2])
    exact, bound = torch.tensor([-2.3, -2.2, -2.1]), torch.tensor([-2.31, -2.22, -2.4])
    steps = torch.arange(4.0), torch.tensor([0.5, 0.3, 0.2])
    figure = plotting.fit_and_gap(widths, exact, bound, -2.0, (y, {1.0: y, 0.5: 2 * y}), steps, title="narrow")
    left, right = figure.axes
    assert figure.get_suptitle() == "narrow"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["data + noise", "width 1", "width 0.5"]
    (stairs,) = left.patches
    assert stairs.get_data().values.tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert right.xaxis_inverted() and right.get_xscale() == "log"
    assert [line.get_label() for line in right.lines[:3]] == ["limit of log P", "fit: log P", "bound (ELBO)"]
    assert right.lines[3].get_xydata().tolist() == [pytest.approx([0.4, -2.22])]


def test_level_densities_draws_one_labelled_slice_per_level():
    z = torch.stack([torch.linspace(-2, 0, 20), torch.linspace(0, 2, 20)])
    (axes,) = plotting.level_densities(z, (-(z**2)).exp(), title="two").axes
    assert axes.get_title() == "two" and len(axes.collections) == 2
    assert [text.get_text() for text in axes.texts] == ["0", "1"]
    assert axes.texts[0].get_position()[0] < 0 < axes.texts[1].get_position()[0]


def test_rounding_errors_draws_one_curve_each_on_a_log_scale():
    errors = {"a": torch.tensor([1e-6, 1e-3]), "b": torch.tensor([1e-6, 1e-6])}
    (axes,) = plotting.rounding_errors(errors, title="errors").axes
    assert axes.get_yscale() == "log" and axes.get_title() == "errors"
    assert [line.get_label() for line in axes.lines] == ["a", "b"]


def test_bound_over_draws_pairs_the_images_at_the_right():
    # Images differ by much, the change from M = 1 to 2 is the same for all of them: no error bar at the right.
    images = torch.tensor([1.0, 2.0, 3.0])
    left, right = plotting.bound_over_draws([1, 2], torch.stack([images, images - 0.5]), title="tighter").axes
    heights = [axes.containers[0].lines[2][0].get_segments()[1] for axes in (left, right)]
    bars = [abs(segment[1][1] - segment[0][1]) for segment in heights]
    assert bars[0] == pytest.approx(2 / 3**0.5, abs=1e-6)
    assert bars[1] == pytest.approx(0, abs=1e-6)
    assert right.containers[0].lines[0].get_ydata() == pytest.approx([0, -0.5])
