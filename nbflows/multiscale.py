"""Levels of decreasing resolution: after each one half of the channels exits early."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from nbflows import recompute
from nbflows.bijection import Bijection, module_list
from nbflows.compose import Identity
from nbflows.layers.split import Halves
from nbflows.recompute import NotRecomputed


class Multiscale(NotRecomputed):
    """Half of the channels exits after every level but the last; each exit has its prior.

    At level i of L:  x = level_i(x);  for i < L:  x, leaving = halves(x),  noise_i = prior_i(leaving, context=x);
    for i = L:  noise_L = prior_L(x, context).  z = [noise_1, ..., noise_L], flattened and joined;
    log_det = the sum of the log-determinants of all levels and priors.

    Args:
        levels: one bijection per level, finest first. All get the outer context.
        shape: ``(C, H, W)`` of the input, checked against every level here.
        priors: one bijection per level that keeps its shape, latent to standard normal noise. Default: ``Identity``.
        keep: which half of the channels continues to the next level, "first" or "second".
        memory: what training keeps of the priors, see ``Sequential``; each level has its own setting.

    Shapes: x ``(B, C, H, W)``, z ``(B, D)`` with D the number of elements of x.
    Source: Dinh et al., "Density estimation using Real NVP", 2017, section 3.6 (arXiv:1605.08803).
    """

    levels: Sequence[Bijection]
    priors: Sequence[Bijection]
    memory: str

    def __init__(
        self,
        levels: Sequence[Bijection],
        shape: tuple[int, ...],
        priors: Sequence[Bijection] | None = None,
        keep: str = "first",
        memory: str = "plain",
    ):
        super().__init__()
        priors = [Identity() for _ in levels] if priors is None else priors
        if not levels or len(priors) != len(levels):
            raise ValueError(f"Multiscale needs one prior per level, got {len(levels)} levels and {len(priors)} priors")
        self.levels = module_list(levels)
        self.priors = module_list(priors)
        self.shape = tuple(shape)
        self.split = Halves(keep)
        self.memory = recompute.check_memory(memory)
        self.latent_shapes = self._latent_shapes()

    def _latent_shapes(self) -> list[tuple[int, ...]]:
        shapes, shape = [], self.shape
        for i, (level, prior) in enumerate(zip(self.levels, self.priors, strict=True)):
            shape = level.output_shape(shape)
            if i < len(self.levels) - 1:
                if shape[0] % 2:
                    raise ValueError(f"level {i} ends with {shape[0]} channels, which cannot be split in halves")
                shape = (shape[0] // 2, *shape[1:])
            if prior.output_shape(shape) != shape:
                raise ValueError(f"the prior of level {i} changes the shape of its latent {shape}")
            shapes.append(shape)
        return shapes

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"this Multiscale was built for images {self.shape}, got {tuple(x.shape[1:])}")
        noises, log_det = [], 0.0
        for level, prior in zip(self.levels[:-1], self.priors[:-1], strict=True):
            x, level_log_det = level(x, context)
            x, leaving = self.split.split(x)
            # The continuing half predicts the exiting half.
            noise, prior_log_det = self._noise(prior, leaving, x)
            noises.append(noise)
            log_det = log_det + level_log_det + prior_log_det
        x, level_log_det = self.levels[-1](x, context)
        noise, prior_log_det = self._noise(self.priors[-1], x, context)
        return self.pack([*noises, noise]), log_det + level_log_det + prior_log_det

    def _noise(self, prior: Bijection, latent: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        (part,) = recompute.parts([prior], self.memory)
        return part(latent, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        *noises, noise = self.unpack(z)
        x = self.levels[-1].inverse(self.priors[-1].inverse(noise, context), context)
        for level, prior, noise in zip(
            reversed(self.levels[:-1]), reversed(self.priors[:-1]), reversed(noises), strict=True
        ):
            leaving = prior.inverse(noise, context=x)
            x = level.inverse(self.split.join(x, leaving), context)
        return x

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if tuple(shape) != self.shape:
            raise ValueError(f"this Multiscale was built for images {self.shape}, got {tuple(shape)}")
        return (prod(self.shape),)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """Cuts ``(B, D)`` into the latents of the levels, ``(B, c, h, w)`` each, finest first."""
        parts = z.split([prod(shape) for shape in self.latent_shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.latent_shapes, strict=True)]

    def pack(self, levels: list[Tensor]) -> Tensor:
        """Joins the latents of the levels into ``(B, D)``."""
        return torch.cat([level.flatten(1) for level in levels], dim=1)
