"""Checks of answers that are no functions, hints, solutions, and the check with a result that the page knows."""

import math

import pytest
import torch

from nbflows import Bijection, exercises
from nbflows.exercises import Exercise, Lab
from nbflows.exercises.lab import solution_text


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda: torch.ones(2), "correct"),
        (lambda: torch.ones(2) + 5e-5, "correct"),
        (lambda: torch.nn.Parameter(torch.ones(2)), "correct"),
        (lambda: [torch.tensor(1.0), 1.0], "correct"),
        (lambda: torch.tensor([1, 1.5]), "not yet: it differs by up to 0.5, more than 0.0001"),
        (lambda: torch.tensor([1, torch.nan]), "not yet: the result has values that are NaN or infinite"),
        (lambda: torch.ones(3), "not yet: the shape is (3,), it should be (2,)"),
        (lambda: -torch.ones(2), "not yet: the sign is opposite"),
        (lambda: torch.ones(2) * math.log(2), "not yet: this is in nats, it should be in bits (a factor log 2)"),
        (lambda: None, "not yet: there is no answer so far"),
        (lambda: ..., "not yet: there is no answer so far"),
        (lambda: 1 / 0, "not yet: ZeroDivisionError: division by zero"),
    ],
)
def test_check_says_correct_or_what_is_wrong(answer, says, capsys):
    exercises.check(3, answer, torch.ones(2))
    assert capsys.readouterr().out == f"exercise 3: {says}\n"


def exercise(solution, **options):
    return Exercise(solution=solution, explanation="Because.", hints=("First.", "Second."), **options)


@pytest.mark.parametrize("answer", ["b", "B", " b) ", "(b)"])
def test_choices_are_letters_in_any_form(answer):
    assert exercise("b").complaint(answer) is None


def test_wrong_choices_are_refused_and_a_known_one_is_explained():
    choice = exercise("b", mistakes={"a counts the draws twice": "a"})
    assert choice.complaint("c") == "this is not right"
    assert choice.complaint("a") == "a counts the draws twice"


def test_values_are_numbers_or_lists():
    assert exercise([2, 0, 1]).complaint(torch.tensor([2, 0, 1])) is None
    assert exercise([2, 0, 1], mistakes={"this is the inverse": [1, 2, 0]}).complaint([1, 2, 0]) == (
        "this is the inverse"
    )
    assert "it differs" in exercise(2.0).complaint(2.1)


def draws(generator):
    return (torch.rand(5, generator=generator),)


def test_answers_for_single_floats_are_tried_one_element_at_a_time():
    assert exercise(lambda k: k - k.log1p(), inputs=draws).complaint(lambda k: k - math.log(k + 1)) is None


def test_the_log_of_sqrt_2_pi_is_missed_by_its_name():
    def log_prob(x):
        return (-0.5 * x**2 - 0.5 * math.log(2 * math.pi)).sum(1)

    def points(generator):
        return (torch.randn(6, 3, generator=generator),)

    normal = exercise(log_prob, inputs=points)
    assert normal.complaint(lambda x: -0.5 * x.square().sum(1)) == "the log sqrt(2 pi) of each dimension is missing"
    assert normal.complaint(lambda x: -0.5 * x.square().sum(1) - 0.5 * math.log(2 * math.pi)) == (
        "the log sqrt(2 pi) is missing for all dimensions but one"
    )


def test_a_function_with_several_results_is_compared_by_their_names():
    def images(generator):
        return (torch.randn(4, 3, generator=generator),)

    doubled = exercise(
        lambda x: (2 * x, torch.full((len(x),), 3 * math.log(2))), inputs=images, results=("z", "log_det")
    )
    assert doubled.complaint(lambda x: (2 * x, torch.full((len(x),), math.log(8)))) is None
    # Passed once: z was not looked at.
    assert doubled.complaint(lambda x: (x, torch.full((len(x),), math.log(8)))).startswith("z: ")
    assert doubled.complaint(lambda x: (2 * x, torch.full((len(x),), math.log(2)))).startswith(
        "log_det: this is a mean"
    )
    assert doubled.complaint(lambda x: 2 * x) == "it should return z and log_det"


def test_transposed_results_are_named_also_when_they_are_square():
    def matrices(generator):
        return (torch.randn(3, 3, generator=generator),)

    assert exercise(lambda x: x @ x @ x, inputs=matrices).complaint(lambda x: (x @ x @ x).T) == "it is transposed"


class Design(Bijection):
    def forward(self, x, context=None):
        return 3 * x, torch.full((len(x),), x.shape[1] * math.log(3))

    def inverse(self, z, context=None):
        return z / 3


class NoInverse(Design):
    def inverse(self, z, context=None):
        return z


class Flip(Design):
    def forward(self, x, context=None):
        return x.flip(1), torch.zeros(len(x))

    def inverse(self, z, context=None):
        return z.flip(1)


def test_a_layer_of_the_readers_own_design_is_only_asked_to_be_a_bijection_and_what_the_exercise_requires():
    def points(generator):
        return (torch.randn(4, 2, generator=generator),)

    design = exercise(
        Design,
        inputs=points,
        build=lambda answer, generator: answer(),
        unique=False,
        require=lambda answer: "it should change volumes" if answer is Flip else None,
    )
    assert design.complaint(Design) is None
    assert "inverse(forward(x)) differs from x" in design.complaint(NoInverse)
    assert design.complaint(Flip) == "it should change volumes"


def test_an_answer_changes_neither_the_random_numbers_of_the_notebook_nor_the_hidden_inputs(capsys):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert exercise(lambda k: k + 1, inputs=draws).complaint(lambda k: k.add_(torch.rand(())).sub_(99)) is not None
    assert torch.equal(torch.rand(2), expected)


def test_each_call_of_hint_goes_one_step_further_and_the_last_one_stays(capsys):
    page = Lab({1: exercise(2.0), 2: exercise(3.0)})
    for number in (1, 2, 1, 1):
        page.hint(number)
    assert capsys.readouterr().out.splitlines() == [
        "hint 1 of 2: First.",
        "hint 1 of 2: First.",
        "hint 2 of 2: Second. This is the last one.",
        "hint 2 of 2: Second. This is the last one.",
    ]


def test_a_solution_is_shown_with_its_code(capsys):
    exercises.lab(1).solution(3)
    text = solution_text(exercises.lab(1).exercises[3])
    assert 'for each number."""\n\n    def __init__(self, a):' in text
    assert "Markdown" in capsys.readouterr().out
