"""The exercises of lesson 04, variational dequantization: hidden inputs, hints and solutions."""

import torch
from torch import nn
from torch.nn import functional as F

from nbflows.bijection import Bijection
from nbflows.exercises.lab import Exercise


def entropy_term(k):
    return k / (k + 1) - torch.log(k + 1)


def gap_of(q, p):
    posterior = p / p.mean(dim=1, keepdim=True)
    return (q * (q / posterior).log2()).mean(dim=1)


class TableNoise(Bijection):
    def __init__(self, log_scale, shift):
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(log_scale), nn.Parameter(shift)

    def forward(self, e, context=None):
        log_scale, logits = self.log_scale[context], e.logit()
        r = logits * log_scale.exp() + self.shift[context]
        of_logit = -e.log() - (1 - e).log()
        of_sigmoid = F.logsigmoid(r) + F.logsigmoid(-r)
        return r.sigmoid(), (of_logit + log_scale + of_sigmoid).flatten(1).sum(1)

    def inverse(self, u, context=None):
        return ((u.logit() - self.shift[context]) * (-self.log_scale[context]).exp()).sigmoid()


class WithoutSigmoid(TableNoise):
    def forward(self, e, context=None):
        u, _ = super().forward(e, context)
        return u, (self.log_scale[context] - e.log() - (1 - e).log()).flatten(1).sum(1)


class WithoutLogit(TableNoise):
    def forward(self, e, context=None):
        u, log_det = super().forward(e, context)
        return u, log_det + (e.log() + (1 - e).log()).flatten(1).sum(1)


def powers(generator):
    return (10 * torch.rand(5, generator=generator, dtype=torch.float64),)


def densities(generator):
    q = 0.1 + torch.rand(200, generator=generator, dtype=torch.float64)
    p = 0.1 + torch.rand(3, 200, generator=generator, dtype=torch.float64)
    return q / q.mean(), p * torch.rand(3, 1, generator=generator, dtype=torch.float64)


def pixels(generator):
    e = 0.05 + 0.9 * torch.rand(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    return e, torch.randint(5, e.shape, generator=generator)


def with_random_tables(layer_class, generator):
    return layer_class(*torch.randn(2, 5, generator=generator, dtype=torch.float64))


EXERCISES = {
    1: Exercise(
        solution=entropy_term,
        explanation="$-\\log q_k = -\\log(k+1) - k \\log(1-u)$, and $\\mathbb{E}_{q_k} \\log(1-u) = (k+1)\\int_0^1 t^k "
        "\\log t \\, dt = -1/(k+1)$. So the term is $k/(k+1) - \\log(k+1)$. It falls without limit, by about log 2 "
        "each time k doubles: a bin half as wide costs one bit.",
        hints=(
            "Write -log q_k(u) as a constant plus k times something. What is left to average?",
            "You need the mean of log(1 - u) under q_k. Substitute t = 1 - u and integrate by parts.",
            "That mean is -1 / (k + 1). For k = 0 the whole term is 0, because q is uniform.",
        ),
        inputs=powers,
        mistakes={
            "the constant -log(k + 1) of q_k is missing": lambda k: k / (k + 1),
            "the mean of k log(1 - u) is missing": lambda k: -torch.log(k + 1),
            "the mean of log(1 - u) under q_k is -1 / (k + 1); -1 is its mean under uniform noise": lambda k: (
                k - torch.log(k + 1)
            ),
        },
    ),
    2: Exercise(
        solution=gap_of,
        explanation="The gap is KL(q ‖ posterior), and the posterior is p divided by its mean over the bin. In section "
        "1 the falling noise suits level 3, whose density falls too: its gap shrinks from 0.520 to 0.084 bits. For "
        "levels 1 and 2, which uniform noise suits well, it costs half a bit. Level 0 hardly profits: its peak is "
        "narrow and *inside* the bin.",
        hints=(
            "Section 1 says which divergence the gap is. Between which two densities, and in which order?",
            "The posterior is p / P, and P is the mean of p over the bin, a number for each row.",
            "KL(q || posterior) is the mean over the grid of q * (log2 q - log2 posterior).",
        ),
        inputs=densities,
        mistakes={
            "this is KL(posterior || q): the two densities are in the other order": lambda q, p: (
                (p / p.mean(1, keepdim=True)) * (p / p.mean(1, keepdim=True) / q).log2()
            ).mean(1),
            "this is minus the bound, not its gap: log P(x) is missing": lambda q, p: (q * (q / p).log2()).mean(1),
            "this is the gap of uniform noise": lambda q, p: p.mean(1).log2() - p.log2().mean(1),
            "the mean is not weighted by q, the density that the noise is drawn from": lambda q, p: (
                (q / (p / p.mean(1, keepdim=True))).log2().mean(1)
            ),
        },
    ),
    3: Exercise(
        solution=TableNoise,
        explanation="The derivative of the sigmoid has to be taken where the sigmoid is applied: at the logits *after* "
        "scale and shift. With tables of zeros both are the same, so a test of a new layer passes; one with random "
        "tables finds the fault.",
        hints=(
            "Make the tables random, run check_bijection, and see which of its two errors is large.",
            "The round trip is right, so the fault is in log_det. It has three terms, one for each map from e to u.",
            "At which argument is the derivative of each map taken, and at which one is the map applied?",
        ),
        inputs=pixels,
        build=with_random_tables,
        mistakes={
            "log_det: the sigmoid's term is missing": WithoutSigmoid,
            "log_det: the logit's term is missing": WithoutLogit,
        },
    ),
}
