"""TarFlow: blocks of causal transformers over patches, in alternating order."""

from nbflows.bijection import Bijection
from nbflows.compose import Sequential
from nbflows.flow import Flow
from nbflows.labelled import LabelledFlow
from nbflows.layers import Dequantize, GaussianNoise, PatchAutoregressive, Patches
from nbflows.models.builder import builder
from nbflows.models.tutorial import variational_dequantize
from nbflows.nets import CausalSequenceNet


@builder
def tarflow(
    shape: tuple[int, int, int] = (3, 64, 64),
    num_grey_levels: int = 256,
    patch_size: int = 2,
    width: int = 768,
    num_blocks: int = 8,
    num_layers: int = 8,
    num_heads: int = 12,
    alpha: float | None = None,
    num_noise_couplings: int = 0,
    noise_channels: int = 8,
    noise_sigma: float | None = None,
    num_classes: int | tuple[int, ...] = 0,
    label_channels: int = 128,
    label_dropout: float = 0.0,
) -> Flow:
    """Patches, then blocks that each move every patch given those before it; the order is reversed from block to block.

    Args:
        shape: the shape of an image.
        num_grey_levels: grey levels.
        patch_size: P, the side of a patch.
        width, num_layers, num_heads: the transformer of each block.
        num_blocks: blocks.
        alpha: with a number, numbers go through ``Logit(alpha)`` first; None for the interval [0, 1), as in the paper
            but for its scale.
        num_noise_couplings, noise_channels: variational dequantization, our addition; 0 for uniform noise.
        noise_sigma: with a number, Gaussian noise of this standard deviation on the interval [-1, 1] instead of
            dequantization, for samples that ``guidance`` denoises. The paper has 0.05 for images of 64x64.
        num_classes: 0, or the number of classes, or of values of each attribute: then it is a ``LabelledFlow``.
        label_channels: the width of the labels' code.
        label_dropout: how often training leaves the labels out; the paper has 0.1, which guidance needs.

    Raises:
        ValueError: Gaussian noise goes with neither ``alpha`` nor learned noise.

    Source: Zhai et al., "Normalizing flows are capable generative models", 2024 (arXiv:2412.06329). The defaults are
    its model of ImageNet 64x64 without labels.
    """
    if noise_sigma is not None:
        if alpha is not None or num_noise_couplings:
            raise ValueError(f"noise_sigma={noise_sigma} goes with alpha=None and num_noise_couplings=0")
        dequantize: Bijection = GaussianNoise(num_grey_levels, noise_sigma)
    elif num_noise_couplings:
        dequantize = variational_dequantize(shape, num_grey_levels, num_noise_couplings, noise_channels, num_blocks=1)
    else:
        dequantize = Dequantize(num_grey_levels, alpha=alpha)
    patches = Patches(shape, patch_size)
    length, num_features = patches.output_shape(tuple(shape))
    layers: list[Bijection] = [dequantize, patches]
    for i in range(num_blocks):
        net = CausalSequenceNet(
            length,
            num_features,
            2 * num_features,
            width,
            num_layers,
            num_heads,
            context_features=label_channels if num_classes else 0,
        )
        layers.append(PatchAutoregressive(net, reverse=i % 2 == 1))
    if num_classes:
        return LabelledFlow(Sequential(*layers), shape, num_classes, label_channels, label_dropout)
    return Flow(Sequential(*layers), shape)
