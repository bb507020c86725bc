"""The figures of autoregressive priors."""

import numpy as np
import pytest
import torch

from nbflows import plotting
from tests.figures import inside, texts


def test_channel_correlations_scale_their_colours_to_the_largest_that_is_not_one():
    matrix = torch.cat([torch.eye(3), torch.full((3, 3), -0.4)], dim=1)
    figure = plotting.channel_correlations({"values": matrix, "sizes": matrix / 2}, title="related")
    panels = [axes for axes in figure.axes if axes.get_title() in ("values", "sizes")]
    assert len(panels) == 2 and figure.get_suptitle() == "related"
    for axes in panels:
        assert axes.images[0].get_clim() == pytest.approx((-0.5, 0.5))
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"] * 2
    inside(figure)


def test_jacobian_blocks_leave_zeros_white():
    figure = plotting.jacobian_blocks({"a": torch.eye(6), "b": torch.ones(6, 6).tril()}, 3, title="triangular")
    pictures = [axes.images[0].get_array() for axes in figure.axes[:2]]
    assert figure.get_suptitle() == "triangular"
    for picture, count in zip(pictures, (6, 21), strict=True):
        assert np.isfinite(np.ma.filled(picture, np.nan)).sum() == count
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "2"]
    inside(figure)


def test_channel_loop_feeds_each_step_the_channel_before():
    figure = plotting.channel_loop(title="loop")
    shown = texts(figure.axes[0])
    assert [text for text in shown if text in ("0", "$v_1$", "$v_2$")] == ["0", "$v_1$", "$v_2$"]
    assert [text for text in shown if text.startswith("of channel")] == [f"of channel $v_{t}$" for t in (1, 2, 3)]
    assert figure.get_suptitle() == "loop"
    inside(figure)


def test_sampling_order_numbers_the_channels_from_the_deepest_level_on():
    figure = plotting.sampling_order([(6, 16, 16), (12, 8, 8), (48, 4, 4)], (3, 32, 32), title="order")
    shown = texts(figure.axes[0])
    assert {"level 2\n48×4×4", "level 0\n6×16×16", "image 3×32×32"} <= set(shown)
    numbers = [int(text) for text in shown if text.isdigit()]
    assert numbers == [1, 2, 3, 47, 48, 49, 50, 51, 59, 60, *range(61, 67)]
    assert shown.count("the continuing half, seen by every channel") == 2 and figure.get_suptitle() == "order"
    assert any(text.endswith("66 steps in all") for text in shown)
    inside(figure)


def test_sampling_cost_gives_a_model_one_colour_in_both_panels():
    steps = {"counted only": {8: 100, 64: 200}, "prior": {8: 66, 64: 66}}
    figure = plotting.sampling_cost(steps, {"prior": {8: 0.1, 64: 0.4}}, title="cheap")
    counted, measured = figure.axes
    assert len(counted.lines) == 2 and len(measured.lines) == 1
    assert counted.lines[1].get_color() == measured.lines[0].get_color() != counted.lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["counted only", "prior"]
    inside(figure)


def test_gains_with_errors_says_mean_and_error_in_every_group():
    gains = {"steps": {"one": torch.tensor([0.1, 0.3]), "two": torch.zeros(2)}, "seconds": {"one": torch.ones(2)}}
    figure = plotting.gains_with_errors(gains, title="better")
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["one:  +0.200 ± 0.100", "two:  +0.000 ± 0.000", "one:  +1.000 ± 0.000"]
    assert {"steps", "seconds"} == set(texts(axes)) and figure.get_suptitle() == "better"
    bars = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert bars == pytest.approx([0.2, 0.0, 1.0])
    # The same model has the same colour in all groups.
    colours = [container.lines[0].get_color() for container in axes.containers]
    assert colours[0] == colours[2] != colours[1]
    inside(figure)
