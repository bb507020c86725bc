"""A reader's prediction before a decisive cell, and how far it was from what the cell measured."""

from collections.abc import Sequence

Value = float | str | Sequence[str]


def predict(question: str, guess: Value | None = None, choices: Sequence[str] | None = None) -> "Prediction":
    """Prints a question, with its choices, and keeps the reader's guess until ``compare`` knows the answer.

    Args:
        question: one sentence.
        guess: a number, one of ``choices`` by its letter ("a", "b", ...) or by its text, or for a ranking all of
            ``choices`` as a list of letters or a word of letters ("cab"), the first one first. None or ... for a
            reader who has not predicted yet.
        choices: the answers to choose from, or the things to rank.
    """
    prediction = Prediction(guess, choices)
    print(question)
    for letter, text in zip(_LETTERS, choices or (), strict=False):
        print(f"  {letter}) {text}")
    print(f"your prediction: {prediction}")
    return prediction


class Prediction:
    """A reader's guess; see ``predict``."""

    def __init__(self, guess: Value | None, choices: Sequence[str] | None = None):
        self.choices = None if choices is None else list(choices)
        self.guess = None if guess is None or guess is Ellipsis else guess
        self._complaint = ""
        try:
            self._understood = None if self.guess is None else self._read(self.guess)
        except (TypeError, ValueError) as error:
            # A prediction that cannot be read never stops the notebook: the reader sees why, and the measured value.
            self._understood, self._complaint = None, str(error)

    def __str__(self) -> str:
        if self._complaint:
            return self._complaint
        return "none yet; replace None in this cell by yours" if self.guess is None else _text(self._understood)

    def compare(self, measured: Value) -> None:
        """Prints in one line what was measured and how far the prediction was.

        Args:
            measured: as a guess: a number (or a tensor with one), a choice, or a ranking.
        """
        truth = self._read(measured)
        said = "no prediction" if self._understood is None else f"you predicted {_text(self._understood)}"
        verdict = "" if self._understood is None else f": {_difference(self._understood, truth)}"
        print(f"measured {_text(truth)}; {said}{verdict}")

    def _read(self, value):
        if self.choices is None:
            try:
                return float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{value!r} is not a number") from None
        if not isinstance(value, str) or (len(value) == len(self.choices) > 1 and value not in self.choices):
            try:
                ranking = [_choice(item, self.choices) for item in value]
            except TypeError:
                ranking = []
            if sorted(ranking) != sorted(self.choices):
                raise ValueError(f"{value!r} is not a choice, nor a ranking of all {len(self.choices)} of them")
            return ranking
        return _choice(value, self.choices)


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _choice(value, choices):
    """Returns the choice that a letter or a text names."""
    text = value.strip().rstrip(")").casefold()
    for letter, choice in zip(_LETTERS, choices, strict=False):
        if text in (letter, choice.casefold()):
            return choice
    raise ValueError(f"{value!r} is not one of the choices {', '.join(_LETTERS[: len(choices)])}")


def _text(value):
    if isinstance(value, list):
        return " > ".join(value)
    return f'"{value}"' if isinstance(value, str) else f"{value:.4g}"


def _difference(guess, truth):
    """Says how far a guess is from the truth."""
    if isinstance(truth, list) != isinstance(guess, list):
        return "one of the two is a ranking, the other is not"
    if isinstance(truth, list):
        pairs = [(first, second) for index, first in enumerate(truth) for second in truth[index + 1 :]]
        right = sum(guess.index(first) < guess.index(second) for first, second in pairs)
        return "the same order" if right == len(pairs) else f"{right} of {len(pairs)} pairs are in the right order"
    if isinstance(truth, str):
        return "right" if guess == truth else "wrong"
    if guess == truth:
        return "exactly right"
    if guess * truth < 0:
        return f"the sign is opposite, and the difference is {guess - truth:+.2g}"
    if guess * truth == 0:
        return f"the difference is {guess - truth:+.2g}"
    ratio = abs(guess / truth)
    much = f"{ratio:.3g} times as large" if ratio > 1 else f"{1 / ratio:.3g} times too small"
    much = f"{ratio:.2f} times the measured value" if 0.5 <= ratio <= 2 else much
    return f"{much}, the difference is {guess - truth:+.2g}"
