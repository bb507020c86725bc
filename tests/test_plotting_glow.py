"""The figures of Glow."""

import pytest
import torch

from nbflows import plotting


def inside(figure):
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01 and box.y0 >= -0.01
    assert box.x1 <= figure.get_figwidth() + 0.01 and box.y1 <= figure.get_figheight() + 0.01
    assert figure.get_figwidth() <= 8


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


def test_ablation_marks_the_mean_of_the_differences_and_two_standard_errors():
    values = torch.tensor([0.0, 0.2, 0.4, 0.6])
    panels = {"uniform": {"no prior": values, "no mixing": values + 1}, "learned": {"nothing": values / 10}}
    figure = plotting.ablation(panels, title="matters")
    first, second = figure.axes
    assert figure.get_suptitle() == "matters" and first.get_title(loc="left") == "uniform"
    assert [label.get_text() for label in first.get_yticklabels()] == ["no prior", "no mixing"]
    assert [text.get_text() for text in first.texts] == ["+0.300", "+1.300"]
    bar = first.containers[0].lines[2][0].get_segments()[0]
    assert bar[:, 0].tolist() == pytest.approx([0.3 - values.std().item(), 0.3 + values.std().item()])
    # The first variant stands on top, and both panels have the same axis of differences.
    assert first.get_ylim()[0] > first.get_ylim()[1] and first.get_xlim() == second.get_xlim()
    assert second.get_xlabel() and not first.get_xlabel()
    inside(figure)
