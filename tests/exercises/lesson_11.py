"""Right and wrong answers to the exercises of lesson 11."""

import torch

from nbflows.exercises.lesson_11 import count_links
from nbflows.multiscale import Multiscale
from tests.exercises.answers import Answers


def counted(n):
    i, j = torch.arange(n)[:, None], torch.arange(n)
    return [int((j > i).sum()) + n * n, int((j > i).sum() + (j >= i).sum()), n]


ANSWERS = {
    1: Answers(
        right=[counted, lambda n: (1.5 * n * n - n / 2, n * n, n)],
        wrong=[
            (lambda n: ..., "there is no answer"),
            (lambda n: (12, 9, 3), "for three levels"),
            (lambda n: (n**2, n * (n + 1) // 2, n), "between the target's levels"),
            (lambda n: count_links(n)[:2], "should return"),
            (lambda n: (n**2, n**2, n), "links between the target"),
            (lambda n: (*count_links(n)[:2], n + 1), "Dual-Glow"),
        ],
    ),
    2: Answers(
        right=[lambda i, j, k: (i == k) == (j == k), lambda i, j, k: float(i == j or max(i, j) < k)],
        wrong=[
            (lambda i, j, k: ..., "there is no answer"),
            (lambda i, j, k: True, "first block is its own"),
            (lambda i, j, k: i == j, "blocks of different flows"),
            (lambda i, j, k: i == k or j == k, "does not share"),
            (lambda i, j, k: i < j, ""),
        ],
    ),
    3: Answers(
        right=[lambda G: G.levels[0]],
        wrong=[
            (lambda G: ..., "there is no answer"),
            (lambda G: G, "also depends on coarser levels"),
            (lambda G: G.levels[-1], ""),
            (lambda G: Multiscale(G.levels[:2], G.shape), "also depends on coarser levels"),
        ],
    ),
    4: Answers(
        right=["b)", "B"],
        wrong=[
            ("a", "no additional links"),
            ("c", "one budget only"),
            ("d", "one task only"),
            (..., "there is no answer"),
        ],
    ),
}
