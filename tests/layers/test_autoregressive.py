"""Masked autoregressive layers: what depends on what, triangular Jacobians, and the number of passes."""

import pytest
import torch

from nbflows import Inverse
from nbflows.checks import jacobian
from nbflows.layers import Affine, LogisticMixture, MaskedAutoregressive, Spline
from nbflows.nets import MADE
from tests.cases import make

TRANSFORMS = {"affine": Affine(), "mixture": LogisticMixture(3), "spline": Spline(4, bound=2.0)}


def _layer(name, num_features=6):
    transform = TRANSFORMS[name]
    torch.manual_seed(0)
    layer = MaskedAutoregressive(MADE(num_features, 16, transform.num_parameters), transform).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("name", TRANSFORMS)
def test_log_det_is_that_of_a_triangular_jacobian(name):
    layer, x = _layer(name), torch.randn(4, 6, dtype=torch.float64)
    matrices = jacobian(layer, x)
    assert torch.equal(matrices, matrices.tril())
    exact = torch.linalg.slogdet(matrices).logabsdet
    torch.testing.assert_close(layer(x)[1], exact, atol=1e-9, rtol=0)
    torch.testing.assert_close(layer.inverse(layer(x)[0]), x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_it_starts_near_the_identity(name):
    transform = TRANSFORMS[name]
    x = torch.linspace(-1.5, 1.5, 6)[None]
    z, _ = MaskedAutoregressive(MADE(6, 8, transform.num_parameters), transform)(x)
    # A mixture of three logistics with means -1, 0, 1 is flatter than one: 0.19 at 1.5, where F is 0.788.
    torch.testing.assert_close(z, x, atol=0.2 if name == "mixture" else 1e-6, rtol=0)


def test_passes_of_the_network_are_one_forwards_and_one_for_each_number_backwards():
    layer, x = _layer("affine"), torch.randn(3, 6, dtype=torch.float64)
    passes = []
    layer.net.register_forward_hook(lambda *_: passes.append(1))
    layer(x)
    assert len(passes) == 1
    layer.inverse(x)
    assert len(passes) == 1 + 6
    Inverse(layer).inverse(x)
    assert len(passes) == 1 + 6 + 1
    # The last one is for the log-determinant.
    Inverse(layer)(x)
    assert len(passes) == 1 + 6 + 1 + 6 + 1


def test_a_spline_layer_samples_with_gradients():
    layer, x, _ = make("masked autoregressive, splines", torch.float64)
    (gradient,) = torch.autograd.grad(layer.inverse(z := x.clone().requires_grad_()).sum(), z)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_bad_shapes_are_clear_errors():
    with pytest.raises(ValueError, match="takes vectors, got \\(1, 4, 4\\): put Flatten before it"):
        _layer("affine").output_shape((1, 4, 4))
    with pytest.raises(ValueError, match="returned \\(2, 3, 6\\), it should return \\(2, 2, 6\\)"):
        MaskedAutoregressive(MADE(6, 8, 3), Affine())(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="as many hidden features, got 4"):
        MADE(6, 4, 2)
