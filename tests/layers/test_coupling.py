"""Couplings: what they keep, what they see, where they start, and the range of their scales."""

import math

import pytest
import torch

from nbflows.checks import jacobian
from nbflows.layers import AffineCoupling, LearnedTanh, SigmoidScale, checkerboard
from nbflows.nets import MLP, ConvNet, GatedConvNet
from tests.cases import make


def test_a_coupling_keeps_what_it_keeps_and_its_jacobian_is_triangular():
    bijection, x, _ = make("affine coupling, first half", torch.float64)
    z, _ = bijection(x)
    assert torch.equal(z[:, :2], x[:, :2])
    assert torch.equal(jacobian(bijection, x)[:, :2, 2:], torch.zeros(5, 2, 2, dtype=torch.float64))


def test_a_masked_coupling_does_not_look_at_what_it_moves():
    bijection, x, context = make("affine coupling, mask", torch.float64)
    mask = checkerboard(4, 6)
    changed = torch.where(mask, x, x + 1)
    t, s = bijection._shift_and_log_scale(*bijection.split.split(x), context)
    t_changed, s_changed = bijection._shift_and_log_scale(*bijection.split.split(changed), context)
    assert torch.equal(t, t_changed)
    assert torch.equal(s, s_changed)


def test_couplings_start_as_the_identity():
    for net in (ConvNet(2, 4, 4), GatedConvNet(2, 4, 4)):
        x = torch.randn(3, 4, 2, 2)
        z, log_det = AffineCoupling(net)(x)
        assert torch.equal(z, x)
        assert torch.equal(log_det, torch.zeros(3))


def test_shift_first_is_the_same_map_with_the_shift_scaled():
    net = MLP(1, 8, 2)
    torch.nn.init.normal_(net.layers[-1].weight)
    x = torch.randn(4, 2)
    t, raw = net(x[:, :1]).chunk(2, dim=1)
    after, _ = AffineCoupling(net)(x)
    first, _ = AffineCoupling(net, shift_first=True)(x)
    torch.testing.assert_close(after[:, 1:], x[:, 1:] * raw.tanh().exp() + t)
    torch.testing.assert_close(first[:, 1:], (x[:, 1:] + t) * raw.tanh().exp())


def test_learned_tanh_is_bounded_by_its_limit_and_has_slope_one_at_zero():
    bound = LearnedTanh(2)
    torch.nn.init.constant_(bound.log_limit, 0.7)
    raw = torch.tensor([0.0, 1e3]).view(1, 2, 1, 1).requires_grad_()
    s = bound(raw)
    assert s[0, 1].item() == pytest.approx(torch.tensor(0.7).exp().item())
    (slope,) = torch.autograd.grad(s[0, 0].sum(), raw)
    assert slope[0, 0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("lowest", [0.0, 0.5])
def test_sigmoid_scales_lie_between_the_lowest_and_one_and_start_near_the_identity(lowest):
    bound = SigmoidScale(lowest=lowest)
    # float32's exp(-90) is still above 0.
    scales = bound(torch.tensor([-90.0, 0.0, 90.0])).exp()
    start = lowest + (1 - lowest) / (1 + math.exp(-2))
    torch.testing.assert_close(scales, torch.tensor([lowest, start, 1.0]))
    with pytest.raises(ValueError, match=r"lowest is at least 0 and below 1, got 1\.5"):
        SigmoidScale(lowest=1.5)
