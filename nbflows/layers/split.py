"""Ways to split the channels in two parts, and to join them again."""

import torch
from torch import Tensor, nn


class Halves:
    """Keeps the "first" or the "second" half of the channels."""

    def __init__(self, keep: str):
        if keep not in ("first", "second"):
            raise ValueError(f"keep is 'first' or 'second', got {keep!r}")
        self.keep = keep

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the half that is kept, then the other one."""
        first, second = x.chunk(2, dim=1)
        return (first, second) if self.keep == "first" else (second, first)

    def join(self, kept: Tensor, other: Tensor) -> Tensor:
        """Undoes ``split``."""
        return torch.cat([kept, other] if self.keep == "first" else [other, kept], dim=1)

    def of_other(self, t: Tensor) -> Tensor:
        """Restricts shifts or scales to the part that is not kept."""
        return t

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for a shape that cannot be split this way."""
        if shape[0] % 2:
            raise ValueError(f"a coupling of halves needs an even number of channels, got {shape[0]}; use a mask")


class FirstChannels:
    """Keeps the first ``count`` channels, possibly none; methods as in ``Halves``."""

    def __init__(self, count: int):
        self.count = count

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.count], x[:, self.count :]

    def join(self, kept: Tensor, other: Tensor) -> Tensor:
        return torch.cat([kept, other], dim=1)

    def of_other(self, t: Tensor) -> Tensor:
        return t

    def check(self, shape: tuple[int, ...]) -> None:
        if shape[0] <= self.count:
            raise ValueError(f"a coupling that keeps {self.count} channels has none to move of {shape[0]}")


class Mask(nn.Module):
    """Keeps x where a mask ``(C or 1, H, W)`` or ``(D,)`` is True; both parts are zero elsewhere.

    Methods as in ``Halves``.
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        if mask.dtype != torch.bool:
            raise ValueError(f"a mask is a bool tensor, True where x is kept; got {mask.dtype}")
        self.register_buffer("mask", mask, persistent=False)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.mask, x * ~self.mask

    def join(self, kept: Tensor, other: Tensor) -> Tensor:
        return kept + other

    def of_other(self, t: Tensor) -> Tensor:
        return t * ~self.mask

    def check(self, shape: tuple[int, ...]) -> None:
        channels, *size = self.mask.shape
        if len(shape) != self.mask.dim() or tuple(shape[1:]) != tuple(size) or channels not in (1, shape[0]):
            raise ValueError(f"the mask {tuple(self.mask.shape)} does not fit {tuple(shape)}")


def splitter(keep: str | int | Tensor) -> Halves | FirstChannels | Mask:
    """Makes the split that ``AffineCoupling`` names by its argument ``keep``."""
    if isinstance(keep, Tensor):
        return Mask(keep)
    if isinstance(keep, int) and not isinstance(keep, bool) and keep >= 0:
        return FirstChannels(keep)
    if keep in ("first", "second"):
        return Halves(keep)
    raise ValueError(f"keep is 'first', 'second', a number of channels or a mask, got {keep!r}")
