"""Translates picture files with a model of p(target | source), for ``nbflows translate``."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nbflows import inputs, tasks
from nbflows.data import reading
from nbflows.progress import bar
from nbflows.quality import per_pixel
from nbflows.seeded import seeded
from nbflows.tasks import Colorization, Inpainting, SideBySide, SuperResolution, Task
from nbflows.translation import TranslationFlow

# Layout of a contact sheet.
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

    The samples of a picture depend only on the seed and the picture, not on other pictures of the folder. A contact
    sheet is also written, with a row for each picture: the source, the samples from the most probable on, their mean
    and standard deviation, where white is a quarter of the grey range.

    Args:
        flow: the model, in eval mode.
        task: task of the model.
        source: a picture or a folder.
        out: file or folder of the results, like ``source``.
        num_samples: samples per picture.
        temperature: factor on the noise; one, or one per level.
        best: write only the sample with the highest score, as ``out``; otherwise all, numbered from the best.
        mask, resize: see ``read_source``.
        seed: seed of the noise.
        chunk_size: samples computed together, which bounds the memory.

    Returns:
        The files that were written, contact sheets last.

    Raises:
        FileNotFoundError: no such picture or folder.
        ValueError: a picture cannot be read or does not fit; nothing is written then.
    """
    from nbflows.data.pictures import save_samples

    num_samples = inputs.whole(num_samples, "num_samples", 1)
    source, out = Path(source), Path(out)
    outputs, remarks = _outputs(source, out, 1 if best else num_samples, mask)
    num_grey_levels = flow.num_grey_levels
    if num_grey_levels is None:
        raise ValueError("this model translates real numbers, not pictures; call its translate")
    # All sources are read first, so that a picture that does not fit is found before hours of sampling.
    sources = []
    for file in bar(outputs, "reading", delay=1):
        image, known, more = _read_source(file, flow.context_shape, task, num_grey_levels, mask, resize)
        sources.append((image, known))
        remarks += [f"{file}: {remark}" for remark in more]
    if remarks:
        print("; ".join(remarks), file=sys.stderr)
    written, rows, sheets = [], [], []
    pairs = zip(outputs.values(), sources, strict=True)
    for files, (image, known) in bar(pairs, "translating", total=len(sources)):
        samples = _draw(flow, image, num_samples, temperature, seed, chunk_size)
        if known is not None:
            samples = torch.where(known, image, samples)
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for file, sample in zip(files, samples, strict=False):
            _save(sample, file, num_grey_levels)
        written += files
        rows.append(_row(image, samples, num_grey_levels))
        if len(rows) == _ROWS or len(sheets) * _ROWS + len(rows) == len(sources):
            sheets.append(_sheets(source, out, len(sources))[len(sheets)])
            save_samples(torch.cat(rows), sheets[-1], num_grey_levels, columns=len(rows[0]))
            rows = []
    return written + sheets


def read_source(
    file: str | Path,
    shape: Sequence[int],
    task: Task,
    num_grey_levels: int = 256,
    mask: str | Path | None = None,
    resize: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Reads a picture as the source of a task.

    data/README.md says which pictures are read, and how. Colour becomes grey for a source of one channel, grey is
    repeated for three. For super-resolution it may be the small picture or an enlarged one;
    a picture of twice the width is source and target side by side. In inpainting the hole is where the mask is black or
    the picture not opaque; without either, it is the hole of the model's training.

    Args:
        file: the picture.
        shape: shape of a source, ``(C_s, H, W)``.
        task: task of the model.
        num_grey_levels: grey levels of the source; the picture's are mapped to them evenly.
        mask: an image file of the picture's size, for inpainting: white where the picture is known, black in the hole.
        resize: bring a picture that does not fit to the size of the source (the small one, in super-resolution), and
            crop its middle.

    Returns:
        uint8 ``(C_s, H, W)``, and for inpainting bool ``(H, W)``, True where pixels are known; otherwise None.

    Raises:
        ValueError: the picture cannot be read, does not fit, or has transparent pixels outside inpainting.
    """
    return _read_source(file, shape, task, num_grey_levels, mask, resize)[:2]


def _read_source(
    file: str | Path,
    shape: Sequence[int],
    task: Task,
    num_grey_levels: int,
    mask: str | Path | None,
    resize: bool,
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Reads as ``read_source``, and returns remarks on the picture."""
    from PIL import Image, ImageChops

    channels, height, width = shape
    inpainting = isinstance(task, Inpainting)
    if mask is not None and not inpainting:
        raise ValueError(f"a mask is for inpainting, this model is for {task.name}")
    with reading.silent():
        picture, opacity, remarks = reading.picture(file, max(height, 2 * width) if resize else None)
    if opacity is None:
        opacity = picture.point(lambda _: 255).convert("L")
    if mask is not None:
        hidden = Image.fromarray(reading.mask(mask, *picture.size).astype(np.uint8) * 255)
        opacity = ImageChops.darker(opacity, hidden)
    picture.putalpha(opacity)
    sizes = _sizes(task, width, height)
    if picture.size not in sizes and not resize:
        raise ValueError(
            f"{file} is {picture.width}x{picture.height}, this model takes "
            f"{' or '.join(f'{w}x{h}' for w, h in sizes)}; give --resize to crop its middle and bring it to size"
        )
    # A copy, because torch warns about read-only arrays.
    values = np.array(reading.fit(picture, None if picture.size in sizes else (sizes[0][1], sizes[0][0])))
    values = torch.from_numpy(values).permute(2, 0, 1)
    image, opaque = (values[None, :-1].int() * num_grey_levels // 256).byte(), values[-1] == 255
    if isinstance(task, SideBySide):
        image, opaque = image[..., :width], opaque[:, :width]
    if isinstance(task, Colorization):
        image = tasks.grey(image)
    image = tasks.with_channels(image, channels)
    if inpainting:
        known = task.known(height, width) if mask is None and opaque.all() else opaque
        tasks.require_hole(known, str(file) if mask is None else f"{file} with the mask {mask}")
        return torch.where(known, image[0], 0), known, remarks
    if not opaque.all():
        raise ValueError(
            f"{file} is transparent in {int((~opaque).sum())} of {opaque.numel()} pixels, which only inpainting "
            "understands; put it on a background first"
        )
    if isinstance(task, SuperResolution) and image.shape[2:] != (height, width):
        image = task.enlarge(image, num_grey_levels)
    return image[0], None, remarks


def _sizes(task: Task, width: int, height: int) -> list[tuple[int, int]]:
    """Returns the sizes of pictures that fit a source of this size, the usual one first."""
    if isinstance(task, SuperResolution):
        return [(width // task.factor, height // task.factor), (width, height)]
    return [(width, height), (2 * width, height)] if isinstance(task, SideBySide) else [(width, height)]


def _outputs(
    source: Path, out: Path, num_files: int, mask: str | Path | None
) -> tuple[dict[Path, list[Path]], list[str]]:
    """Returns ``num_files`` files for the results of each picture, and a remark on skipped files."""
    remarks: list[str] = []
    if source.is_dir():
        if out.is_file():
            raise ValueError(f"{source} is a folder, and {out} a file; name a folder for the results")
        if source.resolve() in (out.resolve(), *out.resolve().parents):
            raise ValueError(f"the results would lie among the sources in {source}; name another folder than {out}")
        files, remarks = reading.find(source)
        results = {file: (out / file.relative_to(source)).with_suffix(".png") for file in files}
    elif not source.exists():
        raise FileNotFoundError(f"no picture or folder {source}")
    else:
        if out.is_dir() or out.suffix.lower() not in reading.SUFFIXES:
            raise ValueError(f"{source} is a picture, {out} is none; name a file such as {out / source.stem}.png")
        if out.resolve() == source.resolve():
            raise ValueError(f"the result would overwrite {source}; name another file")
        results = {source: out}
    outputs = {
        file: [
            result if num_files == 1 else result.with_stem(f"{result.stem}-{i:0{len(str(num_files))}d}")
            for i in range(1, num_files + 1)
        ]
        for file, result in results.items()
    }
    # A result must not overwrite a source, the mask, or another result.
    taken = {file.resolve(): str(file) for file in (*outputs, *([] if mask is None else [Path(mask)]))}
    for file, paths in [(source, _sheets(source, out, len(outputs))), *outputs.items()]:
        for path in paths:
            if path.resolve() in taken:
                raise ValueError(f"{path}, made of {file}, would overwrite {taken[path.resolve()]}; rename one of them")
            taken[path.resolve()] = f"what is made of {file}"
    return outputs, remarks


def _sheets(source: Path, out: Path, num_pictures: int) -> list[Path]:
    if not source.is_dir():
        return [out.with_stem(f"{out.stem}-sheet")]
    if num_pictures <= _ROWS:
        return [out / "contact_sheet.png"]
    return [out / f"contact_sheet_{number:03d}.png" for number in range(1, -(-num_pictures // _ROWS) + 1)]


def _draw(
    flow: TranslationFlow,
    image: Tensor,
    num_samples: int,
    temperature: float | Sequence[float],
    seed: int,
    chunk_size: int,
) -> Tensor:
    """Draws samples ``(N, C, H, W)``, the most probable first."""
    device = flow.device
    # The samples use the generator, the noise of the source the global one.
    with seeded(seed, device):
        generator = torch.Generator(device).manual_seed(seed)
        result = flow.translate(
            image[None].to(device), num_samples, temperature, generator, chunk_size=chunk_size, progress=True
        )
    # Only ``translate(scored=False)`` leaves them out.
    assert result.scores is not None
    return result.images[0, result.scores[0].argsort(descending=True)].cpu()


def _row(image: Tensor, samples: Tensor, num_grey_levels: int) -> Tensor:
    cells = [image[None], samples]
    if len(samples) > 1:
        mean, std = per_pixel(samples[None])
        cells += [mean.round().byte(), (4 * std).round().clamp(max=num_grey_levels - 1).byte()]
    channels = max(cell.shape[1] for cell in cells)
    return torch.cat([tasks.with_channels(cell, channels) for cell in cells])


def _save(image: Tensor, file: Path, num_grey_levels: int) -> None:
    from PIL import Image

    values = (image.float() * 255 / (num_grey_levels - 1)).round().byte().permute(1, 2, 0).numpy()
    # The reader of a training reports this mark if the pictures become data.
    Image.fromarray(values[..., 0] if len(image) == 1 else values).save(file, **reading.mark(reading.DRAWN))
