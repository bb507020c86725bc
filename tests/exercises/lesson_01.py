"""Right and wrong answers to the exercises of lesson 01."""

import math

import numpy as np
import torch

from nbflows import layers
from nbflows.exercises.lesson_01 import AffineAfterwards, InverseRepaired, Leaky, LogDetRepaired, ShiftFirst
from tests.exercises.answers import Answers


def right_1(x):
    return -(1 - (-x).exp()).log().sum(1)


def by_autograd(x):
    x.requires_grad_()
    (slope,) = torch.autograd.grad(x.expm1().log().sum(), x)
    return slope.log().sum(1)


def in_loops(x):
    return [sum(math.log(math.exp(v) / math.expm1(v)) for v in row) for row in x.tolist()]


class IgnoresInverse(ShiftFirst):
    """Passed once: the round trip was not tested, and the inverse is the right one."""

    def forward(self, x, context=None):
        return x, x.sum(1)


class Swapped(ShiftFirst):
    def forward(self, x, context=None):
        kept, moved = x.chunk(2, dim=1)
        t, s = self.shift_and_log_scale(kept)
        return torch.cat([kept, moved * (-s).exp() - t], dim=1), -s.sum(1)

    def inverse(self, z, context=None):
        kept, moved = z.chunk(2, dim=1)
        t, s = self.shift_and_log_scale(kept)
        return torch.cat([kept, (moved + t) * s.exp()], dim=1)


class WrongSign(ShiftFirst):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, -log_det


class Unwritten(ShiftFirst):
    def inverse(self, z, context=None):
        return ...


class Identity(ShiftFirst):
    def inverse(self, z, context=None):
        return z


class AsGiven(InverseRepaired):
    """The stub."""

    inverse = LogDetRepaired.inverse


class OtherForm(Leaky):
    def forward(self, x, context=None):
        factor = 1 + (x < 0) * (self.a.exp() - 1)
        return torch.maximum(x, x.new_zeros(())) + torch.minimum(x, x.new_zeros(())) * self.a.exp(), factor.log().sum(
            -1
        )

    def inverse(self, z, context=None):
        return z.clamp(min=0) + z.clamp(max=0) / self.a.exp()


class OppositeSign(Leaky):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, -log_det


class AllNumbersScaled(Leaky):
    """Is a bijection, but not the one of the docstring."""

    def forward(self, x, context=None):
        return x * self.a.exp(), (self.a * x.shape[1]).expand(len(x))

    def inverse(self, z, context=None):
        return z * (-self.a).exp()


class SumOverBatch(Leaky):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det.sum()


ANSWERS = {
    1: Answers(
        right=[
            right_1,
            by_autograd,
            in_loops,
            lambda x: right_1(x).float(),
            lambda x: right_1(x.float()).requires_grad_(),
            lambda x: -np.log(1 - np.exp(-x.numpy())).sum(axis=1),
            lambda x: [float(value) for value in right_1(x)],
            lambda x: tuple(right_1(x)),
        ],
        wrong=[
            (lambda x: ..., "there is no answer"),
            (lambda x: -right_1(x), "the sign is opposite"),
            (lambda x: right_1(x) / x.shape[1], "a mean over dimensions"),
            (lambda x: -right_1(x) / x.shape[1], "the sign is opposite; this is a mean"),
            (lambda x: right_1(x) / math.log(2), "in bits, it should be in nats"),
            (lambda x: right_1(x)[:, None], "keepdim"),
            (lambda x: -(1 - (-x).exp()).log(), "the sum over the dimensions is missing"),
            (lambda x: right_1(x).sum(), "sums over the batch"),
            (lambda x: right_1(x).mean(), "averages over the batch"),
            (lambda x: right_1(x) + 0.5, "a constant, +0.5"),
            (lambda x: torch.zeros(len(x)), "ignores its argument"),
            (lambda x: x.expm1().log().sum(1), "this is z"),
            (lambda x: torch.full((len(x),), torch.nan), "NaN"),
            (lambda x: right_1(x) ** 2, "it differs by up to"),
            (lambda x: 1 / 0, "ZeroDivisionError"),
            (torch.zeros(3), "should be a function"),
        ],
    ),
    2: Answers(
        right=[lambda net: layers.AffineCoupling(net, shift_first=True)],
        wrong=[
            (IgnoresInverse, "z: "),
            (AffineAfterwards, "undo the last one first"),
            (Swapped, "forward and inverse are swapped"),
            (WrongSign, "log_det: the sign is opposite"),
            (Identity, "inverse(z): "),
            (Unwritten, "there is no answer"),
        ],
    ),
    3: Answers(
        right=[OtherForm],
        wrong=[
            (AsGiven, "two numbers"),
            (LogDetRepaired, "inverse does not undo forward"),
            (InverseRepaired, "two numbers"),
            (OppositeSign, "log_det: the sign is opposite"),
            (AllNumbersScaled, "z: "),
            (SumOverBatch, "log_det: "),
        ],
    ),
}
