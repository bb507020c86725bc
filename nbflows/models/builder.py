"""Records how a model was built, for model files, and refuses to build a model larger than its file."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from nbflows.flow import Flow

Arguments = ParamSpec("Arguments")
AnyFlow = TypeVar("AnyFlow", bound=Flow)
# The number of tensors and of elements that a flow may have; None for no limit.
_limit: ContextVar[tuple[int, int] | None] = ContextVar("limit", default=None)


def builder(build: Callable[Arguments, AnyFlow]) -> Callable[Arguments, AnyFlow]:
    """Makes a function record its name and all its arguments, with defaults, in ``built_by`` of the flow it returns."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def recording(*args: Arguments.args, **kwargs: Arguments.kwargs) -> AnyFlow:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if limit := _limit.get():
            before = _limit.set(None)
            try:
                if not _is_moderate(signature, bound.arguments):
                    with torch.device("meta"), _counted(*limit):
                        build(*args, **kwargs)
                with _counted(*limit):
                    flow = build(*args, **kwargs)
            finally:
                _limit.reset(before)
        else:
            flow = build(*args, **kwargs)
        further = [name for name, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
        arguments = {name: value for name, value in bound.arguments.items() if name not in further}
        flow.built_by = (
            build.__name__,
            arguments | {k: v for name in further for k, v in bound.arguments[name].items()},
        )
        return flow

    return recording


@contextlib.contextmanager
def no_larger_than(num_tensors: int, num_elements: int) -> Iterator[None]:
    """Within it a builder raises ValueError for a flow much larger than this, before it allocates the memory.

    Otherwise the sizes in a file could make it use all memory or loop for ever.
    """
    # Constants of a layer, such as a mask, are not in the file.
    before = _limit.set((4 * num_tensors + 1000, 2 * num_elements + 2**16))
    try:
        yield
    finally:
        _limit.reset(before)


def _is_moderate(signature: inspect.Signature, arguments: Mapping[str, object]) -> bool:
    """Whether all sizes are at most 64, or twice the builder's own: then no layer is large before it is counted.

    Otherwise the flow is first built on the device "meta", which takes a second because torch imports sympy for it.
    """
    for name, value in arguments.items():
        largest = max([64, *(2 * abs(size) for size in _numbers(signature.parameters[name].default))])
        if any(abs(size) > largest for size in _numbers(value)):
            return False
    return True


def _numbers(value: object) -> Iterator[int | float]:
    """Yields the numbers in an argument: itself, or its parts."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


@contextlib.contextmanager
def _counted(num_parts: int, num_elements: int) -> Iterator[None]:
    """Counts modules, parameters, buffers and their elements; raises ValueError when they exceed the limits."""
    parts = elements = 0

    def count(owner: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, elements
        parts += 1
        elements += part.numel() if isinstance(part, Tensor) else 0
        if parts > num_parts or elements > num_elements:
            raise ValueError("its sizes make a flow larger than its weights")

    handles = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
        registration.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
