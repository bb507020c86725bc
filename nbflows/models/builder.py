"""Remembers how a model was built, so that a file can say it."""

import functools
import inspect
from collections.abc import Callable

from nbflows.flow import Flow


def builder(build: Callable[..., Flow]) -> Callable[..., Flow]:
    """Makes a function note its name and all its arguments, defaults too, on the flow that it returns: ``built_by``."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def remembering(*args, **kwargs) -> Flow:
        flow = build(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        further = [name for name, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
        arguments = {name: value for name, value in bound.arguments.items() if name not in further}
        flow.built_by = (
            build.__name__,
            arguments | {k: v for name in further for k, v in bound.arguments[name].items()},
        )
        return flow

    return remembering
