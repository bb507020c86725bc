"""Image quality: distances of pictures from their targets, and the diversity of several answers."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbflows import extras, inputs
from nbflows.attributes import load_attribute_net, read_attributes
from nbflows.data import PairData
from nbflows.data.pixels import with_channels
from nbflows.metrics import Mean
from nbflows.progress import bar
from nbflows.seeded import seeded
from nbflows.tasks import get
from nbflows.translation import TranslationFlow

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

# The Gaussian window of SSIM, and the smallest picture that AlexNet's two poolings accept.
_SSIM_WINDOW, _LPIPS_SMALLEST = 11, 31
_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True)
class Score(Mean):
    """A mean measure over images.

    Attributes:
        unit: unit of the mean and its standard error; "" for a measure without one.
    """

    unit: str = ""

    def __str__(self) -> str:
        return f"{self._shown('.3f')}{f' {self.unit}' if self.unit else ''} ({self.num_images} images)"


def summarize(values: Tensor, unit: str = "") -> Score:
    """Returns the mean of one value per image ``(N,)`` with its standard error."""
    return Score.of(values, unit=unit)


def compare(
    results: Tensor,
    targets: Tensor,
    num_grey_levels: int = 256,
    known: Tensor | None = None,
    sources: Tensor | None = None,
) -> dict[str, Score]:
    """Returns PSNR, SSIM and RMSE of pictures, under "psnr", "ssim" and "rmse".

    With ``known`` pixels (inpainting), it also pastes these into the results: "psnr_pasted" and so on.
    Pictures with fewer than 11 pixels on a side have no SSIM.

    Args:
        results, targets: ``(N, C, H, W)``, grey levels.
        num_grey_levels: values are 0..num_grey_levels - 1.
        known: bool ``(H, W)``.
        sources: ``(N, C, H, W)``, the pictures with the known pixels.

    Raises:
        ValueError: the tensors do not fit each other, or hold more grey levels.
    """
    if (known is None) != (sources is None):
        raise ValueError("known pixels are pasted from the sources: give both, known and sources, or none of them")
    candidates = {"": results}
    if known is not None and sources is not None:
        _check(sources, targets, num_grey_levels)
        candidates["_pasted"] = torch.where(known.to(results.device), sources, results)
    measures = {"psnr": (psnr, "dB"), "ssim": (ssim, ""), "rmse": (rmse, "")}
    if min(targets.shape[-2:]) < _SSIM_WINDOW:
        del measures["ssim"]
    return {
        f"{name}{how}": summarize(measure(images, targets, num_grey_levels), unit)
        for how, images in candidates.items()
        for name, (measure, unit) in measures.items()
    }


@torch.no_grad()
def translations(
    flow: TranslationFlow,
    pairs: PairData,
    num_samples: int = 10,
    temperature: float | Sequence[float] = 0.8,
    num_images: int = 500,
    chunk_size: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, dict[str, Score]]:
    """Compares a flow's answers to test sources, and the task's baseline, with the targets.

    Rows: "baseline"; "sample", the first of N; "best", the one with the highest score; "mean" of N, rounded.
    Columns: those of ``compare``; for "sample" also "diversity" of the N, in grey levels.

    Args:
        pairs: data set; its first ``num_images`` test images are used, or all if there are fewer.
        num_samples: N, at least 2.
        temperature: temperature of the samples.
        chunk_size: sources in one pass.
        seed: seed of all noise; the global random state does not change.
        progress: show a progress bar.
    """
    inputs.whole(num_samples, "num_samples", 2)
    for name, value in {"quality_images": num_images, "chunk_size": chunk_size, "seed": seed}.items():
        inputs.check(name, value)
    targets, sources = pairs.test[:num_images], pairs.sources["test"][:num_images]
    device, training = flow.device, flow.training
    rows: dict[str, list[Tensor]] = {"sample": [], "best": [], "mean": []}
    spread = []
    flow.eval()
    try:
        with seeded(seed, device):
            for chunk in bar(sources.split(chunk_size), f"{num_samples} samples each", show=progress):
                answers = flow.translate(chunk.to(device), num_samples, temperature)
                mean, _ = per_pixel(answers.images)
                rows["sample"].append(answers.images[:, 0].cpu())
                rows["best"].append(answers.best().cpu())
                rows["mean"].append(mean.round().byte().cpu())
                spread.append(diversity(answers.images).cpu())
    finally:
        flow.train(training)
    baseline = get(**pairs.task).baseline(sources, targets.shape[1], pairs.num_grey_levels)
    given = {} if pairs.known is None else {"known": pairs.known, "sources": sources}
    table = {
        name: compare(images, targets, pairs.num_grey_levels, **given)
        for name, images in {"baseline": baseline, **{name: torch.cat(parts) for name, parts in rows.items()}}.items()
    }
    table["sample"]["diversity"] = summarize(torch.cat(spread), "grey levels")
    return table


def psnr(results: Tensor, targets: Tensor, num_grey_levels: int = 256) -> Tensor:
    """Peak signal-to-noise ratio of each picture in decibels, ``(N,)``; higher is closer.

    10 log10((num_grey_levels - 1)^2 / MSE), over all pixels and channels, with an MSE of at least 1/12 (rounding).
    This limits it to 58.9 dB with 256 levels; without the limit, equal pictures would make every mean infinite.
    """
    with extras.explained():
        from torchmetrics.functional.image import peak_signal_noise_ratio

    _check(results, targets, num_grey_levels)
    largest = 10 * math.log10(12 * (num_grey_levels - 1) ** 2)
    options = {"data_range": float(num_grey_levels - 1), "reduction": "none", "dim": (1, 2, 3)}
    return _in_chunks(
        lambda a, b: peak_signal_noise_ratio(a.double(), b.double(), **options).clamp(max=largest), results, targets
    )


def ssim(results: Tensor, targets: Tensor, num_grey_levels: int = 256) -> Tensor:
    """Structural similarity of each picture, ``(N,)``; 1 for equal ones.

    Gaussian windows of 11x11 pixels, sigma 1.5, constants 0.01 and 0.03; the mean over all windows, those at the edge
    mirrored. Pictures smaller than the window are an error, as a score with another window would not be comparable.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    with extras.explained():
        from torchmetrics.functional.image import structural_similarity_index_measure

    _check(results, targets, num_grey_levels)
    height, width = targets.shape[2:]
    if min(height, width) < _SSIM_WINDOW:
        raise ValueError(
            f"the windows of SSIM are {_SSIM_WINDOW}x{_SSIM_WINDOW}, these pictures {width}x{height}; "
            "compare them by psnr or rmse"
        )
    options = {"data_range": float(num_grey_levels - 1), "reduction": "none"}
    return _in_chunks(
        lambda a, b: structural_similarity_index_measure(a.float(), b.float(), **options), results, targets
    )


def rmse(results: Tensor, targets: Tensor, num_grey_levels: int = 256) -> Tensor:
    """Root mean squared error of each picture, ``(N,)``, on a scale from 0 to 255 for any ``num_grey_levels``."""
    _check(results, targets, num_grey_levels)
    return _in_chunks(
        lambda a, b: (a.double() - b.double()).square().mean((1, 2, 3)).sqrt() * (255 / (num_grey_levels - 1)),
        results,
        targets,
    )


def lpips(results: Tensor, targets: Tensor, num_grey_levels: int = 256) -> Tensor:
    """Learned perceptual distance of each picture, ``(N,)``; lower is closer. Grey pictures count as colour.

    AlexNet's features, weighted as their authors did (version 0.1). Its weights are downloaded once.

    Source: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018
    (arXiv:1801.03924).

    Raises:
        FileNotFoundError: the network cannot be downloaded; the message says where to put it.
    """
    with extras.explained():
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    _check(results, targets, num_grey_levels)
    height, width = targets.shape[2:]
    if min(height, width) < _LPIPS_SMALLEST:
        raise ValueError(
            f"LPIPS needs pictures of {_LPIPS_SMALLEST}x{_LPIPS_SMALLEST} pixels or more, these are {width}x{height}"
        )
    _network(AlexNet_Weights.DEFAULT.url)
    metric = LearnedPerceptualImagePatchSimilarity("alex", reduction="none", normalize=True).to(results.device)
    # A chunk of one picture gives a number without dimensions.
    return _in_chunks(
        lambda a, b: metric(*(with_channels(images, 3).float() / (num_grey_levels - 1) for images in (a, b))).view(-1),
        results,
        targets,
    )


def fid(results: Tensor, targets: Tensor, num_grey_levels: int = 256) -> float:
    """Fréchet distance between the Inception features of two sets of pictures; lower is closer.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)),  with mean and covariance of 2048 features: few pictures
    give a larger distance, so only sets of the same size are comparable. Grey pictures count as colour. The network
    comes from torch-fidelity; its weights are downloaded once.

    Args:
        results, targets: ``(N, C, H, W)``, two or more each; the numbers may differ.

    Source: Heusel et al., "GANs trained by a two time-scale update rule", 2017 (arXiv:1706.08500).

    Raises:
        FileNotFoundError: the network cannot be downloaded; the message says what is missing and where to put it.
    """
    for images in (results, targets):
        _check(images, images, num_grey_levels)
    if min(len(results), len(targets)) < 2:
        raise ValueError(f"FID needs 2 pictures or more of each kind, got {len(results)} and {len(targets)}")
    metric = _frechet_distance().to(results.device)
    for images, real in ((targets, True), (results, False)):
        for chunk in images.split(64):
            colour = with_channels(chunk, 3).float() * (255 / (num_grey_levels - 1))
            metric.update(colour.round().byte(), real=real)
    return metric.compute().item()


def attributes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Reads the attributes of portraits by a small network that was trained on drawn ones.

    Returns:
        the likeliest value of each attribute, int64 ``(N, A)`` as in ``portraits.draw``, and its probability.

    Args:
        images: uint8 ``(N, 3, 32, 32)``, portraits or samples of a model.
    """
    return read_attributes(load_attribute_net().to(images.device), images)


def diversity(samples: Tensor) -> Tensor:
    """Diversity of several answers: ``(B, N, C, H, W)`` to ``(B,)``, in grey levels.

    The standard deviation over the N samples (unbiased), pixel by pixel, averaged over pixels and channels.
    """
    return per_pixel(samples)[1].mean((1, 2, 3))


def per_pixel(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (unbiased) over N samples: ``(B, N, C, H, W)`` to two ``(B, C, H, W)``."""
    if samples.ndim != 5 or samples.shape[1] < 2:
        raise ValueError(f"expected (B, N, C, H, W) with 2 samples or more, got {tuple(samples.shape)}")
    std, mean = torch.std_mean(samples.float(), dim=1)
    return mean, std


def _check(results: Tensor, targets: Tensor, num_grey_levels: int) -> None:
    if results.shape != targets.shape or results.ndim != 4:
        raise ValueError(f"expected (N, C, H, W) twice, got {tuple(results.shape)} and {tuple(targets.shape)}")
    largest = max(results.max().item(), targets.max().item())
    if largest > num_grey_levels - 1:
        raise ValueError(
            f"of {num_grey_levels} grey levels the largest is {num_grey_levels - 1}, these go up to {largest}"
        )


def _in_chunks(measure: Callable, results: Tensor, targets: Tensor) -> Tensor:
    # In chunks, because all pictures as floats, with their windows, would take many times their memory.
    chunks = zip(results.split(256), targets.split(256), strict=True)
    return torch.cat([measure(a, b) for a, b in chunks])


def _frechet_distance() -> "FrechetInceptionDistance":
    if find_spec("torch_fidelity") is None:
        raise FileNotFoundError("the Inception network of FID comes with torch-fidelity: pip install torch-fidelity")
    with extras.explained():
        from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature_extractor_weights_path=str(_network(_INCEPTION)))


def _network(url: str) -> Path:
    """Returns the file of a network's weights in torch's folder; downloads it if it is missing."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    # torch unpickles these files, which runs code in them, so the hash is compared before.
    digest = file.stem.rsplit("-", 1)[1]
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"{file} is not there and could not be downloaded from {url} ({error}). On a machine without internet "
                "put the file there by hand; the folder is $TORCH_HOME/hub/checkpoints, by default TORCH_HOME is "
                "~/.cache/torch"
            ) from error
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if not found.startswith(digest):
        raise ValueError(f"{file} is not what its name says, its SHA-256 begins with {found[:8]}; fetch it from {url}")
    return file
