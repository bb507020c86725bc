"""The figures of noise."""

import math

import pytest
import torch

from nbflows import plotting
from tests.figures import inside, texts


def test_bin_posteriors_draws_the_density_and_one_normalised_posterior_per_level():
    u = (torch.arange(50) + 0.5) / 50
    v = torch.arange(3)[:, None] + u
    density = (1 + torch.sin(v)) / 3
    figure = plotting.bin_posteriors(v, density, gaps=[0.5, 0.25, 0.0], title="uneven")
    top, *below = figure.axes
    assert figure.get_suptitle() == "uneven" and top.get_xlim() == (0, 3)
    assert [axes.get_title() for axes in below] == [
        f"level {x}: gap {gap} bits" for x, gap in enumerate(("0.50", "0.25", "0.00"))
    ]
    for axes in below:
        posterior = axes.lines[0]
        assert posterior.get_ydata().mean() == pytest.approx(1)
        assert posterior.get_xdata().min() >= 0 and posterior.get_xdata().max() <= 1


def test_noise_path_shows_the_three_maps_and_their_log_determinants():
    figure = plotting.noise_path("a path")
    shown = texts(figure.axes[0])
    assert figure.get_suptitle() == "a path" and {"logit", "sigmoid", "sum of s", "image x"} <= set(shown)
    inside(figure)


def test_noise_maps_draws_the_mean_noise_of_every_pixel_below_its_image():
    images = torch.tensor([[[[0, 255], [0, 0]]], [[[255, 0], [0, 0]]]])
    noise = torch.stack([torch.full((2, 1, 2, 2), 0.1), torch.full((2, 1, 2, 2), 0.5)])
    figure = plotting.noise_maps(images, noise, title="maps")
    above, below = figure.axes[0].images[0].get_array(), figure.axes[2].images[0].get_array()
    assert above.tolist() == [[0, 255], [0, 0]] and below.tolist() == [[pytest.approx(0.3)] * 2] * 2
    assert len(figure.axes) == 5 and figure.get_suptitle() == "maps"


def test_noise_spread_draws_means_of_groups_with_errors_between_images():
    groups = {"a": torch.tensor([[0, 0], [0, 3]]), "b": torch.tensor([[-1, 0], [-1, 0]])}
    noise = torch.tensor([[[0.1, 0.3], [0.5, 0.9]], [[0.1, 0.3], [0.5, 0.9]]])
    figure = plotting.noise_spread(groups, dict.fromkeys(groups, noise), {"a": "level", "b": "place"}, title="spread")
    first, second = figure.axes
    assert first.get_title() == "a" and second.get_xlabel() == "place" and figure.get_suptitle() == "spread"
    uniform, means = first.lines[0], first.lines[1]
    assert uniform.get_ydata()[0] == 0.5 and list(means.get_xdata()) == [0, 3]
    assert means.get_ydata() == pytest.approx([0.3, 0.9])
    assert second.lines[1].get_ydata() == pytest.approx([0.6])
    # Images deviate from the mean 0.3 by sums of -0.2 and +0.2 over three pixels; the bar is two errors to each side.
    (bar, _) = first.collections[0].get_segments()
    assert bar[1][1] - bar[0][1] == pytest.approx(4 * math.hypot(0.2, 0.2) / 3)


def test_logit_densities_draws_one_panel_per_noise_whose_area_is_one():
    levels = torch.tensor([0, 0, 1, 2])
    z = torch.tensor([-1.0, -0.9, 0.0, 1.0])
    figure = plotting.logit_densities(levels, {"uniform": z, "learned": z / 2}, bounds=(-2, 2), title="both", bins=8)
    uniform, learned, bar = figure.axes
    assert [axes.get_title() for axes in (uniform, learned)] == ["uniform", "learned"]
    assert bar.get_ylabel() == "grey level x" and figure.get_suptitle() == "both"
    # One outline per level, stacked; the highest holds all pixels below it: two of four fall into a bin of width 1/2.
    assert len(uniform.patches) == 3
    assert max(patch.get_xy()[:, 1].max() for patch in uniform.patches) == pytest.approx(2 / 4 / 0.5)
