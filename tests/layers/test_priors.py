"""The autoregressive prior: triangular, free of sizes, and a distribution whose samples have its own density."""

import pytest
import torch

from nbflows import WithContext, models
from nbflows.bijection import sum_dimensions
from nbflows.checks import jacobian
from nbflows.layers import ConvLSTMPrior, GaussianPrior
from nbflows.nets import ConvLSTM, ConvNet
from tests.cases import make

PRIORS = ["ConvLSTM prior", "ConvLSTM prior without context"]


@pytest.mark.parametrize("name", PRIORS)
def test_the_jacobian_is_triangular_over_channels(name):
    prior, z, context = make(name, torch.float64)
    matrix = jacobian(prior, z[:1], None if context is None else context[:1])
    channels, positions = z.shape[1], z[0, 0].numel()
    blocks = matrix.reshape(channels, positions, channels, positions)
    for t in range(channels):
        # A channel's noise depends on its own value at the same place, and on nothing later.
        assert torch.equal(blocks[t, :, t], torch.diag(blocks[t, :, t].diagonal()))
        assert (blocks[t, :, t + 1 :] == 0).all()
        assert t == 0 or (blocks[t, :, :t] != 0).any()


@pytest.mark.parametrize("name", PRIORS)
def test_one_prior_takes_any_batch_and_any_size(name):
    prior, z, context = make(name)
    for batch, channels, height, width in ((1, 1, 6, 6), (5, 7, 2, 9)):
        z = torch.randn(batch, channels, height, width)
        context = None if context is None else torch.randn(batch, context.shape[1], height, width)
        noise, log_det = prior(z, context)
        assert log_det.shape == (batch,)
        torch.testing.assert_close(prior.inverse(noise, context), z, atol=1e-4, rtol=0)


def test_a_single_channel_has_nothing_before_it():
    prior, z = make("ConvLSTM prior without context", torch.float64)[0], torch.randn(2, 1, 3, 2, dtype=torch.float64)
    noise, log_det = prior(z)
    (noise.square().sum() - log_det.sum()).backward()
    assert prior.lstm.layers[0].hidden_to_hidden.weight.grad is None
    torch.testing.assert_close(prior.inverse(noise), z)
    # The same for every image: mean and scale come from zeros.
    torch.testing.assert_close(log_det[0], log_det[1])


def test_a_new_prior_is_the_standard_normal():
    prior, z = ConvLSTMPrior(ConvLSTM(1, 8, 2)), torch.randn(2, 3, 4, 4)
    noise, log_det = prior(z)
    assert torch.equal(noise, z) and (log_det == 0).all()


def test_no_scale_overflows():
    prior = ConvLSTMPrior(ConvLSTM(1, 4, 2, num_layers=1, kernel_size=3), max_log_std=10.0)
    with torch.no_grad():
        prior.lstm.last.bias[1] = 1e6
    z = torch.randn(2, 3, 4, 4)
    noise, log_det = prior(z)
    torch.testing.assert_close(log_det, torch.full((2,), -10.0 * 48))
    assert prior.inverse(noise).isfinite().all()


def test_no_scale_of_a_gaussian_overflows():
    prior, z = GaussianPrior(ConvNet(3, 4, 4), max_log_std=10.0), torch.randn(2, 2, 4, 4)
    with torch.no_grad():
        prior.net.layers[-1].bias[2:] = torch.tensor([-1e6, 1e6])
    context = torch.randn(2, 3, 4, 4)
    noise, log_det = prior(z, context)
    torch.testing.assert_close(noise, z * torch.tensor([10.0, -10.0]).exp()[:, None, None])
    assert (log_det == 0).all()
    torch.testing.assert_close(prior.inverse(noise, context), z)


@pytest.mark.slow  # Thousands of samples.
@pytest.mark.parametrize(
    "name", [*PRIORS, "gaussian prior", "gaussian prior of Glow", "mixture coupling", "mixture coupling on vectors"]
)
def test_samples_have_the_density_that_the_model_gives_them(name):
    bijection, x, context = make(name, torch.float64)
    context = None if context is None else context[:1]
    samples_are_weighted_right(bijection, bijection.output_shape(x.shape[1:]), context, change=0.003)


@torch.no_grad()
def samples_are_weighted_right(bijection, noise_shape, context, change, count=4000):
    """E[q(x) / p(x)] = 1 for samples x of p and any density q.

    Here q has slightly different weights, so that the ratio varies little; its mean is off by its standard error: 4.
    """
    context = None if context is None else context.expand(count, *context.shape[1:])
    torch.manual_seed(2)
    samples = bijection.inverse(torch.randn(count, *noise_shape, dtype=torch.float64), context)
    log_p = _log_prob(bijection, samples, context)
    for parameter in bijection.parameters():
        parameter.add_(change * torch.randn_like(parameter))
    ratio = (_log_prob(bijection, samples, context) - log_p).exp()
    error = ratio.std() / count**0.5
    assert 0 < error < 0.05
    assert (ratio.mean() - 1).abs() < 4 * error


@pytest.mark.slow  # Thousands of samples.
@pytest.mark.parametrize("coupling", ["affine", "mixlogcdf"])
def test_samples_of_mar_scf_have_the_density_that_it_gives_them(coupling):
    torch.manual_seed(0)
    sizes = {"num_steps": 1, "hidden_channels": 8, "num_blocks": 1, "num_components": 3, "prior_channels": 4}
    flow = models.mar_scf((1, 4, 4), 256, coupling, num_scales=2, prior_layers=1, dropout=0.0, **sizes).double()
    flow.log_prob(torch.randint(256, (64, 1, 4, 4)).byte())
    multiscale = flow.bijection[1].eval()
    with torch.no_grad():
        for parameter in multiscale.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    samples_are_weighted_right(multiscale, (16,), None, change=0.001)


def _log_prob(bijection, x, context):
    noise, log_det = bijection(x, context)
    return log_det + sum_dimensions(torch.distributions.Normal(0.0, 1.0).log_prob(noise))


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: ConvLSTM(1, 4, 2, kernel_size=4), "odd kernel_size and at least 1 layer, got 4 and 3"),
        (lambda: ConvLSTMPrior(ConvLSTM(1, 4, 2))(torch.randn(2, 3)), r"takes latents \(C, H, W\), got \(3,\)"),
        (
            lambda: ConvLSTMPrior(ConvLSTM(2, 4, 2), torch.nn.Identity())(torch.randn(2, 3, 2, 2)),
            "built with features of a context, and got no context",
        ),
    ],
)
def test_bad_arguments_are_errors_with_the_numbers(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


def test_a_context_that_was_computed_in_half_precision_suits_a_prior_that_is_not():
    lstm, features = ConvLSTM(3, 4, 2, num_layers=1), torch.nn.Conv2d(2, 2, 3, padding=1)
    prior = WithContext(ConvLSTMPrior(lstm, features), torch.nn.Conv2d(1, 2, 3, padding=1)).eval()
    x, context = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z, log_det = prior(x, context)
        torch.testing.assert_close(prior.inverse(z, context), x, atol=1e-5, rtol=0)
    assert z.dtype == log_det.dtype == torch.float32
