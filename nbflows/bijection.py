"""The contract that every layer keeps: data to noise with its log-determinant, and back."""

from collections.abc import Iterable, Sequence
from typing import NoReturn, TypeVar, cast

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Bijection(nn.Module):
    """An invertible map between data x and noise z with a known change of volume.

    ``forward`` always goes data -> noise and returns ``(z, log_det)``; ``inverse`` always goes noise -> data
    and returns x alone. ``log_det`` is log|det dz/dx|, summed over all dimensions, in nats, shape ``(B,)``.
    Images are ``(B, C, H, W)``, vectors ``(B, D)``; a ``shape`` argument leaves B out. ``context`` is None or a
    tensor with the same B: a layer uses it or passes it on. A call stores nothing on the module.

    A layer whose inverse is as cheap as ``forward`` subclasses ``nbflows.recompute.CheapInverse``, which saves memory.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to noise: ``(z, log_det)``."""
        raise NotImplementedError

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps noise back to data."""
        raise NotImplementedError

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of z for an x of this shape. Raises ValueError for a shape that the layer cannot take."""
        return tuple(shape)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """Cuts a latent into its levels, finest first: one level, unless the bijection is multi-scale."""
        return [z]

    def pack(self, levels: list[Tensor]) -> Tensor:
        """Joins the levels of ``unpack`` into one latent."""
        (z,) = levels
        return z


def zero_log_det(x: Tensor) -> Tensor:
    """Returns the log-determinant of a map that preserves volume: zeros ``(B,)``, at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
    return torch.zeros(x.shape[0], dtype=dtype, device=x.device)


def sum_dimensions(x: Tensor) -> Tensor:
    """Sums all but the batch dimension, in at least float32: ``(B, ...)`` to ``(B,)``."""
    return x.flatten(1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))


def module_list(modules: Iterable[Module]) -> Sequence[Module]:
    """Returns an ``nn.ModuleList`` whose elements keep their type for editors and type checkers."""
    return cast(Sequence[Module], nn.ModuleList(modules))


def __getattr__(name: str) -> NoReturn:
    if name in ("Identity", "Inverse", "Sequential", "WithContext", "set_memory"):
        raise ImportError(f"{name} is in nbflows.compose now: from nbflows import {name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
