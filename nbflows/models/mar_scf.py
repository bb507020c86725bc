"""mAR-SCF: a flow of affine or mixture couplings whose latents have multi-scale autoregressive priors.

Source: A. Bhattacharyya, S. Mahajan, M. Fritz, B. Schiele, S. Roth, "Normalizing flows with multi-scale autoregressive
priors", 2020 (arXiv:2004.03891). The authors' README gives 3.24 bits/dim on CIFAR-10 for the mixture couplings with 256
hidden channels.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from nbflows.bijection import Bijection
from nbflows.compose import Sequential
from nbflows.flow import Flow
from nbflows.layers import (
    ActNorm,
    AffineCoupling,
    Conv1x1,
    ConvLSTMPrior,
    Dequantize,
    MixtureCoupling,
    Permute,
    ScaledTanh,
    SigmoidScale,
)
from nbflows.models.builder import builder
from nbflows.models.glow import flow_levels, learned_priors
from nbflows.models.tutorial import variational_dequantize
from nbflows.multiscale import Multiscale
from nbflows.nets import ActNormConvNet, ConvLSTM, GatedAttentionNet


@builder
def mar_scf(
    shape: tuple[int, int, int] = (3, 32, 32),
    num_grey_levels: int = 256,
    coupling: str = "affine",
    num_scales: int = 3,
    num_steps: int = 32,
    hidden_channels: int = 512,
    num_blocks: int = 10,
    num_components: int = 32,
    dropout: float = 0.2,
    prior: str = "mar",
    prior_channels: int = 32,
    prior_layers: int = 3,
    num_noise_couplings: int = 0,
    noise_channels: int = 16,
    spacing: float | None = None,
    lowest_scale: float = 0.0,
) -> Flow:
    """Squeeze, steps of ActNorm, 1x1 convolution and coupling, split; at every split and at the end a ConvLSTM prior.

    45,630,990 parameters by default; with mixture couplings, 4 steps and 96 hidden channels 45,968,454. The authors'
    code has 42,788 and 42,956 more: its deepest prior has a network that it never uses (41,636), its gates add two
    biases (1,152), and the limits of its log-scales are products of two parameters (168).

    Args:
        shape: the shape of an image; height and width divisible by 2 ** num_scales.
        num_grey_levels: grey levels.
        coupling: "affine" or "mixlogcdf", the mixture of logistics.
        num_scales: L, levels of the flow, each at half the resolution of the one before.
        num_steps: K, steps per level.
        hidden_channels: C, the width of the conditioner networks; a multiple of 4 for mixture couplings.
        num_blocks, num_components, dropout: for mixture couplings: blocks of the conditioner, logistics per mixture,
            and the probability to drop an activation in training.
        prior: "mar", the autoregressive prior; "glow", a Gaussian given the continuing half; "none", N(0, I).
        prior_channels, prior_layers: width and layers of the ConvLSTM.
        num_noise_couplings, noise_channels: variational dequantization, our addition; 0 for uniform noise as in the
            paper.
        spacing: distance of the grey levels, see ``Dequantize``; 1/255 in the authors' code.
        lowest_scale: the lowest scale of affine couplings, see ``SigmoidScale``.
    """
    if coupling not in ("affine", "mixlogcdf"):
        raise ValueError(f"coupling is 'affine' or 'mixlogcdf', got {coupling!r}")
    if prior not in ("mar", "glow", "none"):
        raise ValueError(f"prior is 'mar', 'glow' or 'none', got {prior!r}")
    if spacing is not None and num_noise_couplings:
        raise ValueError("spacing is for uniform noise: give it without num_noise_couplings")

    def step(channels: int) -> list[Bijection]:
        half, layers = channels // 2, [ActNorm(channels), Conv1x1(channels)]
        if coupling == "affine":
            net = ActNormConvNet(half, hidden_channels, channels)
            return [*layers, AffineCoupling(net, bound=SigmoidScale(lowest=lowest_scale))]
        outputs = (2 + 3 * num_components) * half
        net = GatedAttentionNet(half, hidden_channels, outputs, num_blocks=num_blocks, dropout=dropout)
        # The first half moves, then the halves swap.
        swap = Permute([*range(half, channels), *range(half)])
        return [*layers, MixtureCoupling(net, num_components, keep="second", bound=ScaledTanh(half)), swap]

    levels, channels = flow_levels(shape[0], num_scales, num_steps, step)
    priors: Sequence[Bijection] | None = None
    if prior == "glow":
        priors = learned_priors(channels)
    if prior == "mar":
        priors = [
            _prior(i, None if i == num_scales - 1 else c, prior_channels, prior_layers) for i, c in enumerate(channels)
        ]
    if num_noise_couplings:
        dequantize = variational_dequantize(shape, num_grey_levels, num_noise_couplings, noise_channels, num_blocks=3)
    else:
        dequantize = Dequantize(num_grey_levels, alpha=None, spacing=spacing)
    return Flow(Sequential(dequantize, Multiscale(levels, shape, priors)), shape)


def _prior(index: int, context_channels: int | None, hidden_channels: int, num_layers: int) -> ConvLSTMPrior:
    """Makes the prior of level ``index``, counted from 0; without context_channels it is the deepest one."""
    kernel_size, dilation = (5, 5, 3)[min(index, 2)], 2 if index == 0 else 1
    num_maps = 0 if context_channels is None else 4
    lstm = ConvLSTM(1 + num_maps, hidden_channels, 2, num_layers, kernel_size, dilation)
    if context_channels is None:
        return ConvLSTMPrior(lstm)
    features = nn.Sequential(
        nn.Conv2d(context_channels, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, num_maps, 5, padding=2)
    )
    return ConvLSTMPrior(lstm, features)


@builder
def digits_mar_scf(
    shape: tuple[int, int, int] = (1, 8, 8), num_grey_levels: int = 17, coupling: str = "mixlogcdf", **changes: Any
) -> Flow:
    """``mar_scf`` for the 8x8 digits of scikit-learn; the sizes are ours.

    Args:
        coupling: "affine" or "mixlogcdf".
        changes: further arguments of ``mar_scf``.
    """
    affine = {"num_steps": 4, "hidden_channels": 48}
    mixture = {"num_steps": 2, "hidden_channels": 24, "num_blocks": 1, "num_components": 4, "dropout": 0.1}
    sizes = {"num_scales": 2, "prior_channels": 12, "prior_layers": 1}
    return mar_scf(
        shape, num_grey_levels, coupling, **{**sizes, **(affine if coupling == "affine" else mixture), **changes}
    )
