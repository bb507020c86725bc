"""Times CAFLOW at the shapes at which its authors' code was timed, and prints a table.

    python benchmarks/caflow.py [--repeats 5] [--threads 2] [--csv FILE]

32x32 colour images, batches of 8, three levels, K = M = 4. The original's figures are of its published code on 2 CPU
cores (torch 2.15, float32). Memory is the process's peak, imports included, as theirs is. A second table has what the
original was not timed at, and grows the number of levels, n = 2 to 5 on 64x64 images, with shared and unshared blocks.
"""

from functools import partial

import harness


def prepare(task: str, **sizes):
    import torch

    from nbflows import models

    sizes = {"shape": (3, 32, 32), "num_scales": 3, "num_steps": 4, "num_relation_steps": 4} | sizes
    flow = models.caflow(**sizes)
    targets, sources = torch.randint(256, (2, 8, *sizes["shape"])).byte()
    # The first batch sets every ActNorm.
    flow.log_prob(targets, sources)
    if task == "train":
        return harness.training_step(flow, lambda: _loss(flow, targets, sources))
    flow.eval()
    if task == "likelihood":
        return torch.no_grad()(lambda: flow.log_prob(targets, sources))
    return lambda: flow.translate(sources, num_samples=10, scored=task == "best of 10")


def _loss(flow, targets, sources):
    """What training minimises, with the weight of the sources that the authors' code takes."""
    log_prob, source_log_prob = flow.log_probs(targets, sources)
    return -(log_prob + 1e-3 * source_log_prob).mean() / targets[0].numel()


def report(measure) -> None:
    """What the original was not timed at, and shared against unshared blocks as the number of levels grows."""
    import statistics

    from tabulate import tabulate

    rows = []
    for name in FURTHER:
        result = measure(name, "32-true")
        rows.append((name, statistics.median(result["seconds"]), result["gib"], result["imports"]))
    print(tabulate(rows, ["further, float32", "seconds", "peak GiB", "of it imports"], floatfmt=".3f"))


FURTHER = {
    "likelihood": harness.Task(partial(prepare, "likelihood"), 0.0),
    "10 samples of 8 sources": harness.Task(partial(prepare, "samples"), 0.0),
    "best of 10 of 8 sources": harness.Task(partial(prepare, "best of 10"), 0.0),
    **{
        f"train on 64x64, n = {num_scales}, {relation}": harness.Task(
            partial(prepare, "train", shape=(3, 64, 64), num_scales=num_scales, relation=relation), 0.0
        )
        for num_scales in (2, 3, 4, 5)
        for relation in ("shared", "unshared")
    },
}

if __name__ == "__main__":
    tasks = {
        "train": harness.Task(partial(prepare, "train"), 0.20, 0.99),
        "train, shared": harness.Task(partial(prepare, "train", relation="shared"), 0.20, 0.99),
    }
    harness.main(__doc__, tasks, FURTHER, report)
