"""Training in constant memory: backward computes anew what forward did not keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbflows import derivatives
from nbflows.ranks import common_generator

if TYPE_CHECKING:
    from nbflows.bijection import Bijection

# (x, context) -> (z, log_det).
Part = Callable[[Tensor, "Tensor | None"], "tuple[Tensor, Tensor]"]

MEMORY = ("plain", "checkpoint", "invertible")


def check_memory(memory: str) -> str:
    """Returns it. Raises ValueError for an unknown one."""
    if memory not in MEMORY:
        raise ValueError(f"memory is one of {', '.join(MEMORY)}, got {memory!r}")
    return memory


def parts(layers: Iterable[Bijection], memory: str) -> Iterator[Part]:
    """What to call in turn in order to apply layers: single ones, or several together that backward recomputes."""
    if memory == "plain" or not torch.is_grad_enabled() or derivatives.traced():
        yield from layers
        return
    for recomputed, neighbours in groupby(layers, lambda layer: layer.recomputed_from is not None):
        together = list(neighbours)
        yield from [partial(_run, together, memory)] if recomputed else together


def _run(layers: list[Bijection], memory: str, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Applies layers in order and keeps for backward little more than z and the inputs of a few.

    Kept are z, the context, the input of every layer that is recomputed from its input, and some values of each
    input that the inverse has to find again.

    Raises, in backward:
        RuntimeError: an input that was found again by the inverse is not what it was; the gradients would be wrong.
    """
    parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    # A parameter that several layers share gets one gradient, the sum.
    parameters = list({id(p): p for p in parameters}.values())
    return _Recomputed.apply(layers, memory, parameters, x, context, *parameters)


def checkpoint(module: nn.Module, function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """``function(*inputs)``, a tensor that keeps no graph: backward computes it anew, with the same random numbers.

    Args:
        module: whose parameters the function depends on.
    """
    if not torch.is_grad_enabled() or derivatives.traced():
        return function(*inputs)
    return _Checkpoint.apply(function, len(inputs), *inputs, *(p for p in module.parameters() if p.requires_grad))


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, num_inputs, *tensors):
        inputs = tensors[:num_inputs]
        device = next(tensor.device for tensor in inputs if tensor is not None)
        ctx.function, ctx.parameters = function, tensors[num_inputs:]
        ctx.autocast, ctx.random_state = _AutocastState(device.type), _RandomState(device)
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx, grad):
        if derivatives.again():
            raise RuntimeError(_TWICE.format("one chunk: chunk_size=len(x)"))
        wanted = [tensor is not None and tensor.requires_grad for tensor in ctx.saved_tensors]
        inputs = [t.detach().requires_grad_() if w else t for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
        with ctx.autocast.restored(), torch.enable_grad(), _replayed(ctx.random_state):
            value = ctx.function(*inputs)
        leaves = [t for t, w in zip(inputs, wanted, strict=True) if w]
        gradients = iter(torch.autograd.grad(value, [*leaves, *ctx.parameters], grad, allow_unused=True))
        return None, None, *(next(gradients) if w else None for w in wanted), *gradients


_TWICE = "gradients that are computed anew in backward have none of their own; for second derivatives use {}"


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layers, memory, parameters, x, context, *_):
        ctx.layers, ctx.parameters = layers, parameters
        ctx.autocast = _AutocastState(x.device.type)
        ctx.from_output = [memory == "invertible" and layer.recomputed_from == "output" for layer in layers]
        log_det, saved, ctx.random_states, found_again = 0.0, [], [], False
        with ctx.autocast.restored():
            for layer, from_output in zip(layers, ctx.from_output, strict=True):
                # Of a series of inputs that are found again the first is the last found, with the errors of all.
                saved.append((None if found_again else _witness(x)) if from_output else x)
                found_again = from_output
                before = _RandomState(x.device)
                x, layer_log_det = layer(x, context)
                ctx.random_states.append(before if before.has_moved() else None)
                log_det = log_det + layer_log_det
        ctx.save_for_backward(x, context, *saved)
        return x, log_det

    @staticmethod
    def backward(ctx, grad, grad_log_det):
        if derivatives.again():
            raise RuntimeError(_TWICE.format('set_memory(flow, "plain")'))
        z, context, *saved = ctx.saved_tensors
        wants_context = ctx.needs_input_grad[4]
        gradients = {id(parameter): None for parameter in ctx.parameters}
        grad_context = None
        going_back = zip(*map(reversed, (ctx.layers, saved, ctx.from_output, ctx.random_states)), strict=True)
        for layer, kept, from_output, random_state in going_back:
            own = [p for p in layer.parameters() if p.requires_grad]
            given = context.detach().requires_grad_() if wants_context else context
            with ctx.autocast.restored(), torch.enable_grad(), _replayed(random_state):
                if from_output:
                    x, leaf, z, log_det = layer.recompute(z, given)
                else:
                    x = leaf = kept.detach().requires_grad_()
                    z, log_det = layer(leaf, given)
            wanted = [leaf, *own, *([given] if wants_context else [])]
            grad, *further = _gradients((z, log_det), (grad, grad_log_det), wanted)
            if wants_context:
                grad_context = _add(grad_context, further.pop())
            for parameter, gradient in zip(own, further, strict=True):
                gradients[id(parameter)] = _add(gradients[id(parameter)], gradient)
            z = x.detach()
            if from_output and kept is not None:
                _check_witness(kept, z, layer, ctx.autocast.rounding(z))
        return None, None, None, grad, grad_context, *gradients.values()


def _gradients(outputs: tuple, weights: tuple, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    """Of the outputs, weighted; zeros for what they do not depend on."""
    pairs = [(output, weight) for output, weight in zip(outputs, weights, strict=True) if output.requires_grad]
    return torch.autograd.grad(
        [output for output, _ in pairs], wanted, [weight for _, weight in pairs], materialize_grads=True
    )


def _add(total: Tensor | None, gradient: Tensor) -> Tensor:
    return gradient if total is None else total + gradient


def _witness(x: Tensor) -> Tensor:
    """About 64 values of each example, spread over it."""
    values = x.flatten(1)
    return values[:, :: max(1, values.shape[1] // 64)].clone()


def _check_witness(witness: Tensor, x: Tensor, layer: Bijection, rounding: float) -> None:
    error, largest = torch.stack([(_witness(x) - witness).abs().max(), witness.abs().max()]).tolist()
    # Half of the digits that the networks have: the gradients have about as many.
    tolerance = rounding**0.5 * max(1.0, largest)
    if not error <= tolerance:
        raise RuntimeError(
            f"backward could not find the input of a {type(layer).__name__} again: going back through the inverses it "
            f"is off by {error:.1e}, allowed is {tolerance:.1e}. Somewhere after it rounding is magnified, for example "
            "by a scale that is very small: train with memory 'checkpoint' or in precision 32-true, or bound the "
            "scales, for example by SigmoidScale(lowest=0.5)"
        )


class _RandomState:
    """Of the generators that a layer may draw from: on the CPU, common to all ranks, and on its device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.on_cpu = {generator: generator.get_state() for generator in {torch.default_generator, common_generator()}}
        self.on_device = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)

    def has_moved(self) -> bool:
        if any(not torch.equal(state, generator.get_state()) for generator, state in self.on_cpu.items()):
            return True
        return self.on_device is not None and not torch.equal(self.on_device, _RandomState(self.device).on_device)

    def restore(self) -> None:
        for generator, state in self.on_cpu.items():
            generator.set_state(state)
        if self.on_device is not None:
            torch.get_device_module(self.device).set_rng_state(self.on_device, self.device)


@contextlib.contextmanager
def _replayed(state: _RandomState | None):
    """Draws the same numbers as in forward, dropout masks for example; the generators go on afterwards untouched."""
    if state is None:
        yield
        return
    now = _RandomState(state.device)
    state.restore()
    try:
        yield
    finally:
        now.restore()


class _AutocastState:
    """Backward runs outside of autocast; what it recomputes must be what forward computed."""

    def __init__(self, device_type: str):
        self.device_type = device_type
        self.enabled = torch.is_autocast_enabled(device_type)
        self.dtype = torch.get_autocast_dtype(device_type)

    def restored(self) -> torch.autocast:
        # Without its cache of weights: those cast where no graph is wanted would be taken where one is.
        return torch.autocast(self.device_type, self.dtype, self.enabled, cache_enabled=False)

    def rounding(self, x: Tensor) -> float:
        """Of the numbers in networks. Where one of them falls on the other side, a last digit of x becomes as much."""
        if self.enabled:
            return torch.finfo(self.dtype).eps
        # NVIDIA's convolutions round float32 to 10 bits, unless they are told not to.
        in_tf32 = x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
        return 2**-10 if in_tf32 else torch.finfo(x.dtype).eps
