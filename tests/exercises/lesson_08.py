"""Right and wrong answers to the exercises of lesson 08."""

import numpy as np
import torch

from nbflows.exercises.lesson_08 import (
    InverseReadsItself,
    ReadsItself,
    Repaired,
    complete,
    from_later_values,
    latents_of,
    whitened,
)
from tests.exercises.answers import Answers


def by_elimination(v, covariance):
    """Regresses each value on those before it."""
    z, log_det = [], 0.0
    for t in range(v.shape[1]):
        rule = np.linalg.solve(covariance[:t, :t], covariance[:t, t])
        scale = (covariance[t, t] - covariance[:t, t] @ rule) ** 0.5
        z.append((v[:, t] - v[:, :t] @ rule) / scale)
        log_det = log_det - np.log(scale)
    return np.stack(z, axis=1), np.full(len(v), log_det)


def with_an_inverse(v, covariance):
    a = torch.linalg.inv(torch.linalg.cholesky(covariance))
    return v @ a.T, torch.logdet(a).repeat(len(v))


def channel_by_channel(prior, first, z, context):
    v = torch.cat([first, torch.zeros_like(z)], dim=1)
    for t in range(first.shape[1], v.shape[1]):
        latent = prior(v, context)[0]
        latent[:, t] = z[:, t - first.shape[1]]
        v = torch.cat([v[:, :t], prior.inverse(latent, context)[:, t:]], dim=1)
    return v


class NoLogDet(Repaired):
    def forward(self, v, context=None):
        return super().forward(v)[0], torch.zeros(len(v))


class Mean(Repaired):
    """Without the scale."""

    def mean_and_log_std(self, v):
        mean, log_std = super().mean_and_log_std(v)
        return mean, 0 * log_std


class Swapped(Repaired):
    def forward(self, v, context=None):
        return super().inverse(v), -super().forward(v)[1]

    def inverse(self, z, context=None):
        return super().forward(z)[0]


class OneMore(Repaired):
    """Shifted by two: what is left is a bijection, but not this one."""

    def mean_and_log_std(self, v):
        return super().mean_and_log_std(torch.cat([torch.zeros_like(v[:, :1]), v[:, :-1]], dim=1))


ANSWERS = {
    1: Answers(
        right=[by_elimination, with_an_inverse],
        wrong=[
            (lambda v, covariance: ..., "there is no answer"),
            (lambda v, covariance: whitened(v, covariance, rotate=False), "principal axes"),
            (lambda v, covariance: whitened(v, covariance, rotate=True), "ZCA"),
            (from_later_values, "from the values after it"),
            (lambda v, covariance: latents_of(v, covariance)[0], "z and log_det"),
            (lambda v, covariance: (v, torch.zeros(len(v))), "z: "),
            (lambda v, covariance: (latents_of(v, covariance)[0], -latents_of(v, covariance)[1]), "log_det: the sign"),
            (lambda v, covariance: (-latents_of(v, covariance)[0], latents_of(v, covariance)[1]), "z: the sign"),
        ],
    ),
    2: Answers(
        right=[channel_by_channel],
        wrong=[
            (lambda prior, first, z, context: ..., "there is no answer"),
            (lambda prior, first, z, context: torch.cat([first, z], dim=1), "z are latents"),
            (lambda prior, first, z, context: prior.inverse(torch.cat([first, z], dim=1), context), "used as latents"),
            (lambda prior, first, z, context: complete(prior, first, z, context)[:, first.shape[1] :], ""),
            (lambda prior, first, z, context: complete(prior, first, z, 0 * context), ""),
            (lambda prior, first, z, context: complete(prior, first, 0 * z, context), ""),
        ],
    ),
    3: Answers(
        right=[lambda net: Repaired(net)],
        wrong=[
            (ReadsItself, "predicted from itself"),
            (InverseReadsItself, "shifted here too"),
            (NoLogDet, "log_det: "),
            (Mean, "z: "),
            (Swapped, "forward and inverse are swapped"),
            (OneMore, "z: "),
        ],
    ),
}
