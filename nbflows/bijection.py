"""The contract that every layer keeps: data to noise with its log-determinant, and back."""

import torch
from torch import Tensor, nn


class Bijection(nn.Module):
    """An invertible map between data x and noise z, of known volume change.

    ``forward`` always goes data -> noise and returns ``(z, log_det)``; ``inverse`` always goes noise -> data
    and returns x alone. ``log_det`` is log|det dz/dx|, summed over all dimensions, in nats, shape ``(B,)``.
    Images are ``(B, C, H, W)``, vectors ``(B, D)``; a ``shape`` argument leaves B out. ``context`` is None or a
    tensor with the same B: a layer uses it or passes it on. A call stores nothing on the module.

    Attributes:
        recomputed_from: what backward takes to compute the layer anew where memory is short, see ``Sequential``:
            "output" if the inverse is as cheap as forward; "input"; None for a bijection of other bijections, which
            see to it themselves, or one that has next to nothing to keep.
    """

    recomputed_from: str | None = "input"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to noise: ``(z, log_det)``."""
        raise NotImplementedError

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps noise back to data."""
        raise NotImplementedError

    def recompute(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Finds x again and repeats ``forward`` from there: ``(x, leaf, z, log_det)``.

        z and log_det are differentiable; their gradient with respect to ``leaf`` is that with respect to x.
        """
        with torch.no_grad():
            x = self.inverse(z, context)
        leaf = x.detach().requires_grad_()
        return x, leaf, *self(leaf, context)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of z for an x of this shape. Raises ValueError for a shape that the layer cannot take."""
        return tuple(shape)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """Cuts a latent into its levels, finest first: one level, unless the bijection is multi-scale."""
        return [z]

    def pack(self, levels: list[Tensor]) -> Tensor:
        """Joins the levels of ``unpack`` to one latent."""
        (z,) = levels
        return z


def zero_log_det(x: Tensor) -> Tensor:
    """The log-determinant of a map that keeps volume: zeros ``(B,)``, at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
    return torch.zeros(x.shape[0], dtype=dtype, device=x.device)


def sum_dimensions(x: Tensor) -> Tensor:
    """Sums all but the batch dimension, in at least float32: ``(B, ...)`` to ``(B,)``."""
    return x.flatten(1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))


def __getattr__(name: str):
    if name in ("Identity", "Inverse", "Sequential", "WithContext", "set_memory"):
        raise ImportError(f"{name} is in nbflows.compose now: from nbflows import {name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
