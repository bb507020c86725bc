"""Stored answers to the exercises of all lessons: the right ones are accepted, the wrong ones refused and named."""

import importlib
from pathlib import Path

import pytest

from nbflows.exercises import lab
from nbflows.exercises.lab import solution_code

LESSONS = [int(file.stem[-2:]) for file in sorted(Path(__file__).parent.glob("lesson_??.py"))]
STORED = {lesson: importlib.import_module(f"tests.exercises.lesson_{lesson:02d}").ANSWERS for lesson in LESSONS}
each_exercise = pytest.mark.parametrize(
    "lesson, number", [(lesson, number) for lesson, stored in STORED.items() for number in stored]
)


def test_every_lesson_with_exercises_has_stored_answers_to_each():
    files = Path(__file__).parents[2].glob("nbflows/exercises/lesson_??.py")
    assert sorted(int(file.stem[-2:]) for file in files) == LESSONS
    for lesson in LESSONS:
        assert set(STORED[lesson]) == set(lab(lesson).exercises)


@each_exercise
def test_right_answers_are_accepted(lesson, number):
    exercise, stored = lab(lesson).exercises[number], STORED[lesson][number]
    for place, answer in enumerate([exercise.solution, *stored.right]):
        assert exercise.complaint(answer, **stored.given()) is None, f"right answer {place}"


@each_exercise
def test_wrong_answers_are_refused_and_named(lesson, number, capsys):
    stored = STORED[lesson][number]
    assert len(stored.wrong) >= 4
    for place, (answer, diagnosis) in enumerate(stored.wrong):
        lab(lesson).check(number, answer, **stored.given())
        said = capsys.readouterr().out
        assert said.startswith(f"exercise {number}: not yet: ") and diagnosis in said, f"wrong answer {place}: {said}"


@each_exercise
def test_stored_mistakes_are_refused_under_their_names(lesson, number):
    exercise = lab(lesson).exercises[number]
    for name, mistake in exercise.mistakes.items():
        assert exercise.complaint(mistake, **STORED[lesson][number].given()) == name


@each_exercise
def test_exercises_have_hints_and_an_explained_solution(lesson, number):
    exercise = lab(lesson).exercises[number]
    assert len(exercise.hints) >= 2 and exercise.explanation
    assert solution_code(exercise)
