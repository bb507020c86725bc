"""The figures of residual flows."""

import numpy as np
import pytest
import torch

from nbflows import plotting
from tests.figures import inside


def test_walks_are_drawn_to_every_solution_that_the_curve_has():
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    walks = torch.tensor([[-3.0, 0.0, 1.0], [3.0, 2.0, 1.5]])
    panels = {"flat": (-0.5 * torch.sin(x), walks), "steep": (-1.6 * torch.sin(x), walks)}
    figure = plotting.fixed_point_walks(x, panels, 0.1, "walks")
    flat, steep, below, _ = figure.axes
    assert (flat.get_title(), steep.get_title()) == ("flat: 1 solution", "steep: 3 solutions")
    for axes in (flat, steep):
        solutions = axes.lines[-1].get_xdata()
        slope = 0.5 if axes is flat else 1.6
        assert solutions - slope * np.sin(solutions) == pytest.approx(np.full(len(solutions), 0.1), abs=1e-3)
    # From a start on the diagonal up to the curve, over to the diagonal, and on.
    walk = below.lines[2]
    assert walk.get_xdata().tolist() == [-3, -3, 0, 0, 1] and walk.get_ydata().tolist() == [-3, 0, 0, 1, 1]
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["start", "solution"]
    inside(figure)


def test_norm_steps_show_the_estimates_and_each_level():
    figure = plotting.norm_steps(torch.tensor([1.0, 2.0, 2.5]), {"true": 2.6, "kernel": 1.5}, "norms")
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [1.0, 2.6, 1.5]
    assert figure.axes[0].get_ylim()[0] == 0 and figure.axes[0].get_ylim()[1] > 2.6
    inside(figure)


def test_activation_slopes_have_a_panel_per_derivative():
    x = torch.linspace(-1, 1, 5)
    figure = plotting.activation_slopes(x, {"a": (x, x + 1, x + 2), "b": (-x, -x, -x)}, "activations")
    assert [axes.get_title() for axes in figure.axes] == ["value", "slope", "second derivative"]
    assert [axes.lines[0].get_ydata()[0] for axes in figure.axes] == [-1, 0, 1]
    inside(figure)


def test_partial_sums_lie_in_the_picture_and_so_does_their_limit():
    sums = torch.tensor([3.0, 1.0, 1.5])
    figure = plotting.partial_sums(sums, 1.4, torch.tensor([50.0, 1.0, 0.5]), "sums")
    low, high = figure.axes[0].get_ylim()
    assert low < 1.0 and 3.0 < high < 10
    assert figure.axes[0].lines[1].get_xdata().tolist() == [1, 2, 3]
    inside(figure)


def test_estimate_histograms_name_the_mean_its_error_and_what_lies_beyond():
    draws = torch.tensor([0.0, 1.0, 2.0, 1.0, 9.0])
    figure = plotting.estimate_histograms({"one": draws, "two": draws[:4]}, 1.0, (-1, 3), "nats", "estimates")
    first, second = figure.axes
    error = f"{draws.std().item() / 5**0.5:.3f}"
    assert first.get_title(loc="left") == f"one: mean 2.600 ± {error} (1 of 5 draws are outside)"
    assert second.get_title(loc="left") == "two: mean 1.000 ± 0.408"
    for axes, mean in ((first, 2.6), (second, 1.0)):
        assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([mean, 1.0])
    inside(figure)


def test_kept_memory_has_a_line_for_each_way_in_each_panel():
    ways = {"a": [1.0, 2.0], "b": [1.0, 1.0]}
    figure = plotting.kept_memory({"terms": ([2, 4], ways), "blocks": ([1, 8], ways)}, "memory")
    assert [axes.get_xlabel() for axes in figure.axes] == ["terms", "blocks"]
    assert [[line.get_ydata().tolist() for line in axes.lines] for axes in figure.axes] == [list(ways.values())] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    inside(figure)
