"""A convolutional LSTM that reads a sequence of images and predicts, at each step, from those before."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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
        x = self.embed(_channels_last(sequence.transpose(0, 1).flatten(0, 1)))
        for layer in self.layers:
            x = layer(x, batch=steps[0])
        return self.last(x).unflatten(0, steps[::-1]).transpose(0, 1)

    def step(self, x: Tensor, states: list | None = None) -> tuple[Tensor, list]:
        """One step, when the next input depends on this output: ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: the input.
            states: what the step before returned; None at the first.
        """
        x = self.embed(_channels_last(x))
        states = [None] * len(self.layers) if states is None else states
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, cell = layer.step(layer.input_to_hidden(x), state)
            after.append((x, cell))
        return self.last(x), after


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
        conv = self.hidden_to_hidden
        return _Recurrence.apply(self.input_to_hidden(x), conv.weight, batch, conv.padding[0], conv.dilation[0])

    def step(self, gates: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """(h, c) after a step, from what the input adds to the gates and (h, c) before it; None: both are zero.

        h is ``(B, C, H, W)``; c is ``(B H W, C)``, at least float32.
        """
        if state is None:
            _, cell, hidden = _cell(gates, None)
        else:
            _, cell, hidden = _cell(gates + self.hidden_to_hidden(state[0]), state[1])
        return _as_images(hidden.to(gates.dtype), gates.shape), cell


class _Recurrence(torch.autograd.Function):
    """The hidden states of all steps ``(T B, C, H, W)``, from what the inputs add to the gates ``(T B, 4C, H, W)``.

    The same sums as with autograd, in another order: going back, each step needs the gradient of its h only; that of
    the weights is one convolution over all steps together. T small ones take a quarter longer on small images.
    """

    @staticmethod
    def forward(ctx, gates, weight, batch, padding, dilation):
        weight = weight.to(gates.dtype)
        hidden, parts, cells = [], [], []
        for step in gates.split(batch):
            if hidden:
                before = _as_images(hidden[-1], step.shape)
                step = step + F.conv2d(before, weight, padding=padding, dilation=dilation)
            part, cell, after = _cell(step, cells[-1] if cells else None)
            parts.append(part)
            cells.append(cell)
            hidden.append(after.to(gates.dtype))
        hidden = _as_images(torch.cat(hidden), gates.shape)
        ctx.save_for_backward(hidden, weight, *parts, *cells)
        ctx.options = [1, 1], [padding, padding], [dilation, dilation], False, [0, 0], 1
        ctx.batch = batch
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, *saved = ctx.saved_tensors
        batch, steps = ctx.batch, len(saved) // 2
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
            grad_cell = torch.addcmul(grad_hidden * out, grad_hidden * out, squashed.square(), value=-1) + grad_cell
            # Of a sigmoid s(1 - s), of a tanh 1 - t^2.
            grad_parts = torch.empty_like(parts[t])
            torch.mul(grad_cell * new, enter - enter * enter, out=grad_parts[0])
            torch.mul(grad_cell * enter, 1 - new * new, out=grad_parts[2])
            torch.mul(grad_hidden * squashed, out - out * out, out=grad_parts[3])
            if t:
                torch.mul(grad_cell * cells[t - 1], forget - forget * forget, out=grad_parts[1])
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
            return gates, torch.zeros_like(weight), None, None, None
        late, early = gates[batch:], hidden[:-batch]
        grad_weight = _convolution_backward(late, early, weight, None, *ctx.options, [False, True, False])[1]
        return gates, grad_weight, None, None, None


_convolution_backward = torch.ops.aten.convolution_backward


def _cell(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The gates after their sigmoids and tanh ``(4, N, C)``, c and h ``(N, C)`` with N = B H W, at least float32.

    The four gates are laid one behind the other, once: slices of a few channels would be slow to work on.
    """
    dtype = torch.promote_types(gates.dtype, torch.float32)
    parts = gates.permute(0, 2, 3, 1).reshape(-1, 4, gates.shape[1] // 4).transpose(0, 1)
    parts = parts.to(dtype, memory_format=torch.contiguous_format, copy=True)
    parts[:2].sigmoid_()
    parts[2].tanh_()
    parts[3].sigmoid_()
    enter, forget, new, out = parts
    after = enter * new if cell is None else torch.addcmul(enter * new, forget, cell)
    return parts, after, out * after.tanh()


def _as_images(x: Tensor, like: torch.Size) -> Tensor:
    """``(B H W, C)`` to ``(B, C, H, W)``, channels innermost in memory."""
    return x.view(like[0], *like[2:], -1).permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
