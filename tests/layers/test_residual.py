"""Residual blocks: inverses that converge or say so, and gradients through them."""

from unittest import mock

import pytest
import torch
from torch import nn

from nbflows import Inverse, check_bijection
from nbflows.checks import jacobian
from nbflows.layers import ExactLogDet, ResidualBlock, RussianRoulette, SeriesLogDet, TruncatedSeries
from nbflows.nets import LipschitzConvNet, LipschitzMLP, update_norms

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def _press(net, factor=10.0):
    """Weights so large that every norm stands at its bound."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("original"):
                parameter.mul_(factor)
    update_norms(net)
    return net


def _block(kind="images", dtype=torch.float64, context=0, **settings):
    net = (
        LipschitzConvNet((2, 4, 3), 8, context_channels=context)
        if kind == "images"
        else LipschitzMLP(4, 8, context_features=context)
    )
    shape, context_shape = ((2, 4, 3), (context, 4, 3)) if kind == "images" else ((4,), (context,))
    block = ResidualBlock(_press(net), ExactLogDet(), **settings).to(dtype)
    x = torch.randn(3, *shape, dtype=dtype)
    return block, x, torch.randn(3, *context_shape, dtype=dtype) if context else None


# The block -----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("kind", ["images", "vectors"])
def test_a_block_at_its_bound_is_inverted_exactly(kind, context, window, dtype):
    block, x, context = _block(kind, dtype, context, window=window)
    with torch.no_grad():
        z, _ = block(x, context)
        assert (z - x).abs().max() > 0.1
        error = (block.inverse(z, context) - x).abs().max().item()
    assert error < (1e-5 if dtype == torch.float32 else 1e-12)
    check_bijection(block, x, context)


def test_the_inverse_is_within_its_documented_distance():
    for tolerance in (1e-2, 1e-4):
        block, x, _ = _block(tolerance=tolerance)
        with torch.no_grad():
            back = block.inverse(block(x)[0])
        lipschitz = 0.98**3
        # The tolerance is of a step's largest entry; L is one in the Euclidean norm, of 24 entries.
        allowed = tolerance * x.flatten(1).abs().amax(1).clamp(min=1) * 24**0.5 * lipschitz / (1 - lipschitz)
        error = (back - x).flatten(1).norm(dim=1)
        assert (error <= 1.1 * allowed).all() and error.max() > 1e-3 * tolerance


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("kind", ["images", "vectors"])
def test_the_inverse_has_the_gradient_of_the_solution(kind, with_context):
    block, x, context = _block(kind, context=2 if with_context else 0)
    # Examples that take different numbers of steps.
    x = x * torch.tensor([5.0, 1.0, 0.1]).view(3, *[1] * (x.dim() - 1))
    z = block(x, context)[0].detach().requires_grad_()
    context = None if context is None else context.requires_grad_()
    direction = torch.randn_like(x)
    wanted = [z, *([] if context is None else [context]), *block.parameters()]
    solution = block.inverse(z, context)
    ours = torch.autograd.grad((solution * direction).sum(), wanted, retain_graph=True, materialize_grads=True)
    # dx = (I + J)^-1 (dz - dg): what reaches x goes on as (I + J)^-T of it, to z, and to the rest through -g at x.
    transposed = jacobian(block, solution.detach(), context).mT
    u = torch.linalg.solve(transposed, direction.flatten(1)[:, :, None]).view_as(direction)
    loss = -(block.net(solution.detach(), context) * u).sum()
    rest = torch.autograd.grad(loss, wanted[1:], materialize_grads=True)
    for a, b in zip(ours, [u, *rest], strict=True):
        # Both iterations stop at 64 eps; 1 / (1 - 0.94) of that in a sum of some hundred terms.
        assert (a - b).abs().max() < 1e-10 * max(1.0, b.abs().max().item())
    assert all(tensor.abs().max() > 0 for tensor in ours[: 2 if with_context else 1])
    # The graph is whole: a second pass gives the same.
    again = torch.autograd.grad((solution * direction).sum(), wanted, materialize_grads=True)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


class _Half(nn.Module):
    """g(x) = a x with a below 1: x + g(x) has the closed-form inverse z / (1 + a)."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, context=None):
        return self.a * x


def test_the_gradient_of_a_closed_form_inverse_is_met_by_autograd():
    block = ResidualBlock(_Half(), ExactLogDet()).double()
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(block.inverse(z).pow(2).sum(), [z, block.net.a])
    theirs = torch.autograd.grad((z / (1 + block.net.a)).pow(2).sum(), [z, block.net.a])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    (only_z,) = torch.autograd.grad(block.requires_grad_(False).inverse(z).pow(2).sum(), z)
    torch.testing.assert_close(only_z, theirs[0], rtol=1e-12, atol=1e-12)
    assert not block.inverse(z.detach()).requires_grad
    with torch.no_grad():
        assert not block.inverse(z).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(block.inverse(z.detach().clone()), z.detach() / 1.5)


def test_an_estimator_of_its_own_works_in_eval_mode():
    block, x, _ = _block()
    block.log_det, block.eval_log_det = (SeriesLogDet(TruncatedSeries(1)), ExactLogDet())
    exact, calls = ExactLogDet()(block.net, x)[1], []
    with mock.patch.object(SeriesLogDet, "__call__", lambda *a: calls.append(1) or (torch.zeros_like(x), exact * 0)):
        block.train()
        assert torch.equal(block(x)[1], exact * 0) and len(calls) == 1
        block.eval()
        torch.testing.assert_close(block(x)[1], exact)
    assert len(calls) == 1
    same = ResidualBlock(block.net, SeriesLogDet(RussianRoulette()))
    assert same.eval_log_det is same.log_det


@BOTH
def test_a_violated_norm_is_an_error_of_the_inverse_and_update_norms_mends_it(dtype):
    torch.manual_seed(0)
    # One layer and no activation: g is linear, and stretches by its norm.
    net = LipschitzMLP(4, 4, num_hidden=0, coeff=0.5, first_activation=False).to(dtype)
    block, z = ResidualBlock(net, ExactLogDet(), max_steps=200), torch.randn(5, 4, dtype=dtype)
    with torch.no_grad():
        original = net.layers[0].parametrizations.weight.original
        v = torch.linalg.svd(original).Vh
        # The vector that the norm holds is orthogonal to the direction that is stretched now.
        original.copy_(50 * v[-1:].T @ v[-1:] + 0.1 * v[:1].T @ v[:1])
        net.layers[0].parametrizations.weight[0].vector.copy_(v[:1])
        with pytest.raises(RuntimeError, match=r"the fixed point of 5 of 5 examples was not found in \d+ steps"):
            block.inverse(z)
        net.layers[0].parametrizations.weight[0].vector.add_(0.01 * v[-1:])
        update_norms(net)
        assert (block(block.inverse(z))[0] - z).abs().max() < 1e3 * torch.finfo(dtype).eps


def test_the_inverse_is_not_searched_in_half_precision():
    block, x, _ = _block(dtype=torch.float32)
    with torch.no_grad():
        z = block(x)[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(block.inverse(z), block.inverse(z))
            assert (block.inverse(z) - x).abs().max() < 1e-5
            assert block.inverse(z).dtype == torch.float32


def test_the_gradient_of_the_inverse_is_as_exact_for_a_small_loss_as_for_a_large_one():
    block, x, _ = _block(dtype=torch.float32)
    z = block(x)[0].detach().requires_grad_()
    back = block.inverse(z)
    large, small = (torch.autograd.grad(s * back.square().sum(), z, retain_graph=True)[0] for s in (1.0, 2.0**-30))
    # A power of 2 changes no digit of what is linear: the search for it may stop nowhere else.
    assert torch.equal(small * 2.0**30, large)


def test_the_inverse_of_a_block_as_a_layer_has_the_same_log_det_with_and_without_a_graph():
    torch.manual_seed(0)
    inverse = Inverse(ResidualBlock(LipschitzMLP(3, 8), ExactLogDet())).double()
    update_norms(inverse)
    x = torch.randn(4, 3, dtype=torch.float64)
    exact = torch.linalg.slogdet(jacobian(inverse, x)).logabsdet
    torch.testing.assert_close(inverse(x)[1], exact, atol=1e-9, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(inverse(x)[1], exact, atol=1e-9, rtol=0)
