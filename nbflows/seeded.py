"""Random draws that a seed fixes, while torch's own stream of random numbers goes on as if nothing had been drawn."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Seeds of independent streams are this far apart, for example those of two ranks or of two epochs.
STRIDE = 1_000_003


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draws from torch's global generators begin at ``seed``; their states are restored on exit.

    Args:
        device: where draws happen besides the CPU.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
