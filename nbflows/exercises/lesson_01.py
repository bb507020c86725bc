"""The exercises of lesson 01, change of variables: hidden inputs, hints and solutions."""

import math

import torch

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


def score_in_centimetres(score):
    """Nats per point of the same flow on points in centimetres."""
    return score + 2 * math.log(100)


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


class AffineAfterwards(ShiftFirst):
    """The wrong order: the inverse of the coupling that scales first."""

    def inverse(self, z, context=None):
        kept, moved = z.chunk(2, dim=1)
        t, s = self.shift_and_log_scale(kept)
        return torch.cat([kept, (moved - t) * (-s).exp()], dim=1)


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
        solution=score_in_centimetres,
        explanation="Each coordinate is divided by 100, so the new layer adds $-\\log 100$ to `log_det` *for each "
        "dimension*. The loss rises by $2 \\log 100 \\approx 9.21$ nats per point, although the model is the same.",
        hints=(
            "How much does the layer Affine(0.0, 100.0) add to log_det?",
            "It adds -log(100) for each of the two dimensions. The score is minus the log-probability.",
        ),
        inputs=lambda generator: (3 * torch.randn((), generator=generator, dtype=torch.float64),),
        mistakes={
            "this counts one dimension; a point has two": lambda score: score + math.log(100),
            "the layer divides by 100, so the density becomes smaller: the sign is opposite": lambda score: (
                score - 2 * math.log(100)
            ),
            "this multiplies the density's logarithm; a change of unit adds to it": lambda score: 100 * score,
        },
    ),
}
