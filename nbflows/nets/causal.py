"""A network for images in reading order: logits of each value from the values before it, and one value at a time."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import inputs
from nbflows.bijection import module_list


class CausalImageNet(nn.Module):
    """Logits of all grey levels for each value of an image, from the values before it alone.

    The order is that of reading: row by row, in a row from left to right, in a pixel channel by channel. A causal
    transformer looks at the image in pieces of a row, and says for each piece what those before it mean. A masked
    convolution looks at the neighbours above and to the left, those in the same piece included. Their sum goes through
    a small network that all values share.

    Args:
        shape: ``(C, H, W)`` of the images.
        num_grey_levels: K; values are 0..K - 1.
        piece: pixels in a piece; W is a multiple of it.
        width: width of the transformer, a multiple of ``num_heads``.
        num_layers: its layers.
        num_heads: heads of its attention.
        reach: rows above, and columns on each side, that the convolution sees.
        hidden: width of the convolution and of the network after the sum.
        num_blocks: residual blocks of that network.

    Shapes: integers ``(B, C, H, W)`` to ``(B, C, H, W, K)``.
    Source: masked convolutions: van den Oord et al., "Pixel recurrent neural networks", 2016 (arXiv:1601.06759);
    causal attention over pieces of an image: Chen et al., "Generative pretraining from pixels", 2020; the sizes and
    the sum of both are ours.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_grey_levels: int,
        piece: int,
        width: int,
        num_layers: int,
        num_heads: int,
        reach: int,
        hidden: int,
        num_blocks: int,
    ):
        super().__init__()
        channels, height, columns = shape
        if columns % piece:
            raise ValueError(f"rows of {columns} pixels do not divide into pieces of {piece}")
        if width % num_heads:
            raise ValueError(f"width must be a multiple of the {num_heads} heads, got {width}")
        self.shape = tuple(shape)
        self.num_grey_levels = inputs.whole(num_grey_levels, "num_grey_levels", 2, 256)
        self.piece, self.reach, self.hidden = piece, inputs.whole(reach, "reach", 1), hidden
        num_pieces = height * columns // piece
        self.features = Features(self.num_grey_levels)
        self.silu = nn.SiLU()
        self.embed = nn.Linear(_FEATURES * channels * piece, width)
        self.positions = nn.Parameter(0.02 * torch.randn(num_pieces, width))
        self.layers = module_list(CausalLayer(width, num_heads) for _ in range(num_layers))
        self.spread = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, piece * channels * hidden))
        self.neighbours = MaskedConv(_FEATURES, channels, hidden, self.reach)
        blocks = [_Residual(hidden) for _ in range(num_blocks)]
        self.head = nn.Sequential(*blocks, nn.LayerNorm(hidden), nn.Linear(hidden, self.num_grey_levels))

    def forward(self, x: Tensor) -> Tensor:
        channels, height, columns = self.shape
        features = self.features(x.permute(0, 2, 3, 1)).flatten(3)  # (B, H, W, 3 C)
        pieces = self.embed(features.view(len(x), -1, self.piece * features.shape[-1]))
        # Each piece hears of those before it: the last one is not needed, and before the first there is nothing.
        tokens = F.pad(pieces[:, :-1], (0, 0, 1, 0)) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        far = self.spread(tokens).view(len(x), height, columns, channels, self.hidden)
        return self.head(self.silu(far + self.neighbours(features))).permute(0, 3, 1, 2, 4)

    @torch.no_grad()
    def steps(self, x: Tensor, first_row: int = 0) -> Iterator[tuple[tuple[int, int, int], Tensor]]:
        """Yields ``((channel, row, column), logits)`` of each value in order, with logits ``(B, K)``.

        The caller writes the value into x before it asks for the next. A step computes one value, and at the start of a
        piece the transformer's next column, from what is kept of the earlier ones.

        Args:
            x: ``(B, C, H, W)``, read up to the value that is asked for.
            first_row: rows above this one are known: they are read, and nothing is yielded for them.
        """
        channels, height, columns = self.shape
        memories = [layer.memory(len(x), len(self.positions)) for layer in self.layers]
        matrices = self.neighbours.matrices()
        reach, token = self.reach, torch.zeros_like(self.positions[:1]).expand(len(x), -1)
        # Above and beside the image everything is 0.
        padded = token.new_zeros(len(x), height + reach, columns + 2 * reach, _FEATURES * channels)
        padded[:, reach : reach + first_row, reach:-reach] = self.features(
            x[:, :, :first_row].permute(0, 2, 3, 1)
        ).flatten(3)
        for number, position in enumerate(self.positions):
            row, first = divmod(number * self.piece, columns)
            token = token + position
            for layer, memory in zip(self.layers, memories, strict=True):
                token = layer.step(token, memory, number)
            if row >= first_row:
                far = self.spread(token).view(len(x), self.piece, channels, self.hidden)
                for column in range(first, first + self.piece):
                    for channel in range(channels):
                        window = padded[:, row : row + reach + 1, column : column + 2 * reach + 1]
                        near = F.linear(window.flatten(1), *matrices[channel])
                        yield (channel, row, column), self.head(self.silu(far[:, column - first, channel] + near))
                        known = self.features(x[:, channel, row, column])
                        padded[:, reach + row, reach + column, _FEATURES * channel : _FEATURES * (channel + 1)] = known
            token = self.embed(padded[:, reach + row, reach + first : reach + first + self.piece].flatten(1))


class MaskedConv(nn.Module):
    """A convolution in which each value sees the values before it, in reading order, within a reach.

    Args:
        num_features: numbers for each value.
        channels: values of a pixel.
        hidden: numbers that are computed for each value.
        reach: rows above, and columns on each side.

    Shapes: ``(B, H, W, num_features channels)`` to ``(B, H, W, channels, hidden)``.
    """

    mask: Tensor

    def __init__(self, num_features: int, channels: int, hidden: int, reach: int):
        super().__init__()
        self.conv = nn.Conv2d(num_features * channels, hidden * channels, (reach + 1, 2 * reach + 1))
        self.channels, self.hidden, self.reach = channels, hidden, reach
        mask = torch.ones(channels, hidden, channels, num_features, reach + 1, 2 * reach + 1, dtype=torch.bool)
        mask[..., -1, reach + 1 :] = False
        # In its own pixel a channel sees the channels before it.
        before = torch.ones(channels, channels).tril(-1).bool()
        mask[..., -1, reach] = before[:, None, :, None]
        self.register_buffer("mask", mask.view(self.conv.weight.shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.permute(0, 3, 1, 2), (self.reach, self.reach, self.reach, 0))
        hidden = F.conv2d(padded, self.conv.weight * self.mask, self.conv.bias)
        return hidden.permute(0, 2, 3, 1).unflatten(3, (self.channels, self.hidden))

    def matrices(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias for each channel: what takes the window of one value, flattened, to its ``hidden`` numbers.

        The window is ``(B, reach + 1, 2 reach + 1, features)``.
        """
        weight = (self.conv.weight * self.mask).permute(0, 2, 3, 1).flatten(1)
        bias = cast(Tensor, self.conv.bias)
        return list(zip(weight.split(self.hidden), bias.split(self.hidden), strict=True))


_FEATURES = 3


class Features(nn.Module):
    """Each value scaled to [-1, 1], and whether it is the lowest or the highest: ``(...)`` to ``(..., 3)``."""

    like: Tensor

    def __init__(self, num_grey_levels: int):
        super().__init__()
        self.num_grey_levels = num_grey_levels
        # Follows .to() and .double(), because integers do not tell the precision of the network.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scaled = x.to(self.like.dtype) * (2 / (self.num_grey_levels - 1)) - 1
        return torch.stack([scaled, (x == 0).to(scaled.dtype), (x == self.num_grey_levels - 1).to(scaled.dtype)], -1)


class AttentionWeights(nn.Module):
    """softmax(q k^T / sqrt(width)) over the keys that are not ``hidden``."""

    def forward(self, query: Tensor, key: Tensor, hidden: Tensor | None = None) -> Tensor:
        scores = query * query.shape[-1] ** -0.5 @ key.mT
        return (scores if hidden is None else scores.masked_fill(hidden, -torch.inf)).softmax(-1)


class _Residual(nn.Module):
    """x + W2 silu(W1 norm(x)), on the last dimension."""

    def __init__(self, width: int, factor: int = 2):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, factor * width), nn.SiLU(), nn.Linear(factor * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class CausalLayer(nn.Module):
    """A layer of a transformer: causal attention, then a network at each position, both residual; ``(B, T, width)``.

    A ``temperature`` above 1 spreads the attention more evenly than it was trained.
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.weights = AttentionWeights()
        self.out = nn.Linear(width, width)
        self.residual = _Residual(width, factor=4)

    def _heads(self, x: Tensor) -> Tensor:
        """Query, key and value of ``(B, T, width)``: ``(3, B, heads, T, width / heads)``."""
        return self.query_key_value(self.norm(x)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        query, key, value = self._heads(x)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        read = self.weights(query / temperature, key, later) @ value
        return self.residual(x + self.out(read.transpose(1, 2).flatten(2)))

    def memory(self, num_images: int, length: int) -> Tensor:
        """Keys and values of ``length`` positions, which ``step`` fills: ``(2, B, heads, length, width / heads)``."""
        scale = self.norm.weight
        return scale.new_zeros(2, num_images, self.num_heads, length, len(scale) // self.num_heads)

    def step(self, x: Tensor, memory: Tensor, position: int, temperature: float = 1.0) -> Tensor:
        """``forward`` at one position, ``(B, width)``."""
        query, *kept = self._heads(x[:, None])
        memory[:, :, :, position] = torch.stack(kept)[:, :, :, 0]
        key, value = memory[:, :, :, : position + 1]
        return self.residual(x + self.out((self.weights(query / temperature, key) @ value).flatten(1)))
