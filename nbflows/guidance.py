"""Samples of transformer flows: guided towards their labels, and freed of the noise that the flow was trained with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from nbflows import inputs
from nbflows.compose import Sequential
from nbflows.flow import Flow, log_standard_normal
from nbflows.labelled import LabelledFlow
from nbflows.layers import GaussianNoise, PatchAutoregressive


@contextmanager
def guided(flow: Flow, strength: float, attention_temperature: float = 1.0) -> Iterator[None]:
    """Within it the flow's samples are guided: each block takes a + g (a - a') and b + g (b - b').

    a and b are what the block's network says about a patch; a' and b' are what it says without the labels, and with
    its attention at another temperature. A flow without labels is guided by the temperature alone. The distribution
    of guided samples is not the flow's, and the flow does not know its density.

    Args:
        flow: built by ``models.tarflow``; if it takes labels, trained with ``label_dropout``.
        strength: g; 0 for none.
        attention_temperature: for a' and b'.

    Raises:
        ValueError: the flow has no blocks to guide, or a' and b' would be no weaker than a and b.

    Source: Zhai et al., "Normalizing flows are capable generative models", 2024 (arXiv:2412.06329), after Ho and
    Salimans, "Classifier-free diffusion guidance", 2022 (arXiv:2207.12598).
    """
    strength = inputs.number(strength, "strength", 0)
    attention_temperature = inputs.number(attention_temperature, "attention_temperature", above=0)
    blocks = [layer for layer in flow.modules() if isinstance(layer, PatchAutoregressive)]
    if not blocks:
        raise ValueError("guidance is for flows with PatchAutoregressive layers, such as models.tarflow")
    if strength and attention_temperature == 1 and not getattr(flow, "label_dropout", 0):
        raise ValueError(
            "guidance needs a flow that was trained with label_dropout, or an attention_temperature other than 1"
        )
    before = [(block.guidance, block.guidance_temperature) for block in blocks]
    try:
        for block in blocks:
            block.guidance, block.guidance_temperature = strength, attention_temperature
        yield
    finally:
        for block, settings in zip(blocks, before, strict=True):
            block.guidance, block.guidance_temperature = settings


def denoise(flow: Flow, x: Tensor, labels: Tensor | None = None, sigma: float | None = None) -> Tensor:
    """Returns the mean of images without noise given noisy ones: x + sigma^2 d log p(x) / dx, Tweedie's formula.

    Args:
        flow: one whose first layer is ``GaussianNoise``.
        x: noisy images as the second layer sees them, ``(B, C, H, W)``, black at -1 and white at 1.
        labels: as for ``log_prob``.
        sigma: standard deviation of the noise to remove, if the images have noise besides that of the layer.

    Source: Efron, "Tweedie's formula and selection bias", 2011; the use: Zhai et al., 2024 (arXiv:2412.06329).
    """
    noise, layers = _parts(flow)
    sigma = noise.sigma if sigma is None else inputs.number(sigma, "sigma", 0)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        z, log_det = layers(x, None if labels is None else flow.encode_context(labels))
        (score,) = torch.autograd.grad((log_standard_normal(z, log_det.dtype) + log_det).sum(), x)
    return (x + sigma**2 * score).detach()


@torch.no_grad()
def sample(
    flow: Flow,
    num_samples: int,
    labels: Tensor | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    sigma: float | None = None,
) -> Tensor:
    """Draws images as ``flow.sample`` does, and removes their noise before values are rounded: uint8.

    Arguments as for ``Flow.sample`` and ``denoise``.
    """
    return decode(flow, flow.draw_noise(num_samples, temperature, generator), labels, sigma)


@torch.no_grad()
def decode(flow: Flow, z: Tensor, labels: Tensor | None = None, sigma: float | None = None) -> Tensor:
    """Decodes latents as ``flow.decode`` does, and removes noise before values are rounded: uint8.

    Arguments as for ``Flow.decode`` and ``denoise``.
    """
    noise, layers = _parts(flow)
    noisy = layers.inverse(z, None if labels is None else flow.encode_context(labels))
    return noise.inverse(denoise(flow, noisy, labels, sigma))


def _parts(flow: Flow) -> tuple[GaussianNoise, Sequential]:
    """The noise and the layers after it."""
    layers = flow.bijection
    if not isinstance(layers, Sequential) or not isinstance(layers[0], GaussianNoise):
        raise ValueError("only images of a flow that begins with GaussianNoise are denoised: tarflow(noise_sigma=0.1)")
    if isinstance(flow, LabelledFlow) and flow.training:
        raise ValueError("in training labels are left out at random: call flow.eval() first")
    return cast(GaussianNoise, layers[0]), cast(Sequential, layers[1:])
