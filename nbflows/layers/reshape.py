"""Layers that only move numbers to other places: log_det = 0."""

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from nbflows.bijection import Bijection, zero_log_det


def halves(x: Tensor, keep: str) -> tuple[Tensor, Tensor]:
    """The half of the channels that ``keep`` ("first" or "second") names, then the other one."""
    first, second = x.chunk(2, dim=1)
    return (first, second) if keep == "first" else (second, first)


def join_halves(kept: Tensor, other: Tensor, keep: str) -> Tensor:
    """Undoes ``halves``."""
    return torch.cat([kept, other] if keep == "first" else [other, kept], dim=1)


class Squeeze(Bijection):
    """Folds each 2x2 block of pixels into channels: half the resolution, four times the channels.

    z[4c + 2 dy + dx, i, j] = x[c, 2i + dy, 2j + dx],   log_det = 0.

    Shapes: ``(B, C, H, W)`` to ``(B, 4C, H/2, W/2)``.
    Source: Dinh et al., "Density estimation using Real NVP", 2017, section 3.6 (arXiv:1605.08803). The channel order
    is that of ``pixel_unshuffle``: the first half of a squeezed channel holds even rows, the second half odd rows.
    """

    recomputed_from = "output"

    def forward(self, x, context=None):
        shape = self.output_shape(tuple(x.shape[1:]))
        # torch leaves empty batches as they are.
        return F.pixel_unshuffle(x, 2) if len(x) else x.new_empty(0, *shape), zero_log_det(x)

    def inverse(self, z, context=None):
        return F.pixel_shuffle(z, 2)

    def output_shape(self, shape):
        c, h, w = shape
        if h % 2 or w % 2:
            raise ValueError(
                f"Squeeze needs an even height and width, got {h}x{w}; pad the images or use one level fewer"
            )
        return 4 * c, h // 2, w // 2


class Flatten(Bijection):
    """Turns images into vectors: z = x, row by row and channel by channel,   log_det = 0.

    Args:
        shape: ``(C, H, W)`` of the images.

    Shapes: ``(B, C, H, W)`` to ``(B, C H W)``.
    """

    recomputed_from = "output"

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x, context=None):
        self.output_shape(tuple(x.shape[1:]))
        return x.flatten(1), zero_log_det(x)

    def inverse(self, z, context=None):
        return z.unflatten(1, self.shape)

    def output_shape(self, shape):
        if tuple(shape) != self.shape:
            raise ValueError(f"Flatten was built for {self.shape}, got {tuple(shape)}")
        return (prod(self.shape),)


class Permute(Bijection):
    """Reorders the channels: z[i] = x[order[i]],   log_det = 0.

    Args:
        order: every channel once.
    """

    recomputed_from = "output"

    def __init__(self, order):
        super().__init__()
        order = torch.as_tensor(order)
        # Without memory, on the device "meta", there are no numbers to look at.
        is_sorted = order.is_meta or torch.equal(order.flatten().sort().values, torch.arange(order.numel()))
        if order.dim() != 1 or not is_sorted:
            raise ValueError(f"a permutation holds each of 0..{max(order.numel() - 1, 0)} once, got {order.tolist()}")
        self.register_buffer("order", order)

    def forward(self, x, context=None):
        self.output_shape(tuple(x.shape[1:]))
        return x[:, self.order], zero_log_det(x)

    def inverse(self, z, context=None):
        return z[:, self.order.argsort()]

    def output_shape(self, shape):
        if shape[0] != len(self.order):
            raise ValueError(f"Permute was built for {len(self.order)} channels, got {shape[0]}")
        return tuple(shape)


class Flip(Bijection):
    """Reverses the order of the channels: the next coupling moves what the last one kept. log_det = 0."""

    recomputed_from = "output"

    def forward(self, x, context=None):
        return x.flip(1), zero_log_det(x)

    def inverse(self, z, context=None):
        return z.flip(1)
