"""Checks of inputs: numbers on the command line and in calls, and small JSON files."""

import difflib
import json
import math
from collections.abc import Callable, Iterable
from functools import partial
from operator import index
from pathlib import Path
from typing import SupportsFloat, SupportsIndex, TypeVar

# The limit of a JSON file. Our largest has 0.1 MB; in memory, JSON takes up to twenty times its bytes.
MAX_JSON_BYTES = 2**22

Number = TypeVar("Number", int, float)


def number(
    value: object, name: str, low: float = -math.inf, high: float = math.inf, *, above: float | None = None
) -> float:
    """Returns ``value`` as a float in [low, high], or larger than ``above``.

    It may be an int, a float, a string, or one number of torch or numpy. Raises ``ValueError`` with the name, the range
    and the value; NaN and infinities are outside every range.
    """
    return _in_range(_single(value, name, _real, "a number"), value, name, low, high, above)


def whole(value: object, name: str, low: float = -math.inf, high: float = math.inf) -> int:
    """Returns ``value`` as an int in [low, high], like ``number``; 2.5 is refused, not rounded."""
    return _in_range(_single(value, name, _whole, "a whole number"), value, name, low, high)


def json_object(file: Path) -> dict:
    """Reads a JSON file. Raises ``ValueError`` naming the file unless it holds one object of at most 4 MiB."""
    if not file.is_file() and file.exists():
        raise ValueError(f"{file} is not a file, but a folder or a device")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, too many for a description in JSON")
    try:
        content = json.loads(file.read_bytes())
    # RecursionError: deeply nested lists.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not a JSON object")
    return content


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint with the most similar names, ending in a space; an empty text if there are none."""
    close = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""


def check(name: str, value: object) -> float:
    """Checks a number against the range of its name in ``RANGES``. Raises ``ValueError`` as ``number`` does."""
    return RANGES[name](value, name)


# The ranges of all numbers on the command line; the functions behind it use the same ones, by name.
RANGES: dict[str, Callable[[object, str], float]] = {
    **{name: partial(whole, low=1, high=2**31 - 1) for name in ("limit", "chunk_size", "batch_size", "epochs")},
    **{name: partial(whole, low=1, high=10**6) for name in ("num_samples", "num_draws", "quality_images")},
    **{name: partial(whole, low=1, high=10**4) for name in ("devices", "num_nodes", "image_size")},
    "num_bits": partial(whole, low=1, high=8),
    "max_steps": partial(whole, low=1, high=2**62),
    # The ranges of torch and of numpy.
    "seed": partial(whole, low=0, high=2**63 - 1),
    "seed of a training": partial(whole, low=0, high=2**32 - 1),
    "max_minutes": partial(number, above=0, high=10**7),
    "checkpoint_seconds": partial(number, low=0, high=10**7),
    "lr": partial(number, above=0, high=10**6),
    "temperature": partial(number, low=0, high=10**4),
}


def _single(value: object, name: str, convert: Callable[[object], Number], kind: str) -> Number:
    if shape := tuple(getattr(value, "shape", ())):
        raise ValueError(f"{name} is {kind}; this has shape {shape}")
    try:
        # torch's and numpy's numbers.
        if item := getattr(value, "item", None):
            value = item()
        if isinstance(value, bool):
            raise TypeError
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {kind}, not {_shown(value)}") from None


def _real(value: object) -> float:
    if isinstance(value, (int, float, str, SupportsFloat, SupportsIndex)):
        return float(value)
    raise TypeError


def _whole(value: object) -> int:
    if isinstance(value, (int, str)) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, SupportsIndex):
        return index(value)
    raise TypeError


def _in_range(value: Number, given: object, name: str, low: float, high: float, above: float | None = None) -> Number:
    if math.isfinite(value) and low <= value <= high and (above is None or value > above):
        return value
    bounds = [f"{low} or more"] * math.isfinite(low) + [f"{high} or less"] * math.isfinite(high)
    if above is not None:
        bounds.insert(0, f"more than {above}")
    raise ValueError(f"{name} is {' and '.join(bounds) or 'finite'}, not {_shown(given)}")


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 50 else f"{text[:50]}..."
