"""The tutorial's three models on 28x28 grey images: training with batches of 128, likelihood and samples of 64.

The original's figures are medians of its published code on 2 CPU cores (torch 2.15, float32, its quietest run).
"""

from functools import partial

from benchmarks.actions import density_training, likelihood, noise_images, sampling
from benchmarks.harness import TRAINING_CONFIGURATIONS, Task

# Seconds of a training step, of the likelihood, of sampling; GiB at the peak of training.
ORIGINAL = {
    "simple": (3.51, 1.00, 1.09, 7.6),
    "variational": (4.55, 1.15, 1.11, 9.2),
    "multiscale": (2.50, 0.56, 0.39, 4.3),
}


def build(model: str):
    """The flow of this name at its published size."""
    from nbflows import models

    return getattr(models, model)()


def prepare_training(model: str):
    """One step."""
    return density_training(build(model), noise_images(128, 1, 28, 28))


def prepare_likelihood(model: str):
    """One batch."""
    return likelihood(build(model), noise_images(64, 1, 28, 28))


def prepare_sampling(model: str):
    """One batch."""
    flow = build(model)
    return sampling(flow, lambda: flow.sample(64))


TASKS = {}
for model, (train, evaluate, sample, gib) in ORIGINAL.items():
    TASKS |= {
        f"{model}, train": Task(partial(prepare_training, model), train, gib, TRAINING_CONFIGURATIONS),
        f"{model}, likelihood": Task(partial(prepare_likelihood, model), evaluate),
        f"{model}, sample": Task(partial(prepare_sampling, model), sample),
    }
