"""Right and wrong answers to the exercises of lesson 03."""

import math

import numpy as np
import torch

from nbflows import layers
from nbflows.exercises.lesson_03 import CountsKept, Repaired, SameOrder, share
from tests.exercises.answers import Answers


class Faulty(CountsKept):
    """As the lesson prints it."""

    inverse = SameOrder.inverse


class NoLogDet(Repaired):
    def forward(self, x, context=None):
        return super().forward(x)[0], torch.zeros(len(x))


class Swapped(Repaired):
    def forward(self, x, context=None):
        z = super().inverse(x)
        return z, -super().forward(x)[1]

    def inverse(self, z, context=None):
        return super().forward(z)[0]


class LooksAtMoved(Repaired):
    """Its network reads the moved pixels, too: it cannot be inverted this way."""

    def shift_and_log_scale(self, x):
        t, r = self.net(x).chunk(2, dim=1)
        return t * ~self.mask, torch.tanh(r) * ~self.mask


def row_by_row(bijection, x):
    x = x.clone().requires_grad_()
    z, _ = bijection(x)
    rows = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in z.flatten()]
    return float(np.mean([(row != 0).double().mean() for row in rows]))


def of_the_first_latent(bijection, x):
    x = x.clone().requires_grad_()
    (row,) = torch.autograd.grad(bijection(x)[0].flatten()[0], x)
    return (row != 0).double().mean()


def of_the_mean(bijection, x):
    x = x.clone().requires_grad_()
    (row,) = torch.autograd.grad(bijection(x)[0].sum(), x)
    return (row != 0).double().mean()


ANSWERS = {
    1: Answers(
        right=[lambda t, s: t * math.exp(s), lambda t, s: np.exp(s) * t, lambda t, s: t.float() * s.float().exp()],
        wrong=[
            (lambda t, s: ..., "there is no answer"),
            (lambda t, s: t, "before the scaling"),
            (lambda t, s: t * (-s).exp(), "the opposite conversion"),
            (lambda t, s: t * s, "logarithm of the scale"),
            (lambda t, s: -t * s.exp(), "the sign is opposite"),
            (lambda t, s: torch.zeros_like(t), ""),
        ],
    ),
    2: Answers(
        right=[lambda net, mask: layers.AffineCoupling(net, keep=mask, shift_first=True)],
        wrong=[
            (Faulty, "kept pixels contribute to log_det"),
            (CountsKept, "kept pixels contribute to log_det"),
            (SameOrder, "undo the last one first"),
            (NoLogDet, "log_det: "),
            (Swapped, "forward and inverse are swapped"),
            (LooksAtMoved, "z: "),
        ],
    ),
    3: Answers(
        right=[row_by_row, lambda bijection, x: share(bijection, x).float()],
        wrong=[
            (lambda bijection, x: ..., "there is no answer"),
            (lambda bijection, x: 1 - share(bijection, x), "share of zeros"),
            (lambda bijection, x: share(bijection, x) * x.numel() ** 2, "divide by their number"),
            (lambda bijection, x: 0.1328, "ignores its argument"),
            (of_the_first_latent, "it differs by up to"),
            (of_the_mean, ""),
        ],
    ),
}
