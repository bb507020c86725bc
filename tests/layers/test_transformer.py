"""A causal transformer as a flow: triangular Jacobians, three ways back with one result, and their passes."""

import pytest
import torch

from nbflows.checks import jacobian
from nbflows.layers import PatchAutoregressive, Patches
from nbflows.nets import CausalSequenceNet


def _layer(length=6, num_features=3, dtype=torch.float64, std=0.3, **options):
    torch.manual_seed(0)
    net = CausalSequenceNet(length, num_features, 2 * num_features, width=16, num_layers=2, num_heads=2)
    torch.nn.init.normal_(net.out.weight, std=std)
    torch.nn.init.normal_(net.out.bias, std=std)
    return PatchAutoregressive(net, **options).to(dtype)


@pytest.mark.parametrize("reverse", [False, True])
def test_log_det_is_that_of_a_triangular_jacobian(reverse):
    layer, x = _layer(reverse=reverse), torch.randn(3, 6, 3, dtype=torch.float64)
    matrices = jacobian(layer, x).flatten(1).view(3, 18, 18)
    blocks = matrices.view(3, 6, 3, 6, 3).abs().amax((2, 4))
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    assert (blocks[:, later.T if reverse else later] == 0).all()
    torch.testing.assert_close(layer(x)[1], torch.linalg.slogdet(matrices).logabsdet, atol=1e-9, rtol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "solver, block", [("jacobi", 8), ("gauss-seidel", 1), ("gauss-seidel", 4), ("gauss-seidel", 8)]
)
def test_all_ways_back_have_the_same_result(reverse, solver, block):
    layer, z = _layer(reverse=reverse), torch.randn(3, 6, 3, dtype=torch.float64)
    x = layer.inverse(z)
    torch.testing.assert_close(layer(x)[0], z, atol=1e-12, rtol=1e-12)
    layer.solver, layer.block, layer.tolerance = solver, block, 0.0
    torch.testing.assert_close(layer.inverse(z), x, atol=1e-12, rtol=1e-12)


def test_after_k_passes_of_jacobi_the_first_k_elements_are_exact():
    layer, z = _layer(solver="jacobi", tolerance=0.0), torch.randn(2, 6, 3, dtype=torch.float64)
    seen = []
    x, passes = layer.iterate(z, watch=seen.append)
    assert passes == len(seen) <= 7
    for k, guess in enumerate(seen, 1):
        torch.testing.assert_close(guess[:, :k], x[:, :k], atol=1e-12, rtol=1e-12)


def test_a_tolerance_saves_passes_and_bounds_the_last_change():
    layer, z = _layer(40, solver="jacobi", tolerance=1e-3, std=0.05), torch.randn(2, 40, 3, dtype=torch.float64)
    x, passes = layer.iterate(z)
    assert passes < 20
    assert (x - layer._sequential(z, None)).abs().max() < 1e-2


def test_steps_of_the_network_are_one_for_each_element_but_the_first(monkeypatch):
    layer, z = _layer(), torch.randn(2, 6, 3, dtype=torch.float64)
    calls = []
    step = layer.net.step
    monkeypatch.setattr(layer.net, "step", lambda *arguments: calls.append(1) or step(*arguments))
    with torch.no_grad():
        x = layer.inverse(z)
    assert len(calls) == 5
    # With gradients, by whole passes.
    torch.testing.assert_close(layer.inverse(z), x, atol=1e-12, rtol=1e-12)
    assert len(calls) == 5


@pytest.mark.parametrize("solver", ["jacobi", "gauss-seidel"])
def test_an_iteration_that_is_not_finite_raises(solver):
    layer = _layer(solver=solver)
    with torch.no_grad():
        layer.net.out.bias.fill_(torch.nan)
    with pytest.raises(RuntimeError, match="numbers still change"):
        layer.inverse(torch.randn(2, 6, 3, dtype=torch.float64))


def test_patches_are_squares_row_by_row():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    z, _ = Patches((2, 4, 6), 2)(x)
    assert z.shape == (1, 6, 8)
    assert torch.equal(z[0, 1], x[0, :, 0:2, 2:4].flatten()) and torch.equal(z[0, 3], x[0, :, 2:4, 0:2].flatten())


def test_bad_arguments_are_clear_errors():
    with pytest.raises(ValueError, match="4x6 do not divide into squares of 4x4"):
        Patches((1, 4, 6), 4)
    with pytest.raises(ValueError, match="solver is one of sequential, jacobi, gauss-seidel, got 'newton'"):
        _layer(solver="newton")
    with pytest.raises(ValueError, match=r"the net is for 6 elements of 3 numbers, got \(5, 3\)"):
        _layer()(torch.zeros(2, 5, 3, dtype=torch.float64))
