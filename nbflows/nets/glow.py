"""Glow's conditioner: three convolutions with ActNorm between them."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows.nets.context import channels_last, join_context
from nbflows.nets.norm import ActNormAffine
from nbflows.nets.zeros import with_zeros


class ActNormConvNet(nn.Module):
    """conv 3x3, ActNorm, ReLU, conv 1x1, ActNorm, ReLU, ``ZeroConv``.

    Args:
        in_channels, hidden_channels, out_channels: widths.
        context_channels: channels of the context, 0 for none.

    Shapes: ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``. The first training batch sets the ActNorms.
    Source: Kingma and Dhariwal, "Glow", 2018, section 3.3 and the authors' code (arXiv:1807.03039).
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, context_channels: int = 0):
        super().__init__()
        self.context_channels = context_channels
        self.first = NormalizedConv(in_channels + context_channels, hidden_channels, 3)
        self.second = NormalizedConv(hidden_channels, hidden_channels, 1)
        self.last = ZeroConv(hidden_channels, out_channels)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = join_context(x, context, self.context_channels)
        x = self.first(channels_last(x)).relu_()
        return self.last(self.second(x).relu_())


class NormalizedConv(nn.Module):
    """A convolution without bias, then ActNorm, as one convolution: exp(log_scale) (W * x + bias)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.normal_(self.conv.weight, std=0.05)
        self.norm = ActNormAffine(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        # Compiled networks have seen data; reading the buffer would cause a graph break.
        if not torch.compiler.is_compiling() and not self.norm.has_seen_data:
            # Sets bias and scale in training mode; raises RuntimeError in eval mode.
            self.norm.see(self.conv(x.detach()).float())
        scale = self.norm.log_scale.exp()
        return F.conv2d(
            x, self.conv.weight * scale[:, None, None, None], self.norm.bias * scale, padding=self.conv.padding
        )


class ZeroConv(nn.Module):
    """exp(3 a) (W * x + b) with a 3x3 convolution; W, b and a start at zero, and the factor lets them grow faster.

    Source: Kingma and Dhariwal, "Glow", 2018, the authors' code (arXiv:1807.03039).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = with_zeros(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.log_scale = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = (3 * self.log_scale).exp()
        # Not by get_parameter, which refuses the plain tensors of torch.func.functional_call.
        weight, bias = self.conv.weight, cast(Tensor, self.conv.bias)
        return F.conv2d(x, weight * scale[:, None, None, None], bias * scale, padding=1)
