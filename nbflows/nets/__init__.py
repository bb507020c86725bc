"""Conditioner networks: plain modules without any knowledge of flows."""

from nbflows.nets.convnet import ConvNet
from nbflows.nets.gated import GatedConvNet
from nbflows.nets.mlp import MLP

__all__ = ["MLP", "ConvNet", "GatedConvNet"]
