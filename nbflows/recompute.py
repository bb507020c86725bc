"""Training in constant memory: backward recomputes what forward did not keep."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from nbflows import derivatives
from nbflows.bijection import Bijection, zero_log_det
from nbflows.ranks import common_generator

# (x, context) -> (z, log_det).
Part = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]

MEMORY = ("plain", "checkpoint", "invertible")


class CheapInverse(Bijection):
    """A bijection whose inverse is as cheap as forward: with memory "invertible", backward recovers x from z."""

    def recompute(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Recovers x and repeats ``forward`` from there: ``(x, leaf, z, log_det)``.

        z and log_det are differentiable; their gradient with respect to ``leaf`` is the gradient with respect to x.
        """
        with torch.no_grad():
            x = self.inverse(z, context)
        leaf = x.detach().requires_grad_()
        return x, leaf, *self(leaf, context)


class NotRecomputed(Bijection):
    """A bijection that backward never recomputes: its parts do it themselves, or it keeps next to nothing.

    Attributes:
        memory: what its own parts keep, see ``Sequential``; None if it has no such choice.
    """

    memory: str | None = None


def check_memory(memory: str) -> str:
    """Returns ``memory``, or raises ValueError if there is no such setting."""
    if memory not in MEMORY:
        raise ValueError(f"memory is one of {', '.join(MEMORY)}, got {memory!r}")
    return memory


def parts(layers: Iterable[Bijection], memory: str) -> Iterator[Part]:
    """Yields the calls that apply the layers in order: single layers, or groups that backward recomputes."""
    if memory == "plain" or not torch.is_grad_enabled() or derivatives.traced():
        yield from layers
        return
    for recomputed, neighbours in groupby(layers, lambda layer: not isinstance(layer, NotRecomputed)):
        together = list(neighbours)
        yield from [partial(_run, together, memory)] if recomputed else together


def _run(layers: list[Bijection], memory: str, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Applies layers in order and keeps little for backward.

    It keeps z, the context, the input of every layer that is recomputed from its input, and a sample of each input
    that the inverse has to recover.

    Raises, in backward:
        RuntimeError: an input that the inverse recovered differs from the original; the gradients would be wrong.
    """
    parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    # A parameter that several layers share gets one gradient, the sum.
    parameters = list({id(p): p for p in parameters}.values())
    return _Recomputed.apply(layers, memory, parameters, x, context, *parameters)


def checkpoint(module: nn.Module, function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Returns the tensor ``function(*inputs)`` without its graph: backward recomputes it with the same random numbers.

    Args:
        module: the module whose parameters the function uses.
    """
    if not torch.is_grad_enabled() or derivatives.traced():
        return function(*inputs)
    return _Checkpoint.apply(function, len(inputs), *inputs, *(p for p in module.parameters() if p.requires_grad))


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], num_inputs: int, *tensors: Tensor | None) -> Tensor:
        inputs = tensors[:num_inputs]
        device = next(tensor.device for tensor in inputs if tensor is not None)
        ctx.function, ctx.parameters = function, tensors[num_inputs:]
        ctx.autocast, ctx.random_state = _AutocastState(device.type), _RandomState(device)
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        if derivatives.again():
            raise RuntimeError(_TWICE.format("one chunk: chunk_size=len(x)"))
        wanted = [tensor is not None and tensor.requires_grad for tensor in ctx.saved_tensors]
        inputs = [t.detach().requires_grad_() if w else t for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
        with ctx.autocast.restored(), torch.enable_grad(), _replayed(ctx.random_state):
            value = ctx.function(*inputs)
        leaves = [t for t, w in zip(inputs, wanted, strict=True) if w]
        gradients = iter(torch.autograd.grad(value, [*leaves, *ctx.parameters], grad, allow_unused=True))
        return None, None, *(next(gradients) if w else None for w in wanted), *gradients


_TWICE = "recomputed gradients cannot be differentiated again; for second derivatives use {}"


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layers: list[Bijection],
        memory: str,
        parameters: list[Tensor],
        x: Tensor,
        context: Tensor | None,
        *_: Any,
    ) -> tuple[Tensor, Tensor]:
        ctx.layers, ctx.parameters = layers, parameters
        ctx.autocast = _AutocastState(x.device.type)
        ctx.from_output = [memory == "invertible" and isinstance(layer, CheapInverse) for layer in layers]
        log_det, saved, ctx.random_states, recovered = zero_log_det(x), [], [], False
        with ctx.autocast.restored():
            for layer, from_output in zip(layers, ctx.from_output, strict=True):
                # Backward recovers the first input of a series last, with the errors of all: only it is checked.
                saved.append((None if recovered else _witness(x)) if from_output else x)
                recovered = from_output
                before = _RandomState(x.device)
                x, layer_log_det = layer(x, context)
                ctx.random_states.append(before if before.has_moved() else None)
                log_det = log_det + layer_log_det
        ctx.save_for_backward(x, context, *saved)
        return x, log_det

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple:
        if derivatives.again():
            raise RuntimeError(_TWICE.format('set_memory(flow, "plain")'))
        z, context, *saved = ctx.saved_tensors
        wants_context = ctx.needs_input_grad[4]
        gradients: dict[int, Tensor | None] = {id(parameter): None for parameter in ctx.parameters}
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
    """Returns the gradients of the weighted outputs; zeros where they do not depend on an input."""
    pairs = [(output, weight) for output, weight in zip(outputs, weights, strict=True) if output.requires_grad]
    return torch.autograd.grad(
        [output for output, _ in pairs], wanted, [weight for _, weight in pairs], materialize_grads=True
    )


def _add(total: Tensor | None, gradient: Tensor) -> Tensor:
    return gradient if total is None else total + gradient


def _witness(x: Tensor) -> Tensor:
    """Returns about 64 values of each example, evenly spaced."""
    values = x.flatten(1)
    return values[:, :: max(1, values.shape[1] // 64)].clone()


def _check_witness(witness: Tensor, x: Tensor, layer: Bijection, rounding: float) -> None:
    error, largest = torch.stack([(_witness(x) - witness).abs().max(), witness.abs().max()]).tolist()
    # Half the digits of the networks' arithmetic: gradients have about as many.
    tolerance = rounding**0.5 * max(1.0, largest)
    if not error <= tolerance:
        raise RuntimeError(
            f"backward could not recover the input of a {type(layer).__name__} through the inverses: the error is "
            f"{error:.1e}, the tolerance {tolerance:.1e}. A later layer amplifies rounding errors, for example by a "
            "very small scale: train with memory 'checkpoint' or in precision 32-true, or bound the scales, for "
            "example by SigmoidScale(lowest=0.5)"
        )


class _RandomState:
    """Snapshot of every random generator a layer may use: the CPU's, the one shared by all ranks, the device's."""

    def __init__(self, device: torch.device):
        self.device = device
        self.on_cpu = {generator: generator.get_state() for generator in {torch.default_generator, common_generator()}}
        self.on_device: Tensor | None = None
        if device.type != "cpu":
            self.on_device = torch.get_device_module(device).get_rng_state(device)

    def has_moved(self) -> bool:
        if any(not torch.equal(state, generator.get_state()) for generator, state in self.on_cpu.items()):
            return True
        if self.on_device is None:
            return False
        return not torch.equal(self.on_device, torch.get_device_module(self.device).get_rng_state(self.device))

    def restore(self) -> None:
        for generator, state in self.on_cpu.items():
            generator.set_state(state)
        if self.on_device is not None:
            torch.get_device_module(self.device).set_rng_state(self.on_device, self.device)


@contextlib.contextmanager
def _replayed(state: _RandomState | None) -> Iterator[None]:
    """Repeats the random numbers of forward, for example dropout masks, and leaves the generators as they were."""
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
    """Autocast as it was in forward: backward runs outside of it but must recompute the same numbers."""

    def __init__(self, device_type: str):
        self.device_type = device_type
        self.enabled = torch.is_autocast_enabled(device_type)
        self.dtype = torch.get_autocast_dtype(device_type)

    def restored(self) -> torch.autocast:
        # Its cache of weights is off: a weight that was cast without a graph would be used where a graph is needed.
        return torch.autocast(self.device_type, self.dtype, self.enabled, cache_enabled=False)

    def rounding(self, x: Tensor) -> float:
        """Rounding error of the networks' arithmetic: an activation that rounds the other way changes x by as much."""
        if self.enabled:
            return torch.finfo(self.dtype).eps
        # NVIDIA's convolutions round float32 to 10 bits, unless they are told not to.
        in_tf32 = x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
        return 2**-10 if in_tf32 else torch.finfo(x.dtype).eps
