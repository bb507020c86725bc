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


def test_glow_diagram_names_the_shapes_of_levels_and_latents():
    figure = plotting.glow_diagram((1, 8, 8), [(2, 4, 4), (8, 2, 2)], num_steps=6, title="Glow")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "level 0:\nsqueeze, 6 steps\n4×4×4" in texts and "level 1:\nsqueeze, 6 steps\n8×2×2" in texts
    assert [text.split("latent ")[1] for text in texts if "latent" in text] == ["2×4×4", "8×2×2"]
    assert figure.get_suptitle() == "Glow"
    inside(figure)
