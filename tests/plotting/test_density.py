"""The figures of densities, bent grids and log-determinants."""

import pytest
import torch
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_rgb

from nbflows import plotting


def chessboard(n=21):
    side = torch.linspace(-1, 1, n)
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)


def one(axes, kind):
    (found,) = [child for child in axes.collections if isinstance(child, kind)]
    return found


def test_densities_1d_cut_every_panel_into_the_same_bands():
    x = torch.linspace(0, 1, 50)
    panels = {"z": (x, torch.ones(50)), "x": (2 * x, torch.full((50,), 0.5))}
    edges = {"z": torch.tensor([0, 0.25, 1]), "x": torch.tensor([0, 0.5, 2])}
    figure = plotting.densities_1d(panels, edges, samples={"x": 2 * torch.rand(1000)}, title="the finding")
    left, right = figure.axes
    assert figure.get_suptitle() == "the finding"
    assert [left.get_xlabel(), right.get_xlabel()] == ["z", "x"]
    assert len(left.collections) == len(right.collections) == 2
    for axes in (left, right):
        colours = [tuple(band.get_facecolor()[0]) for band in axes.collections]
        assert colours == [tuple(band.get_facecolor()[0]) for band in left.collections] and len(set(colours)) == 2
    # A band ends where its edge says, and neighbours meet.
    first, second = (band.get_paths()[0].vertices[:, 0] for band in right.collections)
    assert first.max() == pytest.approx(0.5) and second.min() == pytest.approx(0.5)
    assert left.get_legend() is None and right.get_legend() is not None


def test_densities_1d_scale_the_histogram_to_all_samples():
    x = torch.linspace(0, 1, 50)
    samples = torch.cat([torch.rand(500), 5 + torch.rand(500)])
    figure = plotting.densities_1d({"x": (x, torch.ones(50))}, {"x": torch.tensor([0.0, 1])}, {"x": samples})
    (steps,) = figure.axes[0].patches
    values, borders, _ = steps.get_data()
    # Half of the samples lie outside of the axis, and their area with them.
    assert (values * (borders[1:] - borders[:-1])).sum() == pytest.approx(0.5)


def test_densities_2d_draw_density_and_points_in_their_place():
    density = torch.zeros(20, 30)
    density[:5, 20:] = 1
    points = torch.rand(7, 2)
    figure = plotting.densities_2d(
        {"z": (torch.ones(5, 5), (-1, 1, -1, 1)), "x": (density, (0, 3, 0, 2))},
        {"z": points, "x": points},
        title="both",
    )
    left, right = figure.axes[:2]
    assert figure.get_suptitle() == "both" and [left.get_title(), right.get_title()] == ["z", "x"]
    assert right.get_xlim() == (0, 3) and right.get_ylim() == (0, 2)
    scatter = [child for child in right.collections if isinstance(child, PathCollection)][-1]
    torch.testing.assert_close(torch.as_tensor(scatter.get_offsets().data), points.double())


def test_bent_grids_keep_the_colour_of_every_cell():
    board = chessboard()
    figure = plotting.bent_grids({"noise": board, "bent": 2 * board + 1}, {"data": torch.rand(9, 2)}, square=5)
    noise, bent, data = figure.axes
    assert [axes.get_title() for axes in (noise, bent, data)] == ["noise", "bent", "data"]
    colours = torch.as_tensor(one(noise, QuadMesh).get_array().data)
    torch.testing.assert_close(torch.as_tensor(one(bent, QuadMesh).get_array().data), colours)
    assert colours.shape == (20, 20, 4)
    # Four quarters in two shades: the lower left begins light, the square beside it is the palette's own colour.
    assert len(colours.flatten(0, 1).unique(dim=0)) == 8
    assert tuple(colours[0, 5, :3].tolist()) == pytest.approx(to_rgb("C0"))
    corners = torch.as_tensor(one(bent, QuadMesh).get_coordinates())
    torch.testing.assert_close(corners, (2 * board + 1).double())
    assert one(data, PathCollection).get_offsets().shape == (9, 2)


def test_bent_grids_leave_out_what_lies_beyond_the_radius():
    board = chessboard()
    far = torch.where(board.norm(dim=-1, keepdim=True) > 1.2, 100 * board, board)
    figure = plotting.bent_grids({"noise": board, "torn": far}, radius=1.0)
    visible = torch.as_tensor(one(figure.axes[0], QuadMesh).get_array().data)[..., 3] > 0
    assert 0.7 < visible.double().mean() < 0.85  # pi / 4
    assert max(abs(limit) for limit in figure.axes[1].get_xlim()) < 3


def test_bent_grids_fill_rows_and_hide_what_is_left():
    figure = plotting.bent_grids({str(i): chessboard() for i in range(4)}, columns=3)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2


def test_contributions_write_the_value_of_every_bar():
    values = torch.tensor([2.0, -1.0, 0.01, 1.01])
    figure = plotting.contributions(["a", "b", "c", "sum"], values, errors=torch.ones(4), title="t", axis="nats")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["+2.0", "-1.0", "0.0", "+1.0"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c", "sum"]
    assert (axes.get_title(), axes.get_xlabel()) == ("t", "nats")
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx(values.tolist())
    assert axes.yaxis_inverted()
