"""The exercises of lesson 09, residual flows: hidden inputs, hints and solutions."""

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nbflows.exercises.lab import Exercise
from nbflows.exercises.verdict import as_tensor

D = 500


def planar_log_det(x, u, w, b):
    slope = 1 - torch.tanh(x @ w + b) ** 2
    return torch.log1p(slope * (w @ u))


def terms_needed(lam, D, nats):
    missing, k = -D * math.log(1 - lam), 0
    while missing > nats:
        k += 1
        missing -= D * lam**k / k
    return k


def roulette_weights(N, m, p):
    return [1.0] * m + [1 / (1 - p) ** (j - 1) for j in range(1, N + 1)]


def point_of_a_planar_flow(generator):
    # Both have length 0.8 and nearly one direction, or opposite ones, so that the series converges slowly.
    w, across = torch.nn.functional.normalize(torch.randn(2, D, generator=generator, dtype=torch.float64))
    sign = 1 if torch.rand(1, generator=generator) < 0.5 else -1
    u = 0.8 * torch.nn.functional.normalize(sign * w + 0.2 * across, dim=0)
    b = 0.5 * torch.rand(1, generator=generator).item()
    return torch.randn(8, D, generator=generator, dtype=torch.float64), u, 0.8 * w, b


def series(num_terms):
    """The power series of the planar flow, cut short."""

    def log_det(x, u, w, b):
        t = (1 - torch.tanh(x @ w + b) ** 2) * (w @ u)
        return sum((-1) ** (k + 1) / k * t**k for k in range(1, num_terms + 1))

    return log_det


class _LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, Tensor):
                self.elements = max(self.elements, made.numel())
        return result


def makes_a_matrix(answer):
    with _LargestTensor() as largest:
        as_tensor(answer(*point_of_a_planar_flow(torch.Generator().manual_seed(0))))
    if largest.elements >= D * D:
        return f"the values are right, but this makes a matrix of {D}×{D} numbers; two dot products are enough"
    return None


def task(generator):
    lam = 0.5 + 0.45 * torch.rand(1, generator=generator).item()
    dimensions = int(torch.randint(10, 1000, (1,), generator=generator))
    return lam, dimensions, (0.01 + 0.1 * torch.rand(1, generator=generator).item()) * dimensions**0.5


def draw(generator):
    N, m = torch.randint(3, 8, (1,), generator=generator).item(), torch.randint(0, 4, (1,), generator=generator).item()
    return N, m, 0.2 + 0.5 * torch.rand(1, generator=generator).item()


EXERCISES = {
    1: Exercise(
        solution=planar_log_det,
        explanation="$J = h\\, u\\, w^\\top$ with the slope $h = 1 - \\tanh^2$ has rank 1: one "
        "eigenvalue is $h\\, w^\\top u$, "
        "all others are 0. So $\\log\\det(I + J) = \\log(1 + h\\, w^\\top u)$, the matrix determinant lemma.",
        hints=(
            "What is the Jacobian of g? How many of its eigenvalues are not 0?",
            "J = h u w^T with the slope h of tanh. Multiply it with u: which eigenvalue has u?",
            "log det(I + J) is the sum of log(1 + eigenvalue), and log(1 + 0) = 0. torch.log1p(t) is log(1 + t).",
        ),
        inputs=point_of_a_planar_flow,
        mistakes={
            "this is the first term of the series; the logarithm itself is as easy": series(1),
            **{f"this is the series after {n} terms; the logarithm itself is as easy": series(n) for n in range(2, 7)},
            "the slope of tanh at x is missing": lambda x, u, w, b: torch.log1p(w @ u).expand(len(x)),
            "this is det(I + J), without its logarithm": lambda x, u, w, b: planar_log_det(x, u, w, b).exp(),
            "this is log det J without the identity, of the one eigenvalue": lambda x, u, w, b: (
                ((1 - torch.tanh(x @ w + b) ** 2) * (w @ u)).abs().log()
            ),
        },
        tolerance=1e-6,
        require=makes_a_matrix,
    ),
    2: Exercise(
        solution=terms_needed,
        explanation="Subtract term by term until what is left is small enough. For $\\lambda = 0.98^3$ and 784 "
        "dimensions "
        "it says 58 terms, and every term is a backward pass through every block. The roulette needs four on "
        "average, and "
        "promises more: no bias at all.",
        hints=(
            "Before the first term the bound is -D log(1 - lam).",
            "Term k takes D lam^k / k away. Stop as soon as what is left is at most nats.",
        ),
        inputs=task,
        mistakes={
            "this is one term too many": lambda lam, D, nats: terms_needed(lam, D, nats) + 1,
            "with one term less, the bound does not hold": lambda lam, D, nats: terms_needed(lam, D, nats) - 1,
            "the bound is for all D dimensions, not for one": lambda lam, D, nats: terms_needed(lam, 1, nats),
            "the terms are lam^k / k; the k is missing": lambda lam, D, nats: math.ceil(
                math.log(nats * (1 - lam) / D, lam) - 1
            ),
        },
    ),
    3: Exercise(
        solution=roulette_weights,
        explanation="Term j is taken whenever $N \\ge j$, so it is divided by $P(N \\ge j) = (1 - p)^{j-1}$. "
        "The faulty function divides by $P(N = j)$, the probability that j is the *last* term. Its estimate is "
        "too large by a factor of 1/p in every term after the first m.",
        hints=(
            "Term j is taken if N is j or larger.",
            "For m = 0, N = 1 there is one term, and it is always taken. Which weight must it have?",
            "P(N >= j) = (1 - p)^(j - 1).",
        ),
        inputs=draw,
        mistakes={
            "this divides by P(N = j); term j is also taken if N is larger": lambda N, m, p: (
                [1.0] * m + [1 / (p * (1 - p) ** (j - 1)) for j in range(1, N + 1)]
            ),
            "P(N >= 1) is 1: the power of 1 - p is too high by one": lambda N, m, p: (
                [1.0] * m + [1 / (1 - p) ** j for j in range(1, N + 1)]
            ),
            "p is the probability to stop, 1 - p that of a further term": lambda N, m, p: (
                [1.0] * m + [1 / p ** (j - 1) for j in range(1, N + 1)]
            ),
            "multiplying by the probability makes it worse; divide": lambda N, m, p: (
                [1.0] * m + [(1 - p) ** (j - 1) for j in range(1, N + 1)]
            ),
            "the roulette begins after the m exact terms, with P = 1": lambda N, m, p: (
                [1.0] * m + [1 / (1 - p) ** (m + j - 1) for j in range(1, N + 1)]
            ),
            "without weights the series is only cut short at random": lambda N, m, p: [1.0] * (m + N),
        },
    ),
}
