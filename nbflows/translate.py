"""Pictures in, pictures out: what ``nbflows translate`` does with a model of p(target | source)."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nbflows import tasks
from nbflows.data import IMAGE_SUFFIXES, fit, image_files
from nbflows.quality import per_pixel
from nbflows.tasks import Colorization, Inpainting, SideBySide, SuperResolution, Task
from nbflows.translation import TranslationFlow

# Of a contact sheet.
_ROWS = 16


def translate_files(
    flow: TranslationFlow,
    task: Task,
    source: str | Path,
    out: str | Path,
    num_samples: int = 10,
    temperature: float | Sequence[float] = 1.0,
    best: bool = False,
    mask: str | Path | None = None,
    resize: bool = False,
    seed: int = 0,
    chunk_size: int = 256,
) -> list[Path]:
    """Translates a picture into a picture, or every picture of a folder into another folder.

    The samples of a picture depend on the seed and on the picture alone, not on the others of its folder. Beside them
    goes a contact sheet, a row for each picture: the source, the samples with the most probable first, their mean and
    their standard deviation, where white is a quarter of the range of grey.

    Args:
        flow: in eval mode, on its device.
        task: the one that it was trained for.
        source: a picture or a folder.
        out: of the same kind.
        num_samples: per picture.
        temperature: of the noise; one, or one per level.
        best: write the sample of the highest score as ``out``; otherwise all, numbered from the best on.
        mask, resize: see ``read_source``.
        seed: of the noise.
        chunk_size: samples computed together; bounds the memory.

    Returns:
        The files that were written, contact sheets last.

    Raises:
        FileNotFoundError: no such picture or folder.
        ValueError: a picture cannot be read or does not fit; nothing is written then.
    """
    from nbflows.pictures import num_levels_of, save_samples

    if num_samples < 1:
        raise ValueError(f"num_samples is at least 1, got {num_samples}")
    source, out = Path(source), Path(out)
    outputs = _outputs(source, out)
    num_levels = num_levels_of(flow)
    # All of them first: an hour of samples should not end at a picture that does not fit.
    bar = tqdm(outputs, "reading", file=sys.stdout, delay=1)
    sources = [read_source(file, flow.context_shape, task, num_levels, mask, resize) for file in bar]
    written, rows, sheets = [], [], []
    bar = tqdm(zip(outputs.values(), sources, strict=True), "translating", len(sources), file=sys.stdout)
    for file, (image, known) in bar:
        samples = _draw(flow, image, num_samples, temperature, seed, chunk_size)
        if known is not None:
            samples = torch.where(known, image, samples)
        file.parent.mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(samples[:1] if best else samples, start=1):
            single = best or num_samples == 1
            written.append(file if single else file.with_stem(f"{file.stem}-{number:0{len(str(num_samples))}d}"))
            _save(sample, written[-1], num_levels)
        rows.append(_row(image, samples, num_levels))
        if len(rows) == _ROWS or len(sheets) * _ROWS + len(rows) == len(sources):
            sheets.append(_sheet(source, out, len(sheets) + 1, len(sources)))
            save_samples(torch.cat(rows), sheets[-1], num_levels, columns=len(rows[0]))
            rows = []
    return written + sheets


def read_source(
    file: str | Path,
    shape: Sequence[int],
    task: Task,
    num_levels: int = 256,
    mask: str | Path | None = None,
    resize: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """A picture as the source of a task.

    Pictures of 16 bits keep their highest 8. A colour picture is made grey for a source of one channel, grey repeated
    for three. For super-resolution it may be the small picture, which is enlarged, or one that was enlarged already; a
    picture of twice the width is source and target side by side. In inpainting the hole is where the mask is black or
    the picture not opaque; without either, where the model was trained to fill it.

    Args:
        file: the picture.
        shape: of a source, ``(C_s, H, W)``.
        task: what the picture is for.
        num_levels: of the source's grey; those of the picture are shared out evenly.
        mask: an image file of the picture's size, for inpainting: white where the picture is known, black in the hole.
        resize: bring a picture that does not fit to the size of the source (the small one, in super-resolution), and
            crop its middle.

    Returns:
        uint8 ``(C_s, H, W)``, and for inpainting bool ``(H, W)``, True where pixels are known; otherwise None.

    Raises:
        ValueError: the picture cannot be read, does not fit, or has transparent pixels that mean nothing here.
    """
    channels, height, width = shape
    inpainting = isinstance(task, Inpainting)
    if mask is not None and not inpainting:
        raise ValueError(f"a mask is for inpainting, this model is for {task.name}")
    picture = _open(file)
    if mask is not None:
        picture.putalpha(_opaque(picture, mask))
    sizes = _sizes(task, width, height)
    if picture.size not in sizes and not resize:
        raise ValueError(
            f"{file} is {picture.width}x{picture.height}, this model takes "
            f"{' or '.join(f'{w}x{h}' for w, h in sizes)}; give --resize to crop its middle and bring it to size"
        )
    values = fit(np.asarray(picture), None if picture.size in sizes else sizes[0][::-1])
    # A copy: torch warns of arrays that cannot be written to.
    values = torch.from_numpy(values.copy()).permute(2, 0, 1)
    image, opaque = (values[None, :-1].int() * num_levels // 256).byte(), values[-1] == 255
    if isinstance(task, SideBySide):
        image, opaque = image[..., :width], opaque[:, :width]
    if isinstance(task, Colorization):
        image = tasks.grey(image)
    image = tasks.with_channels(image, channels)
    if inpainting:
        known = task.known(height, width) if mask is None and opaque.all() else opaque
        if known.all() or not known.any():
            raise ValueError(
                f"{file}: {int(known.sum())} of {known.numel()} pixels are known; some must be, and some not"
            )
        return torch.where(known, image[0], 0), known
    if not opaque.all():
        raise ValueError(
            f"{file} is transparent in {int((~opaque).sum())} of {opaque.numel()} pixels, which only inpainting "
            "understands; put it on a background first"
        )
    if isinstance(task, SuperResolution) and image.shape[2:] != (height, width):
        image = task.enlarge(image, num_levels)
    return image[0], None


def _sizes(task: Task, width: int, height: int) -> list[tuple[int, int]]:
    """The sizes of pictures that make a source of this size, the usual one first."""
    if isinstance(task, SuperResolution):
        return [(width // task.factor, height // task.factor), (width, height)]
    return [(width, height), (2 * width, height)] if isinstance(task, SideBySide) else [(width, height)]


def _open(file: str | Path):
    """A picture of 8 bits with an alpha channel, mode "LA" or "RGBA"."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    except Exception as error:
        # Decoders raise anything on broken files.
        raise ValueError(f"{file} cannot be read as a picture: {type(error).__name__}: {error}") from error
    if picture.mode in ("I", "F"):
        raise ValueError(f"{file} has 32 bits a channel (mode {picture.mode}); convert it to 8 or 16 bits first")
    return picture.convert("LA" if picture.mode in ("1", "L", "LA") else "RGBA")


def _opaque(picture, mask: str | Path):
    """The alpha channel, and nothing where the mask is black."""
    from PIL import ImageChops

    shown = _open(mask).convert("L")
    if shown.size != picture.size:
        raise ValueError(
            f"the mask {mask} is {shown.width}x{shown.height}, the picture {picture.width}x{picture.height}; "
            "it must have its size"
        )
    return ImageChops.darker(picture.getchannel("A"), shown.point(lambda value: 255 * (value > 127)))


def _outputs(source: Path, out: Path) -> dict[Path, Path]:
    """Where the result of each picture goes."""
    if source.is_dir():
        if out.is_file():
            raise ValueError(f"{source} is a folder, and {out} a file; name a folder for the results")
        if source.resolve() in (out.resolve(), *out.resolve().parents):
            raise ValueError(f"the results would lie among the sources in {source}; name another folder than {out}")
        outputs = {file: (out / file.relative_to(source)).with_suffix(".png") for file in image_files(source)}
        if len(set(outputs.values())) < len(outputs):
            first = {result: file for file, result in reversed(outputs.items())}
            doubles = [f"{file} and {first[result]}" for file, result in outputs.items() if first[result] != file]
            raise ValueError(f"results are named as their sources, in PNG; rename one of {', '.join(doubles[:5])}")
        return outputs
    if not source.is_file():
        raise FileNotFoundError(f"no picture or folder {source}")
    if out.is_dir() or out.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{source} is a picture, {out} is none; name a file such as {out / source.stem}.png")
    if out.resolve() == source.resolve():
        raise ValueError(f"the result would overwrite {source}; name another file")
    return {source: out}


def _sheet(source: Path, out: Path, number: int, num_pictures: int) -> Path:
    if not source.is_dir():
        return out.with_stem(f"{out.stem}-sheet")
    return out / ("contact_sheet.png" if num_pictures <= _ROWS else f"contact_sheet_{number:03d}.png")


def _draw(
    flow: TranslationFlow,
    image: Tensor,
    num_samples: int,
    temperature: float | Sequence[float],
    seed: int,
    chunk_size: int,
) -> Tensor:
    """Samples ``(N, C, H, W)``, the most probable first."""
    device = flow._like.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # The generator is for the samples; the noise of the source is drawn from the global one.
        torch.manual_seed(seed)
        generator = torch.Generator(device).manual_seed(seed)
        result = flow.translate(
            image[None].to(device), num_samples, temperature, generator, chunk_size=chunk_size, progress=True
        )
    return result.images[0, result.scores[0].argsort(descending=True)].cpu()


def _row(image: Tensor, samples: Tensor, num_levels: int) -> Tensor:
    cells = [image[None], samples]
    if len(samples) > 1:
        mean, std = per_pixel(samples[None])
        cells += [mean.round().byte(), (4 * std).round().clamp(max=num_levels - 1).byte()]
    channels = max(cell.shape[1] for cell in cells)
    return torch.cat([tasks.with_channels(cell, channels) for cell in cells])


def _save(image: Tensor, file: Path, num_levels: int) -> None:
    from PIL import Image

    values = (image.float() * 255 / (num_levels - 1)).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(values[..., 0] if len(image) == 1 else values).save(file)
