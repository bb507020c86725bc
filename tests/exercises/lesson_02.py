"""Right and wrong answers to the exercises of lesson 02."""

import math

import torch

from nbflows.exercises.lesson_02 import OncePerImage, Probit, Repaired, RoundsUp, gap
from nbflows.layers import Logit
from tests.exercises.answers import Answers


def on_paper(c):
    """Plain floats: 0 log 0 never occurs, because the slopes are below 2."""
    a, b = 1 - c / 2, 1 + c / 2
    return 1 - (b * math.log(b) - a * math.log(a)) / c


def numerically(c):
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    return -(1 + c[:, None] * (u - 0.5)).log().mean(1)


def changed(change):
    """The class of exercise 2 with z and log_det changed."""
    return type("Changed", (Probit,), {"forward": lambda self, x, context=None: change(*Probit.forward(self, x))})


class Faulty(Repaired):
    """As the lesson prints it."""

    def forward(self, x, context=None):
        z, log_det = Logit.forward(self, (x + torch.rand(x.shape)) / self.K)
        return z, log_det - math.log(self.K)

    def inverse(self, z, context=None):
        return (Logit.inverse(self, z) * self.K).ceil().clamp(0, self.K - 1)


class PixelByPixel(Repaired):
    def forward(self, x, context=None):
        z, log_det = Logit.forward(self, (x + torch.rand(x.shape)) / self.K)
        return z, log_det - sum(math.log(self.K) for _ in x[0])


class NoLogK(Repaired):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det + x[0].numel() * math.log(self.K)


class Rounds(Repaired):
    def inverse(self, z, context=None):
        return (Logit.inverse(self, z) * self.K).round().clamp(0, self.K - 1)


class LogKAdded(Repaired):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det + 2 * x[0].numel() * math.log(self.K)


ANSWERS = {
    1: Answers(
        right=[on_paper, numerically, lambda c: gap(c).float(), lambda c: [on_paper(value) for value in c.tolist()]],
        wrong=[
            (lambda c: ..., "there is no answer"),
            (lambda c: 0.0, "ignores its argument"),
            (lambda c: -gap(c), "the sign is opposite"),
            (lambda c: gap(c) / math.log(2), "in bits, it should be in nats"),
            (lambda c: c**2 / 24, "first term of a series"),
            (lambda c: gap(c) - 1, "the integral of 1 is missing"),
            (
                lambda c: 0.5 * ((1 + c / 2) * (1 + c / 2).log() + (1 - c / 2) * (1 - c / 2).log()),
                "it differs by up to",
            ),
            (lambda c: torch.full((4,), 0.0452), "ignores its argument"),
        ],
    ),
    2: Answers(
        right=[changed(lambda z, log_det: (z, -torch.distributions.Normal(0, 1).log_prob(z).sum(1)))],
        wrong=[
            (changed(lambda z, log_det: (z, ...)), "there is no answer"),
            (changed(lambda z, log_det: (2 * z, log_det)), "z: "),
            (changed(lambda z, log_det: (z, -log_det)), "log-determinant of the inverse layer"),
            (changed(lambda z, log_det: (z, z.square().sum(1) / 2)), "log sqrt(2 pi)"),
            (changed(lambda z, log_det: (z, log_det / z.shape[1])), "mean"),
            (changed(lambda z, log_det: (z, log_det / math.log(2))), "bits"),
            (changed(lambda z, log_det: (z, torch.zeros(len(z)))), "log_det: "),
            (changed(lambda z, log_det: (z, log_det[:, None])), "keepdim"),
        ],
    ),
    3: Answers(
        right=[PixelByPixel],
        wrong=[
            (Faulty, "log K is subtracted once per image"),
            (OncePerImage, "log K is subtracted once per image"),
            (RoundsUp, "one grey level too bright"),
            (NoLogK, "log_det: "),
            (LogKAdded, "log_det: "),
            (Rounds, "inverse(z): "),
        ],
    ),
}
