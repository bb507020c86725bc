"""Figures with their error bars."""

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from nbflows.flow import Flow
from nbflows.joint import JointFlow


@dataclass(frozen=True)
class BitsPerDim:
    """A mean bits/dim over images, with all that is needed to compare it.

    An upper bound of the model's true bits/dim (its probabilities are bounded from below), tighter with more draws.

    Attributes:
        mean: over the images.
        standard_error: of the mean, over the images.
        num_draws: M, draws of the dequantization noise per image.
        num_images: how many.
    """

    mean: float
    standard_error: float
    num_draws: int
    num_images: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.standard_error:.4f} bits/dim (M = {self.num_draws}, {self.num_images} images)"


@dataclass(frozen=True)
class Accuracy:
    """The share of examples whose most probable class is theirs.

    Attributes:
        mean: over the examples.
        standard_error: of that share.
        num_images: how many.
    """

    mean: float
    standard_error: float
    num_images: int

    def __str__(self) -> str:
        return f"{self.mean:.2%} ± {self.standard_error:.2%} right ({self.num_images} images)"


def summarize(bits_per_dim: Tensor, num_draws: int) -> BitsPerDim:
    """The mean of per-image bits/dim ``(N,)`` and its standard error."""
    values = bits_per_dim.cpu().double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return BitsPerDim(values.mean().item(), error, num_draws, len(values))


@torch.no_grad()
def evaluate(
    flow: Flow,
    images: Tensor,
    sources: Tensor | None = None,
    num_draws: int = 1,
    chunk_size: int = 128,
    progress: bool = False,
    seed: int = 0,
    precision: str = "32-true",
) -> BitsPerDim:
    """Bits/dim of a flow on uint8 images, in eval mode, on the flow's device.

    Args:
        images: ``(N, C, H, W)``, on any device.
        sources: of the images, for a flow from images to images; bits/dim are of the images alone.
        num_draws: M; figures with different M do not compare.
        chunk_size: images in one pass.
        progress: show a progress bar.
        seed: of the dequantization noise; the global random state is left as it was.
        precision: of the conditioner networks, "32-true" or "bf16-mixed"; coordinates stay in the flow's own.
    """
    if precision not in ("32-true", "bf16-mixed"):
        raise ValueError(f"precision is '32-true' or 'bf16-mixed', got {precision!r}")
    training, device = flow.training, flow._like.device
    flow.eval()
    try:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"),
        ):
            torch.manual_seed(seed)
            # Not stderr, which notebooks show in red.
            bar = tqdm(
                range(0, len(images), chunk_size), f"bits/dim (M = {num_draws})", file=sys.stdout, disable=not progress
            )
            values = []
            for start in bar:
                rows = slice(start, start + chunk_size)
                context = None if sources is None else sources[rows].to(device)
                values.append(
                    flow.bits_per_dim(images[rows].to(device), context, num_draws=num_draws, chunk_size=chunk_size)
                )
    finally:
        flow.train(training)
    return summarize(torch.cat(values), num_draws)


@torch.no_grad()
def accuracy(flow: JointFlow, images: Tensor, labels: Tensor, chunk_size: int = 128, seed: int = 0) -> Accuracy:
    """How often a flow's classifier is right on uint8 images ``(N, C, H, W)`` with labels ``(N,)``, in eval mode.

    Args:
        chunk_size: images in one pass.
        seed: of the dequantization noise; the global random state is left as it was.
    """
    training, device = flow.training, flow._like.device
    flow.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            right = [
                flow.classify(batch.to(device)).argmax(1).cpu() == truth
                for batch, truth in zip(images.split(chunk_size), labels.split(chunk_size), strict=True)
            ]
    finally:
        flow.train(training)
    share = torch.cat(right).double().mean().item()
    return Accuracy(share, math.sqrt(share * (1 - share) / len(images)), len(images))
