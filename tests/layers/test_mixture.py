"""The mixture coupling: exact in saturation, and an inverse that converges for every element or says so."""

import math

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from nbflows import data, models
from nbflows.layers import MixtureCoupling, invert_mixture, mixture, mixture_logit
from nbflows.nets import MLP, GatedAttentionNet


def _mixture(num_components, *shape, dtype=torch.float32, spread=1.0):
    torch.manual_seed(0)
    logits, means, log_scales = torch.randn(3, num_components, *shape, dtype=dtype)
    return logits, means, spread * log_scales


def test_the_logit_and_its_slope_are_those_of_the_cdf():
    logits, means, log_scales = _mixture(5, 40, dtype=torch.float64)
    x = torch.randn(40, dtype=torch.float64, requires_grad=True)
    cdf = (logits.softmax(0) * torch.sigmoid((x - means) * (-log_scales).exp())).sum(0)
    logit, log_slope = mixture_logit(x, logits, means, log_scales)
    torch.testing.assert_close(logit, torch.logit(cdf))
    (slope,) = torch.autograd.grad(torch.logit(cdf).sum(), x)
    torch.testing.assert_close(log_slope, slope.log())


@pytest.mark.parametrize("distance", [0.02, -0.02, 1.0, -50.0])
def test_one_narrow_component_is_exact_where_its_cdf_rounds_to_0_or_1(distance):
    # The logit of one logistic is a straight line of slope exp(7); taken from a rounded F it was reported as 35.7.
    parameters = torch.tensor([[0.0], [0.3], [-7.0]])
    logit, log_slope = mixture_logit(torch.tensor([0.3 + distance]), *parameters[:, :, None])
    # 0.3 + distance is rounded: half a unit in its last place, times the slope.
    tolerance = torch.finfo(torch.float32).eps * max(0.32, abs(0.3 + distance)) * torch.tensor(7.0).exp().item()
    assert abs(logit.item() - distance * torch.tensor(7.0, dtype=torch.float64).exp().item()) < tolerance
    assert abs(log_slope.item() - 7.0) < 1e-4


@pytest.mark.parametrize("num_components", [4, 32])
def test_the_inverse_takes_at_most_12_iterations_on_random_parameters(num_components, monkeypatch):
    monkeypatch.setattr(mixture, "_MAX_ITERATIONS", 12)
    parameters = _mixture(num_components, 20_000)
    target = 2 * torch.randn(20_000)
    x = invert_mixture(target, *parameters)
    monkeypatch.setattr(mixture, "_MAX_ITERATIONS", 200)
    exact = invert_mixture(target.double(), *(part.double() for part in parameters))
    assert ((x - exact).abs() / (1 + exact.abs())).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1.0, 3.0])
@pytest.mark.parametrize("size", [1.0, 30.0, 3000.0])
def test_the_inverse_is_exact_for_latents_of_any_size(size, spread, dtype):
    logits, means, log_scales = _mixture(8, 5_000, dtype=dtype, spread=spread)
    log_scales = log_scales.clamp(min=-7)
    target = size * torch.randn(5_000, dtype=dtype)
    x = invert_mixture(target, logits, means, log_scales)
    logit, log_slope = mixture_logit(x, logits, means, log_scales)
    # The search stops within 16 eps of x or 4 of the logit; rounding the sums of 8 terms adds no more than that again.
    eps = torch.finfo(dtype).eps
    tolerance = 32 * eps * (1 + x.abs()) * log_slope.exp() + 32 * eps * (1 + target.abs())
    assert ((logit - target).abs() <= tolerance).all()


def test_the_inverse_has_the_gradients_of_its_root():
    target, *mixture = torch.randn(13, 7, dtype=torch.float64).requires_grad_().split([1, 4, 4, 4])
    assert torch.autograd.gradcheck(lambda target, *mixture: invert_mixture(target[0], *mixture), (target, *mixture))


def test_an_inverse_does_not_depend_on_its_batch():
    logits, means, log_scales = _mixture(8, 300, dtype=torch.float64, spread=2.0)
    target = torch.randn(300, dtype=torch.float64)
    together = invert_mixture(target, logits, means, log_scales)
    for i in (0, 7, 299):
        alone = invert_mixture(target[i : i + 1], *(part[:, i : i + 1] for part in (logits, means, log_scales)))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_an_element_that_does_not_converge_is_an_error_that_names_it(bad):
    parameters = _mixture(4, 10)
    target = torch.randn(10)
    target[3] = bad
    with pytest.raises(RuntimeError, match="did not converge after 200 iterations for 1 of 10 elements; element 3"):
        invert_mixture(target, *parameters)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixtureCoupling(MLP(1, 4, 5), 0), "num_components is 1 or more, not 0"),
        (lambda: MixtureCoupling(MLP(1, 4, 5), 1, keep="both"), "keep is 'first' or 'second', got 'both'"),
        (
            lambda: MixtureCoupling(MLP(1, 4, 6), 1)(torch.zeros(2, 2)),
            "returned 6 channels for 1 moved ones; it should",
        ),
        (lambda: MixtureCoupling(MLP(1, 4, 5), 1)(torch.zeros(2, 3)), "even number of channels, got 3"),
        (lambda: GatedAttentionNet(2, 8, 2, dropout=1.0), r"dropout is a share in \[0, 1\), got 1.0"),
        (lambda: GatedAttentionNet(2, 6, 2), "multiple of the 4 heads, got 6"),
    ],
)
def test_bad_arguments_are_errors_with_the_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# No loss or gradient may overflow, from any seed: one seed in `make test`, the other 19 take minutes.
@pytest.mark.parametrize(
    "seeds", [pytest.param(range(1), marks=pytest.mark.slow), pytest.param(range(1, 20), marks=pytest.mark.full_size)]
)
def test_a_mixture_coupling_trains_500_steps_on_digits_from_every_seed(seeds):
    images = data.load("digits").train
    for seed in seeds:
        torch.manual_seed(seed)
        flow = models.digits_mar_scf(num_scales=1, num_steps=1, hidden_channels=8, prior="none")
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
        for _ in range(500):
            loss = flow.bits_per_dim(images[torch.randint(len(images), (32,))]).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = clip_grad_norm_(flow.parameters(), 1.0, error_if_nonfinite=True)
            assert loss.isfinite() and norm.isfinite(), seed
            optimizer.step()
        # Better than a guess among 17 grey levels.
        assert loss < math.log2(17), seed
