"""Remembers how a model was built, so that a file can say it; and builds none that is larger than the file."""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from nbflows.flow import Flow

# The tensors and the numbers in them that a flow may have; None for any.
_limit: ContextVar[tuple[int, int] | None] = ContextVar("limit", default=None)


def builder(build: Callable[..., Flow]) -> Callable[..., Flow]:
    """Makes a function note its name and all its arguments, defaults too, on the flow that it returns: ``built_by``."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def remembering(*args, **kwargs) -> Flow:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if limit := _limit.get():
            before = _limit.set(None)
            try:
                if not _is_moderate(bound.arguments.values()):
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

    return remembering


@contextlib.contextmanager
def no_larger_than(num_tensors: int, num_elements: int) -> Iterator[None]:
    """Within it a builder raises ValueError for a flow much larger than said here, before it takes the memory.

    Sizes that a file names could otherwise ask for all memory, or for a loop without end.
    """
    # The constants of a layer are in no file: a mask, a permutation.
    before = _limit.set((4 * num_tensors + 1000, 2 * num_elements + 2**16))
    try:
        yield
    finally:
        _limit.reset(before)


def _is_moderate(arguments: Iterable) -> bool:
    """Whether no tensor of a layer is too large to be made before it is counted.

    Otherwise a flow is built without memory first, which takes a second: torch imports sympy for it.
    """
    for value in arguments:
        numbers = [part for part in (value if isinstance(value, tuple) else [value]) if isinstance(part, int | float)]
        if any(abs(number) > 2**11 for number in numbers) or abs(math.prod(numbers)) > 2**20:
            return False
    return True


@contextlib.contextmanager
def _counted(num_parts: int, num_elements: int) -> Iterator[None]:
    parts = elements = 0

    def count(owner: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, elements
        parts += 1
        elements += part.numel() if isinstance(part, Tensor) else 0
        if parts > num_parts or elements > num_elements:
            raise ValueError("the sizes that it names make a flow larger than its weights")

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
