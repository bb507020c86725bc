"""The self-check of exercises."""

import pytest
import torch

from nbflows import exercises


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda: torch.ones(2), "exercise 3: correct"),
        (lambda: torch.ones(2) + 5e-5, "exercise 3: correct"),
        (lambda: torch.tensor([1, 1.5]), "exercise 3: not yet: it differs by up to 0.5, more than 0.0001"),
        (lambda: torch.tensor([1, torch.nan]), "exercise 3: not yet: it differs by up to nan, more than 0.0001"),
        (lambda: torch.ones(3), "exercise 3: not yet: the shape is (3,), it should be (2,)"),
        (lambda: None, "exercise 3: not yet: there is no answer so far"),
        (lambda: ..., "exercise 3: not yet: there is no answer so far"),
        (lambda: 1 / 0, "exercise 3: not yet: ZeroDivisionError: division by zero"),
    ],
)
def test_check_says_correct_or_how_far_away(answer, says, capsys):
    exercises.check(3, answer, torch.ones(2))
    assert capsys.readouterr().out == says + "\n"


def test_numbers_and_parameters_are_answers_too(capsys):
    exercises.check(1, lambda: 2.0, 2)
    exercises.check(2, lambda: torch.nn.Parameter(torch.ones(1)), torch.ones(1))
    assert capsys.readouterr().out == "exercise 1: correct\nexercise 2: correct\n"
