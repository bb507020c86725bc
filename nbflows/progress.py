"""The progress bar of everything that takes long."""

import sys
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar, overload

from tqdm import tqdm

T = TypeVar("T")


@overload
def bar(items: Iterable[T], title: str, *, show: bool = True, **settings: Any) -> "tqdm[T]": ...
@overload
def bar(items: None, title: str, *, show: bool = True, **settings: Any) -> "tqdm[NoReturn]": ...
def bar(items: Iterable[T] | None, title: str, *, show: bool = True, **settings: Any) -> "tqdm[T] | tqdm[NoReturn]":
    """Returns a bar of tqdm over the items, or one that the caller moves if there are none; ``settings`` are tqdm's."""
    # Notebooks show stderr in red.
    return tqdm(items, title, file=sys.stdout, disable=not show, **settings)
