"""The conditioner of Flow++: gated convolutions and attention over all positions."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from nbflows import derivatives
from nbflows.nets.context import channels_last, join_context
from nbflows.nets.gated import ChannelNorm, concat_elu, gated_residual


class GatedAttentionNet(nn.Module):
    """conv 3x3, then blocks of a gated convolution and gated attention, conv 3x3; all weights normalised.

    Args:
        in_channels, hidden_channels, out_channels: widths; the hidden one is a multiple of ``num_heads``.
        num_blocks: how many.
        num_heads: of the attention; 0 leaves attention out.
        dropout: of channels within gated convolutions, and of attention weights; in training mode only.
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
        # Length zero, in a random direction: a coupling starts at what the biases say, near the identity.
        nn.init.zeros_(self.last.parametrizations.weight.original0)
        self.to(memory_format=torch.channels_last)

    def forward(self, x, context=None):
        x = join_context(x, context, self.context_channels)
        x = self.first(channels_last(x))
        code = position_code(*x.shape[2:], x.shape[1], x.device).to(x.dtype) if self.num_heads else None
        for block in self.blocks:
            x = block(x, code)
        return self.last(x)


def weight_norm(layer: nn.Module) -> nn.Module:
    """Makes lengths (``original0``) and directions (``original1``) of the rows of a layer's weight its parameters."""
    parametrize.register_parametrization(layer, "weight", _WeightNorm())
    return layer


class _WeightNorm(nn.Module):
    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        length, direction = length.contiguous(), direction.contiguous()
        return _normalized(length, direction) if derivatives.traced() else _Normalized.apply(length, direction)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.norm_except_dim(weight, 2, 0), weight


def _normalized(length: Tensor, direction: Tensor) -> Tensor:
    return direction * (length / torch.linalg.vector_norm(direction, dim=[*range(1, direction.dim())], keepdim=True))


class _Normalized(torch.autograd.Function):
    """torch's kernel; its own second derivatives, and so those of torch's ``weight_norm``, are wrong (2.6 to 2.14)."""

    @staticmethod
    def forward(ctx, length, direction):
        weight, norms = torch.ops.aten._weight_norm_interface(direction, length, 0)
        ctx.save_for_backward(length, direction, norms)
        return weight

    @staticmethod
    def backward(ctx, grad):
        length, direction, norms = ctx.saved_tensors
        if derivatives.again():
            return derivatives.of_formula(_normalized, (length, direction), grad)
        return torch.ops.aten._weight_norm_interface_backward(grad.contiguous(), direction, length, norms, 0)[::-1]


class _Block(nn.Module):
    """norm(x + gated convolution), then norm(x + gated attention)."""

    def __init__(self, channels: int, num_heads: int, dropout: float):
        super().__init__()
        self.conv = weight_norm(nn.Conv2d(2 * channels, channels, 3, padding=1))
        self.dropout = nn.Dropout2d(dropout)
        self.value_and_gate = weight_norm(nn.Conv2d(2 * channels, 2 * channels, 1))
        self.norm = ChannelNorm(channels)
        self.attention = GatedAttention(channels, num_heads, dropout) if num_heads else None
        self.attention_norm = ChannelNorm(channels) if num_heads else None

    def forward(self, x, code):
        hidden = self.dropout(concat_elu(self.conv(concat_elu(x))))
        x = self.norm(gated_residual(x, self.value_and_gate(hidden)))
        if self.attention is not None:
            x = self.attention_norm(gated_residual(x, self.attention(x, code)))
        return x


class GatedAttention(nn.Module):
    """Every position looks at all positions: value and gate, ``(B, 2C, H, W)``, of multi-head attention over H W.

    Args:
        channels: C.
        num_heads: C is a multiple of it.
        dropout: of the attention weights.

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
        looked = self._look(query, key, value, self.dropout if self.training else 0.0)
        value_and_gate = self.value_and_gate(looked.transpose(1, 2).flatten(2))
        return value_and_gate.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    @staticmethod
    def _look(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        scale = query.shape[-1] ** -0.5
        if torch.compiler.is_compiling():
            return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        if derivatives.transformed() or not query.numel():
            return _attention(query * scale, key, value, lambda weights: F.dropout(weights, dropout))
        if not query.is_cpu:
            looked = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
            return derivatives.once(looked, "attention has second derivatives on a CPU only: move the flow to one")
        if not dropout:
            return _FastAttention.apply(query, key, value)
        # The fast kernel of a CPU has no dropout, and its replacement is slow and keeps every attention weight.
        return _DroppedAttention.apply(query * scale, key, value, dropout)


def _attention(query: Tensor, key: Tensor, value: Tensor, drop: Callable[[Tensor], Tensor] = lambda w: w) -> Tensor:
    return drop((query @ key.mT).softmax(-1)) @ value


class _FastAttention(torch.autograd.Function):
    """The fast kernel of a CPU, which torch itself cannot differentiate twice."""

    @staticmethod
    def forward(ctx, query, key, value):
        looked, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
        ctx.save_for_backward(query, key, value, looked, log_sum)
        return looked

    @staticmethod
    def backward(ctx, grad):
        query, key, value, looked, log_sum = ctx.saved_tensors
        if derivatives.again():
            scale = query.shape[-1] ** -0.5
            return derivatives.of_formula(lambda q, k, v: _attention(q * scale, k, v), (query, key, value), grad)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, looked, log_sum, 0.0, False
        )


class _DroppedAttention(torch.autograd.Function):
    """dropout(softmax(query key^T)) value.

    A few images at a time, in the same few buffers, so that attention weights stay in the processor's cache.
    """

    @staticmethod
    def forward(ctx, query, key, value, dropout):
        marked = query.new_empty(*query.shape[:-1], key.shape[-2])
        looked = torch.empty_like(value, memory_format=torch.contiguous_format)
        ctx.dropout = Dropout(dropout)
        with torch.autocast(query.device.type, enabled=False):
            for part, weights in _parts(marked):
                torch.matmul(query[part], key[part].mT, out=weights)
                torch.softmax(weights, -1, out=weights)
                ctx.dropout.mark(weights, out=marked[part])
                torch.clamp(marked[part], min=0, out=weights)
                torch.matmul(weights, value[part], out=looked[part])
            looked.mul_(ctx.dropout.scale)
        ctx.save_for_backward(query, key, value, marked, looked)
        return looked

    @staticmethod
    def backward(ctx, grad):
        query, key, value, marked, looked = ctx.saved_tensors
        if derivatives.again():
            kept = (marked > 0).to(marked.dtype) * ctx.dropout.scale
            formula = partial(_attention, drop=lambda weights: weights * kept)
            return *derivatives.of_formula(formula, (query, key, value), grad), None
        # Of each query's weights w, softmax's gradient is w (d - sum(w d)), d the gradient of w: the sum is this one.
        dtype = torch.promote_types(grad.dtype, torch.float32)
        along = (grad.to(dtype) * looked).sum(-1, keepdim=True).to(grad.dtype)
        grad = grad * ctx.dropout.scale
        grads = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (query, key, value)]
        grad_query, grad_key, grad_value = grads
        for part, weights, grad_scores in _parts(marked, num_buffers=2):
            torch.clamp(marked[part], min=0, out=weights)
            torch.matmul(weights.mT, grad[part], out=grad_value[part])
            torch.matmul(grad[part], value[part].mT, out=grad_scores)
            grad_scores.mul_(weights)
            torch.abs(marked[part], out=weights)
            grad_scores.addcmul_(weights, along[part], value=-1)
            torch.matmul(grad_scores, key[part], out=grad_query[part])
            torch.matmul(grad_scores.mT, query[part], out=grad_key[part])
        return *grads, None


def _parts(weights: Tensor, num_buffers: int = 1) -> Iterator[tuple]:
    """Slices of the batch, so many images that their attention weights are about 2^18, with buffers of their shape."""
    step = max(1, 2**18 // max(1, math.prod(weights.shape[1:])))
    buffers = weights.new_empty(num_buffers, *weights[:step].shape)
    for start in range(0, len(weights), step):
        part = slice(start, min(start + step, len(weights)))
        yield part, *buffers[:, : part.stop - start]


class Dropout:
    """Marks positive weights that are dropped by turning them negative, at random.

    A random byte decides on each weight, and eight bytes come from each draw, as drawing is most of the work. Signs, as
    comparisons and masks are slow on a CPU.

    Args:
        share: of the weights that are dropped; rounded to a multiple of 1/256, above 0.

    Attributes:
        scale: of those that are kept; makes up for the others.
    """

    def __init__(self, share: float):
        self.threshold = min(max(round(256 * share), 1), 255)
        self.scale = 256 / (256 - self.threshold)

    def mark(self, weights: Tensor, out: Tensor) -> None:
        """Copies the weights to ``out``, with the sign that says what becomes of them."""
        draws = torch.empty(-(-weights.numel() // 8), dtype=torch.int64, device=weights.device).random_(-(2**63), None)
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weights.element_size()]
        # Below 0 where the byte is below the threshold; and a number of the weights' type is so if its first bit is 1.
        signs = draws.view(torch.uint8)[: weights.numel()].to(integer).sub_(self.threshold)
        torch.copysign(weights, signs.view(weights.dtype).view_as(weights), out=out)


def position_code(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sines, then cosines, of the positions 0..H W - 1 row by row, ``(H W, C)``; C/2 wavelengths, 2 pi to 20,000 pi."""
    frequencies = torch.exp(torch.arange(channels // 2, device=device) * (-math.log(1e4) / max(1, channels // 2 - 1)))
    angles = torch.arange(height * width, device=device)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
