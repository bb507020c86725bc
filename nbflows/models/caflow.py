"""CAFLOW and Dual-Glow: translation from image to image by relating the latents of two flows.

Source: G. Batzolis, M. Carioni, C. Etmann, S. Afyouni, Z. Kourtzi, C.-B. Schönlieb, "CAFLOW: Conditional autoregressive
flows", 2021 (arXiv:2106.02531). H. Sun et al., "DUAL-GLOW: Conditional flow-based generative model for modality
transfer", 2019 (arXiv:1908.08074). Sizes are the defaults of CAFLOW's code; where the paper differs, a comment says so.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from nbflows.bijection import Bijection
from nbflows.compose import Sequential, WithContext
from nbflows.flow import Flow
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
from nbflows.models.builder import builder
from nbflows.models.glow import flow_levels
from nbflows.multiscale import Multiscale
from nbflows.nets import ConvNet, PickLevels
from nbflows.translation import TranslationFlow

Shapes = Sequence[tuple[int, ...]]
RELATIONS = ("gaussian", "per-level", "shared", "unshared")


@builder
def caflow(
    shape: tuple[int, int, int] = (3, 64, 64),
    num_grey_levels: int = 256,
    source_channels: int | None = None,
    relation: str = "unshared",
    num_scales: int = 4,
    num_steps: int = 16,
    num_relation_steps: int = 8,
    num_shared_steps: int | None = None,
    hidden_channels: int = 64,
    relation_channels: int = 32,
    num_transitions: int = 2,
    num_relation_transitions: int = 1,
    num_noise_steps: int = 0,
) -> TranslationFlow:
    """Two Glow-like flows R and T of source and target, and conditional flows G_i between their latents.

    35,229,968 parameters. relation "unshared" is CAFLOW: each level of the target's latent depends on coarser levels
    and on the source's levels that are as coarse or coarser. "shared" is a cheaper form: blocks with the same inputs
    share their weights, 2n - 1 blocks instead of n (n + 1) / 2. "per-level": each level depends only on the same level
    of the source, by a conditional flow. "gaussian" is Dual-Glow: the same with a Gaussian instead of the flow.

    Args:
        shape: the shape of a target; height and width divisible by 2 ** num_scales.
        num_grey_levels: grey levels.
        source_channels: channels of a source image, which has the size of the target; default: those of the target.
        relation: "unshared", "shared", "per-level" or "gaussian", the most expressive first.
        num_scales: n, levels of R and T.
        num_steps: K, steps per level of R and T.
        num_relation_steps: M, steps per block of a relation. The authors take 16 for "shared".
        num_shared_steps: M of the shared blocks; default: as in the others. The authors take 12.
        hidden_channels: width of the networks of R and T.
        relation_channels: width of the networks of the relation.
        num_transitions: pairs of ActNorm and 1x1 convolution at the beginning of each level of R and T.
        num_relation_transitions: the same at the beginning of a block: 1 in the authors' code, 2 in the paper.
        num_noise_steps: steps of the variational dequantization of both images; 0 for uniform noise.
    """
    if relation not in RELATIONS:
        raise ValueError(f"relation is one of {', '.join(RELATIONS)}, got {relation!r}")
    if num_shared_steps is not None and relation != "shared":
        raise ValueError(f"num_shared_steps is for the relation 'shared', got it with {relation!r}")
    source_shape = (shape[0] if source_channels is None else source_channels, *shape[1:])
    sizes = num_grey_levels, num_scales, num_steps, num_transitions, hidden_channels, num_noise_steps
    source, target = _flow(source_shape, *sizes), _flow(shape, *sizes)
    shapes, source_shapes = _latent_shapes(target), _latent_shapes(source)
    priors: Sequence[Bijection]
    if relation == "gaussian":
        priors = [_gaussian(shapes, source_shapes, i, relation_channels) for i in range(num_scales)]
    else:
        shared: dict[int, Bijection] = {}

        def block(i: int, j: int, channels: int, context_channels: int, squeeze: bool) -> Bijection:
            steps = num_relation_steps if j == i or num_shared_steps is None else num_shared_steps
            settings = channels, context_channels, steps, num_relation_transitions, relation_channels, squeeze
            if relation != "shared" or j == i:
                return relation_block(*settings)
            if j not in shared:
                shared[j] = relation_block(*settings)
            return shared[j]

        scales = 1 if relation == "per-level" else num_scales
        priors = [
            _conditional_flow(shapes, source_shapes, i, min(i + scales, num_scales), block) for i in range(num_scales)
        ]
    return TranslationFlow(Flow(source, source_shape), target, CoarseToFine(priors, shapes, source_shapes), shape)


def _flow(
    shape: tuple[int, int, int],
    num_grey_levels: int,
    num_scales: int,
    num_steps: int,
    num_transitions: int,
    hidden_channels: int,
    num_noise_steps: int,
) -> Sequential:
    """Builds R or T, from an image to its latent."""

    def step(channels: int) -> list[Bijection]:
        net = ConvNet(channels // 2, hidden_channels, channels)
        return [*_transition(channels), AffineCoupling(net, bound=ArctanScale())]

    def transitions(channels: int) -> list[Bijection]:
        return [layer for _ in range(num_transitions) for layer in _transition(channels)]

    levels, _ = flow_levels(shape[0], num_scales, num_steps, step, transitions)
    multiscale = Multiscale(levels, shape, keep="second")
    if num_noise_steps == 0:
        return Sequential(Dequantize(num_grey_levels), multiscale)
    noise_steps = [layer for _ in range(num_noise_steps) for layer in _noise_step(shape[0], hidden_channels)]
    return Sequential(VariationalDequantize(Sequential(*noise_steps), num_grey_levels), multiscale)


def _latent_shapes(flow: Sequential) -> list[tuple[int, ...]]:
    return cast(Multiscale, flow[-1]).latent_shapes


def _transition(channels: int) -> list[Bijection]:
    return [ActNorm(channels), Conv1x1(channels, form="full")]


def _noise_step(channels: int, hidden_channels: int) -> list[Bijection]:
    kept = channels // 2
    net = ConvNet(kept, hidden_channels, 2 * (channels - kept), context_channels=channels)
    return [*_transition(channels), AffineCoupling(net, keep=kept, bound=ArctanScale())]


def relation_block(
    channels: int,
    context_channels: int,
    num_steps: int,
    num_transitions: int = 1,
    hidden_channels: int = 32,
    squeeze: bool = True,
) -> Sequential:
    """Builds g: a squeeze, then steps of ActNorm, 1x1 convolution, affine injector and conditional coupling.

    Args:
        channels: channels of the input.
        context_channels: channels of the context, which has the height and width that the steps see.
        num_steps: M.
        num_transitions: pairs of ActNorm and 1x1 convolution at the beginning.
        hidden_channels: width of the networks.
        squeeze: whether it begins with a squeeze.
    """
    if num_steps < 1:
        raise ValueError(f"a relation has at least 1 step, got {num_steps}")
    channels *= 4 if squeeze else 1
    layers: list[Bijection] = [Squeeze()] if squeeze else []
    for _ in range(num_transitions):
        layers += _transition(channels)
    for _ in range(num_steps):
        injector = ConvNet(context_channels, hidden_channels, 2 * channels)
        coupling = ConvNet(channels // 2, hidden_channels, channels, context_channels)
        layers += [
            *_transition(channels),
            AffineInjector(injector, bound=ArctanScale()),
            AffineCoupling(coupling, bound=ArctanScale()),
        ]
    return Sequential(*layers)


def _conditional_flow(
    shapes: Shapes, source_shapes: Shapes, i: int, end: int, block: Callable[[int, int, int, int, bool], Bijection]
) -> Multiscale:
    """Builds G_i: block j < ``end`` sees level j of the source and, for j > i, of the target. 0 is the finest level."""
    # In the order in which CoarseToFine joins them.
    joined = [*source_shapes[i:], *shapes[i + 1 :]]
    target_level = len(source_shapes[i:]) - i - 1
    blocks, channels = [], shapes[i][0]
    for j in range(i, end):
        picked = [j - i] if j == i else [target_level + j, j - i]
        height, width = shapes[j][1:]
        # The coarsest level of 28x28 images, 7x7, is not squeezed.
        squeeze = height % 2 == 0 and width % 2 == 0
        context_channels = (4 if squeeze else 1) * sum(joined[k][0] for k in picked)
        blocks.append(
            WithContext(block(i, j, channels, context_channels, squeeze), PickLevels(joined, picked, squeeze))
        )
        channels = channels * (4 if squeeze else 1) // 2
    return Multiscale(blocks, shapes[i], keep="second")


def _gaussian(shapes: Shapes, source_shapes: Shapes, i: int, hidden_channels: int) -> Bijection:
    joined = [*source_shapes[i:], *shapes[i + 1 :]]
    net = ConvNet(source_shapes[i][0], hidden_channels, 2 * shapes[i][0])
    return WithContext(GaussianPrior(net), PickLevels(joined, [0]))


@builder
def digits_caflow(
    shape: tuple[int, int, int] = (1, 8, 8),
    num_grey_levels: int = 17,
    source_channels: int | None = None,
    **changes: Any,
) -> TranslationFlow:
    """``caflow`` for the 8x8 digits of scikit-learn; the sizes are ours.

    Args:
        changes: further arguments of ``caflow``.
    """
    sizes = {"num_scales": 2, "num_steps": 4, "num_relation_steps": 4, "hidden_channels": 32, "relation_channels": 32}
    return caflow(shape, num_grey_levels, source_channels, **{**sizes, **changes})
