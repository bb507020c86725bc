"""Splines: an inverse as exact as float32 allows on the whole line, finite gradients everywhere, bounded slopes."""

import pytest
import torch

from nbflows.layers import Spline, SplineCoupling
from nbflows.nets import MLP

# Inside, at the ends to the last digit, and far outside of [-1, 1].
LINE = torch.cat(
    [
        torch.linspace(-1.5, 1.5, 20_001),
        torch.tensor([-1.0, 1.0, -1 + 2**-24, 1 - 2**-24, -1 - 2**-23, 1 + 2**-23, 1e6, -1e6, 1e30, 0.0]),
    ]
)


def _parameters(spline, count, scale):
    torch.manual_seed(0)
    return scale * torch.randn(spline.num_parameters, count)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("num_bins", [1, 2, 8, 32])
def test_forward_and_inverse_agree_on_the_whole_line_in_float32(num_bins, scale):
    spline = Spline(num_bins, bound=1.0)
    raw = _parameters(spline, len(LINE), scale)
    z, log_slope = spline.forward(LINE, raw)
    x = spline.inverse(z, raw)
    assert (spline.forward(x, raw)[0] - z).abs().max() < 1e-6
    # An error in z becomes one in x times 1 / slope.
    assert ((x - LINE).abs() * log_slope.exp().clamp(max=1)).max() < 1e-6


def test_the_identity_outside_is_exact():
    spline = Spline(5, bound=1.0)
    outside = LINE[LINE.abs() >= 1]
    z, log_slope = spline.forward(outside, raw := _parameters(spline, len(outside), 2.0))
    assert torch.equal(z, outside) and torch.equal(spline.inverse(outside, raw), outside) and not log_slope.any()


def test_parameters_of_zero_are_the_identity():
    spline = Spline(6, bound=1.0)
    z, log_slope = spline.forward(LINE, torch.zeros(spline.num_parameters, len(LINE)))
    torch.testing.assert_close(z, LINE, atol=3e-7, rtol=0)
    assert log_slope.abs().max() < 2e-6


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients_are_finite_on_the_whole_line(direction, scale):
    spline = Spline(8, bound=1.0)
    raw, x = _parameters(spline, len(LINE), scale).requires_grad_(), LINE.clone().requires_grad_()
    if direction == "forward":
        z, log_slope = spline.forward(x, raw)
        (z[x.abs() < 1e6].sum() + log_slope.sum()).backward()
    else:
        spline.inverse(x, raw).sum().backward()
    assert x.grad.isfinite().all() and raw.grad.isfinite().all()
    assert not raw.grad[:, LINE.abs() >= 1].any()


def test_the_inverse_has_the_derivatives_of_the_inverse_function():
    spline = Spline(3, bound=2.0)
    torch.manual_seed(1)
    raw = torch.randn(spline.num_parameters, 3, dtype=torch.float64, requires_grad=True)
    z = torch.tensor([-1.9, 0.4, 2.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(spline.inverse, (z, raw))
    assert torch.autograd.gradcheck(spline.forward, (z, raw))


def test_slopes_at_knots_are_bounded():
    spline = Spline(8, bound=1.0, max_slope=3.0)
    _, _, slopes = spline.knots(_parameters(spline, 1000, 1000.0))
    assert slopes.max() <= 3.0001 and slopes.min() >= 1 / 3.0001 and torch.equal(slopes[[0, -1]], torch.ones(2, 1000))


def test_bad_arguments_are_clear_errors():
    with pytest.raises(ValueError, match=r"60 bins of at least 0\.02 of the interval do not fit"):
        Spline(60)
    with pytest.raises(ValueError, match="returned 5 channels for 2 moved ones; it should return 22"):
        SplineCoupling(MLP(2, 4, 5), Spline(4))(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="even number of channels, got 3"):
        SplineCoupling(MLP(1, 4, 11), Spline(4))(torch.zeros(1, 3))
