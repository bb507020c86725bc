"""The exercises of lesson 01, change of variables: hidden inputs, hints and solutions."""

import torch
from torch import nn

from nbflows import nets
from nbflows.bijection import Bijection
from nbflows.exercises.lab import Exercise


def log_det_of_softplus(x):
    """log|det dz/dx| of z = log(exp(x) - 1)."""
    return -(-(-x).expm1()).log().sum(1)


class ShiftFirst(Bijection):
    """z = [kept, (moved + t) * exp(s)]  with  t, s from net(kept);   log_det = sum(s)."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def shift_and_log_scale(self, kept):
        t, raw = self.net(kept).chunk(2, dim=1)
        return t, torch.tanh(raw)

    def forward(self, x, context=None):
        kept, moved = x.chunk(2, dim=1)
        t, s = self.shift_and_log_scale(kept)
        return torch.cat([kept, (moved + t) * s.exp()], dim=1), s.sum(1)

    def inverse(self, z, context=None):
        kept, moved = z.chunk(2, dim=1)
        t, s = self.shift_and_log_scale(kept)
        return torch.cat([kept, moved * (-s).exp() - t], dim=1)


class Leaky(Bijection):
    """z = x where x >= 0 and z = exp(a) x where x < 0, for each number."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x, context=None):
        log_scale = torch.where(x < 0, self.a, 0.0)
        return x * log_scale.exp(), log_scale.sum(1)

    def inverse(self, z, context=None):
        log_scale = torch.where(z < 0, self.a, 0.0)
        return z * (-log_scale).exp()


def _positive(generator):
    rows, columns = torch.randint(2, 7, (2,), generator=generator).tolist()
    return (0.1 + 6 * torch.rand(rows, columns, generator=generator, dtype=torch.float64),)


def _points(generator):
    return (torch.randn(50, 2, generator=generator, dtype=torch.float64),)


def _with_random_net(layer_class, generator):
    # Not 0 at the start, as the last layer of a coupling's network would be.
    net = nets.MLP(1, 16, 2).double()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return layer_class(net)


def _numbers_of_both_signs(generator):
    columns = int(torch.randint(2, 6, (1,), generator=generator))
    return (torch.randn(20, columns, generator=generator, dtype=torch.float64),)


def _with_random_slope(layer_class, generator):
    return layer_class(0.3 + torch.rand((), generator=generator).item()).double()


class AffineAfterwards(ShiftFirst):
    """The wrong order: the inverse of the coupling that scales first."""

    def inverse(self, z, context=None):
        kept, moved = z.chunk(2, dim=1)
        t, s = self.shift_and_log_scale(kept)
        return torch.cat([kept, (moved - t) * (-s).exp()], dim=1)


class LogDetRepaired(Leaky):
    """One of two faults repaired: the inverse still multiplies."""

    def inverse(self, z, context=None):
        return z * torch.where(z < 0, self.a, 0.0).exp()


class InverseRepaired(Leaky):
    """One of two faults repaired: log_det is still a mean."""

    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det / x.shape[1]


EXERCISES = {
    1: Exercise(
        solution=log_det_of_softplus,
        explanation="The derivative is $e^x / (e^x - 1) = 1 / (1 - e^{-x})$, so `log_det` is $-\\log(1 - e^{-x})$, "
        "summed over dimensions. For large $x$ it tends to 0, because there the map changes next to nothing.",
        hints=(
            "The map acts on every coordinate alone. What is the derivative of one coordinate?",
            "By the chain rule the derivative is e^x / (e^x - 1). Take its logarithm.",
            "Sum the logarithms over the coordinates, and not over the batch: .sum(1).",
        ),
        inputs=_positive,
        mistakes={
            "this is z, not the logarithm of its derivative": lambda x: x.expm1().log().sum(1),
            "this is the logarithm of the numerator alone": lambda x: x.sum(1),
            "this is the derivative, not its logarithm": lambda x: (1 / (1 - (-x).exp())).sum(1),
        },
    ),
    2: Exercise(
        solution=ShiftFirst,
        explanation="The inverse undoes the steps in reverse order: it divides first and subtracts afterwards. "
        "`log_det` is the same, because a shift does not change an area, before the scaling or after it.",
        hints=(
            "Solve z = (x + t) * exp(s) for x, with pencil and paper.",
            "The last step of forward is the multiplication, so it is the first one to undo.",
            "x = z * exp(-s) - t. The kept coordinate gives t and s in both directions.",
        ),
        inputs=_points,
        build=_with_random_net,
        mistakes={"the steps are undone in the same order; undo the last one first": AffineAfterwards},
    ),
    3: Exercise(
        solution=Leaky,
        explanation="The inverse multiplied by $e^a$ again, but it has to divide: the sign of the log-scale changes. "
        "`log_det` was a mean over the numbers of an example, but it has to be their sum: each number stretches "
        "the volume by its own factor. Positive numbers show neither fault: there the layer is the identity. One "
        "number per example hides the second fault: the mean of one number is its sum.",
        hints=(
            "Check negative numbers of shape (5, 1). Which method is wrong?",
            "forward multiplies negative numbers by exp(a). What does inverse do with them, and what should it do?",
            "With that repaired, check negative numbers of shape (5, 2). By which factor is log_det wrong?",
        ),
        inputs=_numbers_of_both_signs,
        build=_with_random_slope,
        mistakes={
            "inverse does not undo forward for negative numbers": LogDetRepaired,
            "log_det is wrong as soon as an example has two numbers": InverseRepaired,
        },
    ),
}
