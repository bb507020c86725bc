"""Flows from images to images: p(target | source), which sample several targets for a source and rank them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from nbflows import inputs
from nbflows.bijection import Bijection
from nbflows.compose import Sequential as Chain
from nbflows.flow import Flow, log_standard_normal, require_tensor
from nbflows.layers.dequantize import Dequantization


@dataclass(frozen=True)
class Translations:
    """N targets for each of B sources.

    Attributes:
        images: uint8 ``(B, N, C, H, W)``.
        scores: ``(B, N)`` in nats, higher is more probable; None if they were not computed.
    """

    images: Tensor
    scores: Tensor | None

    def best(self) -> Tensor:
        """Returns for each source the image with the highest score: ``(B, C, H, W)``."""
        if self.scores is None:
            raise ValueError("these images have no scores; translate with scored=True")
        return self.images[torch.arange(len(self.images), device=self.images.device), self.scores.argmax(1)]


class TranslationFlow(Flow):
    """The distribution of a target image given a source image, by a relation between their latents.

    D = source(context),  L = target(x),  z = relation(L, D):
    log p(x | context) = log N(z; 0, I) + log|det d relation / dL| + log|det d target / dx|.

    The prior of the source is used only in ``source_log_prob``, for training; the prior of the target is the relation.
    Dequantization noise is drawn for both images, and p(x | context) is a mean over it: ``log_prob`` is a one-draw
    estimate of a lower bound, as for every image flow.

    Args:
        source: a flow of source images, whose latent is the context of the relation.
        target: layers from the target image to its latent, ``Dequantize`` first.
        relation: maps the latent of the target to noise, given the latent of the source.
        shape: the shape of a target.

    Source: Batzolis et al., "CAFLOW", 2021, equation 9 (arXiv:2106.02531); with Gaussian relations: Sun et al.,
    "Dual-Glow", 2019 (arXiv:1908.08074).
    """

    bijection: Chain
    context_shape: tuple[int, ...]

    def __init__(self, source: Flow, target: Chain, relation: Bijection, shape: Sequence[int]):
        super().__init__(Chain(*target.layers, relation), shape, source.shape)
        self.source = source

    def encode_context(self, context: Tensor | None) -> Tensor:
        """Returns the latent of the source images, with one draw of their dequantization noise."""
        return self.source.encode(cast(Tensor, context))[0]

    def source_log_prob(self, source: Tensor) -> Tensor:
        """Returns log p(source) in nats, ``(B,)``, under the flow of the sources."""
        return self.source.log_prob(source)

    def log_probs(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log p(x | context) and log p(context), ``(B,)`` each, with the source encoded once."""
        self._check(x, context)
        latent, source_log_det = self.source.encode(context)
        z, log_det = self.bijection(x, latent)
        source_log_prob = log_standard_normal(latent, source_log_det.dtype) + source_log_det
        return log_standard_normal(z, log_det.dtype) + log_det, source_log_prob

    @torch.no_grad()
    def translate(
        self,
        sources: Tensor,
        num_samples: int = 1,
        temperature: float | Sequence[float] = 1.0,
        generator: torch.Generator | None = None,
        scored: bool = True,
        chunk_size: int = 256,
        progress: bool = False,
    ) -> Translations:
        """Draws ``num_samples`` targets for each source. Every source is encoded once, with one draw of its noise.

        The score of a sample is log p of its image before rounding, in nats. It uses the latents that were drawn, so no
        new noise changes the order.

        Args:
            sources: uint8 ``(B, *context_shape)``.
            temperature: scales the noise: one number, or one per level (finest first).
            generator: random generator of the samples' noise, on the device of the flow; the sources' noise comes from
                torch's global generator.
            scored: whether to compute scores, which takes about as long as the samples.
            chunk_size: samples, or sources, per pass; bounds the memory. It does not change the samples' noise, but the
                sources' noise, which is drawn pass by pass.
            progress: show a progress bar if there is more than one pass.
        """
        num_samples, chunk_size = inputs.whole(num_samples, "num_samples", 1), inputs.whole(chunk_size, "chunk_size", 1)
        if sources is not None:
            require_tensor(sources, f"a batch of {self.context_shape}")
        self._check_context(sources, 0 if sources is None else len(sources))
        latents = cast(Tensor, self._encode_contexts(sources, chunk_size))
        dequantize, *layers = self.bijection.layers
        dequantize = cast(Dequantization, dequantize)
        continuous = Chain(*layers)
        images, scores = [], []
        for rows, z in self._noise_chunks(len(sources) * num_samples, temperature, generator, chunk_size, progress):
            latent = latents[torch.arange(rows.start, rows.stop, device=z.device) // num_samples]
            values = continuous.inverse(z, latent)
            images.append(dequantize.inverse(values))
            if scored:
                _, log_det = continuous(values, latent)
                scores.append(log_standard_normal(z, log_det.dtype) + log_det + dequantize.log_slope(values))
        return Translations(
            torch.cat(images).unflatten(0, (len(sources), num_samples)),
            torch.cat(scores).view(len(sources), num_samples) if scored else None,
        )

    @torch.no_grad()
    def rank(self, candidates: Tensor, sources: Tensor, num_draws: int = 8, chunk_size: int = 256) -> Translations:
        """Scores given images and sorts them for each source, the most probable first.

        The score is the importance-weighted bound of log p(candidate | source) in nats, as in ``bits_per_dim``. It
        depends on the noise that is drawn, less with more draws.

        Args:
            candidates: uint8 ``(B, N, *shape)``.
            sources: uint8 ``(B, *context_shape)``.
            num_draws: draws of the dequantization noise per candidate.
            chunk_size: images per pass.
        """
        require_tensor(candidates, f"candidates (B, N, *{self.shape})")
        require_tensor(sources, f"a batch of {self.context_shape}")
        if candidates.dim() != 2 + len(self.shape) or len(candidates) != len(sources) or 0 in candidates.shape[:2]:
            raise ValueError(
                f"candidates are (B, N, *{self.shape}) for B = {len(sources)} sources, got {tuple(candidates.shape)}"
            )
        count = candidates.shape[1]
        scores = self.log_prob_bound(
            candidates.flatten(0, 1), sources.repeat_interleave(count, dim=0), num_draws, chunk_size
        ).view(len(sources), count)
        order = scores.argsort(dim=1, descending=True)
        rows = torch.arange(len(sources), device=order.device)[:, None]
        return Translations(candidates[rows, order], scores[rows, order])
