"""The exercises of lesson 02, dequantization: hidden inputs, hints and solutions."""

import math

import torch

from nbflows.bijection import Bijection
from nbflows.exercises.lab import Exercise
from nbflows.layers import Logit


def gap(c):
    ends = torch.stack([1 - c / 2, 1 + c / 2])
    below, above = torch.xlogy(ends, ends)  # 0 log 0 = 0
    return 1 - (above - below) / c


class Probit(Bijection):
    def forward(self, x, context=None):
        z = torch.special.ndtri(x)
        return z, (z.square() / 2 + math.log(2 * math.pi) / 2).flatten(1).sum(1)

    def inverse(self, z, context=None):
        return torch.special.ndtr(z)


class Repaired(Logit):
    def __init__(self, num_grey_levels):
        super().__init__()
        self.K = num_grey_levels

    def forward(self, x, context=None):
        z, log_det = super().forward((x + torch.rand(x.shape)) / self.K)
        return z, log_det - x[0].numel() * math.log(self.K)

    def inverse(self, z, context=None):
        return (super().inverse(z) * self.K).floor().clamp(0, self.K - 1)


class OncePerImage(Repaired):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det + (x[0].numel() - 1) * math.log(self.K)


class RoundsUp(Repaired):
    def inverse(self, z, context=None):
        return Repaired.inverse(self, z).add(1).clamp(0, self.K - 1)


class SameNoise(Bijection):
    """A layer that draws noise, with the same noise at every call: then it is a function of x."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, context=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return self.layer(x)

    def inverse(self, z, context=None):
        return self.layer.inverse(z)


def slopes(generator):
    size = 0.2 + 1.75 * torch.rand(4, generator=generator, dtype=torch.float64)
    return (size * torch.tensor([1.0, -1.0, 1.0, -1.0]),)


def in_the_unit_interval(generator):
    rows, columns = torch.randint(2, 7, (2,), generator=generator).tolist()
    return (0.02 + 0.96 * torch.rand(rows, columns, generator=generator, dtype=torch.float64),)


def grey_levels(generator):
    return (torch.randint(17, (4, 9), generator=generator).double(),)


def other_direction(c):
    v = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 - 0.5
    density = 1 + c[:, None] * v
    return torch.xlogy(density, density).mean(1)


EXERCISES = {
    1: Exercise(
        solution=gap,
        explanation="P(x) drops out: the gap is $-\\int_0^1 \\log(1 + c(u - \\tfrac12))\\, du$. With $a = 1 - c/2$ and "
        "$b = 1 + c/2$ the integral is $(b \\log b - a \\log a)/c - 1$, where $0 \\log 0$ counts as 0. For c = 0 the "
        "density is flat and the gap is zero. At c = 2 it costs 0.31 nats, or 0.44 bits, for this pixel.",
        hints=(
            "log P(x) and P(x) drop out of the difference. What is left is the mean of a logarithm over u.",
            "It is minus the integral of log(1 + c (u - 1/2)) for u from 0 to 1. A mean over 10,000 values will do.",
            "On paper, substitute w = 1 + c (u - 1/2). The integral of log w is w log w - w.",
        ),
        inputs=slopes,
        mistakes={
            "this is the first term of a series, c^2 / 24; it is too small for steep slopes": lambda c: c**2 / 24,
            "this is the KL divergence in the other direction, from p(u | x) to the uniform density": other_direction,
            "the integral of 1 is missing: the integral of log w is w log w - w": lambda c: gap(c) - 1,
        },
        tolerance=5e-4,
    ),
    2: Exercise(
        solution=Probit,
        explanation="$dz/dv = 1/\\varphi(z)$ with the normal density $\\varphi$, so the log-determinant is "
        "$\\sum ( z^2/2 + \\tfrac12 \\log 2\\pi )$. The other part of the flow's score, log N(z; 0, I), is its "
        "negative. What remains is −D log K: the untrained flow is a uniform guess, for every image, without a gap.",
        hints=(
            "The derivative of an inverse function is one over the derivative of the function.",
            "The derivative of ndtr is the normal density, so dz/dv = 1 / N(z; 0, 1).",
            "-log N(z; 0, 1) is z^2 / 2 + log(2 pi) / 2. Sum it over the dimensions.",
        ),
        inputs=in_the_unit_interval,
        build=lambda layer_class, generator: layer_class(),
        mistakes={
            "this is the log-determinant of the inverse layer": type(
                "Inverse",
                (Probit,),
                {"forward": lambda self, x, context=None: (Probit.forward(self, x)[0], -Probit.forward(self, x)[1])},
            )
        },
    ),
    3: Exercise(
        solution=Repaired,
        explanation="Bits/dim below 0 would be probabilities above 1, so log_det must be at fault. log K belongs to "
        "every pixel, and was subtracted once per image: 63/64 of $\\log_2 17 = 4.09$ bits/dim are missing. In the "
        "inverse, `ceil` makes every pixel one grey level brighter; the noise is removed by `floor`.",
        hints=(
            "A score below 0 bits/dim is a log-probability above 0. Which term of log_det is missing or too small?",
            "Every pixel is divided by K. How many times should log K be subtracted?",
            "The inverse gets (x + u) / K back. Which function removes u, which is between 0 and 1?",
        ),
        inputs=grey_levels,
        build=lambda layer_class, generator: SameNoise(layer_class(17)),
        mistakes={
            "log K is subtracted once per image; every pixel is divided by K": OncePerImage,
            "the pixels are one grey level too bright": RoundsUp,
        },
        tolerance=1e-3,
    ),
}
