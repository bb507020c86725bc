"""The gated network: its formula, its gradients, half precision."""

import pytest
import torch

from nbflows.nets import GatedConvNet
from tests.cases import make


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gated_net_and_its_gradients_are_those_of_its_formula(dtype):
    from torch.nn import functional as F

    torch.manual_seed(0)
    net = GatedConvNet(2, 5, 3, num_blocks=2).to(dtype)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def concat_elu(x):
        return F.elu(torch.cat([x, -x], dim=1))

    def formula(x):
        x = net.first(x)
        for block in net.blocks:
            value, gate = block.value_and_gate(concat_elu(block.conv(concat_elu(x)))).chunk(2, dim=1)
            x = x + value * torch.sigmoid(gate)
            x = F.layer_norm(x.movedim(1, -1), (5,), block.norm.weight, block.norm.bias).movedim(-1, 1)
        return net.last(concat_elu(x))

    x = torch.randn(2, 2, 4, 4, dtype=dtype, requires_grad=True)
    inputs = [x, *net.parameters()]
    ours, theirs = net(x), formula(x)
    weights = torch.randn_like(ours)
    # Sums of about 100 terms of order 1: a hundred roundings.
    tolerance = {"atol": 1e3 * torch.finfo(dtype).eps, "rtol": 1e3 * torch.finfo(dtype).eps}
    torch.testing.assert_close(ours, theirs, **tolerance)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **tolerance)


def test_the_gated_net_computes_in_bfloat16_under_autocast_and_the_coupling_stays_in_float32():
    bijection, x, _ = make("affine coupling, second half")
    with torch.autocast("cpu", torch.bfloat16):
        assert bijection.net(x[:, :2]).dtype == torch.bfloat16
        z, log_det = bijection(x)
    assert z.dtype == log_det.dtype == torch.float32
    assert torch.equal(z[:, 2:], x[:, 2:])
