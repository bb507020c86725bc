"""The figures of couplings."""

import torch
from matplotlib.colors import to_hex

from nbflows import plotting
from nbflows.layers import checkerboard
from tests.figures import texts


def test_coupling_masks_colours_every_place_of_every_channel():
    channels = torch.tensor([True, False])[:, None, None].expand(2, 2, 2)
    figure = plotting.coupling_masks({"board": checkerboard(4, 4), "channels": channels}, title="two masks")
    board, halves = figure.axes
    assert figure.get_suptitle() == "two masks" and [board.get_title(), halves.get_title()] == ["board", "channels"]
    kept = [to_hex(patch.get_facecolor()) == "#0173b2" for patch in board.patches]
    assert kept == checkerboard(4, 4).flatten().tolist()
    assert [to_hex(patch.get_facecolor()) for patch in halves.patches] == ["#0173b2"] * 4 + ["#f3dcc0"] * 4


def test_coupling_diagram_undoes_the_last_operation_first():
    forward, inverse = plotting.coupling_diagram(title="there and back").axes
    for axes, symbols in ((forward, {"+", "×"}), (inverse, {"−", "÷"})):
        assert symbols < set(texts(axes)) and {"net", "kept", "moved, x", "moved, z"} < set(texts(axes))
    heights = {text.get_text(): text.get_position()[1] for axes in (forward, inverse) for text in axes.texts}
    # Data at the top, noise at the bottom: what is done last going down is undone first going up.
    assert heights["+"] == heights["−"] > heights["×"] == heights["÷"]


def test_coupling_step_draws_shift_and_scale_only_where_pixels_move():
    torch.manual_seed(0)
    before, shift, scale = torch.randn(4, 4), torch.randn(4, 4), torch.rand(4, 4) + 0.5
    mask = checkerboard(4, 4)[0]
    after = torch.where(mask, before, (before + shift) * scale)
    figure = plotting.coupling_step(before, shift, scale, after, mask, reach=3, title="one step")
    pictures = {axes.get_title(): axes.get_images()[0] for axes in figure.axes if axes.get_images()}
    assert set(pictures) == {
        "before",
        "kept: the net's input",
        "after",
        "shift t",
        "scale exp(s)",
        "after minus before",
    }
    drawn = {name: torch.from_numpy(picture.get_array().filled(torch.nan)) for name, picture in pictures.items()}
    assert torch.equal(drawn["shift t"].isnan(), mask) and torch.equal(drawn["scale exp(s)"].isnan(), mask)
    assert torch.equal(drawn["kept: the net's input"].isnan(), ~mask)
    torch.testing.assert_close(drawn["after"], after.double())
    torch.testing.assert_close(drawn["after minus before"], (after - before).double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(drawn["scale exp(s)"][~mask], scale.double().log2()[~mask])
    assert pictures["before"].get_clim() == pictures["after"].get_clim() == (-3, 3)
