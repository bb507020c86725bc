"""The progress bar of everything that takes long."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Iterable[T] | None, title: str, *, show: bool = True, **settings: Any) -> "tqdm[T]":
    """Returns a bar of tqdm over the items, or one that the caller moves if there are none; ``settings`` are tqdm's."""
    # Notebooks show stderr in red.
    shown = tqdm(items, title, file=sys.stdout, disable=not show, **settings)
    # Without items there is no type to iterate over.
    return cast("tqdm[T]", shown)
