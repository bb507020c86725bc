"""The exercises of lesson 00, the quickstart: hidden inputs, hints and solutions."""

import math

import torch

from nbflows.exercises.lab import Exercise


def bits_per_dim(log_prob, num_dims):
    """Bits/dim of images whose log-probability is given in nats."""
    return -log_prob / (num_dims * math.log(2))


def _scores(generator):
    num_dims = int(torch.randint(10, 1000, (1,), generator=generator))
    return num_dims * (0.5 + torch.rand(7, generator=generator, dtype=torch.float64)).neg(), num_dims


EXERCISES = {
    1: Exercise(
        solution=bits_per_dim,
        explanation="A bit is $\\log 2$ nats, so dividing by $\\log 2$ turns nats into bits. The number of bits is "
        "$-\\log_2 p$, and it is divided by the number of dimensions.",
        hints=(
            "How many nats is one bit? It is the logarithm of a probability of one half.",
            "-log2(p) = -log(p) / log(2).",
            "Divide the bits of an image by num_dims.",
        ),
        inputs=_scores,
        mistakes={
            "these are the bits of an image; divide by its dimensions": lambda log_prob, d: -log_prob / math.log(2),
            "these are nats per dimension; divide by log 2 for bits": lambda log_prob, d: -log_prob / d,
        },
    ),
    2: Exercise(
        solution="abdf",
        explanation="More draws tighten the bound of any model (a), so both must be scored with the same M. Training "
        "twice as long helps as well (b). The images are the same, so the standard error of the *difference*, image by "
        "image, is what counts; it is smaller than those of the scores (d). Two seeds of one model differ too (f). But "
        "lower is better, so c is wrong. And log2(17) is what guessing needs: any model that has learned something is "
        "below it, without having memorised anything, so e is wrong.",
        hints=(
            "What changed between the two runs apart from the layer? Each such change is an objection.",
            "Look at the three things in the brackets, and at how the standard errors were computed.",
        ),
        mistakes={
            "a is valid as well: M = 16 lowers the bound of any model": "bdf",
            "f is valid as well: one seed each cannot tell the layer from luck": "abd",
            "d is valid as well: on the same images, the error of the difference counts": "abf",
            "b is valid as well: the budgets differ": "adf",
            "c is not valid: fewer bits are better": "abcdf",
            "e is not valid: log2(17) is what guessing needs": "abdef",
        },
    ),
}
