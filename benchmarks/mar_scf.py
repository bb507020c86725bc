"""mAR-SCF on 32x32 colour images, batches of 16: three levels, affine and mixture couplings; the mixture's inverse.

The original's figures are of its published code on 2 CPU cores (torch 2.15, float32). The inverse of the mixture is
always in float32; the original's is a bisection.
"""

from functools import partial

from benchmarks.actions import density_training, initialized, likelihood, noise_images, sampling
from benchmarks.harness import FLOAT32, TRAINING_CONFIGURATIONS, Task, Workload

AFFINE = {"coupling": "affine", "num_steps": 4, "hidden_channels": 96}
MIXTURE = {"coupling": "mixlogcdf", "num_steps": 1, "hidden_channels": 32}


def build(sizes: dict):
    """A flow that has seen data, and 16 images."""
    from nbflows import models

    images = noise_images(16, 3, 32, 32)
    return initialized(models.mar_scf(**sizes), images), images


def prepare_training(sizes: dict):
    """One step."""
    return density_training(*build(sizes))


def prepare_likelihood(sizes: dict):
    """One batch."""
    return likelihood(*build(sizes))


def prepare_sampling(sizes: dict):
    """One batch."""
    flow, _ = build(sizes)
    return sampling(flow, lambda: flow.sample(16))


def prepare_inverse():
    """64 x 6 x 16 x 16 mixtures of 32 logistics each."""
    import torch

    from nbflows.layers import invert_mixture

    shape = 64, 6, 16, 16
    mixture, target = torch.randn(3, 32, *shape), torch.randn(shape)
    return Workload(lambda: invert_mixture(target, *mixture))


def prepare_prior(level: int, num_samples: int):
    """Samples of one level's latent, channel by channel."""
    import torch

    flow, _ = build(AFFINE)
    multiscale = flow.eval().bijection[-1]
    shape = multiscale.latent_shapes[level]
    # The context is the continuing half, which has the exiting half's shape; the last level's prior has none.
    noise, context = torch.randn(2, num_samples, *shape)
    prior = multiscale.priors[level]
    return Workload(torch.no_grad()(lambda: prior.inverse(noise, context)), flow)


def report(measure) -> None:
    """Prints the time to sample one channel of a latent from its autoregressive prior."""
    from tabulate import tabulate

    rows = []
    for level, shape in enumerate(LATENTS):
        seconds = [measure(_prior_task(level, n)).median / shape[0] for n in NUM_SAMPLES]
        rows.append(["x".join(map(str, shape)), *(f"{1000 * value:.2f}" for value in seconds)])
    print("\nthe autoregressive prior in float32: ms for each channel of a level's latent\n")
    print(
        tabulate(rows, ["latent", *(f"{n} sample{'s' if n > 1 else ''}" for n in NUM_SAMPLES)], disable_numparse=True)
    )


def _prior_task(level: int, num_samples: int) -> str:
    return f"prior of level {level}, {num_samples} samples"


# Shapes of the levels' latents, for 32x32 colour images.
LATENTS = ((6, 16, 16), (12, 8, 8), (48, 4, 4))
NUM_SAMPLES = (1, 16, 64)

TASKS = {
    "mAR-SCF affine, train": Task(partial(prepare_training, AFFINE), 0.99, 1.03, TRAINING_CONFIGURATIONS),
    "mAR-SCF affine, likelihood": Task(partial(prepare_likelihood, AFFINE)),
    "mAR-SCF affine, sample": Task(partial(prepare_sampling, AFFINE), 0.34),
    "mAR-SCF mixture, train": Task(partial(prepare_training, MIXTURE), 1.87, 1.9, TRAINING_CONFIGURATIONS),
    "mAR-SCF mixture, likelihood": Task(partial(prepare_likelihood, MIXTURE), 0.40),
    "mAR-SCF mixture, sample": Task(partial(prepare_sampling, MIXTURE), 0.74),
    "mixture inverse, 98,304 mixtures of 32": Task(prepare_inverse, 1.33, configurations=(FLOAT32,)),
}
FURTHER = {
    _prior_task(level, n): Task(partial(prepare_prior, level, n), configurations=(FLOAT32,))
    for level in range(len(LATENTS))
    for n in NUM_SAMPLES
}
