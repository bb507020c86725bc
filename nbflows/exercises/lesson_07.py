"""The exercises of lesson 07, mixture couplings: hidden inputs, hints and solutions."""

import torch

from nbflows.exercises.lab import Exercise
from nbflows.layers import invert_mixture


def one_component(s, t):
    return -t * (-s).exp(), -s


def draw(u, logits, means, log_scales):
    return invert_mixture(torch.logit(u), logits, means, log_scales)


def _scale_and_shift(generator):
    return tuple(torch.randn(2, 20, generator=generator, dtype=torch.float64))


def _mixtures(generator):
    u = torch.rand(50, generator=generator, dtype=torch.float64)
    logits, means, log_scales = torch.randn(3, 4, 50, generator=generator, dtype=torch.float64)
    return u, logits, 3 * means, log_scales - 1


EXERCISES = {
    1: Exercise(
        solution=one_component,
        explanation="The logit of one component is (x - mean) exp(-log_scale). So the log-scale is -s, and "
        "-mean exp(s) = t.",
        hints=(
            "What is logit F(x) for a single logistic?",
            "Compare the slopes first: exp(-log_scale) and exp(s).",
            "Where does the line cross 0? There is the mean.",
        ),
        inputs=_scale_and_shift,
        results=("mean", "log-scale"),
        mistakes={
            "the curve is (x - mean) exp(-log_scale): where it is steep, the component is narrow": lambda s, t: (
                -t * (-s).exp(),
                s,
            ),
            "the line crosses 0 at the mean: x exp(s) + t = 0": lambda s, t: (t * (-s).exp(), -s),
            "the mean is a place on the x axis, so t is divided by the slope": lambda s, t: (-t, -s),
            "t is divided by the slope, not multiplied": lambda s, t: (-t * s.exp(), -s),
        },
    ),
    2: Exercise(
        solution=draw,
        explanation="F(x) = u means logit F(x) = logit u, and the search finds the x of a given height. This is "
        "inverse transform sampling.",
        hints=(
            "F(x) = u. What is logit F(x)?",
            "The search takes a height on the whole line, and u is between 0 and 1.",
            "invert_mixture(torch.logit(u), ...)",
        ),
        inputs=_mixtures,
        mistakes={
            "invert_mixture takes the height logit F, and u is F": lambda u, *mixture: invert_mixture(u, *mixture),
            "this is F(x) = 1 - u: mirrored": lambda u, *mixture: invert_mixture(-torch.logit(u), *mixture),
            "logit u is log u - log(1 - u), not log u": lambda u, *mixture: invert_mixture(u.log(), *mixture),
            "this draws from one logistic; the mixture is missing": lambda u, *mixture: torch.logit(u),
            "this is the mean of the mixture, for every u": lambda u, logits, means, log_scales: (
                logits.softmax(0) * means
            ).sum(0),
        },
    ),
    3: Exercise(
        solution=32,
        explanation="Each halving divides the width by 2: 4 / 2^n is at most 1e-9 for n = log2(4e9) = 31.9, so 32. "
        "That is one bit of x per step. Newton's method doubles the number of right digits in each step.",
        hints=("How wide is the bracket after n halvings?", "Take the logarithm to base 2, and round up."),
        mistakes={
            "this is not a whole number of halvings; round up": 31.897,
            "rounded down: after 31 the bracket is still wider than 1e-9": 31,
            "this starts from a bracket of width 1": 30,
            "one halving less is enough": 33,
            "this counts decimal digits; a halving gives one bit": 10,
        },
        tolerance=1e-3,
    ),
    4: Exercise(
        solution="c",
        explanation="An affine coupling fits a density that is normal given the kept numbers, whatever its mean and "
        "width are. Only in c is there no such normal density: given x_1, x_2 has two bumps. In d the histogram of x_2 "
        "has two bumps as well, but given x_1 there is one.",
        hints=(
            "Hold x_1 fixed and draw the density of x_2.",
            "Shift and scale may depend on x_1 in any way. Which conditional density is not normal?",
        ),
        mistakes={
            "in a the mean moves with x_1, and a shift can follow it: the network may be as nonlinear as it likes": "a",
            "in b the width depends on x_1, which is what the scale is for": "b",
            "in d x_2 has two bumps, but given x_1 only one: look at the conditional density": "d",
            "in e a shift and a scale that do not even depend on x_1 nonlinearly are enough": "e",
        },
    ),
}
