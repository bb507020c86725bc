"""Right and wrong answers to the exercises of lesson 10."""

import math

import numpy as np
import torch

from nbflows import layers
from nbflows.exercises.lesson_10 import Exchanged, LooksAway, WithoutBound, all_places_together, worth_at_most
from tests.exercises.answers import Answers


class SeesKept(LooksAway):
    def forward(self, kept, context):
        return self.net(kept)


class Zeros(LooksAway):
    def forward(self, kept, context):
        return torch.zeros(len(context), 8, 2, 2, dtype=context.dtype)


class Negative(LooksAway):
    def forward(self, kept, context):
        return -self.net(context)


class Nothing(LooksAway):
    def forward(self, kept, context):
        return ...


class NoLogDet(LooksAway):
    def log_det(self, context):
        return ...


class OfShifts(LooksAway):
    def log_det(self, context):
        return torch.tanh(self.net(context).chunk(2, dim=1)[0]).flatten(1).sum(1)


class MeanLogDet(LooksAway):
    def log_det(self, context):
        return torch.tanh(self.net(context).chunk(2, dim=1)[1]).flatten(1).mean(1)


class OfInverse(LooksAway):
    def log_det(self, context):
        return -super().log_det(context)


class Joined(LooksAway):
    """The kept part is empty, so joining it changes nothing; the coupling itself says its log-determinant."""

    def forward(self, kept, context):
        return self.net(torch.cat([kept, context], dim=1))

    def log_det(self, context):
        return layers.AffineCoupling(self, keep=0)(torch.zeros(len(context), 4, 2, 2).to(context), context)[1]


def with_numpy(train, test):
    train, test = (np.asarray(images).reshape(len(images), 16) for images in (train, test))
    total = 0.0
    for place in range(16):
        counts = np.bincount(train[:, place], minlength=17) + 0.5
        total -= np.log2(counts / counts.sum())[test[:, place]].mean()
    return total / 64


ANSWERS = {
    1: Answers(
        right=[Joined],
        wrong=[
            (Nothing, "there is no answer"),
            (SeesKept, ""),
            (Zeros, "z: "),
            (Negative, "z: "),
            (Exchanged, "exchanged"),
            (NoLogDet, "there is no answer"),
            (WithoutBound, "take the tanh first"),
            (MeanLogDet, "log_det: this is a mean over dimensions"),
            (OfInverse, "log_det: the sign is opposite"),
            (OfShifts, "log_det: it differs"),
        ],
    ),
    2: Answers(
        right=[with_numpy],
        wrong=[
            (lambda train, test: ..., "there is no answer"),
            (lambda train, test: 4 * worth_at_most(train, test), "per dimension of the 4×4 picture"),
            (all_places_together, "a histogram of its own"),
            (lambda train, test: 16 * math.log2(17) / 64, "the simplest code"),
            (lambda train, test: worth_at_most(train, test) * math.log(2), "nats"),
        ],
    ),
    3: Answers(
        right=[lambda N: 2 / (1 + 1 / N), lambda N: np.float64(2 * N) / (N + 1)],
        wrong=[
            (lambda N: ..., "there is no answer"),
            (lambda N: (N + 1) / (2 * N), "the other way round"),
            (lambda N: 2.0, "the limit of large N"),
            (lambda N: float(N), "the truth is random as well"),
            (lambda N: 10 * math.log10(2 * N / (N + 1)), "not for decibels"),
        ],
    ),
    4: Answers(
        right=["c)", "C"],
        wrong=[
            ("a", "no logit"),
            ("b", "noise, size and steps"),
            ("d", "another model of the answers"),
            (..., "there is no answer"),
        ],
    ),
}
