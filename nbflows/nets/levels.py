"""Picks the levels of a latent that a network reads."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PickLevels(nn.Module):
    """Cuts some levels out of a flat latent and stacks them along channels.

    Args:
        shapes: ``(C, H, W)`` of every level in the latent, in order.
        picked: indices of the levels to stack, in the order of the stack; all of one height and width.
        squeeze: fold each 2x2 block of pixels into channels, as ``Squeeze`` does.

    Shapes: ``(B, D)`` to ``(B, C, H, W)`` with C the picked channels; squeezed ``(B, 4C, H/2, W/2)``.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], picked: list[int], squeeze: bool = False):
        super().__init__()
        self.shapes, self.picked, self.squeeze = [tuple(shape) for shape in shapes], list(picked), squeeze
        sizes = {self.shapes[i][1:] for i in picked}
        if len(sizes) != 1:
            raise ValueError(f"levels to be stacked have one height and width, got {sorted(sizes)}")
        ((height, width),) = sizes
        if squeeze and (height % 2 or width % 2):
            raise ValueError(f"levels of {height}x{width} cannot be squeezed: height and width must be even")

    def forward(self, latent: Tensor | None) -> Tensor:
        sizes = [prod(shape) for shape in self.shapes]
        if latent is None or latent.shape[1] != sum(sizes):
            got = "none" if latent is None else f"{tuple(latent.shape)}"
            raise ValueError(f"these levels make a latent of {sum(sizes)} numbers, got {got}")
        parts = latent.split(sizes, dim=1)
        stack = torch.cat([parts[i].unflatten(1, self.shapes[i]) for i in self.picked], dim=1)
        if not self.squeeze:
            return stack
        _, c, h, w = stack.shape
        # pixel_unshuffle does not reshape empty batches.
        return F.pixel_unshuffle(stack, 2) if len(stack) else stack.new_empty(0, 4 * c, h // 2, w // 2)
