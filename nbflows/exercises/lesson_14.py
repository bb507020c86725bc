"""The exercises of lesson 14, flows since 2024: hidden inputs, hints and solutions."""

import torch

from nbflows.exercises.lab import Exercise


def guided_patch(z, a, b, weak_a, weak_b, g):
    """The patch x of a guided sample."""
    return z * (a + g * (a - weak_a)).exp() + b + g * (b - weak_b)


def posterior(log_probs, prior):
    """p(c | y) for all classes c, from log p(y | c), ``(N, 10)``, and the probabilities of the classes, ``(10,)``."""
    return (log_probs + prior.log()).softmax(1)


def _patch(generator):
    z, a, b, weak_a, weak_b = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(5))
    return z, a, b, weak_a, weak_b, 0.5 + 2 * torch.rand((), generator=generator, dtype=torch.float64).item()


def _classes(generator):
    # As large as those of images: exp alone would be 0 or infinite.
    log_probs = -800 + 3 * torch.randn(6, 10, generator=generator, dtype=torch.float64)
    weights = torch.rand(10, generator=generator, dtype=torch.float64) + 0.1
    return log_probs, weights / weights.sum()


EXERCISES = {
    1: Exercise(
        solution=guided_patch,
        explanation="The inverse without guidance is z exp(a) + b. Guidance replaces a and b by numbers that are "
        "further away from what the network says without the label, before the patch is computed.",
        hints=(
            "First write the inverse without guidance: z = (x - b) exp(-a), solved for x.",
            "Guidance replaces a by a + g (a - weak_a), and b in the same way.",
            "z * (a + g * (a - weak_a)).exp() + b + g * (b - weak_b)",
        ),
        inputs=_patch,
        mistakes={
            "this has the opposite sign: it pushes towards what is said without the label": (
                lambda z, a, b, wa, wb, g: guided_patch(z, a, b, wa, wb, -g)
            ),
            "this guides two finished patches; guide a and b, then compute the patch": lambda z, a, b, wa, wb, g: (
                (1 + g) * (z * a.exp() + b) - g * (z * wa.exp() + wb)
            ),
            "this has no guidance: g changes nothing": lambda z, a, b, wa, wb, g: z * a.exp() + b,
            "this guides b alone; a is guided too": lambda z, a, b, wa, wb, g: z * a.exp() + b + g * (b - wb),
            "this is forward: from x to z": lambda z, a, b, wa, wb, g: (
                (z - b - g * (b - wb)) * (-a - g * (a - wa)).exp()
            ),
            "g times the difference is added to a and b, not to what is said without the label": (
                lambda z, a, b, wa, wb, g: guided_patch(z, a, b, wa, wb, g - 1)
            ),
        },
    ),
    2: Exercise(
        solution=posterior,
        explanation="Bayes' rule: p(c | y) is proportional to p(y | c) p(c). The softmax subtracts the largest "
        "logarithm before it takes exp, so numbers such as exp(-800) are never formed.",
        hints=(
            "Bayes' rule: p(c | y) = p(y | c) p(c) / sum over c of the same.",
            "In logarithms the product is a sum, and dividing by the sum of exponentials is a softmax.",
            "(log_probs + prior.log()).softmax(1)",
        ),
        inputs=_classes,
        mistakes={
            "this forgets the probabilities of the classes": lambda log_probs, prior: log_probs.softmax(1),
            "this multiplies the softmax by the prior, but then the rows do not sum to 1": lambda log_probs, prior: (
                log_probs.softmax(1) * prior
            ),
            "in logarithms the prior is log p(c), not p(c)": lambda log_probs, prior: (log_probs + prior).softmax(1),
            "this sums over the images; the sum goes over the classes": lambda log_probs, prior: (
                log_probs + prior.log()
            ).softmax(0),
            "this is log p(c | y); take exp": lambda log_probs, prior: (log_probs + prior.log()).log_softmax(1),
        },
    ),
    3: Exercise(
        solution="d",
        explanation="The block reads from the end. It does not move the last patch, 15, which is exact before any "
        "pass. Then each pass makes one more exact: 14, 13 and 12. The others may be close, but nothing guarantees it. "
        "All are exact after 15 passes, and a tolerance stops earlier.",
        hints=(
            "Patch t needs the patches that the block reads before it. Which patch needs none?",
            "In a reversed block the first patch to be read is the last one, 15. It is not moved.",
            "Each pass makes one more patch exact, in the order of reading.",
        ),
        mistakes={
            "0 to 3 are exact first in a block that reads forwards; this one is reversed": "a",
            "a patch is exact as soon as those before it are, and the first one needs none": "b",
            "12 is exact too: 15 is known before any pass, because the block does not move it": "c",
            "15 is exact before any pass, and each pass makes one more so": "e",
        },
    ),
}
