"""Layers that start at zero, so that a coupling starts as the identity."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def with_zeros(layer: Layer) -> Layer:
    """Sets every parameter of a layer to zero and returns the layer."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
