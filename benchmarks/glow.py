"""Glow on 32x32 colour images, batches of 16: three levels of 4 steps, 96 channels, as mAR-SCF's affine model has.

The authors' code is for another framework, and was not timed.
"""

from benchmarks.actions import density_training, initialized, likelihood, noise_images, sampling
from benchmarks.harness import TRAINING_CONFIGURATIONS, Task


def build(num_steps: int = 4):
    """A flow that has seen data, and 16 images."""
    from nbflows import models

    images = noise_images(16, 3, 32, 32)
    return initialized(models.glow(num_steps=num_steps, hidden_channels=96), images), images


def prepare_sampling():
    """One batch."""
    flow, _ = build()
    return sampling(flow, lambda: flow.sample(16))


TASKS = {
    "Glow, train": Task(lambda: density_training(*build()), configurations=TRAINING_CONFIGURATIONS),
    "Glow, likelihood": Task(lambda: likelihood(*build())),
    "Glow, sample": Task(prepare_sampling),
}
