"""The form in which the stored answers of a lesson are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answers:
    """Answers to one exercise.

    Args:
        right: answers that must be accepted, in different forms; the solution itself is tried too.
        wrong: at least four answers that must be refused, each with a part of what the reader must be told ("" if no
            diagnosis is expected).
        given: makes the objects of the notebook that ``Lab.check`` gets as keyword arguments.
    """

    right: Sequence[Any]
    wrong: Sequence[tuple[Any, str]]
    given: Callable[[], dict[str, Any]] = field(default=dict)
