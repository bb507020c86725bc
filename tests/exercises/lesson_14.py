"""Right and wrong answers to the exercises of lesson 14."""

import torch

from nbflows.exercises.lesson_14 import guided_patch, posterior
from tests.exercises.answers import Answers

ANSWERS = {
    1: Answers(
        right=[
            lambda z, a, b, wa, wb, g: (1 + g) * b - g * wb + z * torch.exp((1 + g) * a - g * wa),
            lambda z, a, b, wa, wb, g: z * a.exp() * (g * (a - wa)).exp() + torch.lerp(wb, b, 1 + g),
            lambda z, a, b, wa, wb, g: (b + g * (b - wb)).addcmul(z, (a + g * (a - wa)).exp()),
        ],
        wrong=[
            (lambda z, a, b, wa, wb, g: ..., "there is no answer"),
            (lambda z, a, b, wa, wb, g: guided_patch(z, wa, wb, a, b, g), ""),
            (lambda z, a, b, wa, wb, g: guided_patch(z, a, b, wa, wb, -g), "the opposite sign"),
            (lambda z, a, b, wa, wb, g: z * a.exp() + b, "g changes nothing"),
            (lambda z, a, b, wa, wb, g: z * a.exp() + b + g * (b - wb), "a is guided too"),
            (
                lambda z, a, b, wa, wb, g: (1 + g) * (z * a.exp() + b) - g * (z * wa.exp() + wb),
                "guides two finished patches",
            ),
            (lambda z, a, b, wa, wb, g: (z - b - g * (b - wb)) / (a + g * (a - wa)).exp(), "this is forward"),
            (lambda z, a, b, wa, wb, g: z * (wa + g * (a - wa)).exp() + wb + g * (b - wb), "added to a and b"),
        ],
    ),
    2: Answers(
        right=[
            lambda logs, p: torch.softmax(logs + torch.log(p), -1),
            lambda logs, p: (
                (logs - logs.amax(1, keepdim=True))
                .exp()
                .mul(p)
                .div(((logs - logs.amax(1, keepdim=True)).exp() * p).sum(1, keepdim=True))
            ),
            lambda logs, p: (logs + p.log() - (logs + p.log()).logsumexp(1, keepdim=True)).exp(),
        ],
        wrong=[
            (lambda logs, p: ..., "there is no answer"),
            (lambda logs, p: logs.softmax(1), "forgets the probabilities"),
            (lambda logs, p: logs.softmax(1) * p, "do not sum to 1"),
            (lambda logs, p: (logs + p).softmax(1), "not p(c)"),
            (lambda logs, p: (logs + p.log()).softmax(0), "over the images"),
            (lambda logs, p: posterior(logs, p).log(), "take exp"),
            (lambda logs, p: logs.exp() * p / (logs.exp() * p).sum(1, keepdim=True), "NaN"),
            (lambda logs, p: posterior(logs, p).argmax(1), ""),
        ],
    ),
    3: Answers(
        right=["d", "D", " d) "],
        wrong=[
            ("a", "this one is reversed"),
            ("b", "as soon as those before it"),
            ("c", "12 is exact too"),
            ("e", "each pass makes one more"),
            ("f", "this is not right"),
            (None, "there is no answer"),
        ],
    ),
}
