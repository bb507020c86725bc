"""The self-check of a lesson's exercises: prints what is wrong, and never stops the notebook."""

from collections.abc import Callable

import torch
from torch import Tensor


def check(number: int, answer: Callable[[], object], expected: Tensor | float, tolerance: float = 1e-4) -> None:
    """Prints "exercise 1: correct", or "exercise 1: not yet" with the measured difference or the error.

    Args:
        number: number of the exercise.
        answer: function without arguments that returns a tensor or a number; its exceptions are printed.
        expected: correct result, of the same shape.
        tolerance: largest absolute difference that counts as correct.
    """
    print(f"exercise {number}: {_verdict(answer, expected, tolerance)}")


def _verdict(answer: Callable[[], object], expected: Tensor | float, tolerance: float) -> str:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    try:
        got = answer()
        if got is None or got is Ellipsis:
            return "not yet: there is no answer so far"
        got = torch.as_tensor(got).detach().to(torch.float64)
    except Exception as error:
        # The reader's code may raise any exception, and the rest of the lesson should still run.
        return f"not yet: {type(error).__name__}: {error}"
    if got.shape != expected.shape:
        return f"not yet: the shape is {tuple(got.shape)}, it should be {tuple(expected.shape)}"
    difference = (got - expected).abs().max().item()
    if difference <= tolerance:
        return "correct"
    return f"not yet: it differs by up to {difference:.2g}, more than {tolerance:g}"
