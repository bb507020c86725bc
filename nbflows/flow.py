"""A bijection and standard normal noise: a distribution to score, encode, decode and sample."""

import math
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nbflows.bijection import Bijection, sum_dimensions


def log_standard_normal(z: Tensor, dtype: torch.dtype) -> Tensor:
    """log N(z; 0, I), summed over all dimensions in ``dtype``: ``(B,)``."""
    return sum_dimensions(-0.5 * (z.to(dtype).square() + math.log(2 * math.pi)))


class Flow(nn.Module):
    """The distribution of x when z = bijection(x) is standard normal noise.

    log p(x) = log N(z; 0, I) + log_det.  For an image flow (first layer ``Dequantize``) this is a lower bound of the
    log-probability of the discrete image, estimated with one draw of the dequantization noise.

    Args:
        bijection: data -> noise.
        shape: of one example, ``(C, H, W)`` or ``(D,)``; every layer is checked against it here.
        context_shape: of the context of one example; None if the flow takes no context.

    Attributes:
        built_by: the name and the arguments of the function of ``nbflows.models`` that made it; None if none did.
    """

    built_by: tuple[str, dict] | None = None

    def __init__(self, bijection: Bijection, shape: Sequence[int], context_shape: Sequence[int] | None = None):
        super().__init__()
        self.bijection = bijection
        self.shape = tuple(shape)
        self.context_shape = None if context_shape is None else tuple(context_shape)
        self.latent_shape = bijection.output_shape(self.shape)
        # Follows .to() and .double(), so that noise is drawn where the parameters are, also in a flow without any.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def _check(self, x: Tensor, shape: tuple[int, ...], context: Tensor | None) -> None:
        if tuple(x.shape[1:]) != shape:
            raise ValueError(f"expected a batch of {shape}, got a tensor of {tuple(x.shape)}")
        self._check_context(context, len(x))

    def _check_context(self, context: Tensor | None, *num_rows: int) -> None:
        if (context is None) != (self.context_shape is None):
            wanted = "takes no context" if self.context_shape is None else f"needs a context of {self.context_shape}"
            raise ValueError(f"this flow {wanted}")
        if context is not None and tuple(context.shape) not in [(rows, *self.context_shape) for rows in num_rows]:
            raise ValueError(
                f"expected a context of {(num_rows[0], *self.context_shape)}, one row per example, "
                f"got {tuple(context.shape)}"
            )

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to noise: z ``(B, *latent_shape)``, every level of it, and log_det ``(B,)`` in nats."""
        self._check(x, self.shape, context)
        return self.bijection(x, self.encode_context(context))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps noise to data ``(B, *shape)``; uint8 for image flows."""
        self._check(z, self.latent_shape, context)
        return self.bijection.inverse(z, self.encode_context(context))

    def encode_context(self, context: Tensor | None) -> Tensor | None:
        """What the layers get of a context: the context itself, unless a kind of flow makes something of it first."""
        return context

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x) in nats, ``(B,)``; for image flows a one-draw estimate of a lower bound."""
        z, log_det = self.encode(x, context)
        return log_standard_normal(z, log_det.dtype) + log_det

    def bits_per_dim(
        self, x: Tensor, context: Tensor | None = None, num_draws: int = 1, chunk_size: int = 256
    ) -> Tensor:
        """-log2 p(x) / D with D dimensions, ``(B,)``; lower is better, 8 is a uniform guess for 8-bit images.

        With M = ``num_draws`` > 1, p(x) is the mean over M draws of the dequantization noise: the importance-weighted
        bound, which tightens as M grows (Burda et al., 2016, arXiv:1509.00519). Different M do not compare. Where
        log-determinants are estimates (``SeriesLogDet``), only M = 1 is right: their noise alone makes a mean of
        exponentials larger.

        Args:
            num_draws: M.
            chunk_size: images in one pass through the flow; bounds the memory.
        """
        return -self.log_prob_bound(x, context, num_draws, chunk_size) / (math.prod(self.shape) * math.log(2))

    def log_prob_bound(
        self, x: Tensor, context: Tensor | None = None, num_draws: int = 1, chunk_size: int = 256
    ) -> Tensor:
        """The bound of ``bits_per_dim``, with the same arguments, as log p(x) in nats: ``(B,)``."""
        if num_draws < 1 or chunk_size < 1:
            raise ValueError(f"num_draws and chunk_size are at least 1, got {num_draws} and {chunk_size}")
        self._check(x, self.shape, context)
        rows = torch.arange(len(x), device=x.device).repeat_interleave(num_draws)
        log_probs = [
            self.log_prob(x[chunk], None if context is None else context[chunk]) for chunk in rows.split(chunk_size)
        ]
        return torch.cat(log_probs).view(len(x), num_draws).logsumexp(1) - math.log(num_draws)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        temperature: float | Sequence[float] = 1.0,
        generator: torch.Generator | None = None,
        chunk_size: int = 256,
        progress: bool = False,
    ) -> Tensor:
        """Draws ``(num_samples, *shape)``, on the device of the flow.

        Args:
            context: one row per sample, or one row for all of them.
            temperature: scales the noise: one number, or one per level (finest first). Below 1: more typical samples.
            generator: of the noise, on the device of the flow; default torch's global one.
            chunk_size: samples in one pass through the flow; bounds the memory. Their noise is the same whatever it is.
            progress: show a progress bar where one pass is not enough.
        """
        if num_samples < 0 or chunk_size < 1:
            raise ValueError(f"num_samples is at least 0, chunk_size at least 1; got {num_samples} and {chunk_size}")
        self._check_context(context, num_samples, 1)
        context = self._encode_contexts(context, chunk_size)
        if context is not None and len(context) == 1:
            context = context.expand(num_samples, *context.shape[1:])
        samples = []
        for rows, z in self._noise_chunks(num_samples, temperature, generator, chunk_size, progress):
            samples.append(self.bijection.inverse(z, None if context is None else context[rows]))
        return torch.cat(samples)

    def draw_noise(
        self,
        num_samples: int,
        temperature: float | Sequence[float] = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What ``sample`` decodes: standard normal noise ``(num_samples, *latent_shape)`` times the temperature."""
        z = torch.cat(
            [
                torch.randn(
                    rows, *self.latent_shape, generator=generator, dtype=self._like.dtype, device=self._like.device
                )
                for rows in _noise_blocks(num_samples)
            ]
        )
        levels = self.unpack(z)
        temperatures = [temperature] * len(levels) if isinstance(temperature, (int, float)) else list(temperature)
        if len(temperatures) != len(levels) or min(temperatures) < 0:
            raise ValueError(
                f"temperature is a number >= 0 or one per level; this flow has {len(levels)}, got {temperature}"
            )
        return self.pack([t * level for t, level in zip(temperatures, levels, strict=True)])

    def _noise_chunks(
        self,
        num_samples: int,
        temperature: float | Sequence[float],
        generator: torch.Generator | None,
        chunk_size: int,
        progress: bool,
    ) -> Iterator[tuple[slice, Tensor]]:
        """``draw_noise`` chunk by chunk, with the rows that each one is of it; one chunk if it is empty."""
        starts = range(0, max(num_samples, 1), chunk_size)
        blocks, left = iter(_noise_blocks(num_samples)), []
        # Not stderr, which notebooks show in red.
        for start in tqdm(starts, "sampling", file=sys.stdout, leave=None, disable=not progress or len(starts) == 1):
            rows = slice(start, min(start + chunk_size, num_samples))
            size = rows.stop - rows.start
            while not left or sum(map(len, left)) < size:
                left.append(self.draw_noise(next(blocks), temperature, generator))
            noise = torch.cat(left)
            yield rows, noise[:size]
            left = [noise[size:]]

    def _encode_contexts(self, context: Tensor | None, chunk_size: int) -> Tensor | None:
        """``encode_context``, so many rows in one pass."""
        if context is None:
            return None
        return torch.cat([self.encode_context(part) for part in context.split(chunk_size)])

    def unpack(self, z: Tensor) -> list[Tensor]:
        """Cuts a latent into its levels, finest first; a flow that is not multi-scale has one."""
        return self.bijection.unpack(z)

    def pack(self, levels: list[Tensor]) -> Tensor:
        """Joins the levels of ``unpack`` to one latent."""
        return self.bijection.pack(levels)


# A multiple of 16: torch draws normal numbers on a CPU 16 at a time.
_NOISE_BLOCK = 256


def _noise_blocks(num_samples: int) -> list[int]:
    """Rows of noise that are drawn at once, whatever the chunks: two draws are not always the halves of one draw.

    The last block is up to twice as large, as fewer than 16 numbers would be drawn in another way.
    """
    num_whole = max(num_samples // _NOISE_BLOCK - 1, 0)
    return [*[_NOISE_BLOCK] * num_whole, num_samples - num_whole * _NOISE_BLOCK]
