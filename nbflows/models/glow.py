"""Glow: levels of ActNorm, 1x1 convolution and affine coupling, with a learned Gaussian prior at every split.

Source: D. P. Kingma and P. Dhariwal, "Glow: Generative flow with invertible 1x1 convolutions", 2018 (arXiv:1807.03039).
The paper's CIFAR-10 model: 3 levels of 32 steps, 512 hidden channels.
"""

from collections.abc import Callable
from typing import Any

import torch

from nbflows.bijection import Bijection
from nbflows.compose import Identity, Sequential
from nbflows.flow import Flow
from nbflows.labelled import LabelledFlow
from nbflows.layers import (
    ActNorm,
    AffineCoupling,
    Conv1x1,
    Dequantize,
    Flip,
    GaussianPrior,
    Permute,
    SigmoidScale,
    Squeeze,
)
from nbflows.models.builder import builder
from nbflows.models.tutorial import variational_dequantize
from nbflows.multiscale import Multiscale
from nbflows.nets import ActNormConvNet, ZeroConv


@builder
def glow(
    shape: tuple[int, int, int] = (3, 32, 32),
    num_grey_levels: int = 256,
    num_scales: int = 3,
    num_steps: int = 32,
    hidden_channels: int = 512,
    mixing: str = "conv1x1",
    actnorm: bool = True,
    prior: str = "learned",
    num_noise_couplings: int = 0,
    noise_channels: int = 32,
    num_classes: int | tuple[int, ...] = 0,
    label_channels: int = 32,
    lowest_scale: float = 0.0,
) -> Flow:
    """Glow, or one of the weaker models that its paper compares it with. 44,152,176 parameters.

    Args:
        shape: the shape of an image; height and width divisible by 2 ** num_scales.
        num_grey_levels: grey levels.
        num_scales: L, levels of the flow, each at half the resolution of the one before.
        num_steps: K, steps per level.
        hidden_channels: width of the conditioner networks.
        mixing: how channels are mixed before each coupling: "conv1x1", a fixed "shuffle", or "flip".
        actnorm: whether a step begins with ActNorm.
        prior: the prior of the exiting latents: "learned", given the continuing half, or "standard" normal.
        num_noise_couplings, noise_channels: variational dequantization, our addition; 0 for uniform noise as in the
            paper.
        num_classes: 0, or the number of classes, or of values of each attribute: then it is a ``LabelledFlow``, all of
            whose couplings see the labels. Our addition.
        label_channels: the number of channels in which couplings see the labels.
        lowest_scale: the lowest scale of couplings, see ``SigmoidScale``: above 0, samples do not overflow.
    """
    if mixing not in ("conv1x1", "shuffle", "flip"):
        raise ValueError(f"mixing is 'conv1x1', 'shuffle' or 'flip', got {mixing!r}")
    if prior not in ("learned", "standard"):
        raise ValueError(f"prior is 'learned' or 'standard', got {prior!r}")

    def step(channels: int) -> list[Bijection]:
        mixers: dict[str, Callable[[], Bijection]] = {
            "conv1x1": lambda: Conv1x1(channels),
            "shuffle": lambda: Permute(torch.randperm(channels)),
            "flip": Flip,
        }
        net = ActNormConvNet(channels // 2, hidden_channels, channels, label_channels if num_classes else 0)
        coupling = AffineCoupling(net, bound=SigmoidScale(lowest=lowest_scale), shift_first=True)
        return [*([ActNorm(channels)] if actnorm else []), mixers[mixing](), coupling]

    levels, channels = flow_levels(shape[0], num_scales, num_steps, step)
    priors = learned_priors(channels) if prior == "learned" else None
    if num_noise_couplings:
        dequantize = variational_dequantize(shape, num_grey_levels, num_noise_couplings, noise_channels, num_blocks=3)
    else:
        dequantize = Dequantize(num_grey_levels, alpha=None)
    layers = Sequential(dequantize, Multiscale(levels, shape, priors))
    return LabelledFlow(layers, shape, num_classes, label_channels) if num_classes else Flow(layers, shape)


def flow_levels(
    channels: int,
    num_scales: int,
    num_steps: int,
    step: Callable[[int], list[Bijection]],
    begin: Callable[[int], list[Bijection]] = lambda channels: [],
) -> tuple[list[Bijection], list[int]]:
    """Builds levels of a squeeze and steps, and returns them with the channels of each level's latent.

    Args:
        channels: channels of the image.
        num_scales, num_steps: L and K.
        step: makes the layers of one step for a number of channels.
        begin: makes layers between the squeeze and the first step.
    """
    if num_scales < 1 or num_steps < 1:
        raise ValueError(f"a flow has at least 1 level and 1 step, got {num_scales} and {num_steps}")
    levels, latent_channels = [], []
    for scale in range(num_scales):
        channels *= 4
        steps = [layer for _ in range(num_steps) for layer in step(channels)]
        levels.append(Sequential(Squeeze(), *begin(channels), *steps))
        if scale < num_scales - 1:
            channels //= 2
        latent_channels.append(channels)
    return levels, latent_channels


def learned_priors(latent_channels: list[int]) -> list[Bijection]:
    """Makes a Gaussian prior for every exiting latent, and the standard normal for the deepest."""
    return [*[GaussianPrior(ZeroConv(c, 2 * c)) for c in latent_channels[:-1]], Identity()]


@builder
def digits_glow(shape: tuple[int, int, int] = (1, 8, 8), num_grey_levels: int = 17, **changes: Any) -> Flow:
    """``glow`` for the 8x8 digits of scikit-learn; the sizes are ours.

    Args:
        changes: further arguments of ``glow``.
    """
    return glow(shape, num_grey_levels, **{"num_scales": 2, "num_steps": 6, "hidden_channels": 48, **changes})
