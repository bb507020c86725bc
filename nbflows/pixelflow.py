"""PixelFlow: exact probabilities of integer images, sampling in reading order, completion of images."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from nbflows import inputs
from nbflows.flow import Flow, require_finite, sample_shape
from nbflows.layers.dequantize import check_grey_levels
from nbflows.layers.subset import SubsetAutoregressive
from nbflows.progress import bar


class PixelFlow(Flow):
    """The flow of one ``SubsetAutoregressive`` layer: log p(x) is exact, and needs no draws of noise.

    Args:
        layer: integers to noise.
    """

    has_exact_probabilities = True

    def __init__(self, layer: SubsetAutoregressive):
        super().__init__(layer, layer.net.shape)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the exact log p(x) in nats, ``(B,)``."""
        self._check(x, context)
        return cast(SubsetAutoregressive, self.bijection).log_prob(x)

    def log_prob_bound(
        self, x: Tensor, context: Tensor | None = None, num_draws: int = 1, chunk_size: int = 256
    ) -> Tensor:
        """Returns ``log_prob``, ``chunk_size`` images at a time: no noise is drawn, and ``num_draws`` is ignored."""
        inputs.whole(num_draws, "num_draws", 1)
        return super().log_prob_bound(x, context, 1, chunk_size)

    def _sample(
        self,
        num_samples: int | Sequence[int],
        context: Tensor | None,
        temperature: float | Sequence[float],
        generator: torch.Generator | None,
        chunk_size: int = 256,
        progress: bool = False,
    ) -> Tensor:
        size = sample_shape(num_samples)
        self._check_context(context, 1)
        if isinstance(temperature, (tuple, list)):
            if len(temperature) != 1:
                raise ValueError(f"temperature is one number, this flow has one level; got {temperature}")
            (temperature,) = temperature
        known = torch.zeros(1, self.shape[0], 0, self.shape[2], dtype=torch.uint8, device=self.device)
        samples = self.complete(known, math.prod(size), cast(float, temperature), generator, chunk_size, progress)
        return samples[0].view(*size, *self.shape)

    @torch.no_grad()
    def complete(
        self,
        known: Tensor,
        num_samples: int = 1,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        chunk_size: int = 256,
        progress: bool = False,
    ) -> Tensor:
        """Draws images that begin with known rows, from the conditional distribution: ``(N, num_samples, C, H, W)``.

        Args:
            known: uint8 ``(N, C, rows, W)``, the upper rows of N images.
            num_samples: images drawn for each.
            temperature: the logits are divided by it; below 1: more typical images.
            generator, chunk_size, progress: as in ``sample``.
        """
        self._check_precision()
        channels, height, columns = self.shape
        if known.dim() != 4 or known.shape[1::2] != (channels, columns) or known.shape[2] > height:
            raise ValueError(f"known rows are (N, {channels}, rows, {columns}), got {tuple(known.shape)}")
        if known.dtype != torch.uint8:
            raise TypeError(f"known rows are uint8 grey levels, got {known.dtype}")
        num_samples = inputs.whole(num_samples, "num_samples", 0)
        temperature = inputs.number(temperature, "temperature", 0)
        layer, chunk_size = cast(SubsetAutoregressive, self.bijection), inputs.whole(chunk_size, "chunk_size", 1)
        check_grey_levels(known, layer.num_grey_levels)
        # Logits that are not numbers would give black images.
        require_finite(self)
        rows = known.to(self.device).repeat_interleave(num_samples, 0)
        noise = self.draw_noise(len(rows), 1.0, generator)
        chunks = list(zip(noise.split(chunk_size), rows.split(chunk_size), strict=True))
        shown = bar(chunks, "sampling", show=progress and len(chunks) > 1, leave=None)
        images = torch.cat([layer.generate(z, part, temperature) for z, part in shown])
        return images.view(len(known), num_samples, *self.shape)
