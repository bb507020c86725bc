"""The figures of densities, bent grids and log-determinants."""

import pytest
import torch
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_rgb

from nbflows import plotting
from tests.figures import inside


def chessboard(n=21):
    side = torch.linspace(-1, 1, n)
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)


def one(axes, kind):
    (found,) = [child for child in axes.collections if isinstance(child, kind)]
    return found


def test_bent_squares_approach_the_parallelogram_of_the_jacobian():
    def bend(x):
        return torch.stack([2 * x[..., 0] + x[..., 1] ** 2, x[..., 1]], dim=-1)

    corner = torch.tensor([1.0, 0.0], dtype=torch.float64)
    figure = plotting.bent_squares(bend, corner, sides=(1.0, 0.01), title="smaller")
    large, small = figure.axes
    assert figure.get_suptitle() == "smaller" and small.get_title() == "side 0.01: area × 2.00"
    for axes, side in ((large, 1.0), (small, 0.01)):
        (line,) = axes.lines
        # The columns of J are (2, 0) and (0, 1) at the corner.
        expected = [[2, 0], [2 + 2 * side, 0], [2 + 2 * side, side], [2, side], [2, 0]]
        assert line.get_xydata() == pytest.approx(torch.tensor(expected).numpy())
        (shape,) = axes.patches
        assert abs(shape.get_xy()[:, 0].max() - (2 + 2 * side)) == pytest.approx(side**2)
    inside(figure)


def test_log_densities_share_a_logarithmic_scale():
    density = torch.full((20, 30), 1e-9)
    density[:5, 20:] = 0.5
    panels = {"the flow": density, "the truth": torch.ones(20, 30)}
    figure = plotting.log_densities(panels, (0, 3, 0, 2), title="both")
    left, right = figure.axes[:2]
    assert figure.get_suptitle() == "both" and [left.get_title(), right.get_title()] == list(panels)
    assert right.get_xlim() == (0, 3) and right.get_ylim() == (0, 2)
    assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == ["0.001", "0.01", "0.1", "1"]
    inside(figure)


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
