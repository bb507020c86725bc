"""The conditioner of Flow++: gated convolutions and attention over all positions."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from nbflows import derivatives
from nbflows.nets.context import channels_last, join_context
from nbflows.nets.fast import concat_elu
from nbflows.nets.gated import ChannelLayerNorm, gated_residual


class GatedAttentionNet(nn.Module):
    """conv 3x3, then blocks of a gated convolution and gated attention, conv 3x3; all weights normalised.

    Args:
        in_channels, hidden_channels, out_channels: widths; the hidden one is a multiple of ``num_heads``.
        num_blocks: pairs of a gated convolution and gated attention.
        num_heads: heads of the attention; 0 leaves attention out.
        dropout: share of the channels in gated convolutions, and of the attention weights, dropped in training mode.
        context_channels: channels of the context, 0 for none.

    Shapes: ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``.
    Source: Ho et al., "Flow++", 2019, appendix B (arXiv:1902.00275).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_blocks: int = 10,
        num_heads: int = 4,
        dropout: float = 0.0,
        context_channels: int = 0,
    ):
        super().__init__()
        if hidden_channels % 2 or (num_heads and hidden_channels % num_heads):
            raise ValueError(
                f"hidden_channels must be even and a multiple of the {num_heads} heads, got {hidden_channels}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a share in [0, 1), got {dropout}")
        self.context_channels = context_channels
        self.num_heads = num_heads
        self.first = weight_norm(nn.Conv2d(in_channels + context_channels, hidden_channels, 3, padding=1))
        self.blocks = nn.ModuleList([_Block(hidden_channels, num_heads, dropout) for _ in range(num_blocks)])
        self.last = weight_norm(nn.Conv2d(hidden_channels, out_channels, 3, padding=1))
        # With weights of length zero a coupling starts where the biases put it, near the identity.
        nn.init.zeros_(self.last.get_parameter("parametrizations.weight.original0"))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = join_context(x, context, self.context_channels)
        x = self.first(channels_last(x))
        _, channels, height, width = x.shape
        code = position_code(height, width, channels, x.device).to(x.dtype) if self.num_heads else None
        for block in self.blocks:
            x = block(x, code)
        return self.last(x)


def weight_norm(layer: nn.Module) -> nn.Module:
    """Replaces a layer's weight by the lengths (``original0``) and directions (``original1``) of its rows."""
    parametrize.register_parametrization(layer, "weight", _WeightNorm())
    return layer


class _WeightNorm(nn.Module):
    """W = length * direction / |direction|, row by row."""

    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        # torch's own weight_norm has wrong second derivatives (2.6 to 2.14).
        norms = torch.linalg.vector_norm(direction, dim=[*range(1, direction.dim())], keepdim=True)
        return direction * (length / norms)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.norm_except_dim(weight, 2, 0), weight


class _Block(nn.Module):
    """norm(x + gated convolution), then norm(x + gated attention)."""

    def __init__(self, channels: int, num_heads: int, dropout: float):
        super().__init__()
        self.conv = weight_norm(nn.Conv2d(2 * channels, channels, 3, padding=1))
        self.dropout = nn.Dropout2d(dropout)
        self.value_and_gate = weight_norm(nn.Conv2d(2 * channels, 2 * channels, 1))
        self.norm = ChannelLayerNorm(channels)
        self.attention = GatedAttention(channels, num_heads, dropout) if num_heads else None
        self.attention_norm = ChannelLayerNorm(channels) if num_heads else nn.Identity()

    def forward(self, x: Tensor, code: Tensor | None) -> Tensor:
        hidden = self.dropout(concat_elu(self.conv(concat_elu(x))))
        x = self.norm(gated_residual(x, self.value_and_gate(hidden)))
        if self.attention is not None:
            x = self.attention_norm(gated_residual(x, self.attention(x, code)))
        return x


class GatedAttention(nn.Module):
    """Multi-head attention over all positions H W; returns a value and a gate, ``(B, 2C, H, W)``.

    Args:
        channels: C.
        num_heads: C is a multiple of it.
        dropout: share of the attention weights dropped in training mode.

    Source: Vaswani et al., "Attention is all you need", 2017, section 3.2 (arXiv:1706.03762).
    """

    def __init__(self, channels: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.key_value_query = weight_norm(nn.Linear(channels, 3 * channels, bias=False))
        self.value_and_gate = weight_norm(nn.Linear(channels, 2 * channels))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """x ``(B, C, H, W)``; code ``(H W, C)``, see ``position_code``."""
        positions = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H W, C)
        heads = self.key_value_query(positions + code).unflatten(2, (3, self.num_heads, -1))
        key, value, query = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, H W, C / heads)
        looked = self._look(query, key, value)
        value_and_gate = self.value_and_gate(looked.transpose(1, 2).flatten(2))
        return value_and_gate.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    def _look(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(query key^T / sqrt(width)) value, with dropout of the softmax."""
        if (torch.is_grad_enabled() and (query.is_cpu or derivatives.traced())) or not query.numel():
            weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
            return F.dropout(weights, self.dropout, self.training) @ value
        # torch's kernel keeps no weights, but has no second derivatives.
        looked = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        return derivatives.once(looked, "attention has second derivatives on a CPU only: move the flow to one")


def position_code(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sines, then cosines, of the positions 0..H W - 1 row by row, ``(H W, C)``; C/2 wavelengths, 2 pi to 20,000 pi."""
    frequencies = torch.exp(torch.arange(channels // 2, device=device) * (-math.log(1e4) / max(1, channels // 2 - 1)))
    angles = torch.arange(height * width, device=device)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
