"""The autoregressive prior: triangular, free of sizes, and a distribution whose samples have its own density."""

import pytest
import torch

from nbflows.bijection import sum_dimensions
from nbflows.checks import jacobian
from nbflows.layers import ConvLSTMPrior
from nbflows.nets import ConvLSTM
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


@pytest.mark.parametrize(
    "name", [*PRIORS, "gaussian prior", "gaussian prior of Glow", "mixture coupling", "mixture coupling on vectors"]
)
def test_samples_have_the_density_that_the_model_gives_them(name):
    # E[q(x) / p(x)] = 1 for samples x of p and any density q that is 0 where p is: here q is p at a slightly different
    # context or weights, so that the ratio varies little. The mean's error is its standard error: 4 of them.
    bijection, x, context = make(name, torch.float64)
    count = 4000
    context = None if context is None else context[:1].expand(count, *context.shape[1:])
    torch.manual_seed(2)
    with torch.no_grad():
        noise = torch.randn(count, *bijection.output_shape(x.shape[1:]), dtype=torch.float64)
        samples = bijection.inverse(noise, context)
        log_p = _log_prob(bijection, samples, context)
        for parameter in bijection.parameters():
            parameter.add_(0.003 * torch.randn_like(parameter))
        ratio = (_log_prob(bijection, samples, context) - log_p).exp()
    error = ratio.std() / count**0.5
    assert 0 < error < 0.05
    assert (ratio.mean() - 1).abs() < 4 * error


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
