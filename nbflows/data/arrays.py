"""A user's arrays: images and labels in .npy and .npz files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nbflows.data import reading
from nbflows.data.sets import SPLITS, ImageData, channels_first, complete_splits


def load_arrays(file: Path) -> ImageData:
    """A .npy array; or a .npz with one array of images, or with arrays named after the splits; and labels."""
    arrays = reading.arrays(file)
    names = sorted(arrays)
    parts: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    unknown: dict[str, np.ndarray] = {}
    for name in list(arrays):
        kind, split = _ARRAYS.get(name.lower(), ("", name))
        place = {"images": parts, "labels": labels}.get(kind, unknown)
        if split in place:
            raise ValueError(f"{file}: two arrays of {split} {kind}, one of them {name!r}; leave one away")
        place[split] = arrays.pop(name)
    if not parts:
        images = [name for name, array in unknown.items() if array.ndim >= 2]
        if len(images) != 1:
            raise ValueError(f"{file}: expected one array of images or one named 'train', got {names}")
        parts = {"train": unknown.pop(images[0])}
    if labels and set(labels) != set(parts):
        raise ValueError(
            f"{file}: there are images of {', '.join(parts)}, and labels of {', '.join(labels)}; each needs its own"
        )
    # One by one, so that the original of a reordered copy is freed.
    tensors = {split: _as_images(parts.pop(split), f"{file}, {split}") for split in list(parts)}
    classes = {split: _as_labels(array, len(tensors[split]), f"{file}, {split}") for split, array in labels.items()}
    ignored = [f"ignored the arrays {', '.join(unknown)}"] if unknown else []
    largest = max((int(images.max()) for images in tensors.values() if images.numel()), default=255)
    if largest < 128:
        ignored.append(f"the largest value is {largest} of 255: images of fewer levels than the 256 that they count as")
    return complete_splits(file.stem, f"arrays of {file.name}", tensors, classes, ignored)


# The names of arrays in a .npz, of nbflows, Keras and MedMNIST.
_ARRAYS = {
    "x": ("images", "train"),
    "images": ("images", "train"),
    "y": ("labels", "train"),
    "labels": ("labels", "train"),
}


_ARRAYS |= {
    form.format(name): (kind, split)
    for split, folder_names in SPLITS.items()
    for name in folder_names
    for kind, forms in (("images", ("{}", "{}_images", "x_{}")), ("labels", ("{}_labels", "y_{}")))
    for form in forms
}


def _as_images(array: np.ndarray, where: str) -> Tensor:
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        found = f"{array.dtype} {array.shape}"
        if array.dtype.kind in "fiub" and array.size:
            bad = np.count_nonzero(~np.isfinite(array))
            found += f" with {bad} NaN or infinite values" if bad else f" with values {array.min()} to {array.max()}"
        raise ValueError(
            f"{where}: expected uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with values 0 to 255, got {found}"
        )
    first, last = (array.ndim == 4 and array.shape[1] in (1, 3)), array.shape[-1] in (1, 3)
    if last and (first or array.ndim == 3):
        meanings = "channels first or last" if first else "very narrow grey images or one image with many channels"
        raise ValueError(
            f"{where}: {array.shape} can be {meanings}; make tensors (N, C, H, W) and an ImageData of them in Python"
        )
    # A square, or a last axis much longer than both sides of the images that it would give.
    counted_last = array.ndim == 3 and array.shape[2] > 4 * max(array.shape[:2])
    if counted_last or (array.ndim == 3 and array.shape[0] == array.shape[1] != array.shape[2]):
        raise ValueError(
            f"{where}: {array.shape} can be {len(array)} images of {array.shape[1]}x{array.shape[2]}, or "
            f"{array.shape[2]} of {array.shape[0]}x{array.shape[1]}; put the number of images first, or make an "
            "ImageData of tensors (N, C, H, W) in Python"
        )
    if array.ndim == 4 and not first and not last:
        raise ValueError(f"{where}: images have 1 or 3 channels, first or last; got {array.shape}")
    return torch.from_numpy(np.ascontiguousarray(array)) if first else channels_first(array)


def _as_labels(array: np.ndarray, count: int, where: str) -> Tensor:
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(
            f"{where}: labels are whole numbers ({count},), one per image; got {array.dtype} {array.shape}"
        )
    return torch.from_numpy(labels.astype(np.int64))
