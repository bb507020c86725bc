"""Compares the results of an answer with the right ones, and names the mistake if it is a common one."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class NoAnswer(Exception):
    """The reader has not written anything yet."""

    def __init__(self):
        super().__init__("there is no answer so far")


@dataclass(frozen=True)
class Trial:
    """One hidden input: what an answer returned for it, and what it should return."""

    inputs: tuple[Any, ...]
    got: Tensor
    expected: Tensor

    @property
    def dims(self) -> int:
        """The number of dimensions per example of the first batch among the inputs, 1 without a batch."""
        batches = [x for x in self.inputs if isinstance(x, Tensor) and x.dim() > 1]
        return batches[0][0].numel() if batches else 1


def as_tensor(value: Any) -> Tensor:
    """Returns tensors, arrays, numbers and lists of these as a float64 tensor without gradient, on the CPU.

    Raises:
        NoAnswer: the value is None or ..., or contains one.
    """
    if value is None or value is Ellipsis:
        raise NoAnswer
    if isinstance(value, (list, tuple)):
        return torch.stack([as_tensor(item) for item in value]) if value else torch.empty(0, dtype=torch.float64)
    return torch.as_tensor(value).detach().cpu().to(torch.float64)


def call(answer: Callable[..., object], inputs: Sequence[Any], shape: Sequence[int] | None = None) -> object:
    """Calls an answer with tensors; if it cannot take them, with arrays, and then with one Python float at a time.

    Args:
        answer: the reader's function.
        inputs: its arguments; it gets copies.
        shape: the shape of the right result. Floats are tried where the tensors among the inputs have it too.

    Raises:
        Exception: whatever the answer raises when called with tensors, if the other two ways fail too.
    """
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    try:
        return answer(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))
    except Exception as error:
        if not tensors:
            raise
        for other in (_with_arrays, _with_floats):
            try:
                return other(answer, inputs, shape)
            except Exception:
                # The reader wrote for tensors, most likely: that error is the one to show.
                continue
        raise error


def _with_arrays(answer, inputs, shape):
    return answer(*(x.numpy().copy() if isinstance(x, Tensor) else x for x in inputs))


def _with_floats(answer, inputs, shape):
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    if any(tuple(x.shape) != tuple(tensors[0].shape if shape is None else shape) for x in tensors):
        raise TypeError("the answer does not work element by element")
    columns = [x.flatten().tolist() if isinstance(x, Tensor) else itertools.repeat(x) for x in inputs]
    return as_tensor([answer(*row) for row in zip(*columns, strict=False)]).view(tensors[0].shape)


def verdict(
    trials: Sequence[Trial], tolerance: float, mistakes: Sequence[tuple[str, Sequence[Tensor]]] = ()
) -> str | None:
    """Returns None if all trials are right, or says what is wrong, by name where the mistake is a common one.

    Args:
        trials: results of several inputs; a mistake is named if it explains all of them.
        tolerance: the largest allowed absolute difference; the rounding of float32 is allowed besides.
        mistakes: names of further mistakes, and what each of them gives for the inputs.
    """
    if all(_close(trial.got, trial.expected, tolerance) for trial in trials):
        return None
    for name, results in mistakes:
        if all(_close(trial.got, result, tolerance) for trial, result in zip(trials, results, strict=True)):
            return name
    if _is_constant([trial.got for trial in trials]) and not _is_constant([trial.expected for trial in trials]):
        return "it returns the same for every input: it ignores its argument"
    for trial in trials:
        if trial.got.shape != trial.expected.shape:
            return _shape(trial, tolerance)
    if not all(trial.got.isfinite().all() for trial in trials):
        return "the result has values that are NaN or infinite"
    for name, change in _changes():
        if all(_close(trial.got, change(trial), tolerance) for trial in trials):
            return name
    difference = torch.cat([(trial.got - trial.expected).flatten() for trial in trials])
    if len(difference) > 1 and (difference - difference[0]).abs().max() <= tolerance:
        return f"it differs by a constant, {difference[0]:+.4g}, for every input"
    return f"it differs by up to {difference.abs().max():.2g}, more than {tolerance:g}"


def _close(got, expected, tolerance):
    allowed = tolerance + 1e-5 * expected.abs()
    return got.shape == expected.shape and bool(((got - expected).abs() <= allowed).all())


def _is_constant(results):
    values = torch.cat([result.flatten() for result in results])
    return len(values) > 1 and bool((values == values[0]).all())


def _shape(trial, tolerance):
    """Says what is wrong with a result whose shape is not the right one."""
    got, expected = trial.got, trial.expected
    found = f"the shape is {tuple(got.shape)}, it should be {tuple(expected.shape)}"
    if got.dim() == expected.dim() + 1 and got.shape == (*expected.shape, 1):
        return f"{found}: do not keep the dimension that you sum over (keepdim)"
    if got.dim() == 2 and got.T.shape == expected.shape:
        return f"{found}: it is transposed"
    if got.dim() > 1 and _close(got.flatten(1).sum(1), expected, tolerance):
        return f"{found}: the sum over the dimensions is missing"
    for name, reduced in (("sums", expected.sum()), ("averages", expected.mean())):
        if got.dim() == 0 and _close(got, reduced, tolerance):
            return f"{found}: it {name} over the batch as well"
    return found


def _changes():
    """Names of common mistakes, alone before in company, and what each makes of the right result."""
    log_2, log_root_2_pi = math.log(2), math.log(2 * math.pi) / 2
    sides: list[tuple[str, Any]] = [("", 1.0), ("the sign is opposite", -1.0)]
    units = [
        ("", 1.0),
        ("this is in bits, it should be in nats (a factor log 2)", 1 / log_2),
        ("this is in nats, it should be in bits (a factor log 2)", log_2),
    ]
    sums = [
        ("", lambda dims: 1.0),
        ("this is a mean over dimensions, it should be a sum", lambda dims: 1 / dims),
        ("this is a sum over dimensions, it should be a mean", lambda dims: float(dims)),
    ]
    products = sorted(itertools.product(sides, units, sums), key=lambda parts: sum(bool(name) for name, _ in parts))
    for parts in products[1:]:
        (_, sign), (_, unit), (_, over) = parts
        name = "; ".join(name for name, _ in parts if name)
        yield name, lambda trial, factor=sign * unit, over=over: trial.expected * factor * over(trial.dims)
    yield "it is transposed", lambda trial: trial.expected.T if trial.expected.dim() == 2 else trial.expected
    for sign in (1, -1):
        yield (
            "the log sqrt(2 pi) of each dimension is missing",
            lambda trial, sign=sign: trial.expected + sign * trial.dims * log_root_2_pi,
        )
        yield (
            "the log sqrt(2 pi) is missing for all dimensions but one",
            lambda trial, sign=sign: trial.expected + sign * (trial.dims - 1) * log_root_2_pi,
        )
