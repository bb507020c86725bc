"""The figures of mixture couplings."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from nbflows import plotting
from tests.figures import inside


def test_pushed_densities_keep_the_area_of_every_band():
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    density = torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5
    panels = {"line": (2 * x, torch.full_like(x, 2.0)), "sinh": (x.sinh(), x.cosh())}
    edges = torch.linspace(-3, 3, 5)
    figure = plotting.pushed_densities(panels, x, density, edges, ("N(0, 1)", x, density), "areas")
    assert len(figure.axes) == 6 and figure.get_suptitle() == "areas"
    assert [axes.get_title() for axes in figure.axes[::3]] == ["line", "sinh"]
    for main, below, left in (figure.axes[:3], figure.axes[3:]):
        assert len(main.lines) == len(below.collections) == len(left.collections) == 4
        for before, after in zip(below.collections, left.collections, strict=True):
            assert np.array_equal(before.get_facecolor(), after.get_facecolor())
            areas = [_area(band.get_paths()[0].vertices) for band in (before, after)]
            assert areas[0] == pytest.approx(areas[1], rel=1e-2)
    inside(figure)


def _area(corners):
    x, y = corners.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_mixture_curves_draw_each_component_in_each_panel():
    x, parts = torch.linspace(0, 1, 5), torch.rand(3, 5)
    figure = plotting.mixture_curves(x, {"f": (parts.sum(0), parts), "F": (parts[0], parts)}, "abc", "title")
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c", "mixture"]
    inside(figure)


def test_search_steps_say_which_steps_are_newtons():
    x = torch.linspace(-2, 2, 11)
    # On the line z = 2 x: the first step takes the middle, the second follows the tangent to the root.
    trace = torch.tensor([[0.0, -1.0, 2.0], [1.0, 0.0, 2.0], [0.5, 0.0, 1.0]])
    tangents = torch.tensor([[0.0, 2.0], [2.0, 2.0], [1.0, 2.0]])
    figure = plotting.search_steps(x, 2 * x, 1.0, trace, tangents, "steps")
    assert [axes.get_title() for axes in figure.axes] == ["step 1: the tangent misleads: middle", "step 2: Newton"]
    (band,) = [patch for patch in figure.axes[1].patches if isinstance(patch, plt.Rectangle)]
    assert (band.get_x(), band.get_width()) == (0.0, 2.0)
    assert len(plotting.search_steps(x, 2 * x, 1.0, trace[:2], tangents[:2]).axes[1].lines) == 0
    inside(figure)


def test_density_maps_share_their_colours_and_hide_what_is_empty():
    grids = {name: i * torch.rand(9, 9) for i, name in enumerate("abcd", start=1)}
    figure = plotting.density_maps(grids, (-1, 1, -1, 1), "maps")
    *maps, _bar = figure.axes
    assert [axes.get_title() for axes in maps if axes.get_visible()] == list("abcd")
    limits = {tuple(axes.collections[0].get_clim()) for axes in maps if axes.collections}
    assert len(limits) == 1
    inside(figure)
