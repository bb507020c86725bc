"""CAFLOW on 32x32 colour images, batches of 8: three levels, K = M = 4, training and samples of sources.

The original's figures are of its published code on 2 CPU cores (torch 2.15, float32). More: the growth with the number
of levels, n = 2 to 5 on 64x64 images, with shared and unshared blocks.
"""

from functools import partial

from benchmarks.actions import initialized, likelihood, noise_images, sampling, training
from benchmarks.harness import TRAINING_CONFIGURATIONS, Task


def build(**changes):
    """A flow that has seen data, 8 targets and their sources."""
    from nbflows import models

    sizes = {"shape": (3, 32, 32), "num_scales": 3, "num_steps": 4, "num_relation_steps": 4, **changes}
    targets, sources = noise_images(2, 8, *sizes["shape"])
    return initialized(models.caflow(**sizes), targets, sources), targets, sources


def prepare_training(**changes):
    """A training step, with the weight of the sources in the authors' code."""
    flow, targets, sources = build(**changes)

    def loss():
        log_prob, source_log_prob = flow.log_probs(targets, sources)
        return -(log_prob + 1e-3 * source_log_prob).mean() / targets[0].numel()

    return training(flow, loss)


def prepare_likelihood():
    """Likelihood of one batch of targets, given their sources."""
    return likelihood(*build())


def prepare_sampling(scored: bool):
    """Ten targets for each of 8 sources."""
    flow, _, sources = build()
    return sampling(flow, lambda: flow.translate(sources, num_samples=10, scored=scored))


def report(measure) -> None:
    """Shared against unshared blocks as the number of levels grows."""
    from tabulate import tabulate

    results = {name: measure(name) for name in FURTHER}
    rows = [(name, result.median, round(result.own_mib)) for name, result in results.items()]
    print()
    print(tabulate(rows, ["growth, float32", "seconds", "MiB beyond the imports"], floatfmt=".3f"))


TASKS = {
    "CAFLOW, train": Task(prepare_training, 0.20, 0.99, TRAINING_CONFIGURATIONS),
    "CAFLOW shared, train": Task(partial(prepare_training, relation="shared"), 0.20, 0.99, TRAINING_CONFIGURATIONS),
    "CAFLOW, likelihood": Task(prepare_likelihood),
    "CAFLOW, sample, 10 of each source": Task(partial(prepare_sampling, scored=False)),
    "CAFLOW, sample, the best of 10": Task(partial(prepare_sampling, scored=True)),
}
FURTHER = {
    f"train on 64x64, n = {num_scales}, {relation}": Task(
        partial(prepare_training, shape=(3, 64, 64), num_scales=num_scales, relation=relation)
    )
    for num_scales in (2, 3, 4, 5)
    for relation in ("shared", "unshared")
}
