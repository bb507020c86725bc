"""Residual Flows on 28x28 grey images, batches of 16: levels of 4, 4, 4 blocks of width 64, 4 fully connected ones.

The original's figures are of its published code on 2 CPU cores (torch 2.15, float32), with its Neumann gradient
computed in forward; it evaluates 20 terms of the power series and a random tail, and so do we. Its inverse is off by
2.8e-5. More: standard errors, the inverse's error, and the memory of every gradient.
"""

from functools import partial

from benchmarks.actions import density_training, initialized, likelihood, noise_images, sampling
from benchmarks.harness import FLOAT32, TRAINING_CONFIGURATIONS, Task

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
    from nbflows import models

    images = noise_images(16, 1, 28, 28)
    return initialized(models.residual_flow_mnist(**{**SIZES, **changes}), images), images


def prepare_training(**gradient):
    """One step."""
    return density_training(*build(**gradient))


def prepare_likelihood():
    """One batch, 20 terms and a random tail."""
    return likelihood(*build())


def prepare_sampling():
    """The inverse of one batch of latents."""
    import torch

    flow, images = build()
    with torch.no_grad():
        z, _ = flow.encode(images)
    return sampling(flow, torch.no_grad()(lambda: flow.decode(z)))


def prepare_memory(gradient: str, num_terms: int, num_blocks: int):
    """One training step with ``num_terms`` terms and ``num_blocks`` blocks at full resolution."""
    from nbflows.layers import ResidualBlock, SeriesLogDet, TruncatedSeries

    flow, images = build(num_blocks=(num_blocks,), num_end_blocks=0)
    for layer in flow.modules():
        if isinstance(layer, ResidualBlock):
            layer.log_det = SeriesLogDet(TruncatedSeries(num_terms), **GRADIENTS[gradient])
    return density_training(flow, images)


def report(measure) -> None:
    """Standard errors, the inverse's error, and the memory of every gradient."""
    from tabulate import tabulate

    print(f"\nlog-determinants per image: {_standard_errors()}")
    print(f"largest error of the inverse before rounding to grey levels: {_inverse_error():.1e} (original: 2.8e-5)")
    rows = []
    for gradient in GRADIENTS:
        cases = [(n, 4) for n in NUM_TERMS] + [(10, n) for n in NUM_BLOCKS]
        rows.append([gradient, *[round(measure(_memory_task(gradient, *case)).own_mib) for case in cases]])
    headers = ["gradient", *[f"{n} terms" for n in NUM_TERMS], *[f"{n} blocks" for n in NUM_BLOCKS]]
    print("\nMiB of a training step beyond the imports, float32: 4 blocks, by terms; 10 terms, by blocks\n")
    print(tabulate(rows, headers))


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


_IN_BACKWARD = partial(prepare_training, in_forward=False)
TASKS = {
    "residual, train": Task(prepare_training, 0.50, 0.96, TRAINING_CONFIGURATIONS),
    "residual, train, gradient in backward": Task(_IN_BACKWARD, 0.50, 0.96),
    "residual, likelihood": Task(prepare_likelihood, 2.8),
    "residual, sample": Task(prepare_sampling, 0.054, configurations=(FLOAT32,)),
}
_CASES = [(gradient, n, 4) for gradient in GRADIENTS for n in NUM_TERMS]
_CASES += [(gradient, 10, n) for gradient in GRADIENTS for n in NUM_BLOCKS]
FURTHER = {_memory_task(*case): Task(partial(prepare_memory, *case)) for case in _CASES}
