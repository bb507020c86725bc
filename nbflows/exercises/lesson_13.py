"""The exercises of lesson 13, autoregressive flows: hidden inputs, hints and solutions."""

import torch

from nbflows.exercises.lab import Exercise


def mask_of(degrees_in, degrees_out, strict):
    """Which weights stay: row j, column i is 1 if unit j of the next layer may see unit i."""
    return degrees_out[:, None] > degrees_in if strict else degrees_out[:, None] >= degrees_in


def level_of(p, v):
    """The grey level whose part of the unit interval contains v."""
    return (p.cumsum(-1) <= v[:, None]).sum(-1)


def _degrees(generator):
    # The two layers have different widths, and some degrees are equal: a transposed or a strict mask differs.
    degrees_in, degrees_out = torch.randint(4, (5,), generator=generator), torch.randint(4, (7,), generator=generator)
    strict = bool(torch.randint(2, (), generator=generator))
    return degrees_in, degrees_out, strict


def _parts(generator):
    p = torch.rand(40, 6, generator=generator, dtype=torch.float64).square().softmax(-1) ** 3
    return p / p.sum(-1, keepdim=True), torch.rand(40, generator=generator, dtype=torch.float64)


EXERCISES = {
    1: Exercise(
        solution=mask_of,
        explanation="Row j of a weight matrix belongs to output unit j, so the degrees of the next layer are a "
        "column. The comparison is strict once on the way from inputs to outputs, and not strict elsewhere.",
        hints=(
            "A weight matrix of a linear layer has the shape (outputs, inputs).",
            "Compare a column of degrees with a row of degrees: degrees_out[:, None] against degrees_in.",
            "degrees_out[:, None] > degrees_in if strict, >= otherwise.",
        ),
        inputs=_degrees,
        mistakes={
            "rows are outputs and columns are inputs; this is transposed": lambda a, b, strict: (
                a[:, None] < b if strict else a[:, None] <= b
            ),
            "strict and not strict are swapped": lambda a, b, strict: mask_of(a, b, not strict),
            "this is always strict: a unit would not see a unit of its own degree": lambda a, b, strict: mask_of(
                a, b, True
            ),
            "this is never strict: outputs would see their own input": lambda a, b, strict: mask_of(a, b, False),
            "this compares the wrong way round: units would see the later inputs": lambda a, b, strict: (
                b[:, None] < a if strict else b[:, None] <= a
            ),
        },
        # Both kinds of masks come up.
        trials=6,
    ),
    2: Exercise(
        solution=level_of,
        explanation="The cumulative sums are the right ends of the parts. The grey level is the number of parts that "
        "end at or before v. This is one step of the inverse: the flow is sampled by drawing v uniformly, which is "
        "inverse transform sampling, pixel after pixel.",
        hints=(
            "Where do the parts end? p.cumsum(-1) has the right ends.",
            "Count the parts that end at or before v.",
            "(p.cumsum(-1) <= v[:, None]).sum(-1)",
        ),
        inputs=_parts,
        mistakes={
            "this is the most probable grey level; it ignores v": lambda p, v: p.argmax(-1),
            "this takes all parts to be equally long; they are as long as p": lambda p, v: (v * p.shape[1]).long(),
            "this is one grey level too high; the first one is 0": lambda p, v: level_of(p, v) + 1,
            "this counts the parts after v": lambda p, v: (p.cumsum(-1) > v[:, None]).sum(-1),
            "this compares v with the probabilities; compare it with their cumulative sums": lambda p, v: (
                p <= v[:, None]
            ).sum(-1),
        },
    ),
    3: Exercise(
        solution="c",
        explanation="In c no mask is strict, so there is a path from input i to output i. In b the strict step is the "
        "first one, which is as good as in a. Two strict steps, d, only waste: output i does not see input i - 1. e is "
        "autoregressive in the reverse order.",
        hints=(
            "Multiply the two masks: the product counts the paths from each input to each output.",
            "A network leaks if its product has an entry on the diagonal, or entries on both sides of it.",
            "How many strict comparisons does each path contain?",
        ),
        mistakes={
            "a is MADE itself: the first mask allows equal degrees, the second does not": "a",
            "b is strict in the first mask, which is enough: output i sees inputs before i": "b",
            "d is strict twice: output i does not even see input i - 1. It wastes, but it does not leak": "d",
            "e reads the inputs from the last to the first: another order, no leak": "e",
        },
    ),
}
