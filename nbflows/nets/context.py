"""Prepares the input of a conditioner network: joins the context to the channels, and puts channels innermost."""

import torch
from torch import Tensor

from nbflows import derivatives


def join_context(x: Tensor, context: Tensor | None, context_channels: int) -> Tensor:
    """Joins the context's channels behind those of x; returns x alone for a network without a context.

    A context of one position, ``(B, context_channels, 1, 1)``, is the same at all positions.

    Raises:
        ValueError: the network declared ``context_channels`` > 0 and the context is missing or does not fit.
    """
    if context_channels == 0:
        return x
    wanted = (x.shape[0], context_channels, *x.shape[2:])
    if context is not None and context.shape == (*wanted[:2], *[1] * (x.dim() - 2)):
        context = context.expand(wanted)
    if context is None or tuple(context.shape) != wanted:
        got = "none" if context is None else f"{tuple(context.shape)}"
        raise ValueError(f"this network was built for a context of {wanted}, got {got}")
    return torch.cat([x, context.to(x.dtype)], dim=1)


def channels_last(x: Tensor) -> Tensor:
    """x with channels innermost in memory, the layout that convolutions and norms read fastest."""
    # vmap does not support this layout.
    return x if derivatives.transformed() else x.contiguous(memory_format=torch.channels_last)
