"""A small convolutional conditioner: three convolutions."""

import torch
from torch import Tensor, nn

from nbflows.nets.context import channels_last, join_context
from nbflows.nets.pointwise import PointwiseConv
from nbflows.nets.zeros import with_zeros


class ConvNet(nn.Module):
    """conv 3x3, ReLU, conv 1x1, ReLU, conv 3x3; the last starts at zero, so that a coupling starts as the identity.

    Args:
        in_channels, hidden_channels, out_channels: widths.
        context_channels: channels of the context, 0 for none.

    Shapes: ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``.
    Source: Kingma and Dhariwal, "Glow", 2018, section 3.3 (arXiv:1807.03039), without its ActNorms.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, context_channels: int = 0):
        super().__init__()
        self.context_channels = context_channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels + context_channels, hidden_channels, 3, padding=1),
            nn.ReLU(),
            PointwiseConv(hidden_channels, hidden_channels),
            nn.ReLU(),
            with_zeros(nn.Conv2d(hidden_channels, out_channels, 3, padding=1)),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = join_context(x, context, self.context_channels)
        return self.layers(channels_last(x))
