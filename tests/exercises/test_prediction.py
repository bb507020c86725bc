"""Predictions: what is asked, what is compared, and that nothing stops the notebook."""

import pytest
import torch

from nbflows import exercises

CHOICES = ["it stays", "it rises by log 2", "it doubles"]


@pytest.mark.parametrize(
    "guess, measured, says",
    [
        (1.5, 3.0, "measured 3; you predicted 1.5: 0.50 times the measured value, the difference is -1.5"),
        (30, 3.0, "measured 3; you predicted 30: 10 times as large, the difference is +27"),
        (0.1, torch.tensor(1.0), "measured 1; you predicted 0.1: 10 times too small, the difference is -0.9"),
        (-2, 2.0, "measured 2; you predicted -2: the sign is opposite, and the difference is -4"),
        (0, 2.0, "measured 2; you predicted 0: the difference is -2"),
        (2, 2.0, "measured 2; you predicted 2: exactly right"),
        (None, 2.0, "measured 2; no prediction"),
        (..., 2.0, "measured 2; no prediction"),
        ("much", 2.0, "measured 2; no prediction"),
    ],
)
def test_numbers_are_compared_by_ratio_difference_and_sign(guess, measured, says, capsys):
    prediction = exercises.predict("Halve the width.", guess)
    capsys.readouterr()
    prediction.compare(measured)
    assert capsys.readouterr().out == says + "\n"


@pytest.mark.parametrize("guess", ["b", "B)", "it rises by log 2"])
def test_choices_are_compared_by_letter_or_text(guess, capsys):
    exercises.predict("Halve the width: the score ...", guess, CHOICES).compare("b")
    assert capsys.readouterr().out.splitlines() == [
        "Halve the width: the score ...",
        "  a) it stays",
        "  b) it rises by log 2",
        "  c) it doubles",
        'your prediction: "it rises by log 2"',
        'measured "it rises by log 2"; you predicted "it rises by log 2": right',
    ]


def test_a_wrong_choice_and_none_at_all_are_said(capsys):
    exercises.predict("?", "a", CHOICES).compare("it doubles")
    assert capsys.readouterr().out.endswith('measured "it doubles"; you predicted "it stays": wrong\n')
    exercises.predict("?", None, CHOICES).compare("c")
    assert capsys.readouterr().out.endswith(
        'your prediction: none yet; replace None in this cell by yours\nmeasured "it doubles"; no prediction\n'
    )


@pytest.mark.parametrize("guess, says", [("cab", "the same order"), ("bac", "0 of 3"), (["c", "b", "a"], "2 of 3")])
def test_rankings_are_compared_by_pairs(guess, says, capsys):
    exercises.predict("Rank these.", guess, ["AR", "GAN", "flow"]).compare(["flow", "AR", "GAN"])
    assert says in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("guess", ["d", 2, "aab", ["a", "z"]])
def test_a_guess_that_is_no_choice_is_said_and_stops_nothing(guess, capsys):
    exercises.predict("?", guess, CHOICES).compare("a")
    said = capsys.readouterr().out
    assert "not " in said and said.endswith('measured "it stays"; no prediction\n')
