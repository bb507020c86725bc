"""The exercises of lesson 10, conditional flows: hidden inputs, hints and solutions."""

import math
from typing import cast

import torch
from torch import nn

from nbflows import layers, nets
from nbflows.exercises.lab import Exercise
from nbflows.exercises.verdict import NoAnswer


class LooksAway(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, kept, context):
        return self.net(context)

    def log_det(self, context):
        _, raw = self.net(context).chunk(2, dim=1)
        return torch.tanh(raw).flatten(1).sum(1)


def worth_at_most(train, test):
    bits = 0.0
    for place in range(16):
        counts = torch.bincount(train.flatten(1)[:, place].long(), minlength=17) + 0.5
        bits += -torch.log2(counts / counts.sum())[test.flatten(1)[:, place].long()].mean()
    return bits / 64


def ratio(N):
    return 2 * N / (N + 1)


class Exchanged(LooksAway):
    """Returns the log-scale first."""

    def forward(self, kept, context):
        return torch.cat(self.net(context).chunk(2, dim=1)[::-1], dim=1)


class WithoutBound(LooksAway):
    """Sums the raw log-scales."""

    def log_det(self, context):
        return self.net(context).chunk(2, dim=1)[1].flatten(1).sum(1)


def all_places_together(train, test):
    counts = torch.bincount(train.flatten().long(), minlength=17) + 0.5
    return -torch.log2(counts / counts.sum())[test.flatten().long()].mean() / 4


class ToldLogDet(layers.AffineCoupling):
    """The coupling, with the log-determinant that its network says."""

    def forward(self, x, context=None):
        z, _ = super().forward(x, context)
        return z, cast(LooksAway, self.net).log_det(context)


def coupling(answer, generator):
    net = nets.ConvNet(3, 16, 8).double()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    looks_away = answer(net)
    looks_away.register_forward_hook(require_an_answer)
    return ToldLogDet(looks_away, keep=0)


def require_an_answer(module, inputs, output):
    if output is None or output is Ellipsis:
        raise NoAnswer


def with_context(generator):
    x = torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64)
    return x, torch.randn(3, 3, 2, 2, generator=generator, dtype=torch.float64)


def small_pictures(generator):
    levels = 16 * torch.rand(60, 1, 4, 4, generator=generator) * torch.linspace(0.2, 1, 16).view(1, 1, 4, 4)
    pictures = levels.round().to(torch.uint8)
    return pictures[:45], pictures[45:]


def number_of_answers(generator):
    return (int(torch.randint(2, 30, (1,), generator=generator)),)


EXERCISES = {
    1: Exercise(
        solution=LooksAway,
        explanation="The network ignores what is kept, of which there is nothing, and returns what the injector's "
        "network says about the context. The log-determinant is the sum of the bounded log-scales: the context alone "
        "decides it.",
        hints=(
            "The kept part has zero channels. What is left to look at?",
            "An injector computes shift and log-scale by net(context).",
            "log_det is the sum of all s, and s is the tanh of the second half of the channels of net(context).",
        ),
        inputs=with_context,
        build=coupling,
        mistakes={
            "shift and log-scale are exchanged": Exchanged,
            "log_det is the sum of the bounded log-scales: take the tanh first": WithoutBound,
        },
    ),
    2: Exercise(
        solution=worth_at_most,
        explanation="About 0.74 bits/dim for the digits, 48 bits for the picture. It is a limit for perfect models "
        "only, and "
        "not a tight one, because neighbouring pixels depend on each other, which this code ignores. What our "
        "Dual-Glow "
        "gained is well below it.",
        hints=(
            "torch.bincount(values, minlength=17) counts the grey levels of one place.",
            "Add one half to each count, divide by their sum: these are the probabilities of this place.",
            "Sum -log2 of the probabilities over the 16 places, take the mean over the test pictures, divide by 64.",
        ),
        inputs=small_pictures,
        mistakes={
            "this is per dimension of the 4×4 picture; the target has 64": lambda train, test: (
                4 * worth_at_most(train, test)
            ),
            "each place has a histogram of its own": all_places_together,
            "this is the simplest code, log2 17 bits per pixel": lambda train, test: 16 * math.log2(17) / 64,
        },
        tolerance=1e-3,
    ),
    3: Exercise(
        solution=ratio,
        explanation="With a variance of 1, truth and answer differ by 2 in the mean square, and the mean of N answers "
        "and the "
        "truth by $1 + 1/N$. The ratio $2N / (N + 1)$ is below 2, so at most $10 \\log_{10} 2$, about 3 dB, can be "
        "gained.",
        hints=(
            "Let truth and answers be independent, with variance 1. What is the mean square of their difference?",
            "The mean of N answers has variance 1 / N.",
        ),
        inputs=number_of_answers,
        mistakes={
            "this is the ratio the other way round": lambda N: (N + 1) / (2 * N),
            "this is the limit of large N": lambda N: 2.0,
            "the truth is random as well: it adds its variance to both": lambda N: float(N),
            "the question asks for the ratio, not for decibels": lambda N: 10 * math.log10(2 * N / (N + 1)),
        },
    ),
    4: Exercise(
        solution="c",
        explanation='Only "T alone" and "Dual-Glow" differ in nothing but the source: same T, same front, same '
        "seconds. "
        "digits-glow has no logit, digits-multiscale has learned noise and other sizes, and the injector is another "
        "model of the answers.",
        hints=(
            "For each pair, list everything in which the two models differ.",
            "The front (logit, learned noise), the size, the number of steps and the source: only one may differ.",
        ),
        mistakes={
            "digits-glow has no logit, which is worth more than the source": "a",
            "they also differ in their noise, size and steps": "b",
            "the injector is another model of the answers": "d",
        },
    ),
}
