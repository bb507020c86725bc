"""Layers that only rearrange numbers: log_det = 0."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from nbflows.bijection import zero_log_det
from nbflows.recompute import CheapInverse


class Squeeze(CheapInverse):
    """Folds each 2x2 block of pixels into channels: half the resolution, four times the channels.

    z[4c + 2 dy + dx, i, j] = x[c, 2i + dy, 2j + dx],   log_det = 0.

    Shapes: ``(B, C, H, W)`` to ``(B, 4C, H/2, W/2)``.
    Source: Dinh et al., "Density estimation using Real NVP", 2017, section 3.6 (arXiv:1605.08803). The channel order
    is the one of ``pixel_unshuffle``: the first half of a squeezed channel holds even rows, the second half odd rows.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        shape = self.output_shape(tuple(x.shape[1:]))
        # torch does not reshape empty batches.
        return F.pixel_unshuffle(x, 2) if len(x) else x.new_empty(0, *shape), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return F.pixel_shuffle(z, 2)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        c, h, w = shape
        if h % 2 or w % 2:
            raise ValueError(
                f"Squeeze needs an even height and width, got {h}x{w}; pad the images or use one level fewer"
            )
        return 4 * c, h // 2, w // 2


class Flatten(CheapInverse):
    """Turns images into vectors: z = x, row by row and channel by channel,   log_det = 0.

    Args:
        shape: shape ``(C, H, W)`` of the images.

    Shapes: ``(B, C, H, W)`` to ``(B, C H W)``.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        return x.flatten(1), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.unflatten(1, self.shape)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if tuple(shape) != self.shape:
            raise ValueError(f"Flatten was built for {self.shape}, got {tuple(shape)}")
        return (prod(self.shape),)


class Permute(CheapInverse):
    """Reorders the channels: z[i] = x[order[i]],   log_det = 0.

    Args:
        order: every channel once.
    """

    order: Tensor

    def __init__(self, order: Tensor | Sequence[int]):
        super().__init__()
        order = torch.as_tensor(order)
        # On the device "meta" there are no numbers to check.
        is_sorted = order.is_meta or torch.equal(order.flatten().sort().values, torch.arange(order.numel()))
        if order.dim() != 1 or not is_sorted:
            raise ValueError(
                f"a permutation contains each of 0..{max(order.numel() - 1, 0)} once, got {order.tolist()}"
            )
        self.register_buffer("order", order)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        return x[:, self.order], zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z[:, self.order.argsort()]

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape[0] != len(self.order):
            raise ValueError(f"Permute was built for {len(self.order)} channels, got {shape[0]}")
        return tuple(shape)


class Flip(CheapInverse):
    """Reverses the order of the channels, so that the next coupling moves what the last one kept. log_det = 0."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flip(1), zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.flip(1)
