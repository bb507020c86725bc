"""log det(I + J): the original's numbers, estimates whose mean is exact, and gradients that are the same everyhow."""

import functools
import math
from collections import Counter
from statistics import NormalDist
from unittest import mock

import pytest
import torch
from torch import nn
from torch.autograd.gradcheck import GradcheckError

from nbflows.layers import ExactLogDet, RussianRoulette, SeriesLogDet, TruncatedSeries, log_det
from nbflows.nets import LipschitzConvNet, LipschitzMLP, LipSwish, OperatorNorm, update_norms
from tests.reference_data import reference

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
EACH_GRADIENT = pytest.mark.parametrize(
    ("gradient", "in_forward"), [("basic", False), ("basic", True), ("neumann", False), ("neumann", True)]
)
EPS = torch.finfo(torch.float64).eps


# The original's block ------------------------------------------------------------------------------------------------


def _rounded_norm(norm, weight):
    """The original keeps sigma in a float32 tensor, also in float64, before it divides by it."""
    return weight / (norm.sigma(weight).float() / norm.coeff).clamp(min=1)


@pytest.fixture
def original_norm(monkeypatch):
    monkeypatch.setattr(OperatorNorm, "forward", _rounded_norm)


@functools.cache
def _arrays():
    return {key: torch.from_numpy(value) for key, value in reference("residual_block.npz").items() if key != "meta"}


def _original_block():
    """The original's network in ours, and our parameters by the original's names."""
    arrays = _arrays()
    net = LipschitzConvNet((4, 6, 6), 16).double()
    parameters = {}
    for i, layer in enumerate(net.layers):
        if isinstance(layer, LipSwish):
            parameters[f"nnet.{i}.beta"] = layer.raw
        else:
            norm = layer.parametrizations.weight[0]
            norm.vector.copy_(arrays[f"state/nnet.{i}.{'u' if norm.transposed else 'v'}"].view_as(norm.vector))
            parameters[f"nnet.{i}.weight"] = layer.parametrizations.weight.original
            parameters[f"nnet.{i}.bias"] = layer.bias
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(arrays[f"state/{name}"].view_as(parameter))
    return net, parameters


def _convolutions(net):
    return {f"nnet.{i}": layer for i, layer in enumerate(net.layers) if not isinstance(layer, LipSwish)}


def test_sigma_is_the_originals_and_its_rounding_explains_the_effective_weights():
    net, _ = _original_block()
    arrays = _arrays()
    exact = {name: layer.weight for name, layer in _convolutions(net).items()}
    with mock.patch.object(OperatorNorm, "forward", _rounded_norm):
        rounded = {name: layer.weight for name, layer in _convolutions(net).items()}
    for name, layer in _convolutions(net).items():
        sigma = layer.parametrizations.weight[0].sigma(layer.parametrizations.weight.original)
        assert abs(sigma.item() - arrays[f"sigma64/{name}"].item()) < 1e-12
        theirs = arrays[f"eff_weight64/{name}"]
        torch.testing.assert_close(rounded[name], theirs, rtol=1e-15, atol=0)
        # One rounding to float32, one for the division by coeff; none where sigma is below the bound.
        difference = ((exact[name] - theirs) / theirs).abs().max()
        assert difference <= (2 * 2**-24 if sigma > 0.98 else 0)


def test_y_the_exact_log_det_and_its_gradient_are_the_originals(original_norm):
    net, parameters = _original_block()
    arrays = _arrays()
    x = arrays["x"].double().requires_grad_()
    g, value = ExactLogDet()(net, x)
    assert (g - arrays["g64"]).abs().max() < 1e-12 and (x + g - arrays["y64"]).abs().max() < 1e-12
    assert (value - arrays["logdet_exact64"]).abs().max() < 1e-12
    gradients = torch.autograd.grad(value.sum(), [x, *parameters.values()], materialize_grads=True)
    _assert_gradients(gradients, "exact/grad_x64", "exact/grad64", parameters)


def _assert_gradients(gradients, x_key, prefix, parameters):
    arrays = _arrays()
    assert (gradients[0] - arrays[x_key]).abs().max() < 1e-12
    for name, gradient in zip(parameters, gradients[1:], strict=True):
        theirs = arrays[f"{prefix}/{name}"].view_as(gradient)
        # The gradient through sigma passes its float32 copy, as does the original's: summed in another order, it may
        # be rounded to the other neighbour.
        tolerance = 2**-23 * theirs.abs().max() if name.endswith("weight") else 0.0
        assert (gradient - theirs).abs().max() <= tolerance + 1e-12, name


def test_the_partial_sums_of_the_series_are_the_originals_and_within_their_bound(original_norm):
    net, _ = _original_block()
    arrays = _arrays()
    # A sum over unit vectors is the trace: every example as often as there are units, all in one batch.
    dimensions = 4 * 6 * 6
    units = torch.eye(dimensions, dtype=torch.float64).view(-1, 4, 6, 6).repeat(3, 1, 1, 1)
    x = arrays["x"].double().repeat_interleave(dimensions, dim=0)
    with torch.no_grad():
        for n in (1, 2, 3, 10, 50):
            estimator = SeriesLogDet(TruncatedSeries(n))
            _, parts = estimator.estimate(net, x, None, estimator.terms.draw(), [units])
            value = parts.view(3, dimensions).sum(1)
            assert (value - arrays["power_series_partial64"][:, n - 1]).abs().max() < 1e-12
            if n >= 10:
                assert (value - arrays[f"power_series_{n}64"]).abs().max() < 1e-12
    lipschitz = arrays["jacobian_spectral_norm64"]
    for n in range(1, 51):
        remainder = (arrays["power_series_partial64"][:, n - 1] - arrays["logdet_exact64"]).abs()
        powers = sum(lipschitz**k / k for k in range(1, n + 1))
        assert (remainder <= -dimensions * (torch.log1p(-lipschitz) + powers) + 1e-12).all()


@pytest.mark.parametrize("name", ["basic10", "neumann10", "basic_rr", "neumann_rr"])
@pytest.mark.parametrize("in_forward", [False, True])
def test_estimates_and_their_gradients_are_the_originals(name, in_forward, original_norm):
    net, parameters = _original_block()
    arrays = _arrays()
    gradient, terms = name.replace("10", "_10").split("_")
    weights = [1.0] * 10 if terms == "10" else arrays["rr_coeffs"].tolist()
    x = arrays["x"].double().requires_grad_()
    estimator = SeriesLogDet(TruncatedSeries(10), gradient, in_forward)
    _, value = estimator.estimate(net, x, None, weights, [arrays["vareps64"]])
    # With the Neumann gradient, the original returns the sum whose gradient it takes: no log-determinant. Ours is one.
    basic = arrays[f"est/{name.replace('neumann', 'basic')}/value64"]
    assert (value - basic).abs().max() < 1e-12
    if gradient == "neumann":
        assert (arrays[f"est/{name}/value64"] - basic).abs().min() > 1
    gradients = torch.autograd.grad(value.sum(), [x, *parameters.values()], materialize_grads=True)
    _assert_gradients(gradients, f"est/{name}/grad_x64", f"est/{name}/grad64", parameters)


@pytest.mark.parametrize("in_forward", [False, True])
def test_a_whole_training_step_has_the_originals_gradient(in_forward, original_norm):
    net, parameters = _original_block()
    arrays = _arrays()
    x = arrays["x"].double().requires_grad_()
    estimator = SeriesLogDet(RussianRoulette(), "neumann", in_forward)
    g, value = estimator.estimate(net, x, None, arrays["rr_coeffs"].tolist(), [arrays["vareps64"]])
    energy = 0.5 * (x + g).flatten(1).square().sum(1)
    # The loss that the original logs has its own value in the log-determinant's place.
    theirs = (energy - arrays["est/neumann_rr/value64"]).mean()
    assert abs(theirs.item() - arrays["step/loss64"].item()) < 1e-12
    gradients = torch.autograd.grad((energy - value).mean(), [x, *parameters.values()])
    _assert_gradients(gradients, "step/grad_x64", "step/grad64", parameters)


def test_the_roulette_gives_the_originals_weights():
    weights = RussianRoulette("poisson", 2.0, num_exact_terms=2).weights(torch.tensor([5.0]))
    torch.testing.assert_close(torch.tensor(weights).double(), _arrays()["rr_coeffs"])


# Russian roulette ----------------------------------------------------------------------------------------------------


def test_the_chances_are_those_of_the_specification():
    poisson, geometric = RussianRoulette("poisson", 2.0), RussianRoulette("geometric", 0.5)
    further = torch.arange(1.0, 7, dtype=torch.float64)
    # Half a unit of the digits given.
    expected = torch.tensor([0.8647, 0.5940, 0.3233, 0.1429, 0.0527, 0.0166]).double()
    assert (poisson.chance(further) - expected).abs().max() < 5e-5
    torch.testing.assert_close(geometric.chance(further), 0.5 ** (further - 1))


def test_the_chance_of_many_terms_is_not_lost_to_rounding():
    further = torch.arange(1.0, 121, dtype=torch.float64)
    chance = RussianRoulette("poisson", 2.0).chance(further)
    for j, ours in zip(range(1, 121), chance.tolist(), strict=True):
        # The tail itself, summed from its largest term down; 1 minus the head would be rounding alone beyond j = 20.
        tail = math.fsum(math.exp(i * math.log(2) - 2 - math.lgamma(i + 1)) for i in range(j, j + 60))
        assert abs(ours / tail - 1) < 1e-10, j
    assert 0 < chance[-1] < 1e-100


@pytest.mark.parametrize("num_exact_terms", [0, 2, 20])
@pytest.mark.parametrize(("distribution", "parameter"), [("poisson", 2.0), ("poisson", 0.3), ("geometric", 0.5)])
def test_a_draw_gives_the_weights_of_the_formula(distribution, parameter, num_exact_terms):
    roulette = RussianRoulette(distribution, parameter, num_exact_terms)
    for n in (0, 1, 2, 7) if distribution == "poisson" else (1, 2, 7):
        if distribution == "poisson":
            head = [math.exp(-parameter) * parameter**i / math.factorial(i) for i in range(n)]
            chances = [1 - math.fsum(head[:j]) for j in range(1, n + 1)]
        else:
            chances = [(1 - parameter) ** (j - 1) for j in range(1, n + 1)]
        expected = [1.0] * num_exact_terms + [1 / chance for chance in chances]
        ours = roulette.weights(torch.tensor([float(n)]))
        # 1 minus the head cancels: rounding of 1 over the smallest chance.
        assert ours == pytest.approx(expected, rel=4 * EPS / min(chances, default=1.0))


def test_of_several_draws_each_term_counts_by_how_many_reach_it():
    roulette = RussianRoulette("poisson", 2.0, num_exact_terms=1, num_draws=4)
    ours = roulette.weights(torch.tensor([0.0, 1.0, 3.0, 1.0]))
    single = RussianRoulette("poisson", 2.0, num_exact_terms=1).weights(torch.tensor([3.0]))
    assert ours == pytest.approx([1.0, 3 / 4 * single[1], 1 / 4 * single[2], 1 / 4 * single[3]])


def test_a_seed_repeats_the_draws_and_another_does_not():
    for roulette in (RussianRoulette("poisson", 2.0), RussianRoulette("geometric", 0.5, num_draws=3)):
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append([roulette.draw() for _ in range(20)])
        assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(("distribution", "parameter"), [("poisson", 2.0), ("geometric", 0.5), ("geometric", 0.2)])
def test_numbers_of_terms_are_as_frequent_as_their_distribution_says(distribution, parameter):
    roulette, num = RussianRoulette(distribution, parameter, num_exact_terms=2), 20_000
    counts = Counter(len(roulette.draw()) - 2 for _ in range(num))
    assert min(counts) == (0 if distribution == "poisson" else 1)
    for j, chance in enumerate(roulette.chance(torch.arange(1.0, 12, dtype=torch.float64)).tolist(), start=1):
        reached = sum(count for n, count in counts.items() if n >= j) / num
        # 4 standard errors.
        assert abs(reached - chance) <= 4 * (chance * (1 - chance) / num) ** 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RussianRoulette("uniform"), "distribution is 'poisson' or 'geometric', got 'uniform'"),
        (lambda: RussianRoulette("poisson", 0.0), "parameter is more than 0, not 0.0"),
        (lambda: RussianRoulette("geometric", 1.0), "parameter, the probability to stop, is below 1, not 1.0"),
        (lambda: RussianRoulette(num_exact_terms=-1), "num_exact_terms is 0 or more, not -1"),
        (lambda: RussianRoulette(num_draws=0), "num_draws is 1 or more, not 0"),
        (lambda: TruncatedSeries(0), "num_terms is 1 or more, not 0"),
        (lambda: SeriesLogDet(TruncatedSeries(1), "exact"), "gradient is 'basic' or 'neumann', got 'exact'"),
        (lambda: SeriesLogDet(TruncatedSeries(1), probe="cauchy"), "probe is 'gaussian' or 'rademacher', got 'cauchy'"),
        (lambda: SeriesLogDet(TruncatedSeries(1), num_probes=0), "num_probes is 1 or more, not 0"),
    ],
)
def test_bad_arguments_are_errors_with_the_numbers(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


# Unbiased, or not ----------------------------------------------------------------------------------------------------

LIPSCHITZ = 0.8**2


@functools.cache
def _contraction(dtype=torch.float64):
    """A net with J about -0.55 times the identity: all terms of its series have one sign, and far ones matter."""
    torch.manual_seed(0)
    net = LipschitzMLP(3, 6, num_hidden=1, coeff=LIPSCHITZ**0.5, first_activation=False)
    first, second = net.layers[0], net.layers[2]
    q = torch.linalg.qr(torch.randn(6, 3))[0]
    with torch.no_grad():
        first.parametrizations.weight.original.copy_(10 * (q + 0.03 * torch.randn(6, 3)))
        second.parametrizations.weight.original.copy_(-10 * (q.T + 0.03 * torch.randn(3, 6)))
        first.bias.fill_(2.0)
    net = net.to(dtype)
    for module in net.modules():
        if isinstance(module, OperatorNorm):
            module.tolerance = 1e-6
    update_norms(net)
    return net, 0.5 * torch.randn(3, 3, dtype=dtype)


# Of the examples in the loss: a gradient that counted them alike would show.
LOSS_WEIGHTS = torch.tensor([1.0, 2.0, -0.5])


def _value_and_gradient(estimator, net, x, copies=1):
    loss_weights = LOSS_WEIGHTS.to(x.dtype).repeat(copies)
    x = x.repeat(copies, 1).requires_grad_()
    _, value = estimator(net, x)
    wanted = [x, *net.parameters()]
    of_x, *rest = torch.autograd.grad((value * loss_weights).sum(), wanted, materialize_grads=True)
    # The gradients of the copies' x are estimates of one gradient.
    gradient = torch.cat([of_x.view(copies, -1).sum(0), *(tensor.flatten() for tensor in rest)])
    return value.detach().view(copies, 3).mean(0), gradient / copies


def _deviations(estimator, dtype=torch.float64):
    """How many standard errors the mean of 4,000 estimates lies from the exact value: of values, of gradients.

    Eight copies of each example with probes of their own share a draw of the roulette, so that the standard error is
    that of 500 means of eight.
    """
    net, x = _contraction(dtype)
    exact = _value_and_gradient(ExactLogDet(), net, x)
    torch.manual_seed(1)
    estimates = zip(*(_value_and_gradient(estimator, net, x, copies=8) for _ in range(500)), strict=True)
    deviations = []
    for samples, expected in zip(map(torch.stack, estimates), exact, strict=True):
        standard_error = samples.std(0) / len(samples) ** 0.5
        # The last bias has no part in the Jacobian: exactly zero, with no error at all.
        rounding = 100 * torch.finfo(dtype).eps * expected.abs().max()
        deviations.append((samples.mean(0) - expected).abs() / (standard_error + rounding))
    return deviations


def _threshold(num_quantities):
    """As unlikely to be passed by one of so many as 4 standard errors by a single one."""
    return NormalDist().inv_cdf(1 - NormalDist().cdf(-4.0) / num_quantities)


UNBIASED = {
    "poisson, neumann in forward": lambda: SeriesLogDet(RussianRoulette()),
    "poisson, neumann": lambda: SeriesLogDet(RussianRoulette(), in_forward=False),
    "poisson, basic, gaussian": lambda: SeriesLogDet(RussianRoulette(), "basic", False, "gaussian"),
    "poisson, basic in forward": lambda: SeriesLogDet(RussianRoulette(), "basic", True),
    "geometric, neumann": lambda: SeriesLogDet(RussianRoulette("geometric", 0.4), "neumann", False),
    "geometric, basic": lambda: SeriesLogDet(RussianRoulette("geometric", 0.4), "basic", False),
    "no exact terms": lambda: SeriesLogDet(RussianRoulette("geometric", 0.3, 0), "neumann", False, "gaussian"),
    "no exact terms, poisson": lambda: SeriesLogDet(RussianRoulette("poisson", 3.0, 0), "neumann", False),
    "three draws": lambda: SeriesLogDet(RussianRoulette(num_draws=3), "neumann", False),
    "two probes": lambda: SeriesLogDet(RussianRoulette(), "neumann", False, num_probes=2),
    "two gaussian probes": lambda: SeriesLogDet(RussianRoulette(), "basic", True, "gaussian", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_of_4000_estimates_is_exact_and_so_is_that_of_their_gradients(name):
    values, gradients = _deviations(UNBIASED[name]())
    assert values.max() < _threshold(3)
    assert len(gradients) == 9 + 6 * 3 + 6 + 1 + 3 * 6 + 3
    assert gradients.max() < _threshold(len(gradients))


@pytest.mark.slow
def test_the_mean_is_exact_in_float32_too():
    values, gradients = _deviations(SeriesLogDet(RussianRoulette()), torch.float32)
    assert values.max() < _threshold(3) and gradients.max() < _threshold(len(gradients))


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["basic", "neumann"])
def test_a_truncated_series_is_found_to_be_biased_by_the_same_test(gradient):
    values, gradients = _deviations(SeriesLogDet(TruncatedSeries(3), gradient, False))
    assert values.min() > 2 * _threshold(3)
    assert gradients.max() > 2 * _threshold(len(gradients))


@pytest.mark.parametrize("num_terms", [1, 2, 4, 10])
def test_a_truncated_series_misses_no_more_than_documented(num_terms):
    net, x = _contraction()
    _, exact = ExactLogDet()(net, x)
    estimator, value = SeriesLogDet(TruncatedSeries(num_terms), in_forward=False), 0.0
    for unit in torch.eye(3, dtype=torch.float64):
        value = value + estimator.estimate(net, x, None, estimator.terms.draw(), [unit.expand(3, 3)])[1]
    powers = sum(LIPSCHITZ**k / k for k in range(1, num_terms + 1))
    bound = -3 * (math.log1p(-LIPSCHITZ) + powers)
    missing = (value - exact).abs()
    assert (missing < bound).all() and (missing > 0.1 * 0.5**num_terms * bound).all()


# One estimate, computed in many ways ---------------------------------------------------------------------------------


def _conv_net(dtype=torch.float64, context_channels=0):
    net = LipschitzConvNet((2, 3, 4), 6, context_channels=context_channels)
    with torch.no_grad():
        for layer in net.layers[1::2]:
            layer.parametrizations.weight.original.mul_(10)
            layer.bias.add_(1)
    update_norms(net)
    return net.to(dtype)


WEIGHTS = [1.0, 1.0, 1.2, 1.7, 3.1]


def _estimate(net, x, gradient="neumann", in_forward=False, context=None, num_probes=2):
    torch.manual_seed(5)
    probes = [torch.randn_like(x) for _ in range(num_probes)]
    return SeriesLogDet(RussianRoulette(), gradient, in_forward).estimate(net, x, context, WEIGHTS, probes)


@BOTH
def test_the_gradient_asked_for_changes_no_bit_of_the_value(dtype):
    net, x = _conv_net(dtype), torch.randn(3, 2, 3, 4, dtype=dtype)
    g, value = _estimate(net, x, "basic")
    for gradient, in_forward in (("basic", True), ("neumann", False), ("neumann", True)):
        other_g, other = _estimate(net, x, gradient, in_forward)
        assert torch.equal(other, value) and torch.equal(other_g, g)
    assert torch.equal(g, net(x)) and value.shape == (3,) and value.dtype == dtype
    with torch.no_grad():
        assert torch.equal(_estimate(net, x)[1], value)


@BOTH
@EACH_GRADIENT
def test_outside_of_autograd_the_values_are_the_same_and_carry_no_graph(gradient, in_forward, dtype):
    net, x = _conv_net(dtype), torch.randn(3, 2, 3, 4, dtype=dtype)
    context = torch.randn(3, 1, 3, 4, dtype=dtype)
    with_context = _conv_net(dtype, context_channels=1)
    for our_net, our_context in ((net, None), (with_context, context)):
        g, value = _estimate(our_net, x, gradient, in_forward, our_context)
        assert g.requires_grad and value.requires_grad
        for off in (torch.no_grad, torch.inference_mode):
            with off():
                here = None if our_context is None else our_context.clone()
                for tensor in (x, x.clone()):
                    other_g, other = _estimate(our_net, tensor, gradient, in_forward, here)
                    assert torch.equal(other, value) and torch.equal(other_g, g)
                    assert not other.requires_grad and other.grad_fn is None
                    assert not other_g.requires_grad and not tensor.requires_grad
                    exact = ExactLogDet()(our_net, tensor, here)[1]
                    assert exact.grad_fn is None
            torch.testing.assert_close(exact, ExactLogDet()(our_net, x, our_context)[1].detach())


def _gradients(net, x, loss_weights, gradient, in_forward, context=None, non_leaf=False):
    x = x.detach().requires_grad_()
    seen = 1.5 * x if non_leaf else x
    g, value = _estimate(net, seen, gradient, in_forward, context)
    wanted = [x, *([] if context is None else [context]), *net.parameters()]
    # g has a part in the loss too.
    loss = (value * loss_weights).sum() + g.pow(3).sum()
    first = torch.autograd.grad(loss, wanted, retain_graph=True, materialize_grads=True)
    # What was kept survives a backward pass.
    for a, b in zip(first, torch.autograd.grad(loss, wanted, materialize_grads=True), strict=True):
        assert torch.equal(a, b)
    return first


@BOTH
@pytest.mark.parametrize("non_leaf", [False, True])
@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("loss_weights", [[1.0, 1.0, 1.0], [0.5, -2.0, 0.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("gradient", ["basic", "neumann"])
def test_the_gradient_computed_in_forward_is_the_same(gradient, loss_weights, with_context, non_leaf, dtype):
    net, x = _conv_net(dtype, context_channels=int(with_context)), torch.randn(3, 2, 3, 4, dtype=dtype)
    context = torch.randn(3, 1, 3, 4, dtype=dtype, requires_grad=True) if with_context else None
    loss_weights = torch.tensor(loss_weights, dtype=dtype)
    ours = _gradients(net, x, loss_weights, gradient, True, context, non_leaf)
    theirs = _gradients(net, x, loss_weights, gradient, False, context, non_leaf)
    size = max(tensor.abs().max() for tensor in theirs)
    for a, b in zip(ours, theirs, strict=True):
        # The same sums of some hundred terms in another order.
        assert (a - b).abs().max() <= 100 * torch.finfo(dtype).eps * size
    if with_context:
        assert theirs[1].abs().max() > 0


@pytest.mark.parametrize("gradient", ["basic", "neumann"])
def test_both_gradients_have_the_same_mean_over_unit_probes(gradient):
    # Summed over unit vectors, a truncated series is exact up to its remainder, and so is its gradient.
    net, x = _contraction()
    n, total, x = 60, 0.0, x.clone().requires_grad_()
    for unit in torch.eye(3, dtype=torch.float64):
        estimator = SeriesLogDet(TruncatedSeries(n), gradient, False)
        total = total + estimator.estimate(net, x, None, [1.0] * n, [unit.expand(3, 3)])[1]
    wanted = [x, *net.parameters()]
    ours = torch.autograd.grad(total.sum(), wanted, materialize_grads=True)
    theirs = torch.autograd.grad(ExactLogDet()(net, x)[1].sum(), wanted, materialize_grads=True)
    size = max(tensor.abs().max() for tensor in theirs)
    for a, b in zip(ours, theirs, strict=True):
        # What 60 terms leave, of a gradient: L^60 / (1 - L)^2, times that of J.
        assert (a - b).abs().max() < 60 * LIPSCHITZ**60 / (1 - LIPSCHITZ) ** 2 * size + 1e-12


@pytest.mark.parametrize("loss", ["sum", "square"])
@pytest.mark.parametrize("gradient", ["basic", "neumann"])
def test_a_second_derivative_of_what_was_computed_in_forward_is_an_error(gradient, loss):
    net, x = _conv_net(), torch.randn(3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    _, value = _estimate(net, x, gradient, in_forward=True)
    # Also where the incoming gradient is a constant: the result would silently be taken for one too.
    with pytest.raises(RuntimeError, match="gradient computed in forward has no gradient of its own"):
        torch.autograd.grad((value if loss == "sum" else value.square()).sum(), x, create_graph=True)


@EACH_GRADIENT
def test_a_roulette_that_draws_no_term_gives_zero(gradient, in_forward):
    net, x = _conv_net(), torch.randn(3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    g, value = SeriesLogDet(RussianRoulette(num_exact_terms=0), gradient, in_forward).estimate(
        net, x, None, RussianRoulette(num_exact_terms=0).weights(torch.zeros(1)), [torch.randn_like(x)]
    )
    assert torch.equal(value, torch.zeros(3))
    (g.sum() + value.sum()).backward()
    assert x.grad.isfinite().all()


@EACH_GRADIENT
def test_frozen_parameters_get_no_gradient_and_change_nothing(gradient, in_forward):
    net, x = _conv_net(), torch.randn(3, 2, 3, 4, dtype=torch.float64)
    free = dict(zip(["x", *dict(net.named_parameters())], _gradients(net, x, 1.0, gradient, in_forward), strict=True))
    frozen = net.layers[3].parametrizations.weight.original.requires_grad_(False)
    x = x.requires_grad_()
    g, value = _estimate(net, x, gradient, in_forward)
    (value.sum() + g.pow(3).sum()).backward()
    assert frozen.grad is None
    torch.testing.assert_close(x.grad, free["x"])
    for name, parameter in net.named_parameters():
        if parameter is not frozen:
            torch.testing.assert_close(parameter.grad, free[name])
    net.requires_grad_(False)
    x.grad = None
    g, value = _estimate(net, x, gradient, in_forward)
    (value.sum() + g.pow(3).sum()).backward()
    torch.testing.assert_close(x.grad, free["x"])
    assert not x.detach().requires_grad and _estimate(net, x.detach(), gradient, in_forward)[1].isfinite().all()


@BOTH
@pytest.mark.parametrize("exact", [True, False])
def test_an_example_does_not_see_its_batch(exact, dtype):
    net, x = _conv_net(dtype), torch.randn(4, 2, 3, 4, dtype=dtype)
    probe = torch.randn_like(x)
    estimator = SeriesLogDet(RussianRoulette())

    def estimate(rows):
        if exact:
            return ExactLogDet()(net, x[rows])[1]
        return estimator.estimate(net, x[rows], None, WEIGHTS, [probe[rows]])[1]

    together, alone = estimate(slice(None)), torch.cat([estimate(slice(i, i + 1)) for i in range(4)])
    # Sums of at most 24 times 5 terms.
    tolerance = 120 * torch.finfo(dtype).eps
    torch.testing.assert_close(together, alone, atol=24 * tolerance, rtol=tolerance)


@BOTH
def test_the_exact_log_det_is_that_of_the_jacobian_and_so_is_its_gradient(dtype):
    net, x = _conv_net(dtype), torch.randn(2, 2, 3, 4, dtype=dtype)
    g, value = ExactLogDet()(net, x.requires_grad_())
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x).sum(0).flatten(), x).flatten(2).transpose(0, 1)
    expected = torch.linalg.slogdet(torch.eye(24, dtype=dtype) + jacobian).logabsdet
    torch.testing.assert_close(value, expected, atol=24 * 24 * torch.finfo(dtype).eps, rtol=0)
    assert torch.equal(g, net(x)) and expected.abs().min() > 0.01
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(lambda x: ExactLogDet()(net, x)[1], (x,))


@pytest.mark.parametrize("gradient", ["basic", "neumann"])
def test_the_gradient_of_the_basic_series_is_that_of_its_value_and_neumanns_is_not(gradient):
    net, x = _conv_net(), torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def value(x):
        return _estimate(net, x, gradient, num_probes=1)[1]

    if gradient == "basic":
        assert torch.autograd.gradcheck(value, (x,))
    else:
        # Equal in expectation only: it would be a fault of this test if it could not tell them apart.
        with pytest.raises(GradcheckError):
            torch.autograd.gradcheck(value, (x,))


@EACH_GRADIENT
def test_in_half_precision_the_estimate_stays_in_float32_and_near(gradient, in_forward):
    net, x = _conv_net(torch.float32), torch.randn(4, 2, 3, 4)
    torch.manual_seed(3)
    probe = torch.where(torch.randn_like(x) < 0, -1.0, 1.0)
    estimator = SeriesLogDet(TruncatedSeries(4), gradient, in_forward)
    _, expected = estimator.estimate(net, x, None, [1.0] * 4, [probe])
    with torch.autocast("cpu", torch.bfloat16):
        g, value = estimator.estimate(net, x.requires_grad_(), None, [1.0] * 4, [probe])
        (of_x,) = torch.autograd.grad(value.sum(), x)
    assert g.dtype == value.dtype == of_x.dtype == torch.float32 and of_x.isfinite().all()
    # A product with J rounds weights, inputs and outputs of three layers to 8 bits, and the slopes between them, at
    # points that are rounded as often: 9 roundings of 2^-9 for the former, twice that with the latter. k products in
    # the k-th term, |v|^2 = 24 times 0.94^k / k at most.
    bound = sum(k * 18 * 2**-9 * 24 * 0.94**k / k for k in range(1, 5))
    assert 0 < (value - expected).abs().max() < bound


def test_probes_are_of_the_kind_asked_for_and_new_for_every_estimate():
    x = torch.zeros(50, 40)
    for probe, kind in (("gaussian", lambda v: len(v.unique()) > 1000), ("rademacher", lambda v: (v.abs() == 1).all())):
        estimator = SeriesLogDet(TruncatedSeries(1), probe=probe, num_probes=3)
        seen = []
        with mock.patch.object(SeriesLogDet, "estimate", lambda self, net, x, context, w, v, s=seen: s.append(v)):
            estimator(None, x)
            estimator(None, x)
        drawn = [v for probes in seen for v in probes]
        assert len(drawn) == 6 and all(v.shape == x.shape and v.dtype == x.dtype and kind(v) for v in drawn)
        assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
        # 4 standard errors of 12,000 entries: mean 0, variance 1.
        entries = torch.stack(drawn).double()
        assert entries.mean().abs() < 4 / entries.numel() ** 0.5
        assert (entries.square().mean() - 1).abs() <= 4 * (2 / entries.numel()) ** 0.5


class _Shrink(nn.Module):
    """g(x) = 0.001 x."""

    def forward(self, x, context=None):
        return 1e-3 * x


def test_far_terms_of_a_strong_contraction_stay_normal_numbers(monkeypatch):
    products = []
    product = log_det._product

    def spy(g, x, v, differentiable):
        products.append(product(g, x, v, differentiable))
        return products[-1]

    monkeypatch.setattr(log_det, "_product", spy)
    x, v, num_terms = torch.zeros(2, 3), torch.tensor([[1.0, -1.0, 0.5]]).expand(2, 3), 20
    estimator = SeriesLogDet(TruncatedSeries(num_terms), in_forward=False)
    with torch.no_grad():
        _, value = estimator.estimate(_Shrink(), x, None, [1.0] * num_terms, [v])
    assert len(products) == num_terms
    tiny = torch.finfo(torch.float32).tiny
    for k, scaled in enumerate(products, start=1):
        expected = v.double() * 1e-3**k
        # Every product rounds once, and 0.001 itself is rounded to float32.
        assert (scaled.double() / 2.0**100 / expected - 1).abs().max() < 2 * k * 2**-24
        assert scaled.abs().min() >= tiny
    # Carried along as they are, they would not be: this test is about something.
    assert 1e-3**num_terms * 0.5 < tiny
    exact = 2.25 * math.log1p(1e-3)
    assert (value.double() / exact - 1).abs().max() < 4 * 2**-24
