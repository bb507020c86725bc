"""A convolutional LSTM that reads a sequence of images and predicts, at each step, from those before."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import derivatives
from nbflows.nets.context import channels_last
from nbflows.nets.frequencies import Frequencies


class ConvLSTM(nn.Module):
    """An embedding, LSTM layers whose linear maps are convolutions, and a 3x3 convolution to the outputs.

    i, f, g, o = conv_x(input) + conv_h(h),   c = sigmoid(f) c + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c).

    Args:
        in_channels, hidden_channels, out_channels: widths.
        num_layers: LSTM layers.
        kernel_size: of all convolutions but the last, odd.
        dilation: of those within the LSTM layers.

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
        self.last = nn.Conv2d(hidden_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, sequence: Tensor) -> Tensor:
        """All steps of a known sequence: ``(B, T, in, H, W)`` to ``(B, T, out, H, W)``."""
        steps = sequence.shape[:2]
        x = self.embed(channels_last(sequence.transpose(0, 1).flatten(0, 1)))
        for layer in self.layers:
            x = layer(x, batch=steps[0])
        return self.last(x).unflatten(0, steps[::-1]).transpose(0, 1)

    def step(self, x: Tensor, states: tuple | None = None) -> tuple[Tensor, tuple]:
        """One step, when the next input depends on this output: ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: the input.
            states: what the step before returned; None at the first.
        """
        x = self.embed(channels_last(x))
        if states is None:
            convolution = self.layers[0].convolution_for(x)
            states = convolution, [layer.start(convolution, x.dtype) for layer in self.layers]
        convolution, before = states
        rows, after = convolution.rows(x), []
        for state in before:
            after.append(state.step(convolution, rows))
            rows = after[-1].hidden
        return self.last(convolution.images(rows)), (convolution, after)


class ConvLSTMLayer(nn.Module):
    """One layer: what comes from the inputs is computed for all steps at once, what comes from h step by step."""

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1):
        super().__init__()
        options = {"padding": dilation * (kernel_size // 2), "dilation": dilation}
        self.input_to_hidden = nn.Conv2d(channels, 4 * channels, kernel_size, **options)
        self.hidden_to_hidden = nn.Conv2d(channels, 4 * channels, kernel_size, **options, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(channels**-0.5), channels**-0.5)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """``(T B, C, H, W)``, step by step, to the hidden states of all steps, likewise."""
        conv, before = self.hidden_to_hidden, self.input_to_hidden
        arguments = before(x), conv.weight, batch, conv.padding[0], conv.dilation[0]
        if derivatives.traced():
            return _recurrence(*arguments)[0]
        return _Recurrence.apply(*arguments, x, before.weight, before.bias)

    def convolution_for(self, x: Tensor) -> "Frequencies | _Positions":
        """How to compute single steps on images like x ``(B, C, H, W)``: both ways give the same, to rounding."""
        conv, (batch, channels, *size) = self.hidden_to_hidden, x.shape
        kernel_size, dilation = conv.kernel_size[0], conv.dilation[0]
        # On a GPU, or in half precision, it is not the arithmetic that small convolutions wait for.
        arithmetic_counts = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
        if arithmetic_counts and Frequencies.pay((batch, 2 * channels, *size), kernel_size, dilation, 4 * channels):
            return Frequencies(size, kernel_size, dilation, like=x)
        return _Positions(size, conv.padding, dilation)

    def start(self, convolution: "Frequencies | _Positions", dtype: torch.dtype) -> "_State":
        """The state before the first step."""
        weight = torch.cat([self.input_to_hidden.weight, self.hidden_to_hidden.weight], dim=1).to(dtype)
        return _State(convolution.kernel(weight), self.input_to_hidden.bias.to(dtype))


class _State(NamedTuple):
    """One layer between two steps: the kernel and bias of both its convolutions, joined, and what h and c are."""

    kernel: Tensor
    bias: Tensor
    hidden: Tensor | None = None
    cell: Tensor | None = None

    def step(self, convolution: "Frequencies | _Positions", rows: Tensor) -> "_State":
        both = rows if self.hidden is None else torch.cat([rows, self.hidden], dim=-1)
        # Without h, which is zero at first, its part of the kernel has nothing to do.
        gates = convolution.convolve(both, self.kernel[..., : both.shape[-1], :], self.bias)
        _, cell, hidden = _cell(gates.flatten(0, -2), self.cell)
        return self._replace(hidden=hidden.to(rows.dtype).view_as(rows), cell=cell)


class _Positions:
    """Convolutions as torch computes them, on rows ``(B H W, C)`` that are images with their channels innermost."""

    def __init__(self, size: tuple[int, int], padding: tuple[int, int], dilation: int):
        self.size, self.padding, self.dilation = size, padding, dilation

    def rows(self, images: Tensor) -> Tensor:
        return _as_rows(images)

    def images(self, rows: Tensor) -> Tensor:
        return _as_images(rows, (len(rows) // math.prod(self.size), rows.shape[1], *self.size))

    def kernel(self, weight: Tensor) -> Tensor:
        return channels_last(weight).permute(2, 3, 1, 0)

    def convolve(self, rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        weight = kernel.permute(3, 2, 0, 1)
        return _as_rows(F.conv2d(self.images(rows), weight, bias, padding=self.padding, dilation=self.dilation))


def _recurrence(
    gates: Tensor, weight: Tensor, batch: int, padding: int, dilation: int
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The hidden states of all steps, and of each step the gates after their activations and the cells."""
    weight = weight.to(gates.dtype)
    hidden, parts, cells = [], [], []
    for step in gates.split(batch):
        if hidden:
            before = _as_images(hidden[-1], step.shape)
            step = step + F.conv2d(before, weight, padding=padding, dilation=dilation)
        part, cell, after = _cell(_as_rows(step), cells[-1] if cells else None)
        parts.append(part)
        cells.append(cell)
        hidden.append(after.to(gates.dtype))
    return _as_images(torch.cat(hidden), gates.shape), parts, cells


class _Recurrence(torch.autograd.Function):
    """The hidden states of all steps ``(T B, C, H, W)``, from what the inputs add to the gates ``(T B, 4C, H, W)``.

    The same sums as with autograd, in another order: going back, each step needs the gradient of its h only; that of
    the weights is one convolution over all steps together. T small ones take a quarter longer on small images.
    ``before`` is what made the gates: the inputs, a kernel and a bias, which are kept anyway.
    """

    @staticmethod
    def forward(ctx, gates, weight, batch, padding, dilation, *before):
        hidden, parts, cells = _recurrence(gates, weight, batch, padding, dilation)
        ctx.save_for_backward(*before, hidden, weight, *parts, *cells)
        ctx.options = [1, 1], [padding, padding], [dilation, dilation], False, [0, 0], 1
        ctx.arguments = batch, padding, dilation
        return hidden

    @staticmethod
    def backward(ctx, grad):
        x, *before, hidden, weight = ctx.saved_tensors[:5]
        saved, (batch, padding, dilation) = ctx.saved_tensors[5:], ctx.arguments
        if derivatives.again():
            # The gates are not kept; what the inputs add to them is made anew, as it was made.
            gates = F.conv2d(x.to(before[0].dtype), *before, padding=padding, dilation=dilation)
            return (
                *derivatives.of_formula(
                    lambda *tensors: _recurrence(*tensors, *ctx.arguments)[0], (gates, weight), grad.to(gates.dtype)
                ),
                *[None] * 6,
            )
        weight, steps = weight.to(hidden.dtype), len(saved) // 2
        parts, cells = saved[:steps], saved[steps:]
        grads = grad.permute(0, 2, 3, 1).reshape(steps, *cells[0].shape)
        gates = torch.empty(
            (len(hidden), *weight.shape[:1], *hidden.shape[2:]),
            dtype=hidden.dtype,
            device=hidden.device,
            memory_format=torch.channels_last,
        )
        grad_hidden, grad_cell = 0.0, 0.0
        for t in reversed(range(steps)):
            enter, forget, new, out = parts[t]
            squashed = cells[t].tanh()
            grad_hidden = grads[t].to(squashed.dtype) + grad_hidden
            grad_cell = _tanh_backward(grad_hidden * out, squashed) + grad_cell
            grad_parts = torch.empty_like(parts[t])
            _sigmoid_backward(grad_cell * new, enter, grad_input=grad_parts[0])
            _tanh_backward(grad_cell * enter, new, grad_input=grad_parts[2])
            _sigmoid_backward(grad_hidden * squashed, out, grad_input=grad_parts[3])
            if t:
                _sigmoid_backward(grad_cell * cells[t - 1], forget, grad_input=grad_parts[1])
            else:
                grad_parts[1].zero_()
            grad_cell = grad_cell * forget
            step = gates[t * batch : (t + 1) * batch]
            step.copy_(_as_images(grad_parts.transpose(0, 1).flatten(1), step.shape))
            if t:
                before = hidden[(t - 1) * batch : t * batch]
                grad_hidden = _convolution_backward(step, before, weight, None, *ctx.options, [True, False, False])[0]
                grad_hidden = grad_hidden.permute(0, 2, 3, 1).reshape(cells[0].shape).to(squashed.dtype)
        if steps == 1:
            return gates, torch.zeros_like(weight), *[None] * 6
        late, early = gates[batch:], hidden[:-batch]
        grad_weight = _convolution_backward(late, early, weight, None, *ctx.options, [False, True, False])[1]
        return gates, grad_weight, *[None] * 6


_convolution_backward = torch.ops.aten.convolution_backward
# Times s (1 - s), and times 1 - t^2, of a sigmoid s and a tanh t: one pass each.
_sigmoid_backward, _tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


def _cell(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """From gates ``(N, 4C)`` these after their sigmoids and tanh ``(4, N, C)``, c and h ``(N, C)``, at least float32.

    The four gates are laid one behind the other, once: slices of a few channels would be slow to work on.
    """
    dtype = torch.promote_types(gates.dtype, torch.float32)
    parts = gates.unflatten(1, (4, gates.shape[1] // 4)).transpose(0, 1)
    parts = parts.to(dtype, memory_format=torch.contiguous_format, copy=True)
    if parts.requires_grad:
        # Autograd needs the results of all, and would find them overwritten.
        parts = torch.cat([parts[:2].sigmoid(), parts[2:3].tanh(), parts[3:].sigmoid()])
    else:
        parts[:2].sigmoid_()
        parts[2].tanh_()
        parts[3].sigmoid_()
    enter, forget, new, out = parts
    after = enter * new if cell is None else torch.addcmul(enter * new, forget, cell)
    return parts, after, out * after.tanh()


def _as_rows(images: Tensor) -> Tensor:
    """``(B, C, H, W)``, channels innermost in memory, to ``(B H W, C)``."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _as_images(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """``(B H W, C)`` to ``(B, C, H, W)``, channels innermost in memory."""
    return rows.view(shape[0], *shape[2:], rows.shape[1]).permute(0, 3, 1, 2)
