"""The figures of levels."""

import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from nbflows import plotting
from nbflows.layers import Squeeze
from tests.figures import inside, texts


def test_squeeze_diagram_draws_every_pixel_twice_in_the_colour_of_its_place():
    image = torch.arange(16).view(1, 1, 4, 4)
    figure = plotting.squeeze_diagram(image[0, 0], Squeeze()(image)[0][0], "sorted", ("even", "odd"))
    (axes,) = figure.axes
    assert figure.get_suptitle() == "sorted" and {"even", "odd", "channel 3"} <= set(texts(axes))
    cells = [text for text in texts(axes) if text.isdigit()]
    assert sorted(map(int, cells)) == sorted([*range(16), *range(16)])
    colours = {}
    # The arrow is a patch, too.
    boxes = [patch for patch in axes.patches if isinstance(patch, plt.Rectangle)]
    for cell, box in zip(cells, boxes, strict=True):
        colours.setdefault(int(cell), set()).add(to_hex(box.get_facecolor()))
    assert all(len(seen) == 1 for seen in colours.values())
    assert colours[0] == colours[10] != colours[1] and len(set().union(*colours.values())) == 4
    inside(figure)


def test_kept_pixels_colours_the_mask():
    mask = torch.tensor([[True, False], [False, False]]).expand(3, 2, 2)
    figure = plotting.kept_pixels({"a": mask, "b": ~mask}, ["red", "green", "blue"], title="halves")
    assert len(figure.axes) == 6 and figure.axes[3].get_ylabel() == "b" and figure.get_suptitle() == "halves"
    first, second = ([to_hex(box.get_facecolor()) for box in figure.axes[i].patches] for i in (0, 3))
    assert len(set(first[1:])) == 1 and first[0] != first[1]
    assert second[0] == first[1] and second[1] == first[0]
    inside(figure)


def test_level_ladder_names_every_level_and_counts_its_numbers():
    figure = plotting.level_ladder((3, 32, 32), [(6, 16, 16), (12, 8, 8), (48, 4, 4)], (1, 2, 3, 4), title="ladder")
    shown = " ".join(texts(figure.axes[0]))
    for expected in ("3×32×32\n= 3072", "level 0: 6×16×16\n= 1536", "level 2: 48×4×4\n= 768", "3 couplings\n24×8×8"):
        assert expected in shown
    assert shown.count("half exits") == 2 and shown.count("the rest") == 1
    assert figure.get_suptitle() == "ladder"
    inside(figure)
