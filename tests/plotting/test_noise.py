"""The figures of noise."""

import math

import pytest
import torch

from nbflows import plotting


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


def test_noise_spread_draws_mean_and_deviation_of_each_group_against_uniform_noise():
    groups = torch.tensor([0, 0, 3, 3])
    figure = plotting.noise_spread(groups, torch.tensor([0.2, 0.4, 0.5, 0.9]), xlabel="level", title="spread")
    (axes,) = figure.axes
    mean, uniform_mean, deviation, uniform_deviation = axes.lines
    assert axes.get_title() == "spread" and axes.get_xlabel() == "level"
    assert list(mean.get_xdata()) == [0, 3]
    assert mean.get_ydata() == pytest.approx([0.3, 0.7])
    assert deviation.get_ydata() == pytest.approx([0.1, 0.2])
    assert uniform_mean.get_ydata()[0] == 0.5
    assert uniform_deviation.get_ydata()[0] == pytest.approx(1 / math.sqrt(12))


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


def test_paired_gains_draws_a_histogram_per_name_with_its_mean_and_standard_error():
    gains = {"M = 1": torch.tensor([0.1, 0.3]), "M = 8": torch.tensor([-0.1, 0.1])}
    figure = plotting.paired_gains(gains, title="gains", bins=4)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "M = 1: 0.200 ± 0.100",
        "M = 8: 0.000 ± 0.100",
    ]
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert axes.get_title() == "gains" and "saved" in axes.get_xlabel()
