"""The exercises of lesson 08, autoregressive priors: hidden inputs, hints and solutions."""

import torch
from torch import nn

from nbflows.bijection import Bijection
from nbflows.exercises.lab import Exercise
from nbflows.layers import ConvLSTMPrior
from nbflows.nets import ConvLSTM


def latents_of(v, covariance):
    a = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(a, v.T, upper=False).T
    return z, -a.diagonal().log().sum().expand(len(v))


def complete(prior, first, z, context):
    known, _ = prior(torch.cat([first, torch.zeros_like(z)], dim=1), context)
    return prior.inverse(torch.cat([known[:, : first.shape[1]], z], dim=1), context)


class Repaired(Bijection):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def mean_and_log_std(self, v):
        return self.net(torch.cat([torch.zeros_like(v[:, :1]), v[:, :-1]], dim=1))

    def forward(self, v, context=None):
        mean, log_std = self.mean_and_log_std(v)
        return (v - mean) * (-log_std).exp(), -log_std.sum(1)

    def inverse(self, z, context=None):
        v = torch.zeros_like(z)
        for t in range(z.shape[1]):
            mean, log_std = self.mean_and_log_std(v)
            v[:, t] = z[:, t] * log_std[:, t].exp() + mean[:, t]
        return v


class ReadsItself(Repaired):
    def mean_and_log_std(self, v):
        return self.net(v)


class InverseReadsItself(Repaired):
    inverse = ReadsItself.inverse

    def forward(self, v, context=None):
        mean, log_std = Repaired.mean_and_log_std(self, v)
        return (v - mean) * (-log_std).exp(), -log_std.sum(1)

    def mean_and_log_std(self, v):
        return self.net(v)


def whitened(v, covariance, rotate):
    """Independent latents by principal axes, or rotated back (ZCA): right density, wrong Jacobian."""
    values, axes = torch.linalg.eigh(covariance)
    matrix = axes / values.sqrt()
    matrix = matrix @ axes.T if rotate else matrix
    return v @ matrix, -0.5 * values.log().sum().expand(len(v))


def from_later_values(v, covariance):
    z, log_det = latents_of(v.flip(1), covariance.flip(0, 1))
    return z.flip(1), log_det


def correlated(generator):
    size = int(torch.randint(3, 7, (1,), generator=generator))
    a = torch.randn(size, size, generator=generator, dtype=torch.float64).tril() + 2 * torch.eye(size)
    return torch.randn(20, size, generator=generator, dtype=torch.float64) @ a.T, a @ a.T


def begun(generator):
    prior = ConvLSTMPrior(ConvLSTM(1 + 2, 4, 2, num_layers=1, kernel_size=3), nn.Conv2d(5, 2, 3, padding=1)).double()
    for parameter in prior.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    known = int(torch.randint(1, 5, (1,), generator=generator))
    values, context = torch.randn(2, 2, 5, 3, 3, generator=generator, dtype=torch.float64)
    return prior, values[:, :known], values[:, known:], context


class Causal(nn.Module):
    """Mean and log-scale of a sequence; output t depends on inputs 1 to t."""

    def __init__(self, generator, size=5):
        super().__init__()
        self.weights = torch.randn(2, size, size, generator=generator, dtype=torch.float64).triu()

    def forward(self, v):
        mean, log_std = torch.tanh(v @ self.weights)
        return mean, 0.5 * log_std


EXERCISES = {
    1: Exercise(
        solution=latents_of,
        explanation="If $\\Sigma = A A^\\top$ with $A$ lower triangular (Cholesky), then $v = A z$. Solving with a "
        "triangular matrix goes from the first number to the last: each is predicted from those before it. Principal "
        "axes (PCA) and $\\Sigma^{-1/2}$ (ZCA) also make v white, with the same density, but each latent then needs "
        "all values.",
        hints=(
            "Write the covariance as A A^T. Which A makes v = A z autoregressive?",
            "The Cholesky factor is lower triangular with a positive diagonal: torch.linalg.cholesky.",
            "z solves A z = v: torch.linalg.solve_triangular(a, v.T, upper=False).T. And log_det is that of A^-1.",
        ),
        inputs=correlated,
        results=("z", "log_det"),
        mistakes={
            "this is whitening by principal axes: every latent needs all values; one may need only those before it": (
                lambda v, covariance: whitened(v, covariance, rotate=False)
            ),
            "this is whitening by the inverse square root (ZCA): every latent needs all values; one may need only "
            "those before it": lambda v, covariance: whitened(v, covariance, rotate=True),
            "each latent is computed from the values after it; it may need only those before it": from_later_values,
            "this correlates independent numbers; do the opposite": lambda v, covariance: (
                v @ torch.linalg.cholesky(covariance).T,
                latents_of(v, covariance)[1],
            ),
            "this only divides by the standard deviations": lambda v, covariance: (
                v / covariance.diagonal().sqrt(),
                latents_of(v, covariance)[1],
            ),
        },
    ),
    2: Exercise(
        solution=complete,
        explanation="The latents of the first channels do not depend on the other channels, because the Jacobian is "
        "triangular. So encode the first channels with anything behind them, put the given latents in its place, and "
        "decode.",
        hints=(
            "prior.inverse needs latents of all channels. Which are missing?",
            "The latents of the first channels do not depend on the channels behind them.",
            "Call prior on the first channels followed by zeros, and keep the first k latents.",
        ),
        inputs=begun,
        mistakes={
            "z are latents; the other channels are what the prior makes of them": lambda prior, first, z, context: (
                torch.cat([first, z], dim=1)
            ),
            "the first channels are values, but here they are used as latents": lambda prior, first, z, context: (
                prior.inverse(torch.cat([first, z], dim=1), context)
            ),
            "this maps to latents; decode in the end": lambda prior, first, z, context: prior(
                torch.cat([first, z], dim=1), context
            )[0],
            "the first channels got lost": lambda prior, first, z, context: prior.inverse(
                torch.cat([torch.zeros_like(first), z], dim=1), context
            ),
        },
    ),
    3: Exercise(
        solution=Repaired,
        explanation="Output t of the network depends on input t, so the prior predicts each value from itself. In "
        "training it copies its input and shrinks the scale; the loss falls without limit, no inverse exists. Shift "
        "the sequence by one value, with a zero in front, both ways.",
        hints=(
            "Call check_bijection. Which of its two tests fails, and from which value on?",
            "Value t may depend on values 1 to t - 1. What does output t of the network depend on?",
            "Put a zero in front of the sequence and drop its last value, in forward and in inverse.",
        ),
        inputs=lambda generator: (torch.randn(3, 5, generator=generator, dtype=torch.float64),),
        build=lambda layer_class, generator: layer_class(Causal(generator)),
        mistakes={
            "inverse(z): the sequence must be shifted here too, as in forward": InverseReadsItself,
            "z: every value is predicted from itself; the sequence must be shifted by one": ReadsItself,
        },
    ),
}
