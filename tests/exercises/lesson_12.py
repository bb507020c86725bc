"""Right and wrong answers to the exercises of lesson 12."""

import math

import torch
from sklearn.metrics import roc_auc_score

from nbflows.exercises.lesson_12 import break_even, list_bits, mean_of_logs, right_of_two, without_luck
from tests.exercises.answers import Answers


def by_torch(images, training, error):
    probs = (1 - error) * torch.nn.functional.one_hot(training.flatten(1).long(), 17).double() + error / 17
    entries = torch.distributions.Independent(torch.distributions.Categorical(probs), 1)
    weights = torch.distributions.Categorical(torch.ones(len(training), dtype=torch.float64))
    mixture = torch.distributions.MixtureSameFamily(weights, entries)
    return -mixture.log_prob(images.flatten(1).double()) / (64 * math.log(2))


def by_sklearn(familiar, foreign):
    truth = [0] * len(familiar) + [1] * len(foreign)
    return roc_auc_score(truth, torch.cat([familiar, foreign]))


def counted(bits, other, D, initial):
    n = 1
    while initial + n * D * bits >= n * D * other:
        n += 1
    return n


ANSWERS = {
    1: Answers(
        right=[by_torch],
        wrong=[
            (lambda images, training, error: ..., "there is no answer"),
            (without_luck, "may also get its old level"),
            (mean_of_logs, "not their logarithms"),
            (lambda *case: list_bits(*case) * math.log(2), "nats"),
            (lambda *case: -list_bits(*case), "the sign is opposite"),
            (lambda images, training, error: torch.full((len(images),), 4.09), ""),
        ],
    ),
    2: Answers(
        right=[by_sklearn],
        wrong=[
            (lambda familiar, foreign: ..., "there is no answer"),
            (lambda familiar, foreign: (foreign[:, None] > familiar).double().mean(), "a tie counts half"),
            (lambda familiar, foreign: 1 - right_of_two(familiar, foreign), "the familiar one is higher"),
            (lambda familiar, foreign: 0.5, ""),
            (lambda familiar, foreign: (foreign > familiar.mean()).double().mean(), ""),
        ],
    ),
    3: Answers(
        right=[counted],
        wrong=[
            (lambda bits, other, D, initial: ..., "there is no answer"),
            (lambda *case: break_even(*case) - 1, "one too few"),
            (lambda bits, other, D, initial: break_even(bits, other, 1, initial), "D is missing"),
            (lambda bits, other, D, initial: initial / (D * (other - bits)), ""),
            (lambda bits, other, D, initial: initial / (D * bits), ""),
        ],
    ),
    4: Answers(
        right=["B", "b)"],
        wrong=[
            ("a", "do not rank two ideas"),
            ("c", "an upper bound above 1.092"),
            ("d", "not only in the noise"),
            (..., "there is no answer"),
        ],
    ),
}
