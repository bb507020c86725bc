"""Times mAR-SCF at shapes at which its authors' code was timed, and prints a table.

    python benchmarks/mar_scf.py [--repeats 5] [--threads 2] [--csv FILE]

32x32 colour images, batches of 16, three levels. The original's figures are of its published code on 2 CPU cores
(torch 2.15, float32). Memory is the process's peak, imports included, as theirs is. The inverse of the mixture is
always in float32; the original's is a bisection.
"""

from functools import partial

import harness

MODELS = {
    "affine, K=4 C=96": {"coupling": "affine", "num_steps": 4, "hidden_channels": 96},
    "mixlogcdf, K=1 C=32": {"coupling": "mixlogcdf", "num_steps": 1, "hidden_channels": 32},
}


def prepare(model: str, task: str):
    import torch

    from nbflows import models

    flow = models.mar_scf(**MODELS[model])
    images = torch.randint(256, (16, 3, 32, 32)).byte()
    # The first batch sets every ActNorm.
    flow.log_prob(images)
    if task == "train":
        return harness.training_step(flow, lambda: flow.bits_per_dim(images).mean())
    flow.eval()
    return torch.no_grad()(lambda: flow.log_prob(images)) if task == "likelihood" else lambda: flow.sample(16)


def prepare_inverse():
    import torch

    from nbflows.layers import invert_mixture

    shape = 64, 6, 16, 16
    mixture, target = torch.randn(3, 32, *shape), torch.randn(shape)
    return lambda: invert_mixture(target, *mixture)


if __name__ == "__main__":
    affine, mixture = MODELS
    tasks = {
        f"{affine}, train": harness.Task(partial(prepare, affine, "train"), 0.99, 1.03),
        f"{affine}, sample": harness.Task(partial(prepare, affine, "sample"), 0.34),
        f"{mixture}, train": harness.Task(partial(prepare, mixture, "train"), 1.87, 1.9),
        f"{mixture}, likelihood": harness.Task(partial(prepare, mixture, "likelihood"), 0.40),
        f"{mixture}, sample": harness.Task(partial(prepare, mixture, "sample"), 0.74),
        "inverse of 98,304 mixtures of 32": harness.Task(prepare_inverse, 1.33, precisions=("32-true",)),
    }
    harness.main(__doc__, tasks)
