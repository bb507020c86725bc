"""Right and wrong answers to the exercises of lesson 13."""

import numpy as np
import torch

from nbflows.exercises.lesson_13 import level_of, mask_of
from tests.exercises.answers import Answers

ANSWERS = {
    1: Answers(
        right=[
            lambda a, b, strict: mask_of(a, b, strict).float(),
            lambda a, b, strict: (a[None, :] < b[:, None]) | ((a[None, :] == b[:, None]) & (not strict)),
            lambda a, b, strict: b.view(-1, 1) - a.view(1, -1) >= int(strict),
            lambda a, b, strict: [[float(j > i) if strict else float(j >= i) for i in a.tolist()] for j in b.tolist()],
            lambda a, b, strict: np.subtract.outer(b.numpy(), a.numpy()) >= (1 if strict else 0),
        ],
        wrong=[
            (lambda a, b, strict: ..., "there is no answer"),
            (lambda a, b, strict: mask_of(a, b, strict).T, "transposed"),
            (lambda a, b, strict: mask_of(a, b, not strict), "are swapped"),
            (lambda a, b, strict: b[:, None] > a, "always strict"),
            (lambda a, b, strict: b[:, None] >= a, "never strict"),
            (lambda a, b, strict: b[:, None] < a if strict else b[:, None] <= a, "the wrong way round"),
            (lambda a, b, strict: torch.ones(len(b), len(a)), "it ignores its argument"),
            (lambda a, b, strict: b > a, "RuntimeError"),
        ],
    ),
    2: Answers(
        right=[
            lambda p, v: torch.searchsorted(p.cumsum(-1), v[:, None], right=True)[:, 0],
            lambda p, v: (v[:, None] >= p.cumsum(-1)).long().argmin(-1),
            lambda p, v: [int((row.numpy().cumsum() <= float(u)).sum()) for row, u in zip(p, v, strict=True)],
            lambda p, v: (p.numpy().cumsum(-1) <= v.numpy()[:, None]).sum(-1),
        ],
        wrong=[
            (lambda p, v: ..., "there is no answer"),
            (lambda p, v: p.argmax(-1), "it ignores v"),
            (lambda p, v: (v * p.shape[1]).floor(), "equally long"),
            (lambda p, v: level_of(p, v) + 1, "one grey level too high"),
            (lambda p, v: p.shape[1] - level_of(p, v), "the parts after v"),
            (lambda p, v: (p <= v[:, None]).sum(-1), "cumulative sums"),
            (lambda p, v: level_of(p, v)[:, None], "keepdim"),
            (lambda p, v: level_of(p, v) - 1, "by a constant, -1"),
            (lambda p, v: torch.zeros(len(p)), "it ignores its argument"),
        ],
    ),
    3: Answers(
        right=["c", "C", " c) "],
        wrong=[
            ("a", "MADE itself"),
            ("b", "is enough"),
            ("d", "does not leak"),
            ("e", "another order"),
            ("f", "this is not right"),
            (None, "there is no answer"),
        ],
    ),
}
