"""Loads a data set by its name or its path."""

import contextlib
import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from nbflows import extras, inputs
from nbflows.data import portraits, reading, toys
from nbflows.data.arrays import load_arrays
from nbflows.data.folders import cached, checked_size, load_folder
from nbflows.data.sets import Data, ImageData, by_split, channels_first, reduce_bits, shuffled_parts
from nbflows.progress import bar

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10, MNIST

Dataset = TypeVar("Dataset", "MNIST", "CIFAR10")


def load(
    name: str | Path, image_size: int | tuple[int, int] | None = None, root: str | Path = "data", num_bits: int = 8
) -> Data:
    """Loads a data set by its name, or any folder of images, .npy or .npz file by its path.

    Args:
        name: one of ``names()``, or a path; ``./moons`` is a folder, where ``moons`` is a name. A folder may hold
            ``train``, ``validation`` and ``test`` folders; a missing split is a tenth of the others, drawn with a
            fixed seed; a validation set without a test set is the test set. data/README.md says which files and
            arrays are read, skipped or refused; ``ignored`` of the result lists these.
        image_size: for folders: images are resized (area average) and cropped to this square, or height and width.
        root: folder of downloads and caches.
        num_bits: fewer than 8 reduce images of 256 levels to their ``num_bits`` highest bits, 2**num_bits levels.

    Raises:
        ValueError: unknown name, nothing readable, or no 8 bits to reduce.
        FileNotFoundError: the data are missing and cannot be downloaded; the message says how to get them.
    """
    num_bits, image_size = inputs.whole(num_bits, "num_bits", 1, 8), checked_size(image_size)
    data = _load(name, image_size, root)
    # The arguments of another call that loads the same data.
    where = str(name) if str(name) in _LOADERS else str(Path(os.path.expanduser(name)).resolve())
    data = replace(data, origin={"name": where, "image_size": image_size, "num_bits": num_bits})
    return data if num_bits == 8 else reduce_bits(data, num_bits)


def _load(name: str | Path, image_size: int | tuple[int, int] | None, root: str | Path) -> Data:
    if str(name) in _LOADERS:
        if image_size is not None:
            raise ValueError(f"{name} has a fixed size; image_size is for folders of images")
        return _LOADERS[str(name)](Path(root))
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return load_folder(path, image_size, Path(root) / "cache")
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link to {os.readlink(path)}, which does not exist; mend it or name another path")
    if not path.exists():
        raise ValueError(f"no data set or path {str(name)!r}; known: {', '.join(names())}; or a folder, .npy or .npz")
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        if image_size is not None:
            raise ValueError(f"{path} has images of a fixed size; image_size is for folders of images")
        return load_arrays(path)
    if path.suffix.lower() in reading.SUFFIXES:
        raise ValueError(f"{path} is a single picture; give the folder that holds all of them")
    raise ValueError(f"{path} exists, but is neither a folder of pictures nor a .npy or .npz file")


def names() -> list[str]:
    """The data sets that ``load`` knows by name: those that come by themselves, those to fetch by hand, the points."""
    return list(_LOADERS)


def _digits(root: Path) -> ImageData:
    with extras.explained():
        from sklearn.datasets import load_digits

    sizes = 1437, 180, 180
    pixels, classes = (torch.from_numpy(np.asarray(array)) for array in load_digits(return_X_y=True))
    images = shuffled_parts(pixels.to(torch.uint8).view(-1, 1, 8, 8), sizes)
    labels = shuffled_parts(classes.long(), sizes)
    variant = "UCI optical digits of scikit-learn, 8x8, 17 grey levels, 1437/180/180 images"
    return ImageData("digits", variant, *images, num_grey_levels=17, labels=by_split(labels))


def _photo_patches(root: Path) -> ImageData:
    with extras.explained():
        import skimage.data
        from sklearn.datasets import load_sample_image

    photographs = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    photographs += [
        getattr(skimage.data, name)()
        for name in (
            "astronaut",
            "chelsea",
            "coffee",
            "rocket",
            "retina",
            "hubble_deep_field",
            "immunohistochemistry",
        )
    ]
    parts = {"train": [], "validation": [], "test": []}
    for photograph in photographs:
        patches = torch.from_numpy(np.array(photograph)).permute(2, 0, 1).unfold(1, 32, 32).unfold(2, 32, 32)
        columns = patches.shape[2]
        # Splits are strips of columns, so that no pixel is in two splits.
        held_out = max(1, round(columns / 10))
        for split, part in zip(parts, patches.split([columns - 2 * held_out, held_out, held_out], dim=2), strict=True):
            parts[split].append(part.permute(1, 2, 0, 3, 4).flatten(0, 1))
    tensors = {split: torch.cat(part).contiguous() for split, part in parts.items()}
    sizes = "/".join(str(len(part)) for part in tensors.values())
    variant = f"32x32 crops of nine photographs, split by region, {sizes} images"
    return ImageData("photo-patches", variant, tensors["train"], tensors["validation"], tensors["test"])


_NUM_PORTRAITS = {"train": 50_000, "validation": 5_000, "test": 5_000}


def _portraits(size: int, root: Path) -> ImageData:
    counts = _NUM_PORTRAITS
    ends = np.cumsum(list(counts.values()))
    numbers = {split: (end - count, count) for (split, count), end in zip(counts.items(), ends.tolist(), strict=True)}

    def drawn() -> tuple[dict[str, Tensor], list[str]]:
        rows = bar(numbers.items(), f"drawing portraits {size}x{size}", delay=1)
        return {split: portraits.draw(count, size, first=first)[0] for split, (first, count) in rows}, []

    # Images drawn by other code than the one that is here are not used.
    code = {file: file.stat() for file in sorted(Path(portraits.__file__).parent.glob("*.py"))}
    images, _ = cached(root / "cache", f"portraits-{size}", (size, counts), code, drawn)
    attributes = {split: portraits.labels(count, first=first) for split, (first, count) in numbers.items()}
    variant = f"portraits drawn by this package, {size}x{size}, {'/'.join(map(str, counts.values()))} images"
    name = "portraits" if size == 32 else f"portraits-{size}"
    train, validation, test = (images[split] for split in counts)
    values = portraits.ATTRIBUTES.values
    return ImageData(name, variant, train, validation, test, attributes=attributes, attribute_values=values)


def _points(name: str, root: Path) -> Data:
    sizes = {"train": 200_000, "validation": 10_000, "test": 10_000}
    parts = {
        split: toys.draw(name, size, torch.Generator().manual_seed(seed))
        for seed, (split, size) in enumerate(sizes.items())
    }
    variant = f"{name}, points in the plane, {'/'.join(map(str, sizes.values()))}"
    return Data(name, variant, parts["train"], parts["validation"], parts["test"])


def _mnist(root: Path) -> ImageData:
    from torchvision.datasets import MNIST

    train, test = _torchvision(MNIST, root, "MNIST", MNIST.mirrors, "the four unpacked files MNIST/raw/*-ubyte")
    sizes = 50_000, 10_000
    images, validation = shuffled_parts(train.data[:, None], sizes)
    labels = [*shuffled_parts(train.targets, sizes), test.targets]
    variant = "MNIST 28x28, 256 grey levels, 50000/10000/10000 images"
    return ImageData("mnist", variant, images, validation, test.data[:, None], labels=by_split(labels))


def _cifar10(root: Path) -> ImageData:
    from torchvision.datasets import CIFAR10

    train, test = _torchvision(CIFAR10, root, "CIFAR-10", [CIFAR10.url], CIFAR10.filename)
    sizes = 45_000, 5_000
    images, validation = shuffled_parts(channels_first(train.data), sizes)
    labels = [*shuffled_parts(torch.tensor(train.targets), sizes), torch.tensor(test.targets)]
    variant = "CIFAR-10 32x32 colour, 45000/5000/10000 images"
    return ImageData("cifar10", variant, images, validation, channels_first(test.data), labels=by_split(labels))


def _torchvision(
    dataset: type[Dataset], root: Path, title: str, addresses: list[str], file: str
) -> tuple[Dataset, Dataset]:
    """Loads both parts of a torchvision data set from ``root``; downloads them if they are missing."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return dataset(root, train=True, download=True), dataset(root, train=False, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{title} is not below {root.resolve()} and could not be downloaded from {' or '.join(addresses)} "
            f"({error}). Put {file} there, or run on a machine with internet: python -c "
            f"\"from torchvision.datasets import {dataset.__name__}; {dataset.__name__}('{root}', download=True)\""
        ) from error
    except Exception as error:
        # torchvision raises errors of any kind for damaged files.
        raise ValueError(
            f"the files of {title} below {root.resolve()} are damaged ({type(error).__name__}: {error}); delete "
            "them, and they are downloaded again"
        ) from error


def _imagenet(size: int, root: Path) -> ImageData:
    folder = root / f"imagenet{size}"
    batches = sorted(folder.rglob("train_data_batch_*.npz"), key=lambda p: int(re.findall(r"\d+", p.stem)[-1]))
    test = sorted(folder.rglob("val_data.npz"))
    if not batches or not test:
        raise FileNotFoundError(
            f"no train_data_batch_*.npz and val_data.npz below {folder.resolve()}. Downsampled ImageNet {size}x{size} "
            f"needs a login at https://image-net.org/download-images; then: "
            f"unzip Imagenet{size}_train*_npz.zip -d {folder} && unzip Imagenet{size}_val_npz.zip -d {folder}"
        )
    train = torch.cat([_imagenet_batch(file, size) for file in bar(batches, f"ImageNet {size}x{size}")])
    train, validation = shuffled_parts(train, (len(train) - len(train) // 100, len(train) // 100))
    variant = f"downsampled ImageNet {size}x{size} (npz), {len(batches)} training batches"
    return ImageData(f"imagenet{size}", variant, train, validation, _imagenet_batch(test[0], size))


def _imagenet_batch(file: Path, size: int) -> Tensor:
    images = reading.arrays(file).get("data", np.empty(0))
    if images.dtype != np.uint8 or images.shape[1:] != (3 * size * size,):
        raise ValueError(f"{file}: expected uint8 rows of {3 * size * size}, got {images.dtype} {images.shape}")
    return torch.from_numpy(images).view(-1, 3, size, size)


def _tiny_imagenet_32(root: Path) -> ImageData:
    folder = root / "tiny-imagenet-64"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder.resolve()}: it should hold train/ and val/ with 64x64 photographs, for example "
            "those of Tiny ImageNet (http://cs231n.stanford.edu/tiny-imagenet-200.zip), in folders of any depth"
        )
    images = load_folder(folder, 32, root / "cache")
    sizes = "/".join(str(len(part)) for part in (images.train, images.validation, images.test))
    variant = f"Tiny ImageNet, a part of it, halved to 32x32 by area averaging, {sizes} images"
    return replace(images, name="tiny-imagenet-32", variant=variant)


def _celeba_hq_256_5bit(root: Path) -> ImageData:
    folder = root / "celeba-hq-256"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder.resolve()}: it should hold the photographs of CelebA-HQ "
            "(https://github.com/tkarras/progressive_growing_of_gans), square and of 256x256 pixels or more, in "
            "train/ (27000) and val/ (3000); without val/, a test and a validation set are split off"
        )
    images = load_folder(folder, 256, root / "cache")
    sizes = "/".join(str(len(part)) for part in (images.train, images.validation, images.test))
    variant = f"CelebA-HQ, resized to 256x256 by area averaging, {sizes} images"
    return reduce_bits(replace(images, name="celeba-hq-256-5bit", variant=variant), 5)


_LOADERS: dict[str, Callable[[Path], Data]] = {
    "cifar10": _cifar10,
    "digits": _digits,
    "mnist": _mnist,
    "photo-patches": _photo_patches,
    "portraits": partial(_portraits, 32),
    "portraits-16": partial(_portraits, 16),
    "portraits-64": partial(_portraits, 64),
    "celeba-hq-256-5bit": _celeba_hq_256_5bit,
    "imagenet32": partial(_imagenet, 32),
    "imagenet64": partial(_imagenet, 64),
    "tiny-imagenet-32": _tiny_imagenet_32,
    **{name: partial(_points, name) for name in toys.names()},
}
