"""A user's folders of images and of pairs: splits, sizes, and a cache of decoded images."""

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nbflows import inputs
from nbflows.data import reading
from nbflows.data.sets import SPLITS, ImageData, PairData, channels_first, complete_splits
from nbflows.files import replacing

Item = TypeVar("Item")
Decoded = TypeVar("Decoded")


def checked_size(image_size: int | Sequence[int] | None) -> int | tuple[int, int] | None:
    """Returns the image size. Raises ValueError if it is not a number, or a height and a width, in range."""
    if isinstance(image_size, (tuple, list)):
        if len(image_size) != 2:
            raise ValueError(f"image_size is one number, or height and width, not {image_size}")
        height, width = (inputs.whole(side, "image_size", 1, 10_000) for side in image_size)
        return height, width
    return None if image_size is None else inputs.whole(image_size, "image_size", 1, 10_000)


def load_folder(folder: Path, image_size: int | tuple[int, int] | None, cache: Path) -> ImageData:
    """Loads a folder of images; see ``data.load``."""
    files, ignored = reading.find(folder, once=True)
    decode = partial(_decode_splits, folder, files, image_size)
    parts, remarks = cached(cache, folder.name, (image_size, str(folder.resolve())), files, decode)
    ignored += _splits_missed(folder, files) + remarks
    return complete_splits(
        folder.name, f"images of folder {folder.name}, {_form(parts, image_size)}", parts, ignored=ignored
    )


def load_folder_pairs(sources: Path, targets: Path, image_size: int | tuple[int, int] | None, cache: Path) -> PairData:
    """Loads pairs from two folders with the same file names, ignoring suffixes."""
    if sources.resolve() == targets.resolve():
        raise ValueError(f"sources and targets are the same folder {sources}; name two")
    image_size = checked_size(image_size)
    name, variant = f"{sources.name}-to-{targets.name}", f"pairs of folders {sources.name} and {targets.name}"
    found = {folder: reading.find(folder) for folder in (sources, targets)}
    pairs = _partners(sources, targets, *(list(files) for files, _ in found.values()))
    ignored = [f"{folder.name}: {word}" for folder, (_, words) in found.items() for word in words]
    ignored += _splits_missed(targets, found[targets][0])
    files = {file: found[folder][0][file] for pair in pairs for folder, file in zip(found, pair, strict=True)}
    key = (image_size, str(sources.resolve()), str(targets.resolve()))
    parts, remarks = cached(cache, name, key, files, partial(_decode_pairs, sources, targets, pairs, image_size))
    # The draw of a missing split depends only on the number of images, so pairs stay together.
    given, wanted = (
        complete_splits(
            name,
            f"{variant}, {_form(parts, image_size)}",
            {key.removeprefix(side): part for key, part in parts.items() if key.startswith(side)},
            ignored=[*ignored, *remarks],
        )
        for side in ("source_", "target_")
    )
    return PairData(
        name,
        wanted.variant,
        wanted.train,
        wanted.validation,
        wanted.test,
        sources={split: getattr(given, split) for split in SPLITS},
        ignored=wanted.ignored,
    )


def _splits_missed(folder: Path, files: Iterable[Path]) -> list[str]:
    """Returns remarks on folders that only look like splits, and on images next to the folders of splits."""
    names = {name for folder_names in SPLITS.values() for name in folder_names}
    others = ("dev", "eval", "evaluation", "holdout", "trn", "tst")
    like = re.compile(rf"({'|'.join([*names, *others])})(s|set|[\W\d_].*)?")
    paths = [file.relative_to(folder).parts[:-1] for file in files]
    looking = {
        "/".join(parts[: i + 1])
        for parts in paths
        for i, part in enumerate(parts)
        if like.fullmatch(part.lower()) and (i or part.lower() not in names)
    }
    words = []
    if looking:
        some = ", ".join(sorted(looking)[:5])
        words.append(f"no split is made of {some}: only train, validation and test at the top of the folder are splits")
    tops = [parts[0].lower() if parts else "" for parts in paths]
    outside = sum(top not in names for top in tops)
    if outside and any(top in SPLITS["train"] for top in tops):
        words.append(f"{outside} images outside of the folders of splits are training images")
    return words


def _partners(sources: Path, targets: Path, *found: list[Path]) -> list[tuple[Path, Path]]:
    """The files of two folders, matched by their paths without suffix."""
    named = []
    for folder, files in zip((sources, targets), found, strict=True):
        named.append({file.relative_to(folder).with_suffix(""): file for file in files})
        if len(named[-1]) < len(files):
            doubles = sorted(str(file) for file in set(files) - set(named[-1].values()))
            raise ValueError(
                f"{len(doubles)} of the {len(files)} files below {folder} have the name of another one but for the "
                f"suffix ({', '.join(doubles[:5])}), and partners are found by their names without it; rename them"
            )
    lonely = sorted(str(named[name in named[1]][name]) for name in set(named[0]) ^ set(named[1]))
    if lonely:
        raise ValueError(
            f"{len(lonely)} of the {len(named[0])} files below {sources} and {len(named[1])} below {targets} have no "
            f"partner of the same name in the other folder: {', '.join(lonely[:5])}{' ...' if len(lonely) > 5 else ''}"
        )
    return [(file, named[1][name]) for name, file in named[0].items()]


def _form(parts: dict[str, Tensor], image_size: int | tuple[int, int] | None) -> str:
    height, width = next(iter(parts.values())).shape[2:]
    how = "" if image_size is None else ", resized by area average and cropped in the middle"
    return f"{width}x{height}{how}"


# Increase this number when the rules of reading change, so that older caches are not used.
_RULES = 3


def cached(
    cache: Path, name: str, key: tuple, files: dict[Path, os.stat_result], decode: Callable
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the result of ``decode()``, from a file as long as neither the key nor any of the files changes.

    It compares path, size, inode, ``mtime`` and ``ctime`` of each image, not the content. A file that was written,
    copied, unpacked or moved is decoded again, even with its old ``mtime``, because the system sets ``ctime`` itself.
    Only a change that leaves no trace there, such as a clock set back to the nanosecond, goes unnoticed.
    """
    fingerprint = hashlib.sha256(repr((_RULES, *key)).encode())
    for file, status in files.items():
        traces = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        fingerprint.update(repr((str(file), *traces)).encode())
    kept = cache / f"{name}-{fingerprint.hexdigest()[:16]}.npz"
    if os.path.lexists(kept):
        try:
            return _read_cache(kept)
        except (ValueError, OSError) as error:
            print(f"the images are decoded again, because their cache cannot be used: {error}", file=sys.stderr)
    parts, remarks = decode()
    arrays = {**{part: images.numpy() for part, images in parts.items()}, "remarks": np.array(remarks, dtype=np.str_)}
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as stream:
            np.savez(stream, **arrays)
    except OSError as error:
        print(f"could not cache the decoded images: {error}", file=sys.stderr)
    return parts, remarks


def _read_cache(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    # Reading a pipe would block, and a link may lead anywhere.
    if file.is_symlink() or not file.is_file():
        raise ValueError(f"{file} is not a regular file")
    arrays = reading.arrays(file)
    remarks = arrays.pop("remarks", np.empty(0))
    fits = all(array.dtype == np.uint8 and array.ndim == 4 and array.size for array in arrays.values())
    if remarks.dtype.kind != "U" or not arrays or not fits:
        raise ValueError(f"{file} holds other arrays than decoded images")
    return {part: torch.from_numpy(array) for part, array in arrays.items()}, remarks.tolist()


def _decode_splits(
    folder: Path, files: Iterable[Path], image_size: int | tuple[int, int] | None
) -> tuple[dict[str, Tensor], list[str]]:
    images: dict[str, list[np.ndarray]] = {}
    decoded, remarks = _decode_all(partial(_decode, image_size=image_size), list(files), folder, "files", 7)
    for file, (image, _) in decoded:
        images.setdefault(_split_of(file.relative_to(folder)), []).append(image)
    return _stack(images, folder), remarks


def _decode_pairs(
    sources: Path, targets: Path, pairs: list[tuple[Path, Path]], image_size: int | tuple[int, int] | None
) -> tuple[dict[str, Tensor], list[str]]:
    images: tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]] = {}, {}
    decoded, remarks = _decode_all(partial(_decode_pair, image_size=image_size), pairs, targets, "pairs", 6)
    for (file, _), (pair, _) in decoded:
        split = _split_of(file.relative_to(sources))
        for side, image in zip(images, pair, strict=True):
            side.setdefault(split, []).append(image)
    parts = {
        **{f"source_{split}": part for split, part in _stack(images[0], sources).items()},
        **{f"target_{split}": part for split, part in _stack(images[1], targets).items()},
    }
    return parts, remarks


def _decode_all(
    decode: Callable[[Item], tuple[Decoded, list[str]]], items: list[Item], folder: Path, what: str, stacklevel: int
) -> tuple[list[tuple[Item, tuple[Decoded, list[str]]]], list[str]]:
    """Returns the readable items with their contents, and remarks on these and on unreadable files."""
    results = list(zip(items, reading.each(decode, items, folder.name), strict=True))
    failed = [str(result) for _, result in results if isinstance(result, reading.Unreadable)]
    decoded = [(item, result) for item, result in results if not isinstance(result, reading.Unreadable)]
    remarks = reading.counted(remark for _, (_, remarks) in decoded for remark in remarks)
    if failed:
        listed = "; ".join(failed[:20]) + (f"; and {len(failed) - 20} more" if len(failed) > 20 else "")
        if not decoded:
            raise ValueError(f"none of the {len(items)} image {what} could be read: {listed}")
        remarks.append(f"skipped {len(failed)} of {len(items)} {what} that could not be read: {listed}")
        warnings.warn(remarks[-1], stacklevel=stacklevel)
    return decoded, remarks


def _stack(images: dict[str, list[np.ndarray]], folder: Path) -> dict[str, Tensor]:
    """Returns the images of each split as one tensor ``(N, C, H, W)``."""
    everything = [image for part in images.values() for image in part]
    sizes = {image.shape[:2] for image in everything}
    if len(sizes) > 1:
        some = ", ".join(f"{w}x{h}" for h, w in sorted(sizes)[:4])
        raise ValueError(f"the images below {folder} have {len(sizes)} sizes ({some} ...); give --image-size")
    # The data are grey only if all images are.
    if any(image.ndim == 3 for image in everything):
        images = {
            split: [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in part]
            for split, part in images.items()
        }
    return {split: channels_first(np.stack(part)) for split, part in images.items()}


def _decode(file: Path, image_size: int | tuple[int, int] | None) -> tuple[np.ndarray, list[str]]:
    """Decodes one image, ``(H, W)`` or ``(H, W, 3)`` uint8, with remarks on it."""
    image, remarks = reading.opaque(file, image_size)
    return np.asarray(reading.fit(image, image_size)), remarks


def _decode_pair(
    files: tuple[Path, Path], image_size: int | tuple[int, int] | None
) -> tuple[tuple[np.ndarray, np.ndarray], list[str]]:
    """Decodes a source and its target, with remarks on them."""
    (source, remarks), (target, others) = (reading.opaque(file, image_size) for file in files)
    (w, h), (width, height) = source.size, target.size
    sizes = f"{files[0]} is {w}x{h} and its partner {files[1]} {width}x{height}"
    if image_size is None and (w, h) != (width, height):
        raise ValueError(f"{sizes}; bring them to the same size, or give --image-size")
    # The proportions must agree up to one pixel, or squares cut out of both would show different parts.
    if abs(w * height - width * h) > max(h, w, height, width):
        raise ValueError(f"{sizes}; both need the same proportions")
    pair = np.asarray(reading.fit(source, image_size)), np.asarray(reading.fit(target, image_size))
    return pair, remarks + others


def _split_of(path: Path) -> str:
    for split, folder_names in SPLITS.items():
        if len(path.parts) > 1 and path.parts[0].lower() in folder_names:
            return split
    return "train"
