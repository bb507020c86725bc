"""Bits/dim, accuracy and round-trip errors, with standard errors."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from nbflows import inputs, ranks
from nbflows.flow import Flow, require_finite
from nbflows.joint import JointFlow
from nbflows.progress import bar
from nbflows.seeded import STRIDE, seeded

# Precisions of the conditioner networks. Coordinates and log-determinants stay in the flow's own, float32.
PRECISIONS = ("32-true", "bf16-mixed")


M = TypeVar("M", bound="Mean")


@dataclass(frozen=True)
class Mean:
    """The mean of one value per image.

    Attributes:
        mean: mean over the images.
        standard_error: standard error of the mean; NaN for a single image.
        num_images: number of images.
    """

    mean: float
    standard_error: float
    num_images: int

    @classmethod
    def of(cls: type[M], values: Tensor, **more: float | str | None) -> M:
        """Returns the mean of values ``(N,)`` with its standard error; ``more`` goes into the fields of a subclass."""
        values = values.cpu().double()
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(values.mean().item(), error, len(values), **more)

    def _shown(self, form: str) -> str:
        error = "" if math.isnan(self.standard_error) else f" ± {self.standard_error:{form.lstrip('+')}}"
        return f"{self.mean:{form}}{error}"


@dataclass(frozen=True, kw_only=True)
class BitsPerDim(Mean):
    """A mean bits/dim over images: an upper bound of the model's bits/dim, tighter with more draws, or exact.

    Attributes:
        num_draws: M, the number of dequantization draws per image; scores with different M are not comparable. None if
            the model has exact probabilities and draws nothing.
    """

    num_draws: int | None

    @property
    def kind(self) -> str:
        """ "exact", or the number of draws, as "M = 8"."""
        return "exact" if self.num_draws is None else f"M = {self.num_draws}"

    def __str__(self) -> str:
        return f"{self._shown('.4f')} bits/dim ({self.kind}, {self.num_images} images)"


@dataclass(frozen=True)
class Accuracy(Mean):
    """The fraction of images whose most probable class is correct."""

    def __str__(self) -> str:
        return f"{self._shown('.2%')} right ({self.num_images} images)"


@dataclass(frozen=True)
class PrecisionChange(Mean):
    """The mean change of an image's bits/dim by half precision in the conditioner networks; positive is worse.

    Attributes:
        largest: the largest absolute change of one image.
    """

    largest: float

    def __str__(self) -> str:
        return f"{self._shown('+.5f')} bits/dim ({self.num_images} images)"


@dataclass(frozen=True)
class RoundTrip:
    """Errors of images that were encoded and decoded.

    Attributes:
        wrong: number of pixel values that differ; a colour pixel has three.
        total: number of all values.
        largest: largest difference, in grey levels.
    """

    wrong: int
    total: int
    largest: int

    def __str__(self) -> str:
        return f"{self.wrong} of {self.total} values come back wrong, by {self.largest} grey levels at most"


def summarize(bits_per_dim: Tensor, num_draws: int | None) -> BitsPerDim:
    """Returns the mean of per-image bits/dim ``(N,)`` with its standard error."""
    return BitsPerDim.of(bits_per_dim, num_draws=num_draws)


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
    shared: bool = False,
) -> BitsPerDim:
    """Bits/dim of a flow on uint8 images, in eval mode, on the flow's device.

    Args:
        images: ``(N, C, H, W)``, on any device.
        sources: context of the images: sources for a flow from images to images, or labels; bits/dim are those of the
            images alone.
        num_draws: M; scores with different M are not comparable. A flow with exact probabilities draws nothing.
        chunk_size: images in one pass.
        progress: show a progress bar.
        seed: seed of the dequantization noise; the global random state does not change.
        precision: precision of the conditioner networks, one of ``PRECISIONS``.
        shared: each rank takes a part of the images, with its own noise, and gets the result of all; every rank must
            call this.
    """
    for name, value in {"num_draws": num_draws, "chunk_size": chunk_size, "seed": seed}.items():
        inputs.check(name, value)
    if not len(images):
        raise ValueError("there are no images to score")
    require_finite(flow)
    rows, seed = _share(len(images), seed, shared)
    own_sources = None if sources is None else sources[rows]
    with _evaluating(flow, seed, precision):
        own = _bits_per_dim(flow, images[rows], own_sources, num_draws, chunk_size, progress)
    values = _of_all(own, rows, len(images))
    if bad := (~values.isfinite()).sum().item():
        raise ValueError(
            f"the bits/dim of {bad} of {len(values)} images are NaN or infinite, though its weights are finite: "
            "numbers overflow on these images; score them in float64, with flow.double(), or train the model further"
        )
    return summarize(values, None if flow.has_exact_probabilities else num_draws)


@torch.no_grad()
def precision_change(
    flow: Flow, images: Tensor, sources: Tensor | None = None, chunk_size: int = 128, seed: int = 0
) -> PrecisionChange:
    """Bits/dim in "bf16-mixed" minus those in "32-true", for the same images with the same noise (M = 1).

    All random draws are equal, including probes and numbers of terms of an estimated log-determinant, so the
    differences vary much less than bits/dim.

    Args:
        images, sources, chunk_size, seed: as in ``evaluate``.
    """
    values = {}
    for precision in PRECISIONS:
        with _evaluating(flow, seed, precision):
            values[precision] = _bits_per_dim(flow, images, sources, 1, chunk_size).cpu().double()
    changes = values["bf16-mixed"] - values["32-true"]
    return PrecisionChange.of(changes, largest=changes.abs().max().item())


@torch.no_grad()
def round_trip(
    flow: Flow,
    images: Tensor,
    sources: Tensor | None = None,
    chunk_size: int = 128,
    seed: int = 0,
    precision: str = "32-true",
    decode_precision: str | None = None,
) -> RoundTrip:
    """Encodes uint8 images, decodes their latents and compares, in eval mode.

    Args:
        images, sources, chunk_size, seed, precision: as in ``evaluate``. Sources get the same noise both times.
        decode_precision: precision of decoding; default: that of encoding.
    """
    wrong = largest = 0
    for x, context in _batches(flow, images, sources, chunk_size):
        with _evaluating(flow, seed, precision):
            z, _ = flow.encode(x, context)
        with _evaluating(flow, seed, decode_precision or precision):
            errors = (flow.decode(z, context).int() - x.int()).abs()
        wrong, largest = wrong + int(errors.count_nonzero()), max(largest, int(errors.max()))
    return RoundTrip(wrong, images.numel(), largest)


@contextlib.contextmanager
def _evaluating(flow: Flow, seed: int, precision: str = "32-true") -> Iterator[None]:
    """Sets eval mode, the seed and the precision of networks, and restores them afterwards."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '32-true' or 'bf16-mixed', got {precision!r}")
    training, device = flow.training, flow.device
    flow.eval()
    try:
        with (
            seeded(seed, device),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"),
        ):
            yield
    finally:
        flow.train(training)


def _batches(
    flow: Flow, images: Tensor, sources: Tensor | None, chunk_size: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Returns images and sources on the flow's device."""
    device = flow.device
    for start in range(0, len(images), chunk_size):
        rows = slice(start, start + chunk_size)
        yield images[rows].to(device), None if sources is None else sources[rows].to(device)


def _bits_per_dim(
    flow: Flow, images: Tensor, sources: Tensor | None, num_draws: int, chunk_size: int, progress: bool = False
) -> Tensor:
    """Returns the bits/dim of every image, ``(N,)``."""
    batches = bar(
        _batches(flow, images, sources, chunk_size),
        "bits/dim" if flow.has_exact_probabilities else f"bits/dim (M = {num_draws})",
        show=progress,
        total=-(-len(images) // chunk_size),
    )
    return torch.cat([flow.bits_per_dim(x, context, num_draws, chunk_size) for x, context in batches])


@torch.no_grad()
def accuracy(
    flow: JointFlow, images: Tensor, labels: Tensor, chunk_size: int = 128, seed: int = 0, shared: bool = False
) -> Accuracy:
    """Accuracy of a flow's classifier on uint8 images ``(N, C, H, W)`` with labels ``(N,)``, in eval mode.

    Args:
        chunk_size: images in one pass.
        seed: seed of the dequantization noise; the global random state does not change.
        shared: whether ranks share the images, as in ``evaluate``.
    """
    device = flow.device
    rows, seed = _share(len(images), seed, shared)
    with _evaluating(flow, seed):
        right = [
            flow.classify(batch.to(device)).argmax(1) == truth.to(device)
            for batch, truth in zip(images[rows].split(chunk_size), labels[rows].split(chunk_size), strict=True)
        ]
    return Accuracy.of(_of_all(torch.cat(right).float(), rows, len(images)))


def _share(count: int, seed: int, shared: bool) -> tuple[slice, int]:
    """Returns this rank's rows of ``count`` images, and its seed; each takes all if images are fewer than ranks."""
    rank, world_size = ranks.rank_and_world_size()
    if not shared or count < world_size:
        return slice(None), seed
    return slice(rank, None, world_size), seed + STRIDE * rank


def _of_all(own: Tensor, rows: slice, count: int) -> Tensor:
    """Gathers per-image values from all ranks into one tensor of length ``count``."""
    if len(own) == count:
        return own
    values = own.new_zeros(count)
    values[rows] = own
    return ranks.sum_over_ranks(values)
