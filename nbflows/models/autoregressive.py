"""Autoregressive flows, inverse autoregressive flows and spline flows, for points in the plane and 8x8 digits."""

from nbflows.bijection import Bijection
from nbflows.compose import Inverse, Sequential
from nbflows.flow import Flow
from nbflows.layers import (
    ActNorm,
    Affine,
    Conv1x1,
    Dequantize,
    Flatten,
    Flip,
    MaskedAutoregressive,
    Spline,
    SplineCoupling,
    Squeeze,
)
from nbflows.models.builder import builder
from nbflows.models.tutorial import variational_dequantize
from nbflows.nets import MADE, GatedConvNet


@builder
def maf_2d(shape: tuple[int] = (2,), num_layers: int = 6, hidden_features: int = 64) -> Flow:
    """Builds masked autoregressive layers of affine curves with flips between them, on points.

    Source: Papamakarios et al., "Masked autoregressive flow for density estimation", 2017 (arXiv:1705.07057); the sizes
    are ours.
    """
    return Flow(Sequential(*_masked(shape[0], num_layers, hidden_features, Affine(), inverse=False)), shape)


@builder
def iaf_2d(shape: tuple[int] = (2,), num_layers: int = 6, hidden_features: int = 64) -> Flow:
    """``maf_2d`` with every autoregressive layer backwards: one pass of each network to sample, three to score.

    Source: Kingma et al., "Improving variational inference with inverse autoregressive flow", 2016 (arXiv:1606.04934);
    the sizes are ours.
    """
    return Flow(Sequential(*_masked(shape[0], num_layers, hidden_features, Affine(), inverse=True)), shape)


@builder
def nsf_2d(shape: tuple[int] = (2,), num_layers: int = 4, hidden_features: int = 64, num_bins: int = 8) -> Flow:
    """Builds masked autoregressive layers of rational-quadratic splines with flips between them, on points.

    Source: Durkan et al., "Neural spline flows", 2019 (arXiv:1906.04032); the sizes are ours.
    """
    spline = Spline(num_bins, bound=4.0)
    return Flow(Sequential(*_masked(shape[0], num_layers, hidden_features, spline, inverse=False)), shape)


@builder
def digits_maf(
    shape: tuple[int, int, int] = (1, 8, 8),
    num_grey_levels: int = 17,
    num_layers: int = 5,
    hidden_features: int = 256,
) -> Flow:
    """``maf_2d`` for images as vectors: all pixels before a pixel move it; the sizes are ours."""
    return _of_vectors(shape, num_grey_levels, num_layers, hidden_features, inverse=False)


@builder
def digits_iaf(
    shape: tuple[int, int, int] = (1, 8, 8),
    num_grey_levels: int = 17,
    num_layers: int = 3,
    hidden_features: int = 128,
) -> Flow:
    """``iaf_2d`` for images as vectors; the sizes are ours. A training step takes 65 passes of each network."""
    return _of_vectors(shape, num_grey_levels, num_layers, hidden_features, inverse=True)


@builder
def digits_nsf(
    shape: tuple[int, int, int] = (1, 8, 8),
    num_grey_levels: int = 17,
    num_steps: int = 6,
    hidden_channels: int = 32,
    num_bins: int = 8,
) -> Flow:
    """Learned noise, then steps of ActNorm, a mixture of channels and a coupling of splines, at half resolution.

    Source: Durkan et al., "Neural spline flows", 2019, section 4 (arXiv:1906.04032); the sizes are ours.
    """
    channels = 4 * shape[0]
    layers: list[Bijection] = [variational_dequantize(shape, num_grey_levels, 2, 12, 1), Squeeze()]
    for _ in range(num_steps):
        spline = Spline(num_bins, bound=4.0)
        net = GatedConvNet(channels // 2, hidden_channels, spline.num_parameters * channels // 2, num_blocks=1)
        layers += [ActNorm(channels), Conv1x1(channels), SplineCoupling(net, spline)]
    return Flow(Sequential(*layers), shape)


def _of_vectors(
    shape: tuple[int, int, int], num_grey_levels: int, num_layers: int, hidden_features: int, inverse: bool
) -> Flow:
    num_features = shape[0] * shape[1] * shape[2]
    layers = _masked(num_features, num_layers, hidden_features, Affine(), inverse)
    return Flow(Sequential(Dequantize(num_grey_levels), Flatten(shape), *layers), shape)


def _masked(
    num_features: int, num_layers: int, hidden_features: int, transform: Affine | Spline, inverse: bool
) -> list[Bijection]:
    """Makes steps of ActNorm, an autoregressive layer and a flip: the order is reversed from step to step."""
    layers: list[Bijection] = []
    for _ in range(num_layers):
        layer = MaskedAutoregressive(MADE(num_features, hidden_features, transform.num_parameters), transform)
        layers += [ActNorm(num_features), Inverse(layer) if inverse else layer, Flip()]
    return layers
