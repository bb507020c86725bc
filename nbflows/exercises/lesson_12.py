"""The exercises of lesson 12, choosing a flow: hidden inputs, hints and solutions."""

import math

import torch

from nbflows.exercises.lab import Exercise


def list_bits(images, training, error):
    equal = (images.flatten(1)[:, None] == training.flatten(1)).sum(2).double()  # (images, training)
    right, wrong = math.log(1 - error + error / 17), math.log(error / 17)
    log_probs = equal * right + (64 - equal) * wrong
    return -(log_probs.logsumexp(1) - math.log(len(training))) / (64 * math.log(2))


def right_of_two(familiar, foreign):
    difference = foreign[:, None] - familiar
    return (difference > 0).double().mean() + 0.5 * (difference == 0).double().mean()


def break_even(bits, other, D, initial):
    return math.floor(initial / (D * (other - bits))) + 1


def without_luck(images, training, error):
    """Forgets that a replaced pixel may get its old level."""
    equal = (images.flatten(1)[:, None] == training.flatten(1)).sum(2).double()
    log_probs = equal * math.log(1 - error) + (64 - equal) * math.log(error / 17)
    return -(log_probs.logsumexp(1) - math.log(len(training))) / (64 * math.log(2))


def mean_of_logs(images, training, error):
    equal = (images.flatten(1)[:, None] == training.flatten(1)).sum(2).double()
    log_probs = equal * math.log(1 - error + error / 17) + (64 - equal) * math.log(error / 17)
    return -log_probs.mean(1) / (64 * math.log(2))


def noisy_list(generator):
    training = torch.randint(17, (30, 1, 8, 8), generator=generator)
    error = 0.2 + 0.6 * float(torch.rand(1, generator=generator))
    kept = torch.rand(12, 1, 8, 8, generator=generator) > error
    images = torch.where(kept, training[:12], torch.randint(17, (12, 1, 8, 8), generator=generator))
    return images.to(torch.uint8), training.to(torch.uint8), error


def two_scores(generator):
    # Rounded, so that there are ties.
    familiar = (4 * torch.randn(20, generator=generator, dtype=torch.float64)).round() / 4
    foreign = (4 * torch.randn(30, generator=generator, dtype=torch.float64)).round() / 4
    return familiar, foreign + 0.5


def two_codes(generator):
    draw = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    return 1 + draw[0], 2.5 + draw[1], 64, 100 + round(5000 * draw[2])


EXERCISES = {
    1: Exercise(
        solution=list_bits,
        explanation="An equal pixel has probability $1 - \\text{error} + \\text{error} / 17$, any other "
        "$\\text{error} / 17$. All digits of the list are equally probable, so their probabilities are averaged, in "
        "logarithms. The best `error` is about 0.4, which spoils more than a third of the pixels of each sample, and "
        "even there every flow of this course is ahead. At 0.001 samples look perfect, and the bits/dim are worse than "
        "the 4.09 of guessing.",
        hints=(
            "What does an image cost, given a digit of the list? It depends only on how many of their pixels are "
            "equal.",
            "A replaced pixel gets its old level in one case of 17.",
            "The probability of an image is the mean over the list: logsumexp minus the log of the list's length.",
        ),
        inputs=noisy_list,
        mistakes={
            "a replaced pixel may also get its old level": without_luck,
            "average the probabilities of the list, not their logarithms": mean_of_logs,
            "divide by the length of the list, whose digits are equally probable": lambda images, training, error: (
                list_bits(images, training, error) - math.log2(len(training)) / 64
            ),
        },
    ),
    2: Exercise(
        solution=right_of_two,
        explanation="All pairs at once by broadcasting. With the bits alone, black images are never found: the share "
        "is "
        "0. With PNG subtracted it is close to 1 for all kinds.",
        hints=(
            "foreign[:, None] - familiar holds the differences of all pairs.",
            "Count the positive ones, and half of those that are 0.",
        ),
        inputs=two_scores,
        mistakes={
            "a tie counts half": lambda familiar, foreign: (foreign[:, None] > familiar).double().mean(),
            "this is the share of pairs in which the familiar one is higher": lambda familiar, foreign: (
                1 - right_of_two(familiar, foreign)
            ),
        },
        tolerance=1e-6,
    ),
    3: Exercise(
        solution=break_even,
        explanation="Every image saves $D\\,(\\text{other} - \\text{bits})$ bits; count until more is saved than was "
        "borrowed. For the digits and a raw file that is 17 images. With the flow itself in the file it becomes tens "
        "of "
        "thousands: a flow pays for data that keep coming.",
        hints=(
            "How many bits does one image save?",
            "How often must that be saved until it is more than `initial`?",
            "The file has to be shorter, not as short: floor(...) + 1.",
        ),
        inputs=two_codes,
        mistakes={
            "this number of images is one too few": lambda *case: break_even(*case) - 1,
            "D is missing: bits are per dimension": lambda bits, other, D, initial: break_even(bits, other, 1, initial),
        },
    ),
    4: Exercise(
        solution="b",
        explanation="1.028 and 1.092 are both exact, measured on the same images, and many standard errors of 0.007 "
        "apart. In a) the models differ in seconds per step as well, and one seed and ten minutes say little about an "
        "idea. In c) 1.122 is an upper bound: the true value may be below 1.092. In d) the two models differ in their "
        "networks too.",
        hints=(
            "In which of the sentences does more than one thing differ between the two models?",
            "Which numbers are exact, and which are upper bounds? What follows from an upper bound that is higher?",
        ),
        mistakes={
            "a step of marscf takes longer, and one seed and ten minutes do not rank two ideas": "a",
            "an upper bound above 1.092 does not show that the model is worse": "c",
            "the two models differ in their networks, not only in the noise": "d",
        },
    ),
}
