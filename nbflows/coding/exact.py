"""The network of a ``PixelFlow`` in fixed point: the same integers on every machine, with any number of threads.

A codec must compute the same probabilities where it writes and where it reads, to the last bit. Sums of floats depend
on their order, so on the processor and the threads. Here all weights and activations are multiples of a power of two,
and so small that every product and every partial sum is exact in float64: their order does not matter. Division and
rounding are those of IEEE 754, and so is NumPy's square root; torch's own is not. exp and the logistic function come
from tables that ``decimal`` computes, whose results are specified too.
"""

import copy
import decimal
import functools
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows.nets import CausalImageNet
from nbflows.nets.causal import AttentionWeights, Features, MaskedConv

# Multiples of 2^-12 for activations, at most 1024 in magnitude; of 2^-14 for weights.
_ACTIVATION, _LARGEST, _WEIGHT = 2.0**12, 1024.0, 2.0**14
_EXACT = 2.0**53
# The logistic function is tabulated at multiples of 2^-10 up to 16, exp at multiples of 2^-8 up to 24.
_SIGMOID_STEP, _SIGMOID_END = 2**10, 16
_EXP_STEP, _EXP_END = 2**8, 24
# Frequencies of the grey levels of a value add up to 2^24.
PRECISION = 24


def exact(net: CausalImageNet) -> CausalImageNet:
    """Returns a copy that computes in fixed point, on the CPU, with ``forward`` and ``steps`` as in ``net``.

    Raises:
        ValueError: a weight is so large that sums would not be exact.
    """
    net = copy.deepcopy(net).to("cpu", torch.float64).eval().requires_grad_(False)
    net.positions.copy_(_rounded(net.positions, _ACTIVATION))
    for name, module in list(net.named_modules()):
        kind = _KINDS.get(type(module))
        if kind is not None:
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, kind(module))
        elif isinstance(module, MaskedConv):
            _round_weights(module.conv)
    return net


def frequencies(logits: Tensor) -> Tensor:
    """Integer frequencies of the K grey levels: ``(..., K)`` to int64 ``(..., K)``, each at least 1, sum 2^24.

    They are proportional to exp(logits), but for the rounding of exponents to 2^-8 and of frequencies to integers.
    """
    counts = _exp(logits, 28)
    num_grey_levels = logits.shape[-1]
    shared = 2**PRECISION - num_grey_levels
    # Both factors are integers, and their product is below 2^53.
    found = (counts * shared / counts.sum(-1, keepdim=True)).floor().long() + 1
    found[..., -1] += 2**PRECISION - found.sum(-1)
    return found


def square_root(x: Tensor) -> Tensor:
    """The square root, correctly rounded."""
    return torch.from_numpy(np.sqrt(x.numpy()))


def _rounded(x: Tensor, scale: float) -> Tensor:
    return torch.round(x * scale) / scale


def _activation(x: Tensor) -> Tensor:
    return (x * _ACTIVATION).round_().clamp_(-_LARGEST * _ACTIVATION, _LARGEST * _ACTIVATION).div_(_ACTIVATION)


def _round_weights(layer: nn.Linear | nn.Conv2d) -> None:
    layer.weight.copy_(_rounded(layer.weight, _WEIGHT))
    bias = cast(Tensor, layer.bias)
    bias.copy_(_rounded(bias, _ACTIVATION))
    largest = layer.weight.abs().flatten(1).sum(1).max().item() * _LARGEST + bias.abs().max().item()
    if not largest * _ACTIVATION * _WEIGHT < _EXACT:
        raise ValueError(f"the weights are too large for a code: a sum could be {largest:.3g}")


def _exp(x: Tensor, bits: int) -> Tensor:
    """2^bits exp(x - max x), rounded to an integer, along the last dimension."""
    distance = x.amax(-1, keepdim=True) - x
    index = torch.round(distance * _EXP_STEP).clamp(max=_EXP_STEP * _EXP_END)
    return _exp_table(bits)[index.long()]


@functools.cache
def _exp_table(bits: int) -> Tensor:
    with decimal.localcontext(decimal.Context(prec=30)):
        step = decimal.Decimal(1) / _EXP_STEP
        values = [round((-i * step).exp() * 2**bits) for i in range(_EXP_STEP * _EXP_END)]
    # Whatever is further away, a hidden position for example, counts nothing.
    return torch.tensor([*values, 0], dtype=torch.float64)


@functools.cache
def _silu_table() -> Tensor:
    count = _SIGMOID_STEP * _SIGMOID_END
    with decimal.localcontext(decimal.Context(prec=30)):
        step = decimal.Decimal(1) / _SIGMOID_STEP
        # silu(-x) = -x / (1 + exp(x)), and silu(x) = x + silu(-x).
        falling = [round(-i * step / (1 + (i * step).exp()) * int(_ACTIVATION)) for i in range(count + 1)]
    negative = torch.tensor(falling, dtype=torch.float64) / _ACTIVATION
    positive = negative + torch.arange(count + 1, dtype=torch.float64) / _SIGMOID_STEP
    return torch.cat([negative.flip(0)[:-1], positive])


class _Linear(nn.Module):
    def __init__(self, layer: nn.Linear):
        super().__init__()
        _round_weights(layer)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return _activation(self.layer(_activation(x)))


class _LayerNorm(nn.Module):
    """Sums of x and of x^2 are exact, for up to 512 features; all else is done number by number."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        if norm.weight.numel() > 512:
            raise ValueError(f"sums of {norm.weight.numel()} squares would not be exact; 512 are")
        self.weight, self.bias, self.epsilon = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        x, n = _activation(x), x.shape[-1]
        mean = x.sum(-1, keepdim=True) / n
        variance = x.square().sum(-1, keepdim=True) / n - mean * mean
        return _activation((x - mean) / square_root(variance.relu() + self.epsilon) * self.weight + self.bias)


class _SiLU(nn.Module):
    def __init__(self, _: nn.SiLU):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.round(x.clamp(-_SIGMOID_END, _SIGMOID_END) * _SIGMOID_STEP).long() + _SIGMOID_STEP * _SIGMOID_END
        # Beyond the table silu is 0 or x.
        return _silu_table()[inside] + F.relu(_activation(x) - _SIGMOID_END)


class _AttentionWeights(nn.Module):
    def __init__(self, _: AttentionWeights):
        super().__init__()

    def forward(self, query: Tensor, key: Tensor, hidden: Tensor | None = None) -> Tensor:
        scores = _activation(query * query.shape[-1] ** -0.5) @ key.mT
        counts = _exp(scores if hidden is None else scores.masked_fill(hidden, -torch.inf), 16)
        return _rounded(counts / counts.sum(-1, keepdim=True), _WEIGHT)


class _Features(nn.Module):
    def __init__(self, features: Features):
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return _activation(self.features(x))


_KINDS = {
    nn.Linear: _Linear,
    nn.LayerNorm: _LayerNorm,
    nn.SiLU: _SiLU,
    AttentionWeights: _AttentionWeights,
    Features: _Features,
}
