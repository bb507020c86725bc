"""Right and wrong answers to the exercises of lesson 09."""

import math

import numpy as np
import torch

from nbflows.exercises.lesson_09 import planar_log_det, roulette_weights, series, terms_needed
from nbflows.layers import ExactLogDet
from tests.exercises.answers import Answers


def by_matrices(x, u, w, b):
    slope = 1 - torch.tanh(x @ w + b) ** 2
    return torch.stack([torch.logdet(torch.eye(len(u)) + h * torch.outer(u, w)) for h in slope])


def by_autograd(x, u, w, b):
    return ExactLogDet()(lambda x: torch.tanh(x @ w + b)[:, None] * u, x)[1]


def by_traces(x, u, w, b):
    """Sixty terms, without a matrix: right to the digits that are asked for."""
    return series(60)(x, u, w, b)


def all_at_once(lam, D, nats):
    k = np.arange(1, 10_000)
    missing = D * (-math.log(1 - lam) - np.cumsum(lam**k / k))
    return int(k[missing <= nats][0])


def recursively(N, m, p):
    weights = [1.0] * (m + 1)
    while len(weights) < m + N:
        weights.append(weights[-1] / (1 - p))
    return weights


ANSWERS = {
    1: Answers(
        right=[
            by_traces,
            lambda x, u, w, b: torch.log(1 + (w * u).sum() / torch.cosh(x @ w + b) ** 2),
            lambda x, u, w, b: np.log1p((1 - np.tanh(x.numpy() @ w.numpy() + b) ** 2) * (w.numpy() @ u.numpy())),
        ],
        wrong=[
            (lambda x, u, w, b: ..., "there is no answer"),
            (by_matrices, "a matrix of 500×500"),
            (by_autograd, "a matrix of 500×500"),
            (series(1), "first term"),
            (series(3), "after 3 terms"),
            (series(10), "it differs"),
            (lambda x, u, w, b: -planar_log_det(x, u, w, b), "the sign is opposite"),
            (lambda x, u, w, b: planar_log_det(x, u, w, b).sum(), ""),
            (lambda x, u, w, b: torch.log1p(w @ u).expand(len(x)), "slope of tanh"),
        ],
    ),
    2: Answers(
        right=[all_at_once, lambda lam, D, nats: torch.tensor(float(terms_needed(lam, D, nats)))],
        wrong=[
            (lambda lam, D, nats: ..., "there is no answer"),
            (lambda lam, D, nats: terms_needed(lam, D, nats) + 1, "one term too many"),
            (lambda lam, D, nats: terms_needed(lam, D, nats) - 1, "does not hold"),
            (lambda lam, D, nats: terms_needed(lam, 1, nats), "all D dimensions"),
            (lambda lam, D, nats: 58, ""),
        ],
    ),
    3: Answers(
        right=[recursively, lambda N, m, p: np.concatenate([np.ones(m), (1 - p) ** -np.arange(N, dtype=float)])],
        wrong=[
            (lambda N, m, p: [1.0] * m + [1 / (p * (1 - p) ** (j - 1)) for j in range(1, N + 1)], "P(N = j)"),
            (lambda N, m, p: [1.0] * m + [1 / (1 - p) ** j for j in range(1, N + 1)], "too high by one"),
            (lambda N, m, p: [1.0] * m + [1 / p ** (j - 1) for j in range(1, N + 1)], "probability to stop"),
            (lambda N, m, p: [1.0] * (m + N), "cut short at random"),
            (lambda N, m, p: roulette_weights(N, m, p)[m:], ""),
        ],
    ),
}
