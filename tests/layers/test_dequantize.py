"""Dequantization: exact round trips, exact log-determinants, the bound it makes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbflows import Flow, Identity, Sequential
from nbflows.determinants import log_abs_det
from nbflows.layers import AffineCoupling, Dequantize, GaussianNoise, VariationalDequantize, checkerboard
from nbflows.nets import ConvNet
from tests.reference_data import mnist, replayed_noise


def _variational(num_grey_levels=256, size=28):
    """Random noise flows, strong enough to push the noise to the edges of its bins."""
    torch.manual_seed(0)
    couplings = [
        AffineCoupling(ConvNet(1, 8, 2, context_channels=1), checkerboard(size, size, invert=i % 2 == 1))
        for i in range(2)
    ]
    for coupling in couplings:
        torch.nn.init.normal_(coupling.net.layers[-1].weight, std=0.5)
    return VariationalDequantize(Sequential(*couplings), num_grey_levels)


def _all_levels(num_grey_levels=256, copies=400):
    return torch.arange(num_grey_levels, dtype=torch.uint8).repeat(copies).view(copies, 1, 16, -1)


LAYERS = {
    "uniform": lambda: Dequantize(256),
    "uniform, unit interval": lambda: Dequantize(256, alpha=None),
    "uniform, 17 levels": lambda: Dequantize(17),
    "uniform, no squeeze": lambda: Dequantize(256, alpha=0.0),
    "variational": lambda: _variational(size=16),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_every_level_comes_back_exactly(name, dtype):
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    x = _all_levels(layer.num_grey_levels) if layer.num_grey_levels == 256 else torch.randint(17, (200, 1, 8, 8)).byte()
    with torch.no_grad():
        back = layer.inverse(layer(x)[0])
    assert back.dtype == torch.uint8
    assert torch.equal(back, x)


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("alpha", [None, 0.0, 1e-5, 0.05])
def test_levels_come_back_also_when_the_noise_falls_on_the_edge_of_its_bin(alpha, edge):
    layer, x = Dequantize(256, alpha), _all_levels(copies=1)
    with replayed_noise(torch.tensor(edge)):
        z, _ = layer(x)
    assert z.isfinite().all()
    assert torch.equal(layer.inverse(z), x)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    num_grey_levels=st.integers(2, 256),
    alpha=st.sampled_from([None, 0.0, 1e-6, 1e-5, 0.05, 0.5]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    u=st.floats(0, 1, exclude_max=True, width=32),
)
def test_every_level_comes_back_with_any_noise(num_grey_levels, alpha, dtype, u):
    layer = Dequantize(num_grey_levels, alpha).to(dtype)
    x = torch.arange(num_grey_levels, dtype=torch.uint8).view(1, -1)
    with replayed_noise(torch.tensor(u)):
        z, log_det = layer(x)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert torch.equal(layer.inverse(z), x)


# Every 70th of all images, and all of them.
@pytest.mark.parametrize("stride", [70, pytest.param(1, marks=pytest.mark.full_size)])
@pytest.mark.parametrize("make", [Dequantize, _variational], ids=["uniform", "variational"])
def test_mnist_images_come_back_exactly_and_log_det_is_that_of_float64(make, stride):
    data = mnist()
    images = torch.cat([data.train, data.validation, data.test])[::stride]
    assert len(images) == 70_000 // stride
    torch.manual_seed(0)
    layer, exact = make(), make().double()
    exact.load_state_dict(layer.state_dict())
    wrong, worst = 0, 0.0
    with torch.no_grad():
        for x in images.split(2000):
            u = torch.rand(x.shape)
            with replayed_noise(u):
                z, log_det = layer(x)
            wrong += (layer.inverse(z) != x).sum().item()
            with replayed_noise(u):
                worst = max(worst, (log_det.double() - exact(x)[1]).abs().max().item())
    assert wrong == 0
    assert worst < 1e-3


@pytest.mark.parametrize("name", LAYERS)
def test_log_det_is_that_of_the_jacobian_with_respect_to_the_noise(name):
    # z depends on x + u only, so dz/du is dz/dx: for uniform noise the whole log_det; a noise flow's adds to it.
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    x = torch.randint(layer.num_grey_levels, (3, 1, 16, 16)).byte()
    base = (torch.rand(3, 1, 16, 16, dtype=torch.float64) * 0.9 + 0.05).requires_grad_()

    # Not replayed_noise: its copy must stay in the graph.
    original = torch.rand
    torch.rand = lambda shape, dtype, device: base
    try:
        z, log_det = layer(x)
    finally:
        torch.rand = original
    rows = [torch.autograd.grad(column.sum(), base, retain_graph=True)[0] for column in z.flatten(1).unbind(1)]
    jacobian = torch.stack([row.flatten(1) for row in rows], dim=1)
    torch.testing.assert_close(log_det, log_abs_det(jacobian), atol=1e-8, rtol=0)


def test_the_probabilities_of_all_images_sum_to_one_or_just_below():
    # One pixel of 5 levels: few enough to sum over. The bound has many draws, so "just below" is within their noise.
    torch.manual_seed(0)
    flow = Flow(Sequential(Dequantize(5), Identity()), shape=(1, 1, 1)).double()
    draws = 20_000
    x = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).repeat(draws, 1, 1, 1)
    probabilities = flow.log_prob(x).exp().view(draws, 5)
    error = (probabilities.std(0) / math.sqrt(draws)).square().sum().sqrt()
    assert abs(probabilities.mean(0).sum() - 1) < 4 * error


def test_learned_noise_of_the_identity_is_uniform():
    torch.manual_seed(0)
    u, rest, entropy = VariationalDequantize(Identity(), 17).double().noise(torch.zeros(1000, 1, 8, 8).byte())
    n = u.numel()
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * n)
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    torch.testing.assert_close(rest, 1 - u, atol=1e-10, rtol=0)
    torch.testing.assert_close(entropy, torch.zeros(1000, dtype=torch.float64), atol=1e-6, rtol=0)


def test_keeping_off_the_bins_edges_costs_no_bits():
    # Against the plain formula, on the noise as it was drawn: bits/dim of each image, and log_det in nats.
    x, layer = _all_levels(copies=40), Dequantize(256).double()
    torch.manual_seed(0)
    u = torch.rand(x.shape)
    with replayed_noise(u):
        bits = Flow(layer, shape=(1, 16, 16)).bits_per_dim(x)
    with replayed_noise(u):
        _, log_det = layer(x)
    v = (x + u.double()) / 256 * (1 - 1e-5) + 0.5e-5
    plain_log_det = (math.log(1 - 1e-5) - math.log(256) - v.log() - (1 - v).log()).flatten(1).sum(1)
    plain_log_prob = plain_log_det - 0.5 * (v.logit().square() + math.log(2 * math.pi)).flatten(1).sum(1)
    assert (log_det - plain_log_det).abs().max() < 1e-3
    assert (bits + plain_log_prob / (256 * math.log(2))).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Dequantize(1), "num_grey_levels is 2 or more and 256 or less, not 1"),
        (lambda: Dequantize(257), "256 or less, not 257"),
        (lambda: Dequantize(alpha=1.0), "[0, 1), got 1.0"),
        (lambda: Dequantize()(torch.zeros(1, 1, 2, 2)), "integers 0..255 (uint8), got torch.float32"),
        (lambda: Dequantize(17)(torch.full((1, 1, 2, 2), 17).byte()), "17 grey levels, 0..16, got values in 17..17"),
        (lambda: Dequantize()(torch.full((1, 1, 2, 2), -1)), "got values in -1..-1"),
        (lambda: _variational(size=4).output_shape((1, 8, 8)), "(1, 8, 8)"),
    ],
)
def test_bad_input_is_a_clear_error(make_it, message):
    with pytest.raises(ValueError) as error:
        make_it()
    assert message in str(error.value)


@pytest.mark.parametrize("alpha", [None, 0.05])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_turned_into_black(alpha, value):
    z = torch.rand(5, 1, 2, 2)
    z[3, 0, 1, 1] = value
    with pytest.raises(RuntimeError, match=r"1 of 5 images have .* NaN or infinite.* Lower the temperature"):
        Dequantize(alpha=alpha).inverse(z)


def test_gaussian_noise_makes_a_bound_which_is_exact_for_the_true_density():
    # One pixel of 3 grey levels with known probabilities: p(z) is their mixture, and the posterior has other odds.
    torch.manual_seed(0)
    layer, probabilities = GaussianNoise(3, sigma=0.7).double(), torch.tensor([0.05, 0.15, 0.8], dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), 0.7)
    x = torch.multinomial(probabilities, 20_000, replacement=True).byte()[:, None]
    z, log_det = layer(x)
    density = (normal.log_prob(z) + probabilities.log()).logsumexp(1)
    torch.testing.assert_close(log_det, -normal.log_prob(z).logsumexp(1))
    values = density + log_det
    entropy = torch.distributions.Categorical(probabilities).entropy()
    assert -0.5 < values.mean() + entropy < -4 * values.std() / len(values) ** 0.5
    # With little noise nothing is lost.
    layer.sigma, normal.scale = 0.05, torch.full_like(normal.scale, 0.05)
    z, log_det = layer(x)
    values = (normal.log_prob(z) + probabilities.log()).logsumexp(1) + log_det
    torch.testing.assert_close(values, probabilities.log()[x[:, 0].long()])
    assert torch.equal(layer.inverse(z), x)


def test_gaussian_noise_says_what_it_takes():
    with pytest.raises(ValueError, match="sigma"):
        GaussianNoise(256, sigma=0.0)
    with pytest.raises(ValueError, match="noise is added to integers"):
        GaussianNoise(256)(torch.zeros(1, 2))
    with pytest.raises(RuntimeError, match="1 of 2 images have pixels that are NaN"):
        GaussianNoise(256).inverse(torch.tensor([[0.0], [math.nan]]))
