"""A causal transformer on sequences of vectors: what each element is told depends on the elements before it alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import inputs
from nbflows.bijection import module_list
from nbflows.nets.causal import CausalLayer


class CausalSequenceNet(nn.Module):
    """Numbers for each element of a sequence, from the elements before it alone: ``(B, T, D)`` to ``(B, T, P)``.

    The output of a causal transformer at element t is what is said about element t + 1. Nothing is known about the
    first one, so it gets zeros. The last layer starts at zero, and so do all outputs. ``temperature`` is that of the
    attention in all layers.

    Args:
        length: T; a shorter sequence is taken as the beginning of one.
        num_features: D.
        num_outputs: P.
        width: width of the transformer, a multiple of ``num_heads``.
        num_layers: its layers.
        num_heads: heads of its attention.
        context_features: numbers of a context ``(B, context_features)`` that every element sees; 0 for none.

    Source: Zhai et al., "Normalizing flows are capable generative models", 2024 (arXiv:2412.06329).
    """

    def __init__(
        self,
        length: int,
        num_features: int,
        num_outputs: int,
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 2,
        context_features: int = 0,
    ):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of the {num_heads} heads, got {width}")
        self.length, self.num_outputs = inputs.whole(length, "length", 1), num_outputs
        self.embed = nn.Linear(num_features, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.label = nn.Linear(context_features, width, bias=False) if context_features else None
        self.layers = module_list(CausalLayer(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, num_outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _embedded(self, x: Tensor, position: slice | int, context: Tensor | None) -> Tensor:
        tokens = self.embed(x) + self.positions[position]
        if self.label is None:
            return tokens
        if context is None:
            raise ValueError(f"the network takes a context of {self.label.in_features} numbers, and got none")
        label = self.label(context.flatten(1))
        return tokens + (label[:, None] if tokens.dim() == 3 else label)

    def forward(self, x: Tensor, context: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        tokens = self._embedded(x, slice(x.shape[1]), context)
        for layer in self.layers:
            tokens = layer(tokens, temperature)
        return F.pad(self.out(self.norm(tokens))[:, :-1], (0, 0, 1, 0))

    def memories(self, num_sequences: int) -> list[Tensor]:
        """Keys and values of all layers, which ``step`` fills."""
        return [layer.memory(num_sequences, self.length) for layer in self.layers]

    def step(
        self,
        x: Tensor,
        memories: list[Tensor],
        position: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Returns the numbers of element ``position + 1``, given element ``position``: ``(B, D)`` to ``(B, P)``."""
        token = self._embedded(x, position, context)
        for layer, memory in zip(self.layers, memories, strict=True):
            token = layer.step(token, memory, position, temperature)
        return self.out(self.norm(token))
