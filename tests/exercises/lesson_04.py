"""Right and wrong answers to the exercises of lesson 04."""

import math

import numpy as np
import torch

from nbflows.exercises.lesson_04 import TableNoise, WithoutLogit, WithoutSigmoid, gap_of
from tests.exercises.answers import Answers


def by_integration(k):
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    q = (k[:, None] + 1) * (1 - u) ** k[:, None]
    return -(q * q.log()).mean(1)


def by_three_means(q, p):
    bound = (q * (p.log2() - q.log2())).mean(1)
    return p.mean(1).log2() - bound


class SigmoidBeforeTheTable(TableNoise):
    """The stub of the lesson: the sigmoid's term is taken at the wrong logits."""

    def forward(self, e, context=None):
        u, log_det = super().forward(e, context)
        of_sigmoid = (e * (1 - e)).log() - (u * (1 - u)).log()
        return u, log_det + of_sigmoid.flatten(1).sum(1)


class Broadcast(TableNoise):
    """Sums the table instead of the pixels."""

    def forward(self, e, context=None):
        u, log_det = super().forward(e, context)
        return u, log_det - self.log_scale[context].flatten(1).sum(1) + self.log_scale.sum()


class WrongSign(TableNoise):
    def forward(self, e, context=None):
        u, log_det = super().forward(e, context)
        return u, -log_det


class ForgetsTheShift(TableNoise):
    def inverse(self, u, context=None):
        return (u.logit() * (-self.log_scale[context]).exp()).sigmoid()


class ByTheDerivative(TableNoise):
    def forward(self, e, context=None):
        u, _ = super().forward(e, context)
        return u, (u * (1 - u) * self.log_scale[context].exp() / (e * (1 - e))).log().flatten(1).sum(1)


ANSWERS = {
    1: Answers(
        right=[
            lambda k: 1 - 1 / (k + 1) - torch.log1p(k),
            # The form that was once refused: a function of floats.
            lambda k: k / (k + 1) - math.log(k + 1),
            lambda k: torch.distributions.Beta(torch.ones_like(k), k + 1).entropy(),
            lambda k: k.numpy() / (k.numpy() + 1) - np.log(k.numpy() + 1),
            lambda k: (k.float() / (k.float() + 1) - (k.float() + 1).log()).requires_grad_(),
            by_integration,
        ],
        wrong=[
            (lambda k: ..., "there is no answer"),
            (lambda k: torch.log(k + 1) - k / (k + 1), "the sign is opposite"),
            (lambda k: (k / (k + 1) - torch.log(k + 1)) / math.log(2), "in bits, it should be in nats"),
            (lambda k: k / (k + 1), "the constant -log(k + 1)"),
            (lambda k: -math.log(k + 1), "the mean of k log(1 - u)"),
            (lambda k: k - torch.log(k + 1), "under uniform noise"),
            (lambda k: torch.zeros_like(k), "ignores its argument"),
            (lambda k: torch.tensor([0.0, -0.1931, -0.6363, -1.4888]), ""),
        ],
    ),
    2: Answers(
        right=[
            by_three_means,
            lambda q, p: (q * (q * p.mean(1, keepdim=True) / p).log()).mean(1) / math.log(2),
            lambda q, p: [float(gap) for gap in gap_of(q, p)],
            lambda q, p: (q.numpy() * np.log2(q.numpy() * p.numpy().mean(1, keepdims=True) / p.numpy())).mean(1),
        ],
        wrong=[
            (lambda q, p: gap_of(q, p) * math.log(2), "in nats, it should be in bits"),
            (lambda q, p: -gap_of(q, p), "the sign is opposite"),
            (lambda q, p: (q * (q / p).log2()).mean(1), "log P(x) is missing"),
            (lambda q, p: gap_of(torch.ones_like(q), p), "uniform noise"),
            (lambda q, p: gap_of(q, p).mean(), "averages over the batch"),
            (lambda q, p: gap_of(q, p)[:, None], "keepdim"),
            # The numbers that were once printed above the stub, for three of the four levels.
            (lambda q, p: torch.tensor([1.3615, 0.5065, 0.5040]), "it differs"),
        ],
    ),
    3: Answers(
        right=[ByTheDerivative],
        wrong=[
            # The stub must not give its fault away.
            (SigmoidBeforeTheTable, "log_det: it differs by up to"),
            (WithoutSigmoid, "the sigmoid's term is missing"),
            (WithoutLogit, "the logit's term is missing"),
            (WrongSign, "the sign is opposite"),
            (Broadcast, "log_det"),
            (ForgetsTheShift, "inverse(z)"),
        ],
    ),
}
