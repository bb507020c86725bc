"""The figures of lesson 12."""

import math

import pytest
import torch
from matplotlib.patches import Rectangle

from nbflows import plotting
from tests.figures import inside


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
    for axes, read in zip(figure.axes, (range(4), range(5, 9)), strict=True):
        squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert [int(text.get_text()) for text in axes.texts] == [*range(9)]
        colours = [square.get_facecolor()[:3] for square in squares]
        white = [i for i, colour in enumerate(colours) if colour == (1, 1, 1)]
        assert set(white) == set(range(9)) - {4} - set(read) and len({colours[i] for i in read} | {colours[4]}) == 2
        marked, reading, unread = (handle.get_facecolor() for handle in figure.legends[0].get_patches())
        assert [squares[i].get_facecolor() for i in (4, read[0], white[0])] == [marked, reading, unread]
        assert math.prod(figure.get_size_inches()) < 40
    inside(figure)


def test_points_are_drawn_at_every_time_on_the_same_axes():
    figure = plotting.points_over_time({"t = 0": torch.zeros(3, 2), "t = 1": torch.ones(3, 2)}, "on the way")
    start, end = figure.axes
    assert (start.get_title(), end.get_title()) == ("t = 0", "t = 1") and start.get_xlim() == end.get_xlim()
    assert end.lines[0].get_xdata().tolist() == end.lines[0].get_ydata().tolist() == [1, 1, 1]
    inside(figure)


def test_patch_errors_have_a_row_for_each_pass_and_one_scale():
    errors = torch.tensor([[0.0, 1e-3, 5.0], [0.0, 1e-9, 1e-2]])
    figure = plotting.patch_errors({"forwards": errors, "backwards": errors.flip(1)}, "closer")
    forwards, backwards, bar = figure.axes
    assert forwards.images[0].get_array().shape == (2, 3) and forwards.images[0].norm is not None
    assert forwards.images[0].get_array().min() == 1e-7 and backwards.get_title() == "backwards"
    assert [label.get_text() for label in forwards.get_yticklabels()] == ["1"]
    assert bar.get_ylabel() == "distance from the result" and forwards.get_ylabel() == "pass"
    inside(figure)
