"""CAFLOW and Dual-Glow: what depends on what, that it is a distribution, sizes, and the layers they are made of."""

import math

import pytest
import torch
from torch.nn import functional as F

from nbflows import Sequential, check_bijection, models
from nbflows.bijection import sum_dimensions
from nbflows.layers import (
    ActNorm,
    AffineCoupling,
    AffineInjector,
    ArctanScale,
    CoarseToFine,
    Conv1x1,
    Dequantize,
    GaussianPrior,
    Squeeze,
    VariationalDequantize,
)
from nbflows.models.caflow import RELATIONS, relation_block
from nbflows.nets import ConvNet, PickLevels, PointwiseConv
from tests.cases import make
from tests.flows import TINY, random_caflow, random_images
from tests.reference_data import replayed_noise

ALL = pytest.mark.parametrize("relation", RELATIONS)


def _num_parameters(*modules):
    return sum(parameter.numel() for parameter in {p for module in modules for p in module.parameters()})


# What depends on what ------------------------------------------------------------------------------------------------


def _sees(relation, a, b):
    """Equation 8, levels counted from the finest: L_a given the levels that are as coarse or coarser."""
    return b >= a if relation in ("shared", "unshared") else b == a


@torch.no_grad()
def _changes(function, inputs, outputs):
    """Which of the outputs change when one of the inputs does: ``[input][output]``."""
    before = outputs(function(*inputs))
    changes = []
    for i, changed in enumerate(inputs):
        after = outputs(function(*inputs[:i], changed + 0.1 * torch.randn_like(changed), *inputs[i + 1 :]))
        changes.append([not torch.equal(old, new) for old, new in zip(before, after, strict=True)])
    return changes


@ALL
def test_the_noise_of_a_level_depends_on_the_latents_of_equation_8_and_on_no_others(relation):
    flow = random_caflow((1, 16, 16), relation, num_scales=3)
    _, target, coarse_to_fine = flow.bijection.layers
    source = flow.source.bijection[1]
    latents = [torch.randn(2, *shape).double() for shape in (*target.latent_shapes, *source.latent_shapes)]
    # Of level a what leaves its flow at the scales a, a + 1, ...
    parts = [(a, k) for a, prior in enumerate(coarse_to_fine.priors) for k in range(len(getattr(prior, "levels", [0])))]

    def run(*levels):
        return coarse_to_fine(target.pack(levels[:3]), source.pack(levels[3:]))[0]

    def whole(z):
        return coarse_to_fine.unpack(z)

    def in_parts(z):
        return [p for prior, noise in zip(coarse_to_fine.priors, whole(z), strict=True) for p in prior.unpack(noise)]

    wanted = [[_sees(relation, a, b) for a in range(3)] for b in range(3)]
    assert _changes(run, latents, whole) == [*wanted, *wanted]
    # What leaves at a scale has met no latent of a coarser one.
    wanted = [[_sees(relation, a, b) and b <= a + k for a, k in parts] for b in range(3)]
    assert _changes(run, latents, in_parts) == [*wanted, *wanted]


@ALL
def test_a_sampled_level_depends_on_its_own_noise_and_on_all_that_is_coarser(relation):
    flow = random_caflow((1, 16, 16), relation, num_scales=3)
    _, target, coarse_to_fine = flow.bijection.layers
    source = flow.source.bijection[1]
    noise = [torch.randn(2, math.prod(shape)).double() for shape in target.latent_shapes]
    latents = [torch.randn(2, *shape).double() for shape in source.latent_shapes]

    def run(*levels):
        return coarse_to_fine.inverse(torch.cat(levels[:3], dim=1), source.pack(levels[3:]))

    # Coarser levels look at coarser latents of the source, and so nothing new comes in through them.
    wanted = [[_sees(relation, a, b) for a in range(3)] for b in range(3)]
    assert _changes(run, [*noise, *latents], target.unpack) == [*wanted, *wanted]


@ALL
def test_the_log_det_of_a_level_depends_on_the_same_latents(relation):
    flow = random_caflow((1, 16, 16), relation, num_scales=3)
    _, target, coarse_to_fine = flow.bijection.layers
    source = flow.source.bijection[1]
    latents = [torch.randn(2, *shape).double() for shape in (*target.latent_shapes, *source.latent_shapes)]
    with torch.no_grad():
        _, log_det = coarse_to_fine(target.pack(latents[:3]), source.pack(latents[3:]))
        parts = []
        for a, prior in enumerate(coarse_to_fine.priors):
            context = torch.cat([level.flatten(1) for level in (*latents[3 + a :], *latents[a + 1 : 3])], dim=1)
            parts.append(prior(latents[a], context)[1])
    torch.testing.assert_close(log_det, sum(parts))
    assert all(part.abs().max() > 0 for part in parts)


def test_shared_blocks_are_the_same_function_for_every_level_that_uses_them():
    flow = random_caflow((1, 16, 16), "shared", num_scales=3)
    shapes, coarse_to_fine = flow.bijection[1].latent_shapes, flow.bijection[2]
    finest, middle, _ = coarse_to_fine.priors
    # Scale 2 in the flows of level 0 and of level 1: the same latents of both images, and the same u.
    target, source = torch.randn(2, math.prod(shapes[2])).double(), torch.randn(2, math.prod(shapes[2])).double()
    block_of_finest, block_of_middle = finest.levels[2], middle.levels[1]
    assert block_of_finest.bijection is block_of_middle.bijection
    u = torch.randn(2, len(block_of_finest.bijection[1].bias) // 4, *shapes[2][1:]).double()
    # What else stands in the context does not matter.
    other = [torch.randn(2, math.prod(shape)).double() for shape in (shapes[0], shapes[1], shapes[1], shapes[1])]
    with torch.no_grad():
        one, one_log_det = block_of_finest(u, torch.cat([*other[:2], source, other[2], target], dim=1))
        two, two_log_det = block_of_middle(u, torch.cat([other[3], source, target], dim=1))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    torch.testing.assert_close(one_log_det, two_log_det, rtol=0, atol=0)


@pytest.mark.parametrize("num_scales", [2, 3, 4])
def test_there_are_as_many_blocks_as_the_paper_counts(num_scales):
    for relation, wanted in (
        ("unshared", num_scales * (num_scales + 1) // 2),
        ("shared", 2 * num_scales - 1),
        ("per-level", num_scales),
    ):
        with torch.device("meta"):
            flow = models.caflow((1, 32, 32), relation=relation, num_scales=num_scales, **TINY)
        priors = flow.bijection[2].priors
        assert len({id(block.bijection) for prior in priors for block in prior.levels}) == wanted
        if relation == "shared":
            # The blocks that see both images, one per scale but the finest, are the shared ones.
            own = {id(prior.levels[0].bijection) for prior in priors}
            shared = [[id(block.bijection) for block in prior.levels[1:]] for prior in priors]
            assert len(own) == num_scales and all(shared[a] == shared[0][a:] for a in range(num_scales))
            assert not own & set(shared[0])


def test_with_two_levels_nothing_is_shared():
    one, two = (random_caflow((1, 16, 16), relation) for relation in ("shared", "unshared"))
    assert one.state_dict().keys() == two.state_dict().keys()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


# A distribution ------------------------------------------------------------------------------------------------------


BINARY = ((torch.arange(2**16)[:, None] >> torch.arange(16)) & 1).byte().view(-1, 1, 4, 4)


@pytest.mark.slow  # The only proof that the whole model is a density.
@pytest.mark.parametrize("relation", ["gaussian", "per-level", "unshared"])
@torch.no_grad()
def test_the_probabilities_of_all_65536_binary_images_given_a_source_sum_to_one(relation):
    # The coarsest level is 1x1. "shared" is "unshared" with two levels, see above.
    flow = random_caflow((1, 4, 4), relation, num_scales=2, dtype=torch.float32, num_grey_levels=2)
    # Stronger networks make a few draws outweigh all others, and the error an estimate of nothing.
    for name, parameter in flow.named_parameters():
        if "net.layers.4" in name:
            parameter.mul_(0.5)
    source, num_draws = random_images(1, (1, 4, 4), 2), 8
    torch.manual_seed(1)
    log_probs = torch.stack(
        [
            torch.cat([flow.log_prob(part, source.expand(len(part), 1, 4, 4)) for part in BINARY.split(8192)])
            for _ in range(num_draws)
        ]
    ).double()
    # Each draw is an unbiased estimate of p. Independent over draws and images, so variances add up.
    estimates = log_probs.exp()
    probabilities = estimates.mean(0)
    error = (estimates.var(0).sum() / num_draws).sqrt()
    assert error < 0.01
    assert (probabilities.sum() - 1).abs() < 4 * error
    # The mean of log p, which training maximises, is a lower bound: it sums to less.
    assert log_probs.mean(0).exp().sum() < probabilities.sum() - 4 * error
    # Samples are drawn from these probabilities: the share of white of every pixel. Both estimates have errors.
    count = 10_000
    samples = flow.sample(count, source, generator=torch.Generator().manual_seed(0))
    white = samples.double().mean(0)
    pixels = BINARY.double()
    expected = (probabilities[:, None] * pixels.flatten(1)).sum(0).view(1, 4, 4)
    variance = (estimates.var(0)[:, None] * pixels.flatten(1)).sum(0).view(1, 4, 4) / num_draws
    errors = (variance + white * (1 - white) / count).sqrt()
    assert ((white - expected).abs() < 4 * errors).all()
    # The weights are such that it is no uniform guess.
    assert ((expected - 0.5).abs() > 4 * errors).any()


@ALL
def test_log_det_is_that_of_the_jacobian_for_the_whole_model(relation):
    flow = random_caflow((1, 8, 8), relation, num_scales=2)
    _, target, coarse_to_fine = flow.bijection.layers
    source = flow.encode_context(random_images(2, (1, 8, 8))).detach()
    check_bijection(Sequential(target, coarse_to_fine), torch.randn(2, 1, 8, 8).double(), source)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_images_come_back_exactly(relation, dtype):
    flow = random_caflow((3, 16, 8), relation, num_scales=2, dtype=dtype, source_channels=1, num_noise_steps=1)
    targets, sources = random_images(20, (3, 16, 8)), random_images(20, (1, 16, 8))
    torch.manual_seed(2)
    z, _ = flow.encode(targets, sources)
    # The same noise of the source, which is drawn first.
    torch.manual_seed(2)
    assert torch.equal(flow.decode(z, sources), targets)


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_the_models_have_the_published_sizes():
    with torch.device("meta"):
        flow = models.caflow()
    _, target, coarse_to_fine = flow.bijection.layers
    assert _num_parameters(flow) == 35_229_968
    assert _num_parameters(flow.source) == _num_parameters(target) == 2_988_336
    assert _num_parameters(coarse_to_fine) == 29_253_296
    with torch.device("meta"):
        middle = models.caflow((3, 32, 32), num_scales=3, num_steps=8)
        small = models.caflow((3, 16, 16), num_scales=2, num_steps=4, num_relation_steps=4)
    # Both are given with one digit behind the point.
    assert abs(_num_parameters(middle) - 11.4e6) < 0.05e6
    assert abs(_num_parameters(small) - 1.8e6) < 0.05e6


def test_latents_blocks_and_conditions_have_the_sizes_of_the_specification():
    n, c, size = 4, 3, 64
    with torch.device("meta"):
        flow = models.caflow((c, size, size), **{**TINY, "num_scales": n})
    target, coarse_to_fine = flow.bijection[1], flow.bijection[2]
    latents = [(c * 2 ** (p + 1), size >> p + 1, size >> p + 1) for p in range(n - 1)]
    latents.append((c * 2 ** (n + 1), size >> n, size >> n))
    assert target.latent_shapes == flow.source.bijection[1].latent_shapes == latents
    assert latents == [(6, 32, 32), (12, 16, 16), (24, 8, 8), (96, 4, 4)]
    for a, prior in enumerate(coarse_to_fine.priors):
        for p, (block, leaving) in enumerate(zip(prior.levels, prior.latent_shapes, strict=True), start=a):
            first, last = p == a, p == n - 1
            if last and not first:
                channels, condition, leaves = c * 2 ** (n + 2), 2 * c * 2 ** (n + 3), c * 2 ** (n + 2)
            elif last:
                channels = condition = leaves = c * 2 ** (n + 3)
            else:
                channels, leaves = c * 2 ** (p + 3), c * 2 ** (p + 2)
                condition = channels if first else 2 * channels
            side = size >> (n + 1 if last else p + 2)
            squeeze, norm, _, _, _, injector, coupling = block.bijection.layers
            assert isinstance(squeeze, Squeeze) and len(norm.bias) == channels
            assert leaving == (leaves, side, side)
            assert injector.net.layers[0].in_channels == condition
            assert injector.net.layers[-1].out_channels == 2 * channels
            assert coupling.net.layers[0].in_channels == channels // 2 + condition


@ALL
@pytest.mark.parametrize(("shape", "num_scales"), [((1, 4, 6), 1), ((1, 8, 8), 3), ((3, 8, 12), 2), ((2, 2, 2), 1)])
def test_any_size_that_halves_often_enough_will_do(shape, num_scales, relation):
    flow = random_caflow(shape, relation, num_scales)
    targets, sources = random_images(3, shape), random_images(3, shape)
    with torch.no_grad(), replayed_noise(0.3):
        z, log_det = flow.encode(targets, sources)
        assert z.shape == (3, math.prod(shape)) and log_det.shape == (3,) and len(flow.unpack(z)) == num_scales
        assert torch.equal(flow.decode(z, sources), targets)


def test_a_level_that_does_not_halve_is_not_squeezed():
    # MNIST's: 28x28 has latents of 14x14 and 7x7.
    flow = random_caflow((1, 28, 28), "unshared", num_scales=2)
    finest, coarsest = flow.bijection[2].priors
    assert finest.latent_shapes == [(4, 7, 7), (4, 7, 7)] and coarsest.latent_shapes == [(8, 7, 7)]
    assert not isinstance(coarsest.levels[0].bijection[0], Squeeze)
    # Two layers of transition, two of the step: the injector sees the 8 channels of the source as they are.
    assert coarsest.levels[0].bijection[4].net.layers[0].in_channels == 8
    targets, sources = random_images(2, (1, 28, 28)), random_images(2, (1, 28, 28))
    with torch.no_grad(), replayed_noise(0.3):
        z, _ = flow.encode(targets, sources)
        assert torch.equal(flow.decode(z, sources), targets)


def test_steps_and_transitions_are_as_many_as_asked_for():
    settings = {"num_scales": 3, "num_steps": 3, "num_relation_steps": 2, "num_transitions": 3}
    with torch.device("meta"):
        flow = models.caflow(
            (3, 16, 16),
            relation="shared",
            num_shared_steps=4,
            num_relation_transitions=2,
            num_noise_steps=5,
            source_channels=1,
            **settings,
        )
    for part, channels in ((flow.source.bijection, 1), (flow.bijection, 3)):
        dequantize, multiscale = part[0], part[1]
        assert isinstance(dequantize, VariationalDequantize)
        assert [type(layer) for layer in dequantize.transform.layers] == [ActNorm, Conv1x1, AffineCoupling] * 5
        assert {len(layer.bias) for layer in dequantize.transform.layers[::3]} == {channels}
        for level in multiscale.levels:
            types = [type(layer) for layer in level.layers]
            assert types == [Squeeze, *[ActNorm, Conv1x1] * 3, *[ActNorm, Conv1x1, AffineCoupling] * 3]
    for prior in flow.bijection[2].priors:
        for k, block in enumerate(prior.levels):
            types = [type(layer) for layer in block.bijection.layers]
            step = [ActNorm, Conv1x1, AffineInjector, AffineCoupling]
            assert types == [Squeeze, *[ActNorm, Conv1x1] * 2, *step * (2 if k == 0 else 4)]
            assert all(block.bijection[i].form == "full" for i, t in enumerate(types) if t is Conv1x1)
    with torch.device("meta"):
        plain = models.caflow((3, 16, 16), num_grey_levels=32, relation="gaussian", **settings)
    assert isinstance(plain.bijection[0], Dequantize) and not isinstance(plain.bijection[0], VariationalDequantize)
    assert plain.num_grey_levels == plain.source.num_grey_levels == 32
    assert all(isinstance(prior.bijection, GaussianPrior) for prior in plain.bijection[2].priors)


@ALL
def test_networks_start_at_zero_and_a_gaussian_relation_at_the_standard_normal(relation):
    torch.manual_seed(0)
    flow = models.caflow((1, 16, 16), relation=relation, num_scales=2, **TINY)
    last = [p for name, p in flow.named_parameters() if name.endswith(("net.layers.4.weight", "net.layers.4.bias"))]
    assert last and all((p == 0).all() for p in last)
    if relation == "gaussian":
        z, context = torch.randn(2, 256), torch.randn(2, 256)
        noise, log_det = flow.bijection[2](z, context)
        assert torch.equal(noise, z) and (log_det == 0).all()


def test_the_digits_model_is_a_small_caflow():
    flow = models.digits_caflow(relation="shared", source_channels=3, num_steps=1)
    assert flow.shape == (1, 8, 8) and flow.context_shape == (3, 8, 8) and flow.num_grey_levels == 17
    assert len(flow.bijection[1].levels) == 2 and len(flow.bijection[1].levels[0]) == 1 + 4 + 3


# Layers and networks -------------------------------------------------------------------------------------------------


def test_the_injector_scales_and_shifts_by_its_context_alone():
    injector, x, context = make("affine injector", torch.float64)
    t, raw = injector.net(context).chunk(2, dim=1)
    s = 2 * 0.636 * raw.atan()
    z, log_det = injector(x, context)
    torch.testing.assert_close(z, x * s.exp() + t)
    torch.testing.assert_close(log_det, s.sum((1, 2, 3)))
    torch.testing.assert_close(injector.inverse(z, context), x)
    # Linear in x, whatever x is: the context alone decides.
    torch.testing.assert_close(injector(x + 1, context)[0] - z, s.exp())


def test_a_gaussian_prior_is_an_injector_with_the_signs_of_dual_glow():
    net = ConvNet(2, 4, 6).double()
    torch.nn.init.normal_(net.layers[-1].weight)
    x, context = torch.randn(3, 3, 4, 4).double(), torch.randn(3, 2, 4, 4).double()
    mean, log_std = net(context).chunk(2, dim=1)
    prior, prior_log_det = GaussianPrior(net)(x, context)

    class Signs(torch.nn.Module):
        def forward(self, context):
            return torch.cat([-mean * (-log_std).exp(), -log_std], dim=1)

    injected, log_det = AffineInjector(Signs(), bound=torch.nn.Identity())(x, context)
    torch.testing.assert_close(injected, prior)
    torch.testing.assert_close(log_det, prior_log_det)


def test_the_arctan_scale_is_that_of_the_original_and_stays_below_its_limit():
    raw = torch.tensor([-1e9, -1.0, 0.0, 0.3, 1e9], dtype=torch.float64)
    expected = torch.tensor([2 * 0.636 * math.atan(value) for value in raw.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ArctanScale()(raw), expected)
    for limit in (2.0, 0.5):
        assert 0.999 * limit < ArctanScale(limit)(raw).abs().max() < limit
    raw.requires_grad_()
    (slope,) = torch.autograd.grad(ArctanScale(3.0)(raw).sum(), raw)
    assert slope[2].item() == pytest.approx(0.636 * 3)


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_coupling_keeps_as_many_channels_as_it_is_told(keep):
    net = ConvNet(keep, 4, 2 * (4 - keep), context_channels=2)
    torch.nn.init.normal_(net.layers[-1].weight)
    x, context = torch.randn(2, 4, 3, 3), torch.randn(2, 2, 3, 3)
    coupling = AffineCoupling(net, keep=keep)
    z, _ = coupling(x, context)
    assert torch.equal(z[:, :keep], x[:, :keep])
    assert ((z[:, keep:] - x[:, keep:]).abs() > 0).any(dim=0).all()
    t, raw = net(x[:, :keep], context).chunk(2, dim=1)
    torch.testing.assert_close(z[:, keep:], x[:, keep:] * raw.tanh().exp() + t)


@pytest.mark.parametrize("name", ["affine coupling, one channel kept", "affine injector", "coarse to fine"])
def test_the_context_matters(name):
    bijection, x, context = make(name, torch.float64)
    changed = context + 0.1
    assert not torch.allclose(bijection(x, context)[0], bijection(x, changed)[0])
    assert not torch.allclose(bijection.inverse(x, context), bijection.inverse(x, changed))


def test_a_prior_of_coarse_to_fine_gets_the_context_and_the_coarser_levels_in_their_order():
    seen = []

    class Spy(AffineInjector):
        def __init__(self):
            super().__init__(torch.nn.Identity())

        def forward(self, x, context=None):
            seen.append(context)
            return x, sum_dimensions(0 * x)

        def inverse(self, z, context=None):
            seen.append(context)
            return z

    shapes, context_shapes = [(1, 2, 2), (3, 1, 1), (2, 1, 1)], [(2, 2, 2), (1, 1, 1), (5, 1, 1)]
    bijection = CoarseToFine([Spy(), Spy(), Spy()], shapes, context_shapes)
    x, context = torch.randn(2, 9), torch.randn(2, 14)
    wanted = [
        torch.cat([context, x[:, 4:]], dim=1),
        torch.cat([context[:, 8:], x[:, 7:]], dim=1),
        context[:, 9:],
    ]
    bijection(x, context)
    assert all(torch.equal(a, b) for a, b in zip(seen, wanted, strict=True))
    seen.clear()
    # The coarsest first.
    bijection.inverse(x, context)
    assert all(torch.equal(a, b) for a, b in zip(seen, reversed(wanted), strict=True))
    levels = bijection.unpack(x)
    assert [tuple(level.shape[1:]) for level in levels] == shapes
    assert torch.equal(bijection.pack(levels), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pointwise_convolution_is_a_1x1_convolution(dtype):
    conv = PointwiseConv(3, 5).to(dtype)
    x = torch.randn(2, 3, 4, 6, dtype=dtype, requires_grad=True)
    ours, theirs = conv(x), F.conv2d(x, conv.weight, conv.bias)
    # Sums of 3 terms, in any order.
    torch.testing.assert_close(ours, theirs, atol=10 * torch.finfo(dtype).eps, rtol=10 * torch.finfo(dtype).eps)
    weights = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), [x, *conv.parameters()]),
        torch.autograd.grad((theirs * weights).sum(), [x, *conv.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e3 * torch.finfo(dtype).eps, rtol=1e3 * torch.finfo(dtype).eps)
    assert set(conv.state_dict()) == {"weight", "bias"} and conv.weight.shape == (5, 3, 1, 1)


@pytest.mark.parametrize(
    "dequantize",
    [
        lambda: Dequantize(17),
        lambda: Dequantize(256, alpha=0.05),
        lambda: Dequantize(4, alpha=None),
        lambda: Dequantize(256, alpha=None, spacing=1 / 255),
        lambda: VariationalDequantize(Sequential(), 17),
    ],
)
def test_the_slope_of_dequantization_is_the_derivative_by_its_noise(dequantize):
    layer = dequantize().double()
    images = torch.randint(layer.num_grey_levels, (3, 2, 4, 4)).byte()
    # Away from the edges, where noise is moved.
    u = (0.01 + 0.98 * torch.rand(3, 2, 4, 4).double()).requires_grad_()
    layer.noise = lambda x: (u, 1 - u, u.new_zeros(len(u)))
    z, log_det = layer(images)
    (slope,) = torch.autograd.grad(z.sum(), u)
    torch.testing.assert_close(layer.log_slope(z.detach()), slope.log().sum((1, 2, 3)))
    torch.testing.assert_close(layer.log_slope(z.detach()), log_det.detach())
    assert layer.log_slope(z).shape == (3,)


# Bad input -----------------------------------------------------------------------------------------------------------


TWO = ([(2, 2, 2), (4, 1, 1)], [(1, 2, 2), (2, 1, 1)])


def _small(**changes):
    return models.caflow(**{"shape": (1, 16, 16), "num_scales": 2, **TINY, **changes})


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: _small(relation="full"), "relation is one of gaussian, per-level, shared, unshared, got 'full'"),
        (lambda: _small(num_shared_steps=3), "num_shared_steps is for the relation 'shared', got it with 'unshared'"),
        (lambda: _small(shape=(1, 18, 16)), "even height and width, got 9x8"),
        (lambda: _small(shape=(1, 16, 15)), "even height and width, got 16x15"),
        (lambda: _small(num_scales=0), "at least 1 level and 1 step, got 0 and 1"),
        (lambda: _small(num_steps=0), "at least 1 level and 1 step, got 2 and 0"),
        (lambda: _small(num_relation_steps=0), "at least 1 step, got 0"),
        (lambda: _small(relation="shared", num_scales=3, num_shared_steps=0), "at least 1 step, got 0"),
        (lambda: _small(num_grey_levels=300), "num_grey_levels is 2 or more and 256 or less, not 300"),
        (lambda: relation_block(4, 4, 0), "at least 1 step, got 0"),
        (lambda: AffineInjector(ConvNet(1, 2, 2))(torch.zeros(1, 1, 2, 2)), "AffineInjector got no context"),
        (lambda: AffineInjector(ConvNet(1, 2, 2)).inverse(torch.zeros(1, 1, 2, 2)), "AffineInjector got no context"),
        (
            lambda: AffineInjector(ConvNet(1, 2, 3))(torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)),
            "network returned (1, 3, 2, 2), it should return (1, 4, 2, 2)",
        ),
        (
            lambda: AffineInjector(ConvNet(1, 2, 4))(torch.zeros(2, 2, 2, 2), torch.zeros(1, 1, 2, 2)),
            "network returned (1, 4, 2, 2), it should return (2, 4, 2, 2)",
        ),
        (lambda: AffineCoupling(ConvNet(1, 2, 2), keep=-1), "got -1"),
        (lambda: AffineCoupling(ConvNet(1, 2, 2), keep=True), "got True"),
        (lambda: AffineCoupling(ConvNet(1, 2, 2), keep=1.5), "got 1.5"),
        (
            lambda: AffineCoupling(ConvNet(2, 2, 2), keep=2).output_shape((2, 4, 4)),
            "keeps 2 channels has none to move of 2",
        ),
        (lambda: AffineCoupling(ConvNet(2, 2, 2), keep=2)(torch.zeros(1, 1, 4, 4)), "has none to move of 1"),
        (lambda: PickLevels(TWO[0], [0, 1]), "one height and width, got [(1, 1), (2, 2)]"),
        (lambda: PickLevels(TWO[0], []), "one height and width, got []"),
        (lambda: PickLevels(TWO[0], [1], squeeze=True), "levels of 1x1 cannot be squeezed"),
        (lambda: PickLevels(TWO[0], [1])(torch.zeros(1, 11)), "a latent of 12 numbers, got (1, 11)"),
        (lambda: PickLevels(TWO[0], [1])(None), "a latent of 12 numbers, got none"),
        (lambda: CoarseToFine([], [], []), "got 0 priors, 0 levels and 0 levels of the context"),
        (lambda: CoarseToFine([Squeeze()], *TWO), "got 1 priors, 2 levels and 2 levels of the context"),
        (lambda: CoarseToFine([Squeeze(), Squeeze()], *TWO), "even height and width, got 1x1"),
        (lambda: CoarseToFine([Squeeze()], [(2, 2, 2)], [(2, 2, 2)])(torch.zeros(1, 8)), "context of (1, 8), got none"),
        (
            lambda: CoarseToFine([Squeeze()], [(2, 2, 2)], [(2, 2, 2)])(torch.zeros(2, 8), torch.zeros(1, 8)),
            "context of (2, 8), got (1, 8)",
        ),
        (
            lambda: CoarseToFine([Squeeze()], [(2, 2, 2)], [(2, 2, 2)]).inverse(torch.zeros(2, 8), torch.zeros(2, 9)),
            "context of (2, 8), got (2, 9)",
        ),
        (
            lambda: CoarseToFine([Squeeze()], [(2, 2, 2)], [(2, 2, 2)])(torch.zeros(1, 9), torch.zeros(1, 8)),
            "built for a latent (8,), got (9,)",
        ),
    ],
)
def test_bad_input_is_a_clear_error(make_it, message):
    with pytest.raises(ValueError) as error:
        make_it()
    assert message in str(error.value)
