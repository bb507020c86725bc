"""The figures of lesson 12."""

import math

import pytest
import torch
from matplotlib.patches import Rectangle

from nbflows import plotting
from tests.figures import inside

FACTS = {"bits_per_dim": 1.9, "standard_error": 0.02, "parameters": 70_000}
COST = {"evaluate_seconds": 0.002, "sample_seconds": 0.01, "evaluate_mib": 20.0, "sample_mib": 22.0}


def test_each_group_of_models_has_an_axis_of_bits_of_its_own_and_costs_on_a_common_one():
    better = {**FACTS, **COST, "bits_per_dim": 1.1}
    groups = {"digits": {"simple": {**FACTS, **COST}, "glow": FACTS}, "mnist": {"marscf": better}}
    figure = plotting.model_overview(groups, "costs")
    digits, mnist = figure.axes[:4], figure.axes[4:]
    assert [label.get_text() for label in digits[0].get_yticklabels()] == ["simple", "glow"]
    assert not digits[0].get_shared_x_axes().joined(digits[0], mnist[0])
    assert all(
        above.get_shared_x_axes().joined(above, below) for above, below in zip(digits[1:], mnist[1:], strict=True)
    )
    # In milliseconds; the model whose costs are not known has its parameters alone.
    assert [line.get_xdata()[0] for line in digits[2].lines] == [2, 10]
    assert [line.get_xdata()[0] for line in digits[1].lines] == [70_000, 70_000]
    assert [axes.get_xlabel() for axes in mnist] == ["test bits/dim", "parameters", "ms an image", "memory, MiB"]
    inside(figure)


def test_what_later_groups_cost_is_not_cut_off_at_what_the_first_one_needs():
    about = {"bits_per_dim": 1.0, "standard_error": 0.1, "parameters": 10, "evaluate_seconds": 0.1, "sample_seconds": 1}
    groups = {
        f"group {i}": {"model": {**about, "evaluate_mib": mib, "sample_mib": 9}} for i, mib in enumerate((20, 90, 30))
    }
    figure = plotting.model_overview(groups)
    for axes in figure.axes:
        left, right = axes.get_xlim()
        for line in axes.lines:
            assert left <= min(line.get_xdata()) and max(line.get_xdata()) <= right
    assert figure.axes[3].get_xlim()[0] == 0


def test_two_rankings_stand_in_the_same_order():
    rows = {"a": ((1.0, 0.1), (0.7, 0.05)), "b": ((2.0, 0.1), (0.6, 0.05))}
    figure = plotting.two_rankings(rows, ("bits/dim", "told apart"), "orders", ideal=0.5)
    left, right = figure.axes
    assert left.lines[0].get_xdata().tolist() == [1, 2] and right.lines[0].get_xdata().tolist() == [0.7, 0.6]
    assert left.lines[0].get_ydata().tolist() == right.lines[0].get_ydata().tolist() == [1, 0]
    assert right.lines[-1].get_xdata() == [0.5, 0.5] and right.get_xlabel().startswith("told apart")
    assert plotting.two_rankings(rows, ("bits/dim", "told apart")).get_suptitle() == ""
    inside(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_kinds_of_images_show_their_bits_and_two_examples(channels):
    bits = {"black": torch.tensor([0.1, 0.3]), "noise": torch.tensor([9.0, 10.0])}
    images = {kind: torch.zeros(2, channels, 8, 8, dtype=torch.uint8) for kind in bits}
    complexity = {kind: values / 2 for kind, values in bits.items()}
    figure = plotting.bits_of_kinds(bits, images, ("test images", 1.1), complexity, log=True, title="kinds")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and [text.get_text() for text in axes.texts] == ["black", "noise"]
    assert axes.lines[0].get_xdata() == pytest.approx([0.1, 0.3]) and axes.lines[1].get_xdata() == pytest.approx([0.2])
    assert len([artist for artist in axes.artists if "AnnotationBbox" in type(artist).__name__]) == 4
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["the model", "PNG", "test images"]
    inside(figure)
    plain = plotting.bits_of_kinds(bits, images)
    assert plain.axes[0].get_xscale() == "linear" and len(plain.legends[0].get_texts()) == 1


def test_complexity_has_a_dot_for_each_image_and_a_diagonal():
    kinds = {
        "photographs": (torch.tensor([1.0, 3.0]), torch.tensor([1.5, 4.0])),
        "blurred": (torch.ones(1), torch.ones(1)),
    }
    figure = plotting.bits_against_complexity(kinds, "alike")
    diagonal, photographs, blurred = figure.axes[0].lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 4]
    assert photographs.get_ydata().tolist() == [1.5, 4.0] and len(blurred.get_xdata()) == 1
    inside(figure)


def test_code_lengths_are_written_beside_the_bars_and_highlighted():
    lengths = {"a byte a pixel": 64, "flow": 15.34}
    figure = plotting.code_lengths(lengths, "flow", "bytes")
    plain, flow = figure.axes[0].patches
    assert (plain.get_width(), flow.get_width()) == (64, 15.34) and plain.get_facecolor() != flow.get_facecolor()
    assert [text.get_text() for text in figure.axes[0].texts] == ["64.0", "15.3"]
    inside(figure)
    assert plotting.code_lengths(lengths).axes[0].patches[1].get_facecolor() == plain.get_facecolor()


def test_patches_read_those_before_them_in_the_order_of_the_block():
    figure = plotting.patch_orders(3, 4, "orders")
    for axes, turns in zip(figure.axes, ([*range(1, 10)], [*range(9, 0, -1)]), strict=True):
        squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert [int(text.get_text()) for text in axes.texts] == turns
        # As many are read as have had their turn.
        colours = [square.get_facecolor()[:3] for square in squares]
        assert colours.count(colours[4]) == 1 and colours.count(colours[0]) == colours.count(colours[8]) == 4
        assert math.prod(figure.get_size_inches()) < 40
    inside(figure)


def test_points_are_drawn_at_every_time_on_the_same_axes():
    figure = plotting.points_over_time({"t = 0": torch.zeros(3, 2), "t = 1": torch.ones(3, 2)}, "on the way")
    start, end = figure.axes
    assert (start.get_title(), end.get_title()) == ("t = 0", "t = 1") and start.get_xlim() == end.get_xlim()
    assert end.lines[0].get_xdata().tolist() == end.lines[0].get_ydata().tolist() == [1, 1, 1]
    inside(figure)
