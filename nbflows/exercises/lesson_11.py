"""The exercises of lesson 11, CAFLOW: hidden inputs, hints and solutions."""

from typing import cast

import torch

from nbflows import models
from nbflows.compose import Sequential
from nbflows.exercises.lab import Exercise
from nbflows.exercises.verdict import NoAnswer
from nbflows.multiscale import Multiscale


def count_links(n):
    return n**2 + n * (n - 1) // 2, n**2, n


def is_shared(i, j, k):
    return i == j or (i < k and j < k)


def per_level(G):
    return Multiscale(G.levels[:1], G.shape)


def few_levels(generator):
    return (int(torch.randint(2, 12, (1,), generator=generator)),)


def two_flows_and_a_scale(generator):
    k = int(torch.randint(1, 5, (1,), generator=generator))
    i, j = torch.randint(0, k + 1, (2,), generator=generator).tolist()
    return i, j, k


def finest(answer, generator):
    """The answer for G_0 of a CAFLOW with random weights."""
    flow = models.digits_caflow(num_relation_steps=1, relation_channels=8)
    G = cast(Multiscale, cast(Sequential, flow.bijection)[-1]).priors[0].double()
    for parameter in G.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    if (built := answer(G)) is None or built is Ellipsis:
        raise NoAnswer
    return built


def latents(generator):
    x = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randn(3, 96, generator=generator, dtype=torch.float64)


def links_are_right(answer):
    """Says which part of the context the answer should or should not depend on."""
    x, context = latents(torch.Generator().manual_seed(0))
    context.requires_grad_()
    z, _ = finest(answer, torch.Generator().manual_seed(1))(x, context)
    (gradient,) = torch.autograd.grad(z.square().sum(), context)
    same, rest = gradient[:, :32].any(), gradient[:, 32:].any()
    if not same:
        return "it does not depend on the source's same level"
    return "it also depends on coarser levels" if rest else None


EXERCISES = {
    1: Exercise(
        solution=count_links,
        explanation="Between the target's levels each pair is linked once, $n(n-1)/2$, in the chain rule and in "
        "CAFLOW. "
        "From the source come $n^2$ links, $n(n+1)/2$ or $n$. For CAFLOW both halves together are $n^2$.",
        hints=(
            "Count the links between levels of the target and those from source to target one after the other.",
            "Target to target: each pair of levels once. CAFLOW's source to target: j >= i.",
            "1 + 2 + ... + n is n (n + 1) / 2.",
        ),
        inputs=few_levels,
        results=("chain rule", "CAFLOW", "Dual-Glow"),
        mistakes={
            "the links between the target's levels are missing": lambda n: (n**2, n * (n + 1) // 2, n),
            "these are the numbers for three levels": lambda n: (12, 9, 3),
        },
    ),
    2: Exercise(
        solution=is_shared,
        explanation="A block's context is $L_k, D_k$, except for the first block of $G_k$, which starts at scale k "
        "and sees "
        "$D_k$ alone. So at scale k all flows of finer levels share one block, and $G_k$ has its own. The same flow "
        "has the "
        "same block.",
        hints=(
            "Which flows meet scale k in the middle of their way, and which one begins there?",
            "The first block of a flow sees D_k alone, later ones see L_k and D_k.",
        ),
        inputs=two_flows_and_a_scale,
        trials=12,
        mistakes={
            "a flow's first block is its own": lambda i, j, k: True,
            "blocks of different flows may be the same": lambda i, j, k: i == j,
            "the flow that begins at scale k does not share, the finer ones do": lambda i, j, k: i == k or j == k,
        },
    ),
    3: Exercise(
        solution=per_level,
        explanation="The first block of $G_i$ is all that is needed: it sees $D_i$ alone. As a `Multiscale` of a "
        "single "
        "level nothing exits before its end.",
        hints=(
            "Which of G's blocks sees the source's same level and nothing else?",
            "G.levels[:1] is a list with the first block.",
            "Multiscale(levels, shape) makes a flow of a list of blocks; with one level nothing is split.",
        ),
        inputs=latents,
        build=finest,
        unique=False,
        require=links_are_right,
    ),
    4: Exercise(
        solution="b",
        explanation="A flow per level has Dual-Glow's links and already saves 0.09 of the 0.11, so a) is wrong: it is "
        "mostly the flexible link that pays. c) and d) speak of other budgets and other tasks; the appendix has a task "
        "in which Dual-Glow is ahead.",
        hints=(
            "What do a flow per level and CAFLOW differ in? And how far are they apart?",
            "Which sentences speak of something that was not varied: the budget, the task?",
        ),
        mistakes={
            "a flow per level has no additional links, and saves most of it": "a",
            "there is one budget only": "c",
            "there is one task only": "d",
        },
    ),
}
