"""Checks the reader's answers, gives hints one after the other, and shows solutions when asked."""

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nbflows.bijection import Bijection
from nbflows.checks import BijectionError, check_bijection
from nbflows.exercises.verdict import NoAnswer, Trial, as_tensor, call, verdict


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson: what is right, which inputs are tried, and what helps a reader who is stuck.

    Args:
        solution: a right answer: a function, a layer class, or a value. Its source is what ``Lab.solution`` shows.
        explanation: why it is right, in Markdown.
        hints: from a nudge to nearly the solution.
        inputs: draws the arguments of a function, or ``(x,)`` or ``(x, context)`` for a layer, from a generator; it
            also gets the keyword arguments of ``Lab.check``. None if the answer is a value.
        expected: the right result for the inputs. Default: the solution's own.
        build: for a layer: makes it of the answer and a generator, and the keyword arguments of ``Lab.check``.
        results: names of the results of a function that returns several.
        mistakes: names of wrong answers of this exercise alone, and such an answer: what the reader is told.
        require: returns a complaint about an answer, or None; it is asked after all else is right.
        unique: False for a layer of the reader's own design, which only has to be a bijection.
        tolerance: the largest allowed absolute difference.
        trials: number of hidden inputs.
    """

    solution: Any
    explanation: str
    hints: Sequence[str]
    inputs: Callable[..., tuple[Any, ...]] | None = None
    expected: Callable[..., Any] | None = None
    build: Callable[..., Bijection] | None = None
    results: Sequence[str] = ()
    mistakes: Mapping[str, Any] = field(default_factory=dict)
    require: Callable[[Any], str | None] | None = None
    unique: bool = True
    tolerance: float = 1e-4
    trials: int = 3

    def complaint(self, answer: Any, **given: Any) -> str | None:
        """Says what is wrong with an answer, or returns None; raises whatever the answer raises."""
        if answer is None or answer is Ellipsis:
            raise NoAnswer
        # The reader's code may draw random numbers; the notebook's own go on as if it had not.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self.build is not None:
                found = self._of_layer(answer, self.build, given)
            elif self.inputs is not None:
                found = self._of_function(answer, given)
            else:
                found = self._of_value(answer)
            return found or (self.require(answer) if self.require is not None else None)

    def _draws(self, given):
        assert self.inputs is not None
        generator = torch.Generator().manual_seed(2026)
        return [self.inputs(generator, **given) for _ in range(self.trials)]

    def _of_value(self, answer):
        if isinstance(self.solution, str):
            same = [name for name, wrong in self.mistakes.items() if _letters(wrong) == _letters(answer)]
            return None if _letters(answer) == _letters(self.solution) else (same or ["this is not right"])[0]
        wrong = [(name, [as_tensor(value)]) for name, value in self.mistakes.items()]
        return verdict([Trial((), as_tensor(answer), as_tensor(self.solution))], self.tolerance, wrong)

    def _of_function(self, answer, given):
        if not callable(answer):
            return f"the answer should be a function, not {type(answer).__name__}"
        draws, right = self._draws(given), self.expected or self.solution
        # With one result each function returns it alone; here it is a list of one.
        expected = [_results(right(*_copies(inputs)), self.results) for inputs in draws]
        wrong = {
            name: [_results(mistake(*_copies(inputs)), self.results) for inputs in draws]
            for name, mistake in self.mistakes.items()
        }
        got = []
        for inputs, results in zip(draws, expected, strict=True):
            returned = call(answer, inputs, results[0].shape)
            if returned is None or returned is Ellipsis:
                raise NoAnswer
            if self.results and not (isinstance(returned, (tuple, list)) and len(returned) == len(self.results)):
                return f"it should return {' and '.join(self.results)}"
            got.append(_results(returned, self.results))
        return _compare(draws, got, expected, wrong, self.results or [""], self.tolerance)

    def _of_layer(self, answer, build, given):
        def layer(made_of):
            return build(made_of, torch.Generator().manual_seed(2026), **given)

        built, draws = layer(answer), self._draws(given)
        names = ["z", "log_det", "inverse(z)"]
        if self.unique:
            right = layer(self.solution)

            def results(bijection, inputs):
                with torch.no_grad():
                    # Latents of the right layer, so that a wrong forward does not hide a right inverse.
                    z, _ = right(*_copies(inputs))
                    out, log_det = bijection(*_copies(inputs))
                    return [as_tensor(value) for value in (out, log_det, bijection.inverse(z, *inputs[1:]))]

            def swapped(inputs):
                with torch.no_grad():
                    return as_tensor(right.inverse(inputs[0], *inputs[1:]))

            expected = [results(right, inputs) for inputs in draws]
            got = [results(built, inputs) for inputs in draws]
            if all(
                verdict([Trial(inputs, mine[0], swapped(inputs))], self.tolerance) is None
                and verdict([Trial(inputs, mine[0], theirs[0])], self.tolerance) is not None
                for inputs, mine, theirs in zip(draws, got, expected, strict=True)
            ):
                return "forward and inverse are swapped"
            wrong = {
                name: [results(layer(mistake), inputs) for inputs in draws] for name, mistake in self.mistakes.items()
            }
            if found := _compare(draws, got, expected, wrong, names, self.tolerance):
                return found
        try:
            for inputs in draws:
                check_bijection(built, *inputs, tolerance=self.tolerance)
        except BijectionError as error:
            return str(error)
        return None


def _compare(draws, got, expected, wrong, names, tolerance):
    """The verdict on the first of the results that is not right."""
    for part, name in enumerate(names):
        trials = [Trial(*trio) for trio in zip(draws, (g[part] for g in got), (e[part] for e in expected), strict=True)]
        # A mistake explains the results that it changes.
        mistakes = [(known, [result[part] for result in results]) for known, results in wrong.items()]
        if found := verdict(trials, tolerance, mistakes):
            return found if not name or found in wrong else f"{name}: {found}"
    return None


def _results(returned, names):
    return [as_tensor(value) for value in returned] if names else [as_tensor(returned)]


def _copies(inputs):
    return [x.clone() if isinstance(x, Tensor) else x for x in inputs]


def _letters(answer):
    return re.sub(r"\W", "", str(answer)).casefold()


class Lab:
    """The exercises of one lesson; ``lab(1)`` opens that of lesson 01."""

    def __init__(self, exercises: Mapping[int, Exercise]):
        self.exercises = exercises
        self._hints_given = dict.fromkeys(exercises, 0)

    def check(self, number: int, answer: Any, **given: Any) -> None:
        """Prints "exercise 1: correct", or "exercise 1: not yet" with what is wrong; it never stops the notebook.

        Args:
            number: number of the exercise.
            answer: the reader's function, layer class or value. A function may take and return tensors, arrays or
                Python floats.
            given: objects of the notebook that the exercise needs.
        """
        print(f"exercise {number}: {_said(lambda: self.exercises[number].complaint(answer, **given))}")

    def hint(self, number: int) -> None:
        """Prints the next hint; each call goes one step further."""
        hints = self.exercises[number].hints
        given = self._hints_given[number] = min(self._hints_given[number] + 1, len(hints))
        more = "" if given < len(hints) else " This is the last one."
        print(textwrap.fill(f"hint {given} of {len(hints)}: {hints[given - 1]}{more}", 100))

    def solution(self, number: int) -> None:
        """Shows the solution of an exercise and why it is right."""
        from IPython.display import Markdown, display

        display(Markdown(solution_text(self.exercises[number])))


def solution_text(exercise: Exercise) -> str:
    """Returns explanation and code of a solution as Markdown."""
    return f"{exercise.explanation}\n\n```python\n{solution_code(exercise)}\n```"


def solution_code(exercise: Exercise) -> str:
    """Returns the code of a solution: a value as it is written, a function or a class as its file has it."""
    solved = exercise.solution
    return textwrap.dedent(inspect.getsource(solved)).rstrip() if callable(solved) else repr(solved)


def lab(lesson: int) -> Lab:
    """Opens the exercises of a lesson, by its number."""
    return Lab(importlib.import_module(f"nbflows.exercises.lesson_{lesson:02d}").EXERCISES)


def check(number: int, answer: Callable[[], object], expected: Tensor | float, tolerance: float = 1e-4) -> None:
    """Prints "exercise 1: correct", or "exercise 1: not yet" with what is wrong, for one result that the page knows.

    Args:
        number: number of the exercise.
        answer: function without arguments that returns a tensor or a number; its exceptions are printed.
        expected: correct result, of the same shape.
        tolerance: the largest allowed absolute difference.
    """

    def complaint():
        return verdict([Trial((), as_tensor(answer()), as_tensor(expected))], tolerance)

    print(f"exercise {number}: {_said(complaint)}")


def _said(complaint):
    try:
        found = complaint()
    except NoAnswer as error:
        found = str(error)
    except Exception as error:
        # The reader's code may raise any exception, and the rest of the lesson should still run.
        found = f"{type(error).__name__}: {error}"
    return "correct" if found is None else f"not yet: {found}"
