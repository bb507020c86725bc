"""The figures of Glow."""

import pytest
import torch

from nbflows import plotting
from tests.figures import inside


def test_channel_statistics_draws_a_line_per_channel_and_the_ideal():
    means, stds = torch.zeros(6, 3), torch.linspace(1, 0.2, 18).view(6, 3)
    figure = plotting.channel_statistics({"bare": (means, stds), "normed": (means, stds)}, title="shrinks")
    assert figure.get_suptitle() == "shrinks" and len(figure.axes) == 4
    bare = figure.axes[2]
    assert bare.get_ylabel() == "standard deviation" and figure.axes[0].get_title() == "bare"
    curves = [line for line in bare.lines if len(line.get_xdata()) == 6]
    assert len(curves) == 3 and curves[1].get_ydata()[0] == pytest.approx(stds[0, 1].item())
    assert [text.get_text() for text in bare.get_legend().get_texts()] == ["channel 0", "channel 1", "channel 2"]
    assert bare.get_ylim()[0] == 0
    inside(figure)


def test_channel_matrices_share_one_scale_and_name_the_determinant():
    matrices = {
        "flip": torch.eye(4).flip(0),
        "large": 2 * torch.eye(4),
        "turn": torch.tensor([[0.6, -0.8], [0.8, 0.6]]),
    }
    figure = plotting.channel_matrices(matrices, title="mixed")
    pictures = [axes.images[0] for axes in figure.axes[:3]]
    assert all(picture.get_clim() == (-2, 2) for picture in pictures)
    labels = [axes.get_xlabel() for axes in figure.axes[:3]]
    assert [label.split("\n")[1] for label in labels] == [f"log|det W| = {v}" for v in ("0.00", "2.77", "0.00")]
    assert figure.axes[0].get_title() == "flip" and figure.get_suptitle() == "mixed"
    inside(figure)


def test_predicted_latents_draws_images_maps_and_spread():
    images = torch.randint(0, 17, (3, 1, 8, 8), dtype=torch.uint8)
    maps = {"leaving": torch.full((3, 4, 4), -3.0), "mean": torch.zeros(3, 4, 4)}
    std = torch.full((3, 4, 4), 0.5)
    figure = plotting.predicted_latents(images, maps, std, 17, title="spread")
    grid = [axes for axes in figure.axes if axes.images]
    assert len(grid) == 12 and figure.get_suptitle() == "spread"
    assert [axes.get_title() for axes in grid[:4]] == ["image", "leaving", "mean", "predicted std"]
    assert grid[1].images[0].get_clim() == grid[2].images[0].get_clim() == (-3, 3)
    assert grid[3].images[0].get_clim() == (0, 0.5) and grid[0].images[0].get_clim() == (0, 16)
    inside(figure)
