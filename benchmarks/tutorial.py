"""Times the tutorial's three models at the original's shapes and prints a table.

    python benchmarks/tutorial.py [--repeats 5] [--threads 2] [--csv FILE]

The original's figures are medians of its published code on 2 CPU cores (torch 2.15, float32, its quietest run). Memory
is the process's peak, imports included, as theirs is.
"""

from functools import partial

import harness

# Seconds per training step at batch 128, for the likelihood of 64, to sample 64; GiB at the peak of training.
ORIGINAL = {
    "simple": {"train": 3.51, "likelihood": 1.00, "sample": 1.09, "memory": 7.6},
    "variational": {"train": 4.55, "likelihood": 1.15, "sample": 1.11, "memory": 9.2},
    "multiscale": {"train": 2.50, "likelihood": 0.56, "sample": 0.39, "memory": 4.3},
}


def prepare(model: str, task: str):
    import torch

    from nbflows import models

    flow = getattr(models, model)()
    images = torch.randint(256, (128 if task == "train" else 64, 1, 28, 28)).byte()
    if task == "train":
        return harness.training_step(flow, lambda: flow.bits_per_dim(images).mean())
    return torch.no_grad()(lambda: flow.log_prob(images)) if task == "likelihood" else lambda: flow.sample(64)


if __name__ == "__main__":
    tasks = {
        f"{model}, {task}": harness.Task(
            partial(prepare, model, task), original[task], original["memory"] if task == "train" else None
        )
        for model, original in ORIGINAL.items()
        for task in ("train", "likelihood", "sample")
    }
    harness.main(__doc__, tasks)
