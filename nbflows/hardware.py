"""Chooses the device and the precision of a training, and settings that make a CPU faster."""

import contextlib
import os
import time
from collections.abc import Iterator

import torch
from torch import nn


def require(device: str, count: int = 1) -> str:
    """Returns ``device`` if this machine has ``count`` of them.

    Args:
        device: "cpu", "cuda", "mps", one of several as "cuda:1", or "auto" for the best available.

    Raises:
        ValueError: it has fewer; the message lists the devices found.
    """
    found = {"cpu": max(8, os.cpu_count() or 1), "cuda": torch.cuda.device_count(), "mps": 0}
    if torch.backends.mps.is_available():
        found["mps"] = 1
    try:
        wanted = torch.device("cpu" if device == "auto" else device)
    except RuntimeError:
        raise ValueError(f"no device is named {device!r}: known are auto, {', '.join(found)}") from None
    kind = wanted.type
    if device == "auto":
        kind = next((name for name in ("cuda", "mps") if found[name]), "cpu")
    if max(count, (wanted.index or 0) + 1) > found.get(kind, 0):
        asked = f"{count} devices of the kind {kind}" if count > 1 else f"the device {device}"
        here = ", ".join(f"{number} {name}" for name, number in found.items() if number)
        raise ValueError(f"this machine does not have {asked}; torch finds at most {here}; use --device cpu, or fewer")
    return device


def faster_precision(device: str = "auto", num_processes: int = 1) -> str:
    """Returns "bf16-mixed" if a convolution in bfloat16 is faster than in float32, which takes 0.1 seconds to measure.

    Several processes on CPUs get "32-true", because each would measure for itself, and their answers could differ.
    """
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    if num_processes > 1 or device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return "32-true"
    conv = nn.Conv2d(64, 32, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.zeros(32, 64, 28, 28).contiguous(memory_format=torch.channels_last)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        conv, images = conv.to(dtype), images.to(dtype)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            conv(images).sum().backward()
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return "bf16-mixed" if seconds[torch.bfloat16] < 0.7 * seconds[torch.float32] else "32-true"


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Treats numbers below 1e-38 as 0, because processors take up to ten times longer with them.

    Saturated gates of a ConvLSTM have such gradients. Processors without this setting are unaffected.
    """
    before = bool(torch.tensor(torch.finfo(torch.float32).tiny) / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
