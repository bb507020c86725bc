"""The exercises of lesson 06, Glow: hidden inputs, hints and solutions."""

import math

import torch

from nbflows.exercises.lab import Exercise


def folded(shift, log_scale, W):
    weight = W * log_scale.exp()  # a factor for each column
    return weight, weight @ shift


def at_temperature(mean, std, T):
    return mean, T * std


def _layers(generator):
    return (
        torch.randn(4, generator=generator, dtype=torch.float64),
        torch.randn(4, generator=generator, dtype=torch.float64),
        torch.randn(4, 4, generator=generator, dtype=torch.float64),
    )


def _prior(generator):
    mean, std = torch.randn(2, 3, generator=generator), torch.rand(2, 3, generator=generator) + 0.5
    return mean, std, 0.3 + 0.5 * torch.rand((), generator=generator)


EXERCISES = {
    1: Exercise(
        solution=folded,
        explanation="z = W diag(exp(s)) (x + b), so W' = W diag(exp(s)), which multiplies the columns of W, and "
        "b' = W' b. A flow that only draws samples can use this to save a pass over its data in every step.",
        hints=(
            "Write the result for one position as a matrix times (x + b).",
            "The scale of channel c multiplies everything that W reads from channel c: a column.",
            "b' is what comes out for x = 0.",
        ),
        inputs=_layers,
        results=("W'", "b'"),
        mistakes={
            "the scales belong to the channels that W reads, which are its columns, not its rows": lambda b, s, W: (
                W * s.exp()[:, None],
                W * s.exp()[:, None] @ b,
            ),
            "the shift is scaled too: z = exp(s) (x + b)": lambda b, s, W: (W * s.exp(), W @ b),
            "the shift goes through W as well": lambda b, s, W: (W * s.exp(), b * s.exp()),
            "ActNorm multiplies by exp(s), not by s": lambda b, s, W: (W * s, W * s @ b),
            "this is the inverse of ActNorm: it divides by exp(s)": lambda b, s, W: (
                W * (-s).exp(),
                W * (-s).exp() @ b,
            ),
        },
    ),
    2: Exercise(
        solution=at_temperature,
        explanation="The exiting half is mean + std * (T * noise): the temperature acts on the noise alone. At T = 0 "
        "it is what the prior expects, not 0.",
        hints=("Write down the prior's inverse for the noise T z.", "What is left at T = 0?"),
        inputs=_prior,
        results=("mean", "std"),
        mistakes={
            "the temperature multiplies the noise, not the mean": lambda mean, std, T: (T * mean, T * std),
            "a standard deviation is multiplied by T, a variance by its square": lambda mean, std, T: (
                mean,
                T**2 * std,
            ),
            "the temperature is ignored": lambda mean, std, T: (mean, std),
            "the standard deviation grows with T": lambda mean, std, T: (mean, std / T),
        },
    ),
    3: Exercise(
        solution=5.4132,
        explanation="The standard normal density is at most 1 / sqrt(2 pi), at 0, and no layer stretches. So the score "
        "is at least log2(17), for the width of a grey level, plus log2(sqrt(2 pi)) = 1.33. A guess costs only 4.09. "
        "With any of the three parts the flow can stretch, and the bound is gone.",
        hints=(
            "How large can the density of a standard normal number be?",
            "The dequantization divides by 17: it adds log2(17) to the score.",
            "Where all log_det are 0 and all latents are 0, what is -log2 p of one number?",
        ),
        tolerance=2e-3,
        mistakes={
            "this is what a uniform guess costs; a normal density is at most 1 / sqrt(2 pi)": math.log2(17),
            "this is in nats; bits/dim are asked": math.log(17) + math.log(2 * math.pi) / 2,
            "the density at 0 is 1 / sqrt(2 pi), below 1: its logarithm adds to the cost": math.log2(17)
            - math.log2(2 * math.pi) / 2,
            "the root is missing: the density at 0 is 1 / sqrt(2 pi)": math.log2(17) + math.log2(2 * math.pi),
            "dequantization divides by the 17 grey levels": math.log2(2 * math.pi) / 2,
        },
    ),
    4: Exercise(
        solution="b",
        explanation="Between the two results two things changed, the noise and the logit. With uniform noise and a "
        "logit, all parts together cost about as little as with learned noise: the logit is the cause. An earlier "
        "edition of this lesson made this mistake.",
        hints=(
            "List everything that differs between the first result and the second.",
            "Two things differ. Which run has only one of them?",
        ),
        mistakes={
            "a makes the errors smaller, and they are small already; the cause stays open": "a",
            "c tells how the result depends on time; noise and logit still change together": "c",
            "d tightens the bound of one side; the cause stays open": "d",
            "e splits the three parts; noise and logit still change together": "e",
        },
    ),
}
