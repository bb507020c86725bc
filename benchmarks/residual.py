"""Times Residual Flows at shapes at which their authors' code was timed, and prints tables.

    python benchmarks/residual.py [--repeats 5] [--threads 2] [--csv FILE]

28x28 grey images, batches of 16, levels of 4, 4 and 4 blocks of width 64, 4 fully connected ones. The original's
figures are of its published code on 2 CPU cores (torch 2.15, float32), with its Neumann gradient computed in forward;
it evaluates 20 terms of the power series and a random tail, and so do we. Its inverse is off by 2.8e-5. Memory is the
process's peak, imports included, as theirs is; the second table is without the imports.
"""

from functools import partial

import harness

SIZES = {"num_blocks": (4, 4, 4), "hidden_channels": 64}
GRADIENTS = {
    "basic": {"gradient": "basic", "in_forward": False},
    "basic, in forward": {"gradient": "basic", "in_forward": True},
    "Neumann": {"gradient": "neumann", "in_forward": False},
    "Neumann, in forward": {"gradient": "neumann", "in_forward": True},
}
NUM_TERMS = (2, 5, 10, 20)
NUM_BLOCKS = (2, 4, 8)


def build(**changes):
    """A flow that has seen data, and 16 images."""
    import torch

    from nbflows import models

    flow = models.residual_flow_mnist(**{**SIZES, **changes})
    images = torch.randint(256, (16, 1, 28, 28)).byte()
    # The first batch sets every ActNorm.
    flow.log_prob(images)
    return flow, images


def prepare_training(**gradient):
    flow, images = build(**gradient)
    return harness.training_step(flow, lambda: flow.bits_per_dim(images).mean())


def prepare_evaluation():
    import torch

    flow, images = build()
    flow.eval()
    return torch.no_grad()(lambda: flow.log_prob(images))


def prepare_inverse():
    import torch

    flow, images = build()
    with torch.no_grad():
        z, _ = flow.encode(images)
    return torch.no_grad()(lambda: flow.decode(z))


def prepare_memory(gradient: str, num_terms: int, num_blocks: int):
    """One training step with so many terms and blocks at full resolution."""
    from nbflows.layers import ResidualBlock, SeriesLogDet, TruncatedSeries

    flow, images = build(num_blocks=(num_blocks,), num_end_blocks=0)
    for layer in flow.modules():
        if isinstance(layer, ResidualBlock):
            layer.log_det = SeriesLogDet(TruncatedSeries(num_terms), **GRADIENTS[gradient])
    return harness.training_step(flow, lambda: flow.bits_per_dim(images).mean())


def report(measure) -> None:
    """Standard errors, the inverse's error, and the memory of every gradient."""
    from tabulate import tabulate

    print(f"\nlog-determinants per image: {_standard_errors()}")
    print(f"largest error of the inverse before rounding to grey levels: {_inverse_error():.1e} (original: 2.8e-5)")
    rows = []
    for gradient in GRADIENTS:
        terms = [_memory(measure, gradient, n, 4) for n in NUM_TERMS]
        rows.append([gradient, *terms, *[_memory(measure, gradient, 10, n) for n in NUM_BLOCKS]])
    headers = ["gradient", *[f"{n} terms" for n in NUM_TERMS], *[f"{n} blocks" for n in NUM_BLOCKS]]
    print("\nMiB of a training step in float32, at full resolution: 4 blocks, by terms; 10 terms, by blocks\n")
    print(tabulate(rows, headers))


def _memory(measure, gradient: str, num_terms: int, num_blocks: int) -> int:
    result = measure(_memory_task(gradient, num_terms, num_blocks), "32-true")
    return round(1024 * (result["gib"] - result["imports"]))


def _memory_task(gradient: str, num_terms: int, num_blocks: int) -> str:
    return f"{gradient}, {num_terms} terms, {num_blocks} blocks"


def _standard_errors() -> str:
    """Spread of repeated evaluations of the same images, with our probes and with the original's."""
    import torch

    from nbflows.layers import ResidualBlock

    torch.manual_seed(0)
    flow, images = build()
    flow.eval()
    pixels, _ = flow.bijection[0](images)
    spreads = {}
    for probe in ("rademacher", "gaussian"):
        for layer in flow.modules():
            if isinstance(layer, ResidualBlock):
                layer.eval_log_det.probe = probe
        with torch.no_grad():
            draws = [sum(_log_dets(flow.bijection.layers[1:], pixels)) for _ in range(20)]
        spreads[probe] = torch.stack(draws).std(0).mean().item()
    return ", ".join(f"standard error {spread:.3f} nats with {probe} probes" for probe, spread in spreads.items())


def _log_dets(layers, x):
    for layer in layers:
        x, log_det = layer(x)
        yield log_det


def _inverse_error() -> float:
    import torch

    torch.manual_seed(0)
    flow, images = build()
    flow.eval()
    with torch.no_grad():
        pixels, _ = flow.bijection[0](images)
        z = pixels
        for layer in flow.bijection.layers[1:]:
            z, _ = layer(z)
        for layer in reversed(flow.bijection.layers[1:]):
            z = layer.inverse(z)
    return (z - pixels).abs().max().item()


if __name__ == "__main__":
    tasks = {
        "train": harness.Task(prepare_training, 0.50, 0.96),
        "train, gradient in backward": harness.Task(partial(prepare_training, in_forward=False), 0.50, 0.96),
        "evaluate": harness.Task(prepare_evaluation, 2.8),
        "inverse": harness.Task(prepare_inverse, 0.054, precisions=("32-true",)),
    }
    cases = [(gradient, n, 4) for gradient in GRADIENTS for n in NUM_TERMS]
    cases += [(gradient, 10, n) for gradient in GRADIENTS for n in NUM_BLOCKS]
    memory = {_memory_task(*case): harness.Task(partial(prepare_memory, *case), 0.0) for case in cases}
    harness.main(__doc__, tasks, memory, report)
