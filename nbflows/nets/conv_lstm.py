"""A convolutional LSTM that reads a sequence of images and predicts, at each step, from those before."""

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from nbflows.nets.context import channels_last
from nbflows.nets.zeros import with_zeros


class State(NamedTuple):
    """The state of one layer between two steps, both ``(B, C, H, W)``; the cell is at least float32."""

    hidden: Tensor
    cell: Tensor


class ConvLSTM(nn.Module):
    """An embedding, LSTM layers whose linear maps are convolutions, and a 3x3 convolution to the outputs.

    i, f, g, o = conv_x(input) + conv_h(h),   c = sigmoid(f) c + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c).

    Args:
        in_channels, hidden_channels, out_channels: widths.
        num_layers: LSTM layers.
        kernel_size: odd size of every kernel but the last.
        dilation: dilation of the convolutions in the LSTM layers.

    Source: Shi et al., "Convolutional LSTM network", 2015, section 3.1 (arXiv:1506.04214), without peepholes.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 3,
        kernel_size: int = 5,
        dilation: int = 1,
    ):
        super().__init__()
        if kernel_size % 2 == 0 or num_layers < 1:
            raise ValueError(
                f"ConvLSTM needs an odd kernel_size and at least 1 layer, got {kernel_size} and {num_layers}"
            )
        self.embed = nn.Conv2d(in_channels, hidden_channels, kernel_size, padding=kernel_size // 2)
        self.layers = nn.ModuleList([ConvLSTMLayer(hidden_channels, kernel_size, dilation) for _ in range(num_layers)])
        self.last = with_zeros(nn.Conv2d(hidden_channels, out_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, sequence: Tensor) -> Tensor:
        """All steps of a known sequence: ``(B, T, in, H, W)`` to ``(B, T, out, H, W)``."""
        steps = sequence.shape[:2]
        x = self.embed(channels_last(sequence.transpose(0, 1).flatten(0, 1)))
        for layer in self.layers:
            x = layer(x, batch=steps[0])
        return self.last(x).unflatten(0, steps[::-1]).transpose(0, 1)

    def step(self, x: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """One step, for sequences whose next input depends on this output: ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: the input.
            states: the second result of the step before; None at the first.
        """
        x = self.embed(channels_last(x))
        layers, after = cast(Iterable[ConvLSTMLayer], self.layers), []
        for layer, state in zip(layers, states or [None] * len(self.layers), strict=True):
            after.append(layer.step(layer.input_to_hidden(x), state))
            x = after[-1].hidden
        return self.last(x), after


class ConvLSTMLayer(nn.Module):
    """One layer; in a known sequence, the convolution of the inputs takes all steps at once.

    Args:
        channels: channels of the inputs and of h.
        kernel_size, dilation: as in ``ConvLSTM``.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1):
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.input_to_hidden = nn.Conv2d(channels, 4 * channels, kernel_size, padding=padding, dilation=dilation)
        self.hidden_to_hidden = nn.Conv2d(
            channels, 4 * channels, kernel_size, padding=padding, dilation=dilation, bias=False
        )
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(channels**-0.5), channels**-0.5)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """``(T B, C, H, W)``, step by step, to the hidden states of all steps in the same order."""
        state, hidden = None, []
        for gates in self.input_to_hidden(x).split(batch):
            state = self.step(gates, state)
            hidden.append(state.hidden)
        return torch.cat(hidden)

    def step(self, gates: Tensor, state: State | None) -> State:
        """The state after a step, from the gates ``(B, 4C, H, W)`` without what h adds to them."""
        if state is not None:
            gates = gates + self.hidden_to_hidden(state.hidden)
        # In half precision, rounding errors would add up in the cell from step to step.
        enter, forget, new, out = gates.to(torch.promote_types(gates.dtype, torch.float32)).chunk(4, dim=1)
        cell = enter.sigmoid() * new.tanh()
        if state is not None:
            cell = cell + forget.sigmoid() * state.cell
        return State((out.sigmoid() * cell.tanh()).to(gates.dtype), cell)
