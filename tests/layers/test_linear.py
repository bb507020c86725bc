"""ActNorm's one initialisation; the 1x1 convolution's two forms."""

import pytest
import torch

from nbflows import Flow, Sequential, save_flow
from nbflows.layers import ActNorm, AffineInjector, Conv1x1, GaussianPrior, linear, with_lu
from nbflows.nets import ActNormConvNet
from tests.flows import random_caflow


def test_actnorm_normalises_its_first_batch_and_then_stays():
    layer, x = ActNorm(3), 5 + 2 * torch.randn(16, 3, 4, 4)
    z, log_det = layer(x)
    # An average over 256 values in float32.
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(log_det, -16 * x.std((0, 2, 3), correction=0).log().sum().expand(16))
    before = layer.bias.clone()
    layer(100 + x)
    assert torch.equal(layer.bias, before)


def test_actnorm_says_what_to_do_before_it_has_seen_data():
    layer, x = ActNorm(2), torch.randn(3, 2, 4, 4)
    with pytest.raises(RuntimeError, match=r"has not seen data yet: run one batch in train\(\) mode"):
        layer.inverse(x)
    with pytest.raises(RuntimeError, match="has not seen data yet"):
        layer.eval()(x)
    layer.train()(x)
    again = ActNorm(2).eval()
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x)[0], layer(x)[0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_actnorm_names_a_channel_that_does_not_vary(value):
    x = torch.randn(8, 3, 2, 2)
    x[:, 1] = value
    layer = ActNorm(3)
    with pytest.raises(ValueError, match=r"channel 1 of 3: in the first batch \(32 values each\)"):
        layer(x)
    assert not layer.initialized and torch.equal(layer.bias, torch.zeros(3))


def test_actnorm_initialises_alike_on_all_ranks(monkeypatch):
    x, other = torch.randn(4, 2, 3, 3), 2 + 3 * torch.randn(6, 2, 3, 3)
    whole, part = ActNorm(2), ActNorm(2)
    whole(torch.cat([x, other]))
    columns = other.transpose(0, 1).flatten(1).double()
    # What the other rank adds, in the order of the calls: count, sum, and squares about the common mean.
    mean = torch.cat([x, other]).transpose(0, 1).flatten(1).double().mean(1, keepdim=True)
    sums = iter([torch.tensor(54.0), columns.sum(1), (columns - mean).square().sum(1)])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.add_(next(sums)))
    part(x)
    torch.testing.assert_close(part.bias, whole.bias)
    torch.testing.assert_close(part.log_scale, whole.log_scale)


@pytest.mark.parametrize("form", ["lu", "full"])
def test_conv1x1_starts_as_a_rotation(form):
    layer, x = Conv1x1(12, form), torch.randn(2, 12, 3, 5)
    z, log_det = layer(x)
    torch.testing.assert_close(z.square().sum(1), x.square().sum(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(2), atol=1e-4, rtol=0)


def test_both_forms_are_the_same_matrix():
    lu, full = Conv1x1(5), Conv1x1(5, "full")
    with torch.no_grad():
        lu.log_diagonal.add_(torch.randn(5))
        lower, upper = lu._triangles()
        full.weight.copy_((lower @ upper)[lu.order])
    x = torch.randn(3, 5, 2, 4)
    torch.testing.assert_close(lu(x), full(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lu.inverse(x), full.inverse(x), atol=1e-4, rtol=1e-4)


def test_coordinates_stay_float32_under_autocast():
    x = torch.randn(2, 4, 2, 2)
    for form in ("lu", "full"):
        layer = Conv1x1(4, form)
        with torch.autocast("cpu", torch.bfloat16):
            z, _ = layer(x)
            back = layer.inverse(z)
        assert z.dtype == torch.float32
        torch.testing.assert_close(back, x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv1x1(4, "qr"), "form is 'lu' or 'full', got 'qr'"),
        (lambda: Flow(Sequential(Conv1x1(4)), (3, 2, 2)), r"built for images of 4 channels, got \(3, 2, 2\)"),
        (lambda: Flow(Sequential(Conv1x1(4)), (4,)), r"built for images of 4 channels, got \(4,\)"),
        (lambda: Flow(Sequential(ActNorm(4)), (3, 2, 2)), "ActNorm was built for 4 channels, got 3"),
        (lambda: GaussianPrior(torch.nn.Identity())(torch.randn(2, 3)), "GaussianPrior got no context"),
        (
            lambda: GaussianPrior(torch.nn.Identity())(torch.randn(2, 3), torch.randn(2, 3)),
            r"returned \(2, 3\), it should return \(2, 6\)",
        ),
    ],
)
def test_bad_geometry_is_an_error_with_the_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_gaussian_prior_scores_as_the_normal_distribution_does():
    prior = GaussianPrior(torch.nn.Linear(2, 6))
    z, context = torch.randn(4, 3), torch.randn(4, 2)
    noise, log_det = prior(z, context)
    mean, log_std = prior.net(context).chunk(2, dim=1)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(z).sum(1)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(1)
    torch.testing.assert_close(standard + log_det, expected)


def test_an_injector_does_not_set_its_network_backwards():
    injector = AffineInjector(ActNormConvNet(3, 6, 4)).train()
    with pytest.raises(RuntimeError, match="has not seen data yet"):
        injector.inverse(torch.randn(8, 2, 4, 4), torch.randn(8, 3, 4, 4))


def test_actnorm_reads_its_buffer_once_and_again_after_loading():
    layer, fresh = ActNorm(3), ActNorm(3)
    layer(torch.randn(8, 3))
    assert layer.has_seen_data and not fresh.has_seen_data
    # Where reading it would make a GPU wait.
    layer.initialized = torch.empty((), dtype=torch.bool, device="meta")
    layer(torch.randn(8, 3))
    layer.initialized = torch.tensor(True)
    layer.load_state_dict(fresh.state_dict())
    assert not layer.has_seen_data
    with pytest.raises(RuntimeError, match="has not seen data yet"):
        layer.inverse(torch.randn(8, 3))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 12, 48, 192])
def test_products_solve_a_triangle_as_exactly_as_substitution(size, upper):
    """In float64, of rotations as a Glow has them: powers of the triangle lose all digits from 96 channels on."""
    torch.manual_seed(size)
    triangle = torch.linalg.lu(torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q).L
    triangle = triangle.T.contiguous() if upper else triangle
    expected = torch.randn(size, 5, dtype=torch.float64)
    found = linear._solve_unit(triangle, triangle @ expected)
    # The rounding error of an inverse, in its first order: eps times the condition number, once per product.
    bound = torch.finfo(torch.float64).eps * torch.linalg.cond(triangle) * size
    assert (found - expected).norm() <= bound * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_copy_in_form_lu_has_the_same_numbers(dtype):
    torch.manual_seed(0)
    shared = Conv1x1(12, form="full")
    flow = Flow(Sequential(shared, ActNorm(12), shared), (12, 2, 2)).to(dtype)
    x = torch.randn(8, 12, 2, 2, dtype=dtype)
    flow.train()(x)
    copied = with_lu(flow.eval())
    assert copied.bijection[0] is copied.bijection[2] and copied.bijection[0].form == "lu" and not copied.training
    assert shared.form == "full" and "bijection.layers.0.weight" in flow.state_dict()
    z, log_det = flow.encode(x)
    torch.testing.assert_close(copied.encode(x), (z, log_det))
    torch.testing.assert_close(copied.decode(z), flow.decode(z))


def test_a_copy_in_form_lu_is_not_saved_as_if_its_builder_had_made_it(tmp_path):
    flow = with_lu(random_caflow())
    with pytest.raises(ValueError, match="put together by hand"):
        save_flow(flow, tmp_path / "flow")
