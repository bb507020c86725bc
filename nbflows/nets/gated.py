"""The gated convolutional conditioner of the UvA tutorial."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows.nets.context import channels_last, join_context
from nbflows.nets.fast import concat_elu
from nbflows.nets.zeros import with_zeros


class GatedConvNet(nn.Module):
    """conv 3x3, then residual blocks of gated convolutions with layer norm, ConcatELU, conv 3x3 (zero at the start).

    Args:
        in_channels, hidden_channels, out_channels: widths.
        num_blocks: gated residual blocks.
        context_channels: channels of the context, 0 for none.

    Shapes: ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``. Under autocast the activations are bfloat16.
    Source: UvA Deep Learning Tutorial 11, 2021; after Ho et al., "Flow++", 2019, appendix B (arXiv:1902.00275).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_blocks: int = 3,
        context_channels: int = 0,
    ):
        super().__init__()
        self.context_channels = context_channels
        self.first = nn.Conv2d(in_channels + context_channels, hidden_channels, 3, padding=1)
        self.blocks = nn.Sequential(*[GatedBlock(hidden_channels) for _ in range(num_blocks)])
        self.last = with_zeros(nn.Conv2d(2 * hidden_channels, out_channels, 3, padding=1))
        # Channels innermost: layer norm and the convolution kernels then read memory in order.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = join_context(x, context, self.context_channels)
        x = self._first(channels_last(x))
        return self.last(concat_elu(self.blocks(x)))

    def _first(self, x: Tensor) -> Tensor:
        device = x.device.type
        if self.training or x.dtype != torch.float32 or not torch.is_autocast_enabled(device):
            return self.first(x)
        # Logits of pixels near black or white are large, so that rounding the weights matters most here: it makes up a
        # third of the change in bits/dim by half precision. In training, float32 would cost a twentieth of the time and
        # gain less than the gradient's noise. Rounding x removes most of the errors that an inverse added to it.
        half = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            y = self.first(x.to(half).to(x.dtype))
        return y.to(half)


class GatedBlock(nn.Module):
    """x + value * sigmoid(gate) with value, gate = conv 1x1(ConcatELU(conv 3x3(ConcatELU(x)))), then layer norm."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.value_and_gate = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.norm = ChannelLayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        value_and_gate = self.value_and_gate(concat_elu(self.conv(concat_elu(x))))
        return self.norm(gated_residual(x, value_and_gate))


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels at each position."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # With channels innermost in memory both permutations are views.
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2).to(x.dtype)


def gated_residual(x: Tensor, value_and_gate: Tensor) -> Tensor:
    """x + value * sigmoid(gate): ``(B, C, H, W)`` and ``(B, 2C, H, W)`` to ``(B, C, H, W)``."""
    value, gate = value_and_gate.to(x.dtype).chunk(2, dim=1)
    return torch.addcmul(x, value, gate.sigmoid())
