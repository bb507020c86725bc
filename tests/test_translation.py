"""Flows from images to images: equation 9, many samples at once, the best of them, and a ranking."""

import math
from itertools import pairwise

import pytest
import torch

from nbflows import Flow, models
from nbflows.bijection import sum_dimensions
from nbflows.flow import log_standard_normal
from nbflows.layers import VariationalDequantize
from nbflows.models.caflow import RELATIONS
from nbflows.translation import TranslationFlow, Translations
from tests.flows import random_caflow, random_images
from tests.reference_data import replayed_noise

ALL = pytest.mark.parametrize("relation", RELATIONS)
SHAPE = (1, 8, 8)


def _flow(relation="unshared", shape=SHAPE, num_scales=2, **changes):
    return random_caflow(shape, relation, num_scales, **changes)


def _log_normal(z):
    return sum_dimensions(torch.distributions.Normal(0.0, 1.0).log_prob(z))


# Densities -----------------------------------------------------------------------------------------------------------


@ALL
@torch.no_grad()
def test_the_likelihood_is_equation_9_and_the_targets_own_prior_is_not_in_it(relation):
    flow = _flow(relation)
    targets, sources = random_images(3, SHAPE), random_images(3, SHAPE)
    dequantize, target, coarse_to_fine = flow.bijection.layers
    with replayed_noise(0.2, 0.6):
        latent_of_source, source_log_det = flow.source.encode(sources)
        x, log_det_of_noise = dequantize(targets)
        latent, target_log_det = target(x)
    z, relation_log_det = coarse_to_fine(latent, latent_of_source)
    expected = _log_normal(z) + relation_log_det + target_log_det + log_det_of_noise
    expected_of_source = _log_normal(latent_of_source) + source_log_det
    with replayed_noise(0.2, 0.6):
        torch.testing.assert_close(flow.log_prob(targets, sources), expected)
        log_prob, source_log_prob = flow.log_probs(targets, sources)
        encoded, log_det = flow.encode(targets, sources)
        bits = flow.bits_per_dim(targets, sources)
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(source_log_prob, expected_of_source)
    assert torch.equal(encoded, z)
    torch.testing.assert_close(log_det, relation_log_det + target_log_det + log_det_of_noise)
    torch.testing.assert_close(bits, -expected / (64 * math.log(2)))
    with replayed_noise(0.2):
        torch.testing.assert_close(flow.source_log_prob(sources), expected_of_source)
        assert torch.equal(flow.encode_context(sources), latent_of_source)


@torch.no_grad()
def test_a_bound_of_many_draws_draws_the_sources_noise_too():
    flow, targets, sources = _flow(), random_images(3, SHAPE), random_images(3, SHAPE)
    torch.manual_seed(3)
    bound = flow.log_prob_bound(targets, sources, num_draws=4)
    torch.manual_seed(3)
    rows = flow.log_prob(targets.repeat_interleave(4, 0), sources.repeat_interleave(4, 0)).view(3, 4)
    torch.testing.assert_close(bound, rows.logsumexp(1) - math.log(4))
    torch.manual_seed(3)
    bits = flow.bits_per_dim(targets, sources, num_draws=4)
    torch.testing.assert_close(bits, -bound / (64 * math.log(2)))
    # The same noise of the target, other noise of the source: another value.
    with replayed_noise(0.2, 0.6):
        one = flow.log_prob(targets, sources)
    with replayed_noise(0.7, 0.6):
        assert not torch.allclose(one, flow.log_prob(targets, sources))


@torch.no_grad()
def test_chunks_hold_each_target_with_its_own_source():
    flow, targets, sources = _flow(), random_images(5, SHAPE), random_images(5, SHAPE)
    with replayed_noise(0.2, 0.6):
        whole = flow.log_prob_bound(targets, sources, num_draws=2, chunk_size=10)
        parts = flow.log_prob_bound(targets, sources, num_draws=2, chunk_size=3)
        one_by_one = torch.cat([flow.log_prob(targets[i : i + 1], sources[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(whole, one_by_one)


# Samples -------------------------------------------------------------------------------------------------------------


def _noise(flow, count, temperature=1.0, seed=0):
    return flow.draw_noise(count, temperature, torch.Generator().manual_seed(seed))


def _translate(flow, sources, *args, seed=0, **options):
    """With the same noise of the source, and a seed for that of the targets."""
    with replayed_noise(0.3):
        return flow.translate(sources, *args, generator=torch.Generator().manual_seed(seed), **options)


@ALL
@torch.no_grad()
def test_many_samples_of_many_sources_are_those_drawn_one_by_one(relation, monkeypatch):
    flow, sources = _flow(relation, (3, 8, 8), source_channels=1), random_images(8, SHAPE)
    together = _translate(flow, sources, 10)
    assert together.images.shape == (8, 10, 3, 8, 8) and together.images.dtype == torch.uint8
    assert together.scores.shape == (8, 10)
    noise = _noise(flow, 80)
    for b in range(8):
        for n in range(10):
            if (b + n) % 5:
                continue
            monkeypatch.setattr(flow, "draw_noise", lambda *_, row=10 * b + n: noise[row : row + 1])
            alone = _translate(flow, sources[b : b + 1])
            assert torch.equal(alone.images[0, 0], together.images[b, n])
            torch.testing.assert_close(alone.scores[0, 0], together.scores[b, n])
            with replayed_noise(0.3):
                assert torch.equal(flow.decode(noise[10 * b + n][None], sources[b : b + 1])[0], together.images[b, n])


@torch.no_grad()
def test_a_source_is_encoded_once_and_all_its_samples_are_drawn_in_one_pass(monkeypatch):
    flow, sources = _flow(), random_images(8, SHAPE)
    passes = {"source": [], "inverse": [], "forward": [], "target": []}

    def counted(name, function):
        def call(x, *context):
            passes[name].append(len(x))
            return function(x, *context)

        return call

    _, target, relation = flow.bijection.layers
    monkeypatch.setattr(flow.source.bijection[1], "forward", counted("source", flow.source.bijection[1].forward))
    monkeypatch.setattr(relation, "inverse", counted("inverse", relation.inverse))
    monkeypatch.setattr(relation, "forward", counted("forward", relation.forward))
    monkeypatch.setattr(target, "inverse", counted("target", target.inverse))
    flow.translate(sources, num_samples=10)
    assert passes == {"source": [8], "inverse": [80], "forward": [80], "target": [80]}
    for rows in passes.values():
        rows.clear()
    flow.translate(sources, num_samples=10, scored=False, chunk_size=30)
    assert passes == {"source": [8], "inverse": [30, 30, 20], "forward": [], "target": [30, 30, 20]}


@torch.no_grad()
def test_chunks_of_samples_change_nothing_but_the_memory():
    flow, sources = _flow(), random_images(3, SHAPE)
    whole, parts = _translate(flow, sources, 4), _translate(flow, sources, 4, chunk_size=5)
    assert torch.equal(whole.images, parts.images)
    torch.testing.assert_close(whole.scores, parts.scores)


@torch.no_grad()
def test_samples_repeat_with_their_generator_and_differ_otherwise():
    flow, sources = _flow(), random_images(2, SHAPE)
    assert torch.equal(_translate(flow, sources, 3).images, _translate(flow, sources, 3).images)
    assert not torch.equal(_translate(flow, sources, 3).images, _translate(flow, sources, 3, seed=1).images)
    images = _translate(flow, sources, 3).images
    assert not torch.equal(images[:, 0], images[:, 1]) and not torch.equal(images[0], images[1])
    # Another draw of the source's noise is another latent.
    with replayed_noise(0.9):
        other = flow.translate(sources, 3, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(other.images, images)


@torch.no_grad()
def test_one_source_serves_all_samples_of_sample():
    flow, source = _flow(), random_images(1, SHAPE)
    with replayed_noise(0.3):
        one_row = flow.sample(4, source, generator=torch.Generator().manual_seed(0))
        rows = flow.sample(4, source.repeat(4, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    assert torch.equal(one_row, rows)
    assert torch.equal(one_row, _translate(flow, source, 4).images[0])
    # With one draw of its noise, as without any of the samples' own.
    samples = flow.sample(3, source, temperature=0.0)
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])


@torch.no_grad()
def test_a_temperature_per_level_scales_all_noise_of_that_level():
    flow, sources = _flow(shape=(1, 16, 16), num_scales=3), random_images(2, (1, 16, 16))
    warm, cold = _noise(flow, 5), _noise(flow, 5, [0.5, 0.0, 2.0])
    levels = zip(flow.bijection[2].unpack(warm), flow.bijection[2].unpack(cold), (0.5, 0.0, 2.0), strict=True)
    for level, scaled, temperature in levels:
        assert torch.equal(scaled, temperature * level)
    assert torch.equal(_noise(flow, 5, 0.7), 0.7 * warm)
    # Finest first: of the sampled latents, too, the coarsest alone depends on its own temperature alone.
    _, target, relation = flow.bijection.layers
    latent = flow.encode_context(sources).repeat_interleave(2, 0)

    def sampled(temperature):
        return target.unpack(relation.inverse(_noise(flow, 4, temperature), latent))

    plain, coarse, fine = sampled(1.0), sampled([1.0, 1.0, 0.5]), sampled([0.5, 1.0, 1.0])
    assert [torch.equal(a, b) for a, b in zip(plain, coarse, strict=True)] == [False, False, False]
    assert [torch.equal(a, b) for a, b in zip(plain, fine, strict=True)] == [False, True, True]


@ALL
@torch.no_grad()
def test_temperature_zero_leaves_only_the_noise_of_the_source(relation):
    flow, sources = _flow(relation), random_images(2, SHAPE)
    images = _translate(flow, sources, 3, 0.0).images
    assert torch.equal(images, _translate(flow, sources, 3, [0.0, 0.0], seed=1).images)
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
    assert not torch.equal(images[0], images[1])


# Scores --------------------------------------------------------------------------------------------------------------


def _by_autograd(flow, z, latent):
    """log p of the values x + u that a noise makes, from the Jacobian of the map from noise to them."""
    dequantize, target, relation = flow.bijection.layers

    def values(z):
        squeezed = torch.sigmoid(target.inverse(relation.inverse(z[None], latent)))
        return (dequantize.num_grey_levels * (squeezed - dequantize.alpha / 2) / (1 - dequantize.alpha)).flatten()

    jacobian = torch.autograd.functional.jacobian(values, z)
    return _log_normal(z[None])[0] - torch.linalg.slogdet(jacobian).logabsdet


@ALL
@pytest.mark.parametrize("temperature", [1.0, [0.5, 0.8]])
def test_scores_are_the_log_density_of_the_values_before_rounding(relation, temperature):
    flow = _flow(relation, (1, 4, 4), num_grey_levels=5, num_noise_steps=1)
    sources = random_images(2, (1, 4, 4), 5)
    scores = _translate(flow, sources, 3, temperature).scores
    noise = _noise(flow, 6, temperature)
    with torch.no_grad(), replayed_noise(0.3):
        latents = flow.encode_context(sources)
    for row in range(6):
        expected = _by_autograd(flow, noise[row], latents[row // 3 : row // 3 + 1])
        # 16 numbers of float64 and a determinant of theirs.
        assert scores.view(-1)[row].item() == pytest.approx(expected.item(), abs=1e-8)


@torch.no_grad()
def test_the_score_of_a_sample_is_the_likelihood_of_its_image_with_the_noise_that_it_has():
    flow, sources = _flow(), random_images(2, SHAPE)
    samples = _translate(flow, sources, 3)
    _, target, relation = flow.bijection.layers
    with replayed_noise(0.3):
        latents = flow.encode_context(sources).repeat_interleave(3, 0)
    values = target.inverse(relation.inverse(_noise(flow, 6), latents))
    exact = (torch.sigmoid(values) - 5e-6) / (1 - 1e-5) * 256
    images = samples.images.flatten(0, 1)
    u = exact - images.double()
    # A pixel beyond black or white has no such noise; these weights make none.
    assert (u > 0).all() and (u < 1).all()
    with replayed_noise(torch.full((6, *SHAPE), 0.3), u):
        log_prob = flow.log_prob(images, sources.repeat_interleave(3, 0))
    # The noise is moved off the edges of its bin by up to 1e-4.
    torch.testing.assert_close(log_prob, samples.scores.flatten(), atol=0.01, rtol=0)


@ALL
@torch.no_grad()
def test_the_best_sample_has_the_highest_score_of_its_source(relation):
    flow, sources = _flow(relation), random_images(4, SHAPE)
    samples = _translate(flow, sources, 6)
    best = samples.best()
    assert best.shape == (4, *SHAPE) and best.dtype == torch.uint8
    for images, scores, chosen in zip(samples.images, samples.scores, best, strict=True):
        (at,) = [n for n in range(6) if torch.equal(images[n], chosen)]
        assert scores[at] == scores.max()
    assert samples.scores.isfinite().all() and samples.scores.std(1).min() > 0


@pytest.mark.slow  # A flow of several levels, again and again.
@ALL
@torch.no_grad()
def test_chunks_change_no_sample_and_no_score(relation):
    flow, sources = _flow(relation), random_images(5, SHAPE)
    # Without a generator as well: sources' and samples' noise then come from the same one.
    for generator in (None, torch.Generator()):
        results, samples = [], []
        for chunk_size in (1, 4, 7, 1000):
            options = {"generator": generator and generator.manual_seed(0), "chunk_size": chunk_size}
            torch.manual_seed(0)
            results.append(flow.translate(sources, 7, **options))
            torch.manual_seed(0)
            samples.append(flow.sample(5, sources, **options))
        for result, sample in zip(results[:-1], samples[:-1], strict=True):
            assert torch.equal(result.images, results[-1].images)
            torch.testing.assert_close(result.scores, results[-1].scores)
            assert torch.equal(sample, samples[-1])


@torch.no_grad()
def test_no_pass_is_larger_than_a_chunk(monkeypatch):
    flow, sizes = _flow(), []
    inverse, encode = flow.bijection[1].inverse, flow.encode_context
    monkeypatch.setattr(flow.bijection[1], "inverse", lambda z, *rest: sizes.append(len(z)) or inverse(z, *rest))
    monkeypatch.setattr(flow, "encode_context", lambda context: sizes.append(-len(context)) or encode(context))
    flow.translate(random_images(5, SHAPE), 3, chunk_size=4)
    assert sizes == [-4, -1, 4, 4, 4, 3]


@torch.no_grad()
def test_the_best_of_more_samples_is_never_worse(monkeypatch):
    flow, sources = _flow(), random_images(4, SHAPE)
    noise = _noise(flow, 48).view(4, 12, 64)
    samples = []
    for count in (1, 6, 12):
        monkeypatch.setattr(flow, "draw_noise", lambda *_, count=count: noise[:, :count].flatten(0, 1))
        samples.append(_translate(flow, sources, count))
    for fewer, more in pairwise(samples):
        count = fewer.scores.shape[1]
        assert torch.equal(more.images[:, :count], fewer.images)
        torch.testing.assert_close(more.scores[:, :count], fewer.scores)
        assert (more.scores.amax(1) >= fewer.scores.amax(1) - 1e-9).all()
    assert (samples[2].scores.amax(1) > samples[0].scores.amax(1)).any()


def test_best_takes_each_sources_own_maximum():
    images = torch.arange(6).byte().view(2, 3, 1, 1, 1)
    best = Translations(images, torch.tensor([[0.0, 2.0, 1.0], [5.0, 4.0, 3.0]])).best()
    assert best.flatten().tolist() == [1, 3]


# Ranking -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_ranking_is_sorted_and_agrees_with_the_bound():
    flow, sources, candidates = _flow(), random_images(3, SHAPE), random_images(15, SHAPE).view(3, 5, *SHAPE)
    with replayed_noise(0.3, 0.6):
        ranked = flow.rank(candidates, sources, num_draws=3)
        bounds = flow.log_prob_bound(candidates.flatten(0, 1), sources.repeat_interleave(5, 0), 3).view(3, 5)
        chunked = flow.rank(candidates, sources, num_draws=3, chunk_size=7)
    assert (ranked.scores[:, :-1] >= ranked.scores[:, 1:]).all()
    torch.testing.assert_close(ranked.scores, bounds.sort(dim=1, descending=True).values)
    for b in range(3):
        for n in range(5):
            (at,) = [i for i in range(5) if torch.equal(candidates[b, i], ranked.images[b, n])]
            torch.testing.assert_close(ranked.scores[b, n], bounds[b, at])
    assert torch.equal(ranked.best(), ranked.images[:, 0])
    assert torch.equal(ranked.images, chunked.images)
    torch.testing.assert_close(ranked.scores, chunked.scores)


def _copying():
    """A Dual-Glow that has learned to copy: mean L_i = D_i and a small variance, R and T the same flow."""
    flow = _flow("gaussian")
    flow.bijection[1].load_state_dict(flow.source.bijection[1].state_dict())
    with torch.no_grad():
        for prior in flow.bijection[2].priors:
            first, _, pointwise, _, last = prior.bijection.net.layers
            for layer in (first, pointwise, last):
                layer.weight.zero_()
                layer.bias.zero_()
            channels = last.out_channels // 2
            # relu(d) - relu(-d) = d, through four hidden channels: of the first two channels.
            for c in range(2):
                first.weight[2 * c, c, 1, 1], first.weight[2 * c + 1, c, 1, 1] = 1.0, -1.0
                pointwise.weight[2 * c, 2 * c], pointwise.weight[2 * c + 1, 2 * c + 1] = 1.0, 1.0
                last.weight[c, 2 * c, 1, 1], last.weight[c, 2 * c + 1, 1, 1] = 1.0, -1.0
            last.bias[channels : channels + 2] = -2.0
    return flow


@torch.no_grad()
def test_the_true_target_ranks_above_unrelatedrandom_images():
    flow, sources = _copying(), random_images(6, SHAPE)
    # To a flow that copies the source itself is the truth; it stands at another place in every row.
    candidates = torch.stack([sources.roll(-b, 0) for b in range(6)])
    ranked = flow.rank(candidates, sources, num_draws=4)
    assert torch.equal(ranked.images[:, 0], sources)
    # And its samples are near their own source, nearer than to others.
    samples = flow.translate(sources, 1, temperature=0.0).images[:, 0].double()
    distance = (samples[:, None] - sources.double()).flatten(2).norm(dim=2)
    assert torch.equal(distance.argmin(1), torch.arange(6))


# Whatever else -------------------------------------------------------------------------------------------------------


def test_translating_and_ranking_keep_no_graph_and_change_nothing():
    flow, sources = _flow(num_noise_steps=1).train(), random_images(2, SHAPE)
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    samples = flow.translate(sources, 2)
    ranked = flow.rank(samples.images, sources)
    assert not samples.scores.requires_grad and not ranked.scores.requires_grad
    assert flow.training and all(torch.equal(before[key], value) for key, value in flow.state_dict().items())


def test_the_likelihood_trains_every_part_and_that_of_the_source_only_its_flow():
    # Enough hidden channels that some are never cut off by their ReLU.
    flow = _flow(num_noise_steps=1, relation_channels=16, hidden_channels=16)
    targets, sources = random_images(8, SHAPE), random_images(8, SHAPE)
    log_prob, source_log_prob = flow.log_probs(targets, sources)
    named = dict(flow.named_parameters())
    gradients = torch.autograd.grad(log_prob.sum(), named.values(), allow_unused=True, retain_graph=True)
    # Of the source's learned noise not log q, but its values.
    assert [name for name, grad in zip(named, gradients, strict=True) if grad is None or (grad == 0).all()] == []
    gradients = torch.autograd.grad(source_log_prob.sum(), named.values(), allow_unused=True)
    touched = [name for name, grad in zip(named, gradients, strict=True) if grad is not None]
    assert touched == [name for name in named if name.startswith("source.")]


def test_noise_is_learned_for_bothrandom_images():
    flow = _flow(num_noise_steps=1)
    assert isinstance(flow.bijection[0], VariationalDequantize)
    assert isinstance(flow.source.bijection[0], VariationalDequantize)
    assert flow.bijection[0] is not flow.source.bijection[0]


@torch.no_grad()
def test_double_and_float_agree():
    exact, rounded = _flow(), _flow().float()
    targets, sources = random_images(4, SHAPE), random_images(4, SHAPE)
    with replayed_noise(0.3, 0.6):
        a, b = exact.log_prob(targets, sources), rounded.log_prob(targets, sources)
    assert a.dtype == torch.float64 and b.dtype == torch.float32
    torch.testing.assert_close(a.float(), b, rtol=1e-4, atol=0)


@torch.no_grad()
def test_log_dets_and_scores_stay_in_float32_under_autocast():
    flow, sources = _flow(dtype=torch.float32), random_images(4, SHAPE)
    with replayed_noise(0.3, 0.6):
        exact = flow.log_prob(sources, sources)
    with torch.autocast("cpu", torch.bfloat16):
        samples = flow.translate(sources, 2)
        with replayed_noise(0.3, 0.6):
            fast = flow.log_prob(sources, sources)
    assert samples.scores.dtype == fast.dtype == torch.float32
    # 8 bits of a network's outputs of order 0.1, in 64 numbers.
    assert (exact - fast).abs().max() < 0.05 * 64


_GREY, _COLOUR = torch.zeros(2, *SHAPE).byte(), torch.zeros(2, 3, 8, 8).byte()


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda f: f.log_prob(_GREY), ValueError, "this flow needs a context of (3, 8, 8)"),
        (lambda f: f.log_probs(_GREY, None), ValueError, "this flow needs a context of (3, 8, 8)"),
        (lambda f: f.encode(_GREY), ValueError, "this flow needs a context of (3, 8, 8)"),
        (lambda f: f.sample(2), ValueError, "this flow needs a context of (3, 8, 8)"),
        (lambda f: f.translate(None), ValueError, "this flow needs a context of (3, 8, 8)"),
        (
            lambda f: f.log_prob(_GREY, _GREY),
            ValueError,
            "expected a context of (2, 3, 8, 8), one row per example, got (2, 1, 8, 8)",
        ),
        (
            lambda f: f.log_prob(_GREY, _COLOUR[:1]),
            ValueError,
            "expected a context of (2, 3, 8, 8), one row per example, got (1, 3, 8, 8)",
        ),
        (
            lambda f: f.log_probs(_COLOUR, _COLOUR),
            ValueError,
            "expected a batch of (1, 8, 8), got a tensor of (2, 3, 8, 8)",
        ),
        (lambda f: f.log_prob_bound(_GREY, _COLOUR, num_draws=0), ValueError, "num_draws is 1 or more, not 0"),
        (
            lambda f: f.translate(_GREY),
            ValueError,
            "expected a context of (2, 3, 8, 8), one row per example, got (2, 1, 8, 8)",
        ),
        (lambda f: f.translate(_COLOUR[0]), ValueError, "one row per example, got (3, 8, 8)"),
        (lambda f: f.translate(_COLOUR, 0), ValueError, "num_samples is 1 or more, not 0"),
        (lambda f: f.translate(_COLOUR, chunk_size=0), ValueError, "chunk_size is 1 or more, not 0"),
        (
            lambda f: f.translate(_COLOUR, temperature=-1.0),
            ValueError,
            "temperature is 0 or more, not -1.0",
        ),
        (lambda f: f.translate(_COLOUR, temperature=[1.0]), ValueError, "this flow has 2, got [1.0]"),
        (lambda f: f.translate(_COLOUR, temperature=[1.0, -0.1]), ValueError, "temperature is 0 or more, not -0.1"),
        (lambda f: f.translate(_COLOUR.float()), ValueError, "takes integers 0..255 (uint8), got torch.float32"),
        (lambda f: models.digits_caflow().eval().translate(_GREY), RuntimeError, "ActNorm has not seen data yet"),
        (lambda f: models.digits_caflow().sample(2, _GREY), RuntimeError, "ActNorm has not seen data yet"),
        (lambda f: f.sample(3, _COLOUR), ValueError, "expected a context of (3, 3, 8, 8)"),
        (lambda f: f.decode(torch.zeros(2, 63), _COLOUR), ValueError, "expected a batch of (64,)"),
        (
            lambda f: f.rank(_GREY, _COLOUR),
            ValueError,
            "candidates are (B, N, *(1, 8, 8)) for B = 2 sources, got (2, 1, 8, 8)",
        ),
        (lambda f: f.rank(_GREY[None], _COLOUR), ValueError, "for B = 2 sources, got (1, 2, 1, 8, 8)"),
        (
            lambda f: f.rank(_COLOUR[:, None], _COLOUR),
            ValueError,
            "expected a batch of (1, 8, 8), got a tensor of (2, 3, 8, 8)",
        ),
        (lambda f: f.rank(_GREY[:, None], _GREY), ValueError, "expected a context of (2, 3, 8, 8)"),
        (lambda f: f.rank(_GREY[:, None], _COLOUR, num_draws=0), ValueError, "num_draws is 1 or more, not 0"),
        (lambda f: f.rank(_GREY[:, None][:, :0], _COLOUR), ValueError, "for B = 2 sources, got (2, 0, 1, 8, 8)"),
        (lambda f: Translations(_GREY[:, None], None).best(), ValueError, "no scores; translate with scored=True"),
    ],
)
def test_bad_input_is_a_clear_error(call, exception, message):
    with pytest.raises(exception) as error:
        call(_flow(source_channels=3, dtype=torch.float32))
    assert message in str(error.value)


def test_source_and_target_have_sizes_that_fit():
    small, large = _flow(source_channels=3), models.caflow((3, 16, 16), num_scales=2, num_steps=1)
    _, _, relation = small.bijection.layers
    with pytest.raises(ValueError, match=r"built for images \(1, 8, 8\), got \(1, 16, 16\)"):
        TranslationFlow(small.source, small.bijection, relation, (1, 16, 16))
    with pytest.raises(ValueError, match=r"built for a latent \(64,\), got \(768,\)"):
        TranslationFlow(large.source, type(small.bijection)(*large.bijection.layers[:2]), relation, (3, 16, 16))
    assert isinstance(small, Flow) and small.context_shape == small.source.shape == (3, 8, 8)


def test_the_standard_normal_is_the_one_of_torch():
    z = torch.randn(3, 5)
    torch.testing.assert_close(log_standard_normal(z, torch.float32), _log_normal(z))
