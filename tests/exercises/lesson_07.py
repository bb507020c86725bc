"""Right and wrong answers to the exercises of lesson 07."""

import torch

from nbflows.exercises.lesson_07 import draw, one_component
from nbflows.layers import invert_mixture
from tests.exercises.answers import Answers


def by_halving(u, logits, means, log_scales):
    """The x with F(x) = u, found without the package."""
    low, high = torch.full_like(u, -1e3), torch.full_like(u, 1e3)
    for _ in range(80):
        x = (low + high) / 2
        cdf = (logits.softmax(0) * torch.sigmoid((x - means) / log_scales.exp())).sum(0)
        low, high = torch.where(cdf < u, x, low), torch.where(cdf < u, high, x)
    return x


ANSWERS = {
    1: Answers(
        right=[
            lambda s, t: [-t / s.exp(), 0 - s],
            lambda s, t: (-(t / s.exp()).numpy(), -s.numpy()),
        ],
        wrong=[
            (lambda s, t: (torch.zeros_like(s), torch.zeros_like(s)), ""),
            (lambda s, t: (-t * (-s).exp(), s), "narrow"),
            (lambda s, t: (t * (-s).exp(), -s), "crosses 0 at the mean"),
            (lambda s, t: (-t, -s), "divided by the slope"),
            (lambda s, t: (-t * s.exp(), -s), "not multiplied"),
            (lambda s, t: one_component(s, t)[0], "return mean and log-scale"),
        ],
    ),
    2: Answers(
        right=[by_halving, lambda u, *mixture: invert_mixture(u.log() - torch.log1p(-u), *mixture)],
        wrong=[
            (lambda u, *mixture: torch.zeros_like(u), ""),
            (lambda u, *mixture: invert_mixture(u, *mixture), "u is F"),
            (lambda u, *mixture: draw(1 - u, *mixture), "mirrored"),
            (lambda u, *mixture: invert_mixture(u.log(), *mixture), "not log u"),
            (lambda u, *mixture: torch.logit(u), "the mixture is missing"),
            (lambda u, logits, means, log_scales: (logits.softmax(0) * means).sum(0), "for every u"),
        ],
    ),
    3: Answers(
        right=[32.0, torch.tensor(32)],
        wrong=[(31.897, "round up"), (31, "rounded down"), (30, "width 1"), (33, "one halving less"), (10, "one bit")],
    ),
    4: Answers(
        right=["C", "c."],
        wrong=[
            ("a", "a shift can follow it"),
            ("b", "what the scale is for"),
            ("d", "look at the conditional density"),
            ("e", "are enough"),
        ],
    ),
}
