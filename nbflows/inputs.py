"""Numbers from outside, on the command line and in calls: each is checked at once, by its name and its range."""

import math
from operator import index


def number(value, name: str, low: float = -math.inf, high: float = math.inf, *, above: float | None = None) -> float:
    """``value`` as a float in [low, high], or larger than ``above``.

    It may be an int, a float, a string, or one number of torch or numpy. Raises ``ValueError`` with the name, the range
    and what was given; NaN and infinities are in no range.
    """
    return _in_range(_single(value, name, float, "a number"), value, name, low, high, above)


def whole(value, name: str, low: float = -math.inf, high: float = math.inf) -> int:
    """``value`` as an int in [low, high]; like ``number``, and 2.5 is refused, not rounded."""
    return _in_range(_single(value, name, _whole, "a whole number"), value, name, low, high)


def _single(value, name: str, convert, kind: str):
    if getattr(value, "ndim", 0):
        raise ValueError(f"{name} is {kind}; this has shape {tuple(value.shape)}")
    try:
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, bool):
            raise TypeError
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {kind}, not {value!r:.50}") from None


def _whole(value) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) else index(value)


def _in_range(value, given, name: str, low: float, high: float, above: float | None = None):
    if math.isfinite(value) and low <= value <= high and (above is None or value > above):
        return value
    bounds = [f"{low} or more"] * math.isfinite(low) + [f"{high} or less"] * math.isfinite(high)
    if above is not None:
        bounds.insert(0, f"more than {above}")
    raise ValueError(f"{name} is {' and '.join(bounds) or 'finite'}, not {given}")
