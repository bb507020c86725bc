"""The gated convolutional conditioner of the UvA tutorial, written for few passes over memory."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import derivatives
from nbflows.nets.context import channels_last, join_context


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
        self.last = nn.Conv2d(2 * hidden_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        # Channels innermost: layer norm and the convolution kernels then read memory in order.
        self.to(memory_format=torch.channels_last)

    def forward(self, x, context=None):
        x = join_context(x, context, self.context_channels)
        x = self._first(channels_last(x))
        return self.last(concat_elu(self.blocks(x)))

    def _first(self, x: Tensor) -> Tensor:
        device = x.device.type
        if self.training or x.dtype != torch.float32 or not torch.is_autocast_enabled(device):
            return self.first(x)
        # Logits of pixels near black or white are large, and so is what rounded weights make of them: a third of all
        # that half precision does to bits/dim. In training this would take a twentieth of the time, for less than the
        # gradient's noise. x itself is rounded: rounding errors that an inverse adds to it are then nearly all gone.
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
        self.norm = ChannelNorm(channels)

    def forward(self, x):
        value_and_gate = self.value_and_gate(concat_elu(self.conv(concat_elu(x))))
        return self.norm(gated_residual(x, value_and_gate))


class ChannelNorm(nn.Module):
    """Layer norm over the channels at each position."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        # With channels innermost in memory both permutations are views.
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2).to(x.dtype)


def concat_elu(x: Tensor) -> Tensor:
    """[elu(x), elu(-x)] along the channels: ``(B, C, H, W)`` to ``(B, 2C, H, W)``; no input is lost to saturation."""
    return F.elu(torch.cat([x, -x], dim=1)) if derivatives.traced() else _ConcatELU.apply(x)


def gated_residual(x: Tensor, value_and_gate: Tensor) -> Tensor:
    """x + value * sigmoid(gate): ``(B, C, H, W)`` and ``(B, 2C, H, W)`` to ``(B, C, H, W)``."""
    value_and_gate = value_and_gate.to(x.dtype)
    return _gated_residual(x, value_and_gate) if derivatives.traced() else _GatedResidual.apply(x, value_and_gate)


def _gated_residual(x: Tensor, value_and_gate: Tensor) -> Tensor:
    value, gate = value_and_gate.chunk(2, dim=1)
    return torch.addcmul(x, value, gate.sigmoid())


# The two functions below have gradients written by hand. With the plain formulas a training step spends most of its
# time not in convolutions but in passes over memory around them; here one exponential serves both halves, nothing is
# concatenated, and gradients come from results that are kept anyway. torch.compile and torch.func make their own of the
# plain formulas, and so do second derivatives.


class _ConcatELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        channels = x.shape[1]
        # One exponential serves both halves: elu(x) = max(x, e) and elu(-x) = max(-x, e) with e = exp(-|x|) - 1.
        e = x.abs().neg_().exp_().sub_(1)
        y = torch.empty(
            (x.shape[0], 2 * channels, *x.shape[2:]),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        torch.maximum(x, e, out=y[:, :channels])
        torch.maximum(x.neg(), e, out=y[:, channels:])
        # The convolution that follows keeps y too: saving it costs nothing, and x is not needed.
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        positive, negative = torch.ops.aten.elu_backward(grad, 1, 1, 1, True, y).chunk(2, dim=1)
        return positive - negative


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, value_and_gate):
        value, gate = value_and_gate.chunk(2, dim=1)
        ctx.save_for_backward(value_and_gate)
        return torch.addcmul(x, value, _sigmoid(gate))

    @staticmethod
    def backward(ctx, grad):
        (value_and_gate,) = ctx.saved_tensors
        if derivatives.again():
            # x, of which the formula is linear, is not kept.
            return derivatives.of_formula(_gated_residual, (torch.zeros_like(grad), value_and_gate), grad)
        value, gate = value_and_gate.chunk(2, dim=1)
        gate = _sigmoid(gate)
        grad_both = torch.empty_like(value_and_gate)
        grad_value, grad_gate = grad_both.chunk(2, dim=1)
        torch.mul(grad, gate, out=grad_value)
        slope = grad_value * value
        torch.addcmul(slope, slope, gate, value=-1, out=grad_gate)
        return grad, grad_both


def _sigmoid(gate: Tensor) -> Tensor:
    # On a copy: the kernel is several times slower on a half of the channels, which does not lie together in memory.
    return gate.clone(memory_format=torch.channels_last).sigmoid_()
