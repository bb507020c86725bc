"""Residual Flows: invertible residual blocks with unbiased log-determinants, at the paper's sizes and at small ones.

Source: R. T. Q. Chen, J. Behrmann, D. Duvenaud, J.-H. Jacobsen, "Residual flows for invertible generative modeling",
2019 (arXiv:1906.02735). Published test bits/dim, one noise draw: MNIST 0.97, CIFAR-10 3.28, ImageNet 32x32 4.01, 64x64
3.76. Where paper and published code differ, the numbers are those of the code.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch

from nbflows.bijection import Bijection
from nbflows.compose import Sequential
from nbflows.flow import Flow
from nbflows.joint import JointFlow
from nbflows.layers import (
    ActNorm,
    Dequantize,
    ExactLogDet,
    Flatten,
    ResidualBlock,
    RussianRoulette,
    SeriesLogDet,
    Squeeze,
    TruncatedSeries,
)
from nbflows.models.builder import builder
from nbflows.multiscale import Multiscale
from nbflows.nets import LipschitzConvNet, LipschitzMLP, PooledFeatures, update_norms

_TERMS = {
    "poisson": partial(RussianRoulette, "poisson", 2.0),
    "geometric": partial(RussianRoulette, "geometric", 0.5),
    "none": TruncatedSeries,
}


@builder
def residual_flow(
    shape: tuple[int, int, int] = (3, 32, 32),
    num_grey_levels: int = 256,
    num_blocks: Sequence[int] = (16, 16, 16),
    hidden_channels: int = 512,
    num_end_blocks: int = 4,
    end_features: int = 128,
    factor_out: bool = False,
    squeeze_first: bool = False,
    alpha: float | None = 0.1,
    activation: str = "lipswish",
    coeff: float = 0.98,
    terms: str = "poisson",
    num_exact_terms: int = 2,
    num_eval_terms: int = 20,
    gradient: str = "neumann",
    in_forward: bool = True,
) -> Flow:
    """ActNorm, then residual blocks with an ActNorm each, in levels with a squeeze between them. Default: CIFAR-10.

    The authors' code counts two more parameters per block, which it never trains.

    Args:
        shape: the shape of an image; height and width divisible by 2 for every squeeze.
        num_grey_levels: grey levels.
        num_blocks: blocks per level, finest first.
        hidden_channels: width of the blocks' networks.
        num_end_blocks, end_features: fully connected blocks after the last level, and their width.
        factor_out: whether half of the channels exits after every level but the last.
        squeeze_first: squeeze the image once before the first level.
        alpha: see ``Logit``; twice the alpha of the paper; None for no logit.
        activation, coeff: settings of the blocks' networks, see ``LipschitzConvNet``.
        terms: random terms of the power series after the exact ones: Russian roulette with a "poisson" distribution of
            mean 2 or a "geometric" one of probability 1/2; or "none": biased, an i-ResNet.
        num_exact_terms, num_eval_terms: number of exact terms in training and in eval mode.
        gradient, in_forward: gradient of the log-determinant in training, see ``SeriesLogDet``.
    """
    if terms not in _TERMS:
        raise ValueError(f"terms is one of {', '.join(map(repr, _TERMS))}, got {terms!r}")
    if not num_blocks or min(num_blocks) < 1:
        raise ValueError(f"every level has at least 1 block, got num_blocks {tuple(num_blocks)}")

    def block(net: LipschitzConvNet | LipschitzMLP, channels: int) -> list[Bijection]:
        training, evaluation = (
            SeriesLogDet(_TERMS[terms](n), gradient, in_forward) for n in (num_exact_terms, num_eval_terms)
        )
        return [ResidualBlock(net, training, evaluation), ActNorm(channels)]

    settings: dict[str, Any] = {"activation": activation, "coeff": coeff}
    start: list[Bijection] = [Dequantize(num_grey_levels, alpha), *([Squeeze()] if squeeze_first else [])]
    level_shape = first_shape = Sequential(*start).output_shape(shape)
    levels: list[Sequential] = []
    for i, count in enumerate(num_blocks):
        layers: list[Bijection] = [ActNorm(level_shape[0])] if i == 0 else []
        c, h, w = level_shape
        for j in range(count):
            # The first block has no activation before its first layer, because it reads the image itself.
            net = LipschitzConvNet((c, h, w), hidden_channels, first_activation=i + j > 0, **settings)
            layers += block(net, c)
        if i < len(num_blocks) - 1:
            layers.append(Squeeze())
            channels, *size = Squeeze().output_shape(level_shape)
            level_shape = (channels // 2 if factor_out else channels, *size)
        levels.append(Sequential(*layers))
    if num_end_blocks:
        flatten = Flatten(level_shape)
        (features,) = flatten.output_shape(level_shape)
        nets = [LipschitzMLP(features, end_features, **settings) for _ in range(num_end_blocks)]
        levels[-1] = Sequential(*levels[-1].layers, flatten, *[layer for net in nets for layer in block(net, features)])
    body = [Multiscale(levels, first_shape)] if factor_out else levels
    return Flow(Sequential(*start, *body), shape)


@builder
def residual_flow_mnist(shape: tuple[int, int, int] = (1, 28, 28), num_grey_levels: int = 256, **changes: Any) -> Flow:
    """``residual_flow`` for MNIST, 28x28 without padding. 16,608,589 parameters (the authors' code: 16,608,693)."""
    return residual_flow(shape, num_grey_levels, **{"alpha": 2e-6, **changes})


@builder
def residual_flow_imagenet32(
    shape: tuple[int, int, int] = (3, 32, 32), num_grey_levels: int = 256, **changes: Any
) -> Flow:
    """``residual_flow`` for ImageNet 32x32. 47,099,089 parameters (the authors' code: 47,099,289)."""
    return residual_flow(shape, num_grey_levels, **{"num_blocks": (32, 32, 32), **changes})


@builder
def residual_flow_imagenet64(
    shape: tuple[int, int, int] = (3, 64, 64), num_grey_levels: int = 256, **changes: Any
) -> Flow:
    """``residual_flow`` for ImageNet 64x64. 53,294,275 parameters (the authors' code: 53,294,475)."""
    settings = {"num_blocks": (32, 32, 32), "squeeze_first": True, "factor_out": True}
    return residual_flow(shape, num_grey_levels, **{**settings, **changes})


@builder
def residual_flow_celeba_hq(
    shape: tuple[int, int, int] = (3, 256, 256), num_grey_levels: int = 32, **changes: Any
) -> Flow:
    """``residual_flow`` for CelebA-HQ 256x256 in 5 bits. 136,777,176 parameters (the authors' code: 136,777,368)."""
    settings = {
        "num_blocks": (16,) * 6,
        "num_end_blocks": 0,
        "squeeze_first": True,
        "factor_out": True,
        "activation": "elu",
        "num_exact_terms": 8,
    }
    return residual_flow(shape, num_grey_levels, **{**settings, **changes})


@builder
def digits_residual_flow(shape: tuple[int, int, int] = (1, 8, 8), num_grey_levels: int = 17, **changes: Any) -> Flow:
    """``residual_flow`` for the 8x8 digits of scikit-learn; the sizes are ours.

    Args:
        changes: further arguments of ``residual_flow``.
    """
    settings = {"num_blocks": (4, 4), "hidden_channels": 32, "num_end_blocks": 2, "end_features": 32, "alpha": 1e-5}
    return residual_flow(shape, num_grey_levels, **{**settings, **changes})


@builder
def joint_residual_flow(
    shape: tuple[int, int, int] = (1, 28, 28),
    num_grey_levels: int = 256,
    num_classes: int = 10,
    features_per_level: int = 256,
    **changes: Any,
) -> JointFlow:
    """``residual_flow`` without fully connected blocks, with a classifier that reads the end of every level.

    Args:
        num_classes: number of classes.
        features_per_level: number of features that the classifier gets from each level.
        changes: further arguments of ``residual_flow``.
    """
    settings = {"alpha": 2e-6, **changes, "num_end_blocks": 0}
    if settings.get("factor_out"):
        raise ValueError("the classifier reads all channels of every level: joint_residual_flow has no factor_out")
    layers = cast(Sequential, residual_flow(shape, num_grey_levels, **settings).bijection)
    heads, level_shape = {}, tuple(shape)
    for i, layer in enumerate(layers.layers):
        level_shape = layer.output_shape(level_shape)
        if isinstance(layer, Sequential):
            heads[i] = PooledFeatures(level_shape[0], features_per_level)
    return JointFlow(layers, shape, heads, features_per_level * len(heads), num_classes)


@builder
def digits_joint_residual_flow(
    shape: tuple[int, int, int] = (1, 8, 8), num_grey_levels: int = 17, **changes: Any
) -> JointFlow:
    """``joint_residual_flow`` for the 8x8 digits of scikit-learn; the sizes are ours.

    Args:
        changes: further arguments of ``joint_residual_flow``.
    """
    settings = {"num_blocks": (4, 4), "hidden_channels": 32, "features_per_level": 32, "alpha": 1e-5}
    return joint_residual_flow(shape, num_grey_levels, **{**settings, **changes})


@builder
def residual_flow_2d(
    shape: tuple[int] = (2,),
    num_blocks: int = 100,
    hidden_features: int = 128,
    num_hidden: int = 4,
    activation: str = "lipswish",
    coeff: float = 0.9,
    actnorm: bool = False,
    log_det: str = "roulette",
) -> Flow:
    """Residual blocks on points, almost the identity at the start; by default for the paper's toy densities.

    Args:
        shape: the shape of a point.
        num_blocks, hidden_features, num_hidden: number of blocks, and width and hidden layers of their networks.
        activation, coeff: see ``LipschitzMLP``.
        actnorm: whether ActNorms surround the blocks.
        log_det: in training: "roulette", geometric with 2 exact terms, or "exact", which in the plane costs as much as
            2 terms. In eval mode it is exact.
    """
    if log_det not in ("roulette", "exact"):
        raise ValueError(f"log_det is 'roulette' or 'exact', got {log_det!r}")
    roulette = SeriesLogDet(RussianRoulette("geometric", 0.5, num_exact_terms=2), gradient="basic", in_forward=False)
    layers: list[Bijection] = [ActNorm(*shape)] if actnorm else []
    for _ in range(num_blocks):
        net = LipschitzMLP(*shape, hidden_features, num_hidden, activation, coeff)
        with torch.no_grad():
            net.layers[-1].get_parameter("parametrizations.weight.original").div_(1000)
        update_norms(net)
        layers.append(ResidualBlock(net, roulette if log_det == "roulette" else ExactLogDet(), ExactLogDet()))
        layers += [ActNorm(*shape)] if actnorm else []
    return Flow(Sequential(*layers), shape)
