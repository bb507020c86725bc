"""The causal network of images: what sees what, and the same logits step by step."""

import pytest
import torch

from nbflows.nets import CausalImageNet

SIZES = {"piece": 2, "width": 8, "num_layers": 2, "num_heads": 2, "reach": 1, "hidden": 6, "num_blocks": 1}


def _net(shape=(2, 3, 4), num_grey_levels=5, **sizes):
    torch.manual_seed(0)
    net = CausalImageNet(shape, num_grey_levels, **{**SIZES, **sizes}).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 3, 4)])
def test_logits_change_with_every_earlier_value_and_with_no_other(shape):
    net = _net(shape)
    x = torch.randint(5, (1, *shape))
    # In reading order, the channels of a pixel one after the other.
    logits = net(x).permute(0, 2, 3, 1, 4).flatten(1, 3)[0]
    count = len(logits)
    for number in range(count):
        changed = x.permute(0, 2, 3, 1).flatten().clone()
        changed[number] = (changed[number] + 1) % 5
        other = net(changed.view(1, *shape[1:], shape[0]).permute(0, 3, 1, 2))
        moved = (other.permute(0, 2, 3, 1, 4).flatten(1, 3)[0] - logits).abs().amax(1)
        assert not moved[: number + 1].any()
        # Beyond the reach of the convolution a change arrives through a piece that has ended.
        same_piece = SIZES["piece"] * shape[0]
        assert (moved[(number // same_piece + 1) * same_piece :] > 0).all()
        assert (moved[number + 1 : number + 2] > 0).all()


@pytest.mark.parametrize("first_row", [0, 1, 2])
def test_steps_give_the_logits_of_a_pass_in_the_same_order(first_row):
    net = _net()
    x = torch.randint(5, (3, 2, 3, 4))
    expected, seen = net(x), []
    canvas = torch.zeros_like(x)
    canvas[:, :, :first_row] = x[:, :, :first_row]
    for (channel, row, column), logits in net.steps(canvas, first_row):
        torch.testing.assert_close(logits, expected[:, channel, row, column], atol=1e-12, rtol=0)
        canvas[:, channel, row, column] = x[:, channel, row, column]
        seen.append((row, column, channel))
    assert seen == [(i, j, c) for i in range(first_row, 3) for j in range(4) for c in range(2)]


def test_sizes_that_do_not_fit_are_clear_errors():
    with pytest.raises(ValueError, match="rows of 4 pixels do not divide into pieces of 3"):
        _net(piece=3)
    with pytest.raises(ValueError, match="multiple of the 3 heads, got 8"):
        _net(num_heads=3)
