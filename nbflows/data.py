"""Data sets as tensors in memory, images and points, behind one small interface: ``load(name)`` and ``Batches``."""

import contextlib
import hashlib
import io
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nbflows import extras, inputs, reading, toys
from nbflows.hardware import has_room_for

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Data:
    """A data set: three splits that never overlap, ``(N, *shape)``.

    Attributes:
        name: as given to ``load``.
        variant: what exactly the data are; stands beside every figure measured on them.
        origin: what ``load`` or ``tasks.load_pairs`` was given, paths in full; empty for data made otherwise.
        ignored: what the reader passed over, left out or changed, in one line; empty if nothing.

    Raises:
        TypeError: a split is no tensor, or holds another kind of number.
        ValueError: a split is empty, does not fit the others, or has values that mean nothing.
    """

    name: str
    variant: str
    train: Tensor
    validation: Tensor
    test: Tensor
    origin: dict = field(default_factory=dict, kw_only=True)
    ignored: str = field(default="", kw_only=True)

    def __post_init__(self):
        for split in SPLITS:
            part = getattr(self, split)
            self._check(split, part)
            if len(part) == 0:
                raise ValueError(f"{self.name}: {split} is empty; each split needs one example or more")
            if part.numel() == 0:
                raise ValueError(f"{self.name}: the examples of {split} are {tuple(part.shape[1:])}, without a value")
            if part.shape[1:] != self.train.shape[1:]:
                raise ValueError(
                    f"{self.name}: {split} is {tuple(part.shape)}, train is {tuple(self.train.shape)}; "
                    "all examples need the same shape"
                )

    def _check(self, what: str, points: Tensor) -> None:
        _require(self.name, what, points, (torch.float32, torch.float64), "(N, D)")
        bad = points.isfinite().logical_not().sum().item()
        if bad:
            raise ValueError(
                f"{self.name}: {bad} of {points.numel()} values of {what} are NaN or infinite; remove them"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: ``(C, H, W)`` of an image, ``(D,)`` of a point."""
        return tuple(self.train.shape[1:])

    def model_arguments(self) -> dict:
        """What a builder of ``nbflows.models`` must know of the data."""
        return {"shape": self.shape}


@dataclass(frozen=True)
class ImageData(Data):
    """Images: uint8 ``(N, C, H, W)``.

    Attributes:
        num_levels: grey levels; values are 0..num_levels - 1.
        labels: the class of each image, int64 ``(N,)`` under "train", "validation" and "test"; None if there are none.
    """

    num_levels: int = 256
    labels: dict[str, Tensor] | None = None

    def __post_init__(self):
        inputs.whole(self.num_levels, "num_levels", 2, 256)
        super().__post_init__()
        if self.shape[0] not in (1, 3):
            raise ValueError(f"{self.name}: images have 1 or 3 channels, these are (C, H, W) = {self.shape}")
        if self.labels is None:
            return
        if set(self.labels) != set(SPLITS):
            raise ValueError(f"{self.name}: labels are needed for {', '.join(SPLITS)}, there are {list(self.labels)}")
        for split, labels in self.labels.items():
            _require(self.name, f"labels of {split}", labels, (torch.int64,), "(N,)")
            if len(labels) != len(getattr(self, split)):
                raise ValueError(
                    f"{self.name}: {len(labels)} labels for the {len(getattr(self, split))} images of {split}"
                )
            if labels.min() < 0:
                raise ValueError(f"{self.name}: labels are 0 or more, the smallest of {split} is {labels.min()}")

    def _check(self, what: str, images: Tensor) -> None:
        _require(self.name, what, images, (torch.uint8,), "(N, C, H, W)")
        # 256 levels are all that there are.
        if self.num_levels < 256 and images.numel() and images.max() >= self.num_levels:
            raise ValueError(
                f"{self.name}: {what} has values up to {images.max()}, more than {self.num_levels - 1}, the last of "
                f"{self.num_levels} levels"
            )

    @property
    def num_classes(self) -> int | None:
        """Labels are 0..num_classes - 1; None without labels."""
        return None if self.labels is None else 1 + max(int(labels.max()) for labels in self.labels.values())

    def model_arguments(self) -> dict:
        """What a builder of ``nbflows.models`` must know of the data."""
        return {**super().model_arguments(), "num_levels": self.num_levels}


@dataclass(frozen=True)
class PairData(ImageData):
    """Images, the targets, and a source for each: what a translation is given to make the target of.

    Attributes:
        sources: uint8 ``(N, C_s, H, W)`` under "train", "validation" and "test".
        known: bool ``(H, W)``, True where the target's pixels are those of the source, as in inpainting; None if no
            pixel is given.
        task: the name of a task of ``nbflows.tasks`` and its arguments; goes into the JSON of a model.

    Raises:
        TypeError, ValueError: sources or mask are no tensors of that kind, or do not fit the images.
    """

    sources: dict[str, Tensor] = field(default_factory=dict)
    known: Tensor | None = None
    task: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        if set(self.sources) != set(SPLITS):
            raise ValueError(f"{self.name}: sources are needed for {', '.join(SPLITS)}, there are {list(self.sources)}")
        for split, sources in self.sources.items():
            targets = getattr(self, split)
            self._check(f"sources of {split}", sources)
            if len(sources) != len(targets) or sources.shape[2:] != targets.shape[2:]:
                raise ValueError(
                    f"{self.name}: the sources of {split} are {tuple(sources.shape)}, its images "
                    f"{tuple(targets.shape)}; each image needs one source of its height and width"
                )
            if sources.shape[1] != self.sources["train"].shape[1]:
                raise ValueError(
                    f"{self.name}: the sources of {split} have {sources.shape[1]} channels, those of train have "
                    f"{self.sources['train'].shape[1]}; make them alike"
                )
        if self.known is None:
            return
        _require(self.name, "the mask", self.known, (torch.bool,), "(H, W)")
        if tuple(self.known.shape) != self.shape[1:]:
            raise ValueError(f"{self.name}: the mask is {tuple(self.known.shape)}, the images are {self.shape[1:]}")

    def model_arguments(self) -> dict:
        """What a builder of ``nbflows.models`` must know of the data."""
        return {**super().model_arguments(), "source_channels": self.sources["train"].shape[1]}


def _require(name: str, what: str, value, dtypes: tuple[torch.dtype, ...], form: str) -> None:
    """A tensor of one of these kinds of number, with as many dimensions as its form names."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: {what} is a {type(value).__name__}; give a tensor, torch.from_numpy makes one of an array"
        )
    if value.dtype not in dtypes:
        kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: {what} is {kinds} {form}, not {str(value.dtype).removeprefix('torch.')}")
    if value.ndim != len(form.strip("(),").split(",")):
        raise ValueError(f"{name}: {what} has the shape {form}, not {tuple(value.shape)}")


def load(
    name: str | Path, image_size: int | tuple[int, int] | None = None, root: str | Path = "data", num_bits: int = 8
) -> Data:
    """Loads a data set by its name, or any folder of images, .npy or .npz file by its path.

    Args:
        name: one of ``names()``, or a path; ``./moons`` is a folder, where ``moons`` is a name. A folder may hold
            ``train``, ``validation`` and ``test`` folders; a missing split is taken from the others at random with a
            fixed seed, a tenth of them; with a validation set alone, that is the test set. Which files of a folder
            and which arrays are read, skipped or refused: data/README.md; ``ignored`` of the result has what was.
        image_size: for folders: images are resized (area average) and cropped to this square, or height and width.
        root: where downloads and caches go.
        num_bits: fewer than 8 reduce images of 256 levels to their ``num_bits`` highest bits, 2**num_bits levels.

    Raises:
        ValueError: unknown name, nothing readable, or no 8 bits to reduce.
        FileNotFoundError: neither there nor downloadable; says where it looked and how to get it.
    """
    num_bits, image_size = inputs.whole(num_bits, "num_bits", 1, 8), _size(image_size)
    data = _load(name, image_size, root)
    # The arguments of another call that loads the same.
    where = str(name) if str(name) in _LOADERS else str(Path(os.path.expanduser(name)).resolve())
    data = replace(data, origin={"name": where, "image_size": image_size, "num_bits": num_bits})
    return data if num_bits == 8 else _reduce(data, num_bits)


def _size(image_size) -> int | tuple[int, int] | None:
    if isinstance(image_size, (tuple, list)):
        if len(image_size) != 2:
            raise ValueError(f"image_size is one number, or height and width, not {image_size}")
        return tuple(inputs.whole(side, "image_size", 1, 10_000) for side in image_size)
    return None if image_size is None else inputs.whole(image_size, "image_size", 1, 10_000)


def _load(name: str | Path, image_size: int | tuple[int, int] | None, root: str | Path) -> Data:
    if str(name) in _LOADERS:
        if image_size is not None:
            raise ValueError(f"{name} has a fixed size; image_size is for folders of images")
        return _LOADERS[str(name)](Path(root))
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return _load_folder(path, image_size, Path(root) / "cache")
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link to {os.readlink(path)}, which does not exist; mend it or name another path")
    if not path.exists():
        raise ValueError(f"no data set or path {str(name)!r}; known: {', '.join(names())}; or a folder, .npy or .npz")
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        if image_size is not None:
            raise ValueError(f"{path} has images of a fixed size; image_size is for folders of images")
        return _load_arrays(path)
    if path.suffix.lower() in reading.SUFFIXES:
        raise ValueError(f"{path} is a single picture; give the folder that holds all of them")
    raise ValueError(f"{path} exists, but is neither a folder of pictures nor a .npy or .npz file")


def names() -> list[str]:
    """The data sets that ``load`` knows by name: those that come by themselves, those to fetch by hand, the points."""
    return list(_LOADERS)


def _reduce(data: Data, num_bits: int) -> ImageData:
    num_levels = getattr(data, "num_levels", None)
    if num_levels != 256:
        have = f"have {num_levels}" if num_levels else "are no images"
        raise ValueError(f"{data.name}: only images of 256 levels can be reduced to {num_bits} bit, these {have}")
    return replace(
        data,
        variant=f"{data.variant}, reduced to {num_bits} bit",
        num_levels=2**num_bits,
        **{split: getattr(data, split) >> (8 - num_bits) for split in SPLITS},
    )


class Batches:
    """Batches of a tensor by indexing, in memory, on the device that trains; iterating gives one epoch.

    Shuffled, it is one endless stream of epochs, each in an order drawn from (seed, epoch) alone and without its last
    incomplete batch; ``position`` counts the batches given so far, and setting it resumes the stream exactly there.
    Otherwise every image comes once, in order.

    Args:
        images: ``(N, C, H, W)``, or points ``(N, D)``.
        batch_size: over all ranks.
        shuffle: a training stream.
        seed: of the order.
        rank, world_size: this process gets every ``world_size``-th image of a batch. In a training stream all get
            equally many, so that the mean of their gradients is that of the whole batch.
        paired: ``(N, ...)``, what belongs to each image, its label or its source; with it a batch is a pair.
        device: where the batches are wanted; default: where the images are. If there is room for them
            (``hardware.has_room_for``) all images are copied there once, and a batch never leaves the device; otherwise
            each batch is copied while the device computes.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        paired: Tensor | None = None,
        device: torch.device | str | None = None,
    ):
        batch_size = inputs.whole(batch_size, "batch_size", 1)
        if paired is not None and len(paired) != len(images):
            raise ValueError(f"there are {len(images)} images, and {len(paired)} labels or sources to pair them with")
        if not world_size <= batch_size or (shuffle and batch_size > len(images)):
            raise ValueError(
                f"batch_size {batch_size} does not fit {len(images)} images on {world_size} device(s); "
                f"choose one between {world_size} and {len(images)}"
            )
        if shuffle and batch_size % world_size:
            raise ValueError(
                f"a batch of {batch_size} images does not divide into {world_size} equal parts, one for each device; "
                f"choose a multiple of {world_size}"
            )
        self.device = images.device if device is None else torch.device(device)
        tensors = [images] if paired is None else [images, paired]
        self.resident = has_room_for(sum(tensor.nbytes for tensor in tensors), self.device)
        self.tensors = [tensor.to(self.device) for tensor in tensors] if self.resident else tensors
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = 0

    def __len__(self) -> int:
        count = len(self.tensors[0])
        return count // self.batch_size if self.shuffle else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        epoch, order = None, None
        for i in range(len(self)):
            new_epoch = 0
            if self.shuffle:
                new_epoch, i = divmod(self.position, len(self))
                self.position += 1
            if new_epoch != epoch:
                # With the images: a batch then is one look-up on the device, which nothing has to wait for.
                epoch, order = new_epoch, self._order(new_epoch).to(self.tensors[0].device)
            rows = order[i * self.batch_size : (i + 1) * self.batch_size][self.rank :: self.world_size]
            batch = [self._pick(tensor, rows) for tensor in self.tensors]
            yield batch[0] if len(batch) == 1 else tuple(batch)

    def _order(self, epoch: int) -> Tensor:
        count = len(self.tensors[0])
        if not self.shuffle:
            return torch.arange(count)
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))

    def _pick(self, tensor: Tensor, rows: Tensor) -> Tensor:
        if self.resident:
            return tensor.index_select(0, rows)
        # A GPU fetches pinned memory by itself, while it computes.
        pinned = self.device.type == "cuda"
        batch = torch.empty((len(rows), *tensor.shape[1:]), dtype=tensor.dtype, pin_memory=pinned)
        torch.index_select(tensor, 0, rows, out=batch)
        return batch.to(self.device, non_blocking=pinned)


# --- data sets that come with installed packages ----------------------------------------------------------------------


def _digits(root: Path) -> ImageData:
    with extras.explained():
        from sklearn.datasets import load_digits

    digits, sizes = load_digits(), (1437, 180, 180)
    images = _split(torch.from_numpy(digits.images).to(torch.uint8)[:, None], sizes)
    labels = _split(torch.from_numpy(digits.target).long(), sizes)
    variant = "UCI optical digits of scikit-learn, 8x8, 17 grey levels, 1437/180/180 images"
    return ImageData("digits", variant, *images, num_levels=17, labels=_by_split(labels))


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
        # By region: a strip of columns for validation, the last strip for the test. No pixel is in two splits.
        held_out = max(1, round(columns / 10))
        for split, part in zip(parts, patches.split([columns - 2 * held_out, held_out, held_out], dim=2), strict=True):
            parts[split].append(part.permute(1, 2, 0, 3, 4).flatten(0, 1))
    tensors = {split: torch.cat(part).contiguous() for split, part in parts.items()}
    sizes = "/".join(str(len(part)) for part in tensors.values())
    return ImageData("photo-patches", f"32x32 crops of nine photographs, split by region, {sizes} images", **tensors)


def shift_and_flip(images: Tensor, max_shift: int = 3) -> Tensor:
    """Moves each image along one axis by up to ``max_shift`` pixels, repeating its edge, and mirrors every second one.

    Axis, shift and mirroring are drawn per image from torch's global generator.

    Source: the training data of mAR-SCF on CIFAR-10, its authors' code.
    """
    count, _, height, width = images.shape
    shift = torch.randint(-max_shift, max_shift + 1, (count, 1), device=images.device)
    vertical, mirrored = torch.rand(2, count, 1, device=images.device) < 0.5
    rows = torch.arange(height, device=images.device) + shift * vertical
    columns = torch.arange(width, device=images.device) + shift * ~vertical
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    columns = torch.where(mirrored, width - 1 - columns, columns)
    every = torch.arange(count, device=images.device)[:, None, None]
    # Advanced indices around a slice put the channels last.
    return images[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def mirror(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability 1/2, drawn from torch's global generator.

    Source: the training data of Residual Flows on CIFAR-10 and CelebA-HQ (Chen et al., 2019, arXiv:1906.02735).
    """
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


# --- points in the plane ----------------------------------------------------------------------------------------------


def _points(name: str, root: Path) -> Data:
    sizes = {"train": 200_000, "validation": 10_000, "test": 10_000}
    parts = {
        split: toys.draw(name, size, torch.Generator().manual_seed(seed))
        for seed, (split, size) in enumerate(sizes.items())
    }
    return Data(name, f"{name}, points in the plane, {'/'.join(map(str, sizes.values()))}", **parts)


# --- data sets that are downloaded ------------------------------------------------------------------------------------


def _mnist(root: Path) -> ImageData:
    from torchvision.datasets import MNIST

    train, test = _torchvision(MNIST, root, "MNIST", MNIST.mirrors, "the four unpacked files MNIST/raw/*-ubyte")
    sizes = 50_000, 10_000
    images = [*_split(train.data[:, None], sizes), test.data[:, None]]
    labels = [*_split(train.targets, sizes), test.targets]
    variant = "MNIST 28x28, 256 grey levels, 50000/10000/10000 images"
    return ImageData("mnist", variant, *images, labels=_by_split(labels))


def _cifar10(root: Path) -> ImageData:
    from torchvision.datasets import CIFAR10

    train, test = _torchvision(CIFAR10, root, "CIFAR-10", [CIFAR10.url], CIFAR10.filename)
    sizes = 45_000, 5_000
    images = [*_split(_channels_first(train.data), sizes), _channels_first(test.data)]
    labels = [*_split(torch.tensor(train.targets), sizes), torch.tensor(test.targets)]
    variant = "CIFAR-10 32x32 colour, 45000/5000/10000 images"
    return ImageData("cifar10", variant, *images, labels=_by_split(labels))


def _torchvision(dataset: type, root: Path, title: str, addresses: list[str], file: str):
    """Both parts of a torchvision data set: from ``root`` if they are there, downloaded otherwise."""
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
            "them, and they are downloaded anew"
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
    train = torch.cat([_imagenet_batch(file, size) for file in tqdm(batches, desc=f"ImageNet {size}x{size}")])
    train, validation = _split(train, (len(train) - len(train) // 100, len(train) // 100))
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
    images = _load_folder(folder, 32, root / "cache")
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
    images = _load_folder(folder, 256, root / "cache")
    sizes = "/".join(str(len(part)) for part in (images.train, images.validation, images.test))
    variant = f"CelebA-HQ, resized to 256x256 by area averaging, {sizes} images"
    return _reduce(replace(images, name="celeba-hq-256-5bit", variant=variant), 5)


_LOADERS: dict[str, Callable[[Path], Data]] = {
    "cifar10": _cifar10,
    "digits": _digits,
    "mnist": _mnist,
    "photo-patches": _photo_patches,
    "celeba-hq-256-5bit": _celeba_hq_256_5bit,
    "imagenet32": partial(_imagenet, 32),
    "imagenet64": partial(_imagenet, 64),
    "tiny-imagenet-32": _tiny_imagenet_32,
    **{name: partial(_points, name) for name in toys.names()},
}


# --- a user's own images ----------------------------------------------------------------------------------------------


def _load_folder(folder: Path, image_size: int | tuple[int, int] | None, cache: Path) -> ImageData:
    files, ignored = reading.find(folder, once=True)
    decode = partial(_decode_splits, folder, files, image_size)
    parts, remarks = _cached(cache, folder.name, (image_size, str(folder.resolve())), files, decode)
    ignored += _splits_missed(folder, files) + remarks
    return _complete(folder.name, f"images of folder {folder.name}, {_form(parts, image_size)}", parts, ignored=ignored)


def _load_pairs(sources: Path, targets: Path, image_size: int | None, cache: Path) -> PairData:
    """Two folders that hold the same names, whatever the suffixes."""
    if sources.resolve() == targets.resolve():
        raise ValueError(f"sources and targets are the same folder {sources}; name two")
    image_size = _size(image_size)
    name, variant = f"{sources.name}-to-{targets.name}", f"pairs of folders {sources.name} and {targets.name}"
    found = {folder: reading.find(folder) for folder in (sources, targets)}
    pairs = _partners(sources, targets, *(list(files) for files, _ in found.values()))
    ignored = [f"{folder.name}: {word}" for folder, (_, words) in found.items() for word in words]
    ignored += _splits_missed(targets, found[targets][0])
    files = {file: found[folder][0][file] for pair in pairs for folder, file in zip(found, pair, strict=True)}
    key = (image_size, str(sources.resolve()), str(targets.resolve()))
    parts, remarks = _cached(cache, name, key, files, partial(_decode_pairs, sources, targets, pairs, image_size))
    # The order in which a missing split is drawn depends on the number of images alone: pairs stay together.
    given, wanted = (
        _complete(
            name,
            f"{variant}, {_form(parts, image_size)}",
            {key.removeprefix(side): part for key, part in parts.items() if key.startswith(side)},
            ignored=[*ignored, *remarks],
        )
        for side in ("source_", "target_")
    )
    splits = {split: getattr(wanted, split) for split in SPLITS}
    sources = {split: getattr(given, split) for split in SPLITS}
    return PairData(name, wanted.variant, **splits, sources=sources, ignored=wanted.ignored)


def _splits_missed(folder: Path, files: Iterable[Path]) -> list[str]:
    """Folders whose names look like those of splits, and which are none; images beside the folders of splits."""
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


# Another number when pictures are read by other rules: what was cached before is not used then.
_RULES = 3


def _cached(
    cache: Path, name: str, key: tuple, files: dict[Path, os.stat_result], decode: Callable
) -> tuple[dict[str, Tensor], list[str]]:
    """What ``decode()`` returns, kept in a file for as long as neither the key nor one of the images changes.

    Of an image path, size, inode and the times of its last two kinds of change are compared, not the content. A file
    that was written, copied, unpacked or moved into its place is decoded anew, whatever time it was given: the system
    sets ``ctime`` itself. Not noticed is what leaves no trace there, as a clock set back to the nanosecond.
    """
    fingerprint = hashlib.sha256(repr((_RULES, *key)).encode())
    for file, status in files.items():
        traces = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        fingerprint.update(repr((str(file), *traces)).encode())
    cached = cache / f"{name}-{fingerprint.hexdigest()[:16]}.npz"
    if os.path.lexists(cached):
        try:
            return _read_cache(cached)
        except (ValueError, OSError) as error:
            print(f"the images are decoded anew, because their cache cannot be used: {error}", file=sys.stderr)
    parts, remarks = decode()
    arrays = {**{part: images.numpy() for part, images in parts.items()}, "remarks": np.array(remarks, dtype=np.str_)}
    _save_atomically(cached, arrays)
    return parts, remarks


def _read_cache(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    # A pipe would be waited for, and a link may lead anywhere.
    if file.is_symlink() or not file.is_file():
        raise ValueError(f"{file} is no regular file")
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
    sources: Path, targets: Path, pairs: list[tuple[Path, Path]], image_size: int | None
) -> tuple[dict[str, Tensor], list[str]]:
    images: tuple[dict, dict] = {}, {}
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
    decode: Callable, items: list, folder: Path, what: str, stacklevel: int
) -> tuple[list[tuple], list[str]]:
    """What could be read, each beside its item; remarks on it, and on what could not be read, by its name."""
    results = list(zip(items, reading.each(decode, items, folder.name), strict=True))
    failed = [str(result) for _, result in results if isinstance(result, reading.Unreadable)]
    decoded = [pair for pair in results if not isinstance(pair[1], reading.Unreadable)]
    remarks = reading.counted(remark for _, (_, remarks) in decoded for remark in remarks)
    if failed:
        listed = "; ".join(failed[:20]) + (f"; and {len(failed) - 20} more" if len(failed) > 20 else "")
        if not decoded:
            raise ValueError(f"none of the {len(items)} image {what} could be read: {listed}")
        remarks.append(f"skipped {len(failed)} of {len(items)} {what} that could not be read: {listed}")
        warnings.warn(remarks[-1], stacklevel=stacklevel)
    return decoded, remarks


def _stack(images: dict[str, list[np.ndarray]], folder: Path) -> dict[str, Tensor]:
    """The images of each split as one tensor ``(N, C, H, W)``."""
    everything = [image for part in images.values() for image in part]
    sizes = {image.shape[:2] for image in everything}
    if len(sizes) > 1:
        some = ", ".join(f"{w}x{h}" for h, w in sorted(sizes)[:4])
        raise ValueError(f"the images below {folder} have {len(sizes)} sizes ({some} ...); give --image-size")
    # Grey only if all are grey.
    if any(image.ndim == 3 for image in everything):
        images = {
            split: [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in part]
            for split, part in images.items()
        }
    return {split: _channels_first(np.stack(part)) for split, part in images.items()}


def _decode(file: Path, image_size: int | tuple[int, int] | None) -> tuple[np.ndarray, list[str]]:
    """One image, ``(H, W)`` or ``(H, W, 3)`` uint8, and remarks on it."""
    image, remarks = reading.opaque(file, image_size)
    return np.asarray(reading.fit(image, image_size)), remarks


def _decode_pair(files: tuple[Path, Path], image_size: int | None) -> tuple[tuple[np.ndarray, np.ndarray], list[str]]:
    """A source and its target, and remarks on them."""
    (source, remarks), (target, others) = (reading.opaque(file, image_size) for file in files)
    (w, h), (width, height) = source.size, target.size
    sizes = f"{files[0]} is {w}x{h} and its partner {files[1]} {width}x{height}"
    if image_size is None and (w, h) != (width, height):
        raise ValueError(f"{sizes}; bring them to the same size, or give --image-size")
    # Up to the rounding of one pixel; otherwise a square cut out of both would not show the same thing.
    if abs(w * height - width * h) > max(h, w, height, width):
        raise ValueError(f"{sizes}; both need the same proportions")
    return tuple(np.asarray(reading.fit(image, image_size)) for image in (source, target)), remarks + others


def _split_of(path: Path) -> str:
    for split, folder_names in SPLITS.items():
        if len(path.parts) > 1 and path.parts[0].lower() in folder_names:
            return split
    return "train"


def _load_arrays(file: Path) -> ImageData:
    """A .npy array; or a .npz with one array of images, or with arrays named after the splits; and labels."""
    arrays = reading.arrays(file)
    names = sorted(arrays)
    parts: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    unknown = {}
    for name in list(arrays):
        kind, split = _ARRAYS.get(name.lower(), (None, None))
        place = {"images": parts, "labels": labels}.get(kind, unknown)
        if split in place:
            raise ValueError(f"{file}: two arrays of {split} {kind}, one of them {name!r}; leave one away")
        place[split or name] = arrays.pop(name)
    if not parts:
        images = [name for name, array in unknown.items() if array.ndim >= 2]
        if len(images) != 1:
            raise ValueError(f"{file}: expected one array of images or one named 'train', got {names}")
        parts = {"train": unknown.pop(images[0])}
    if labels and set(labels) != set(parts):
        raise ValueError(
            f"{file}: there are images of {', '.join(parts)}, and labels of {', '.join(labels)}; each needs its own"
        )
    # One by one, and held nowhere else: what is copied to another order needs its original no longer.
    tensors = {split: _as_images(parts.pop(split), f"{file}, {split}") for split in list(parts)}
    classes = {split: _as_labels(array, len(tensors[split]), f"{file}, {split}") for split, array in labels.items()}
    ignored = [f"ignored the arrays {', '.join(unknown)}"] if unknown else []
    largest = max((int(images.max()) for images in tensors.values() if images.numel()), default=255)
    if largest < 128:
        ignored.append(f"the largest value is {largest} of 255: images of fewer levels than the 256 that they count as")
    return _complete(file.stem, f"arrays of {file.name}", tensors, classes, ignored)


# How arrays in a .npz are named, here, by Keras and by MedMNIST.
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
        meanings = "channels first or last" if first else "grey images so narrow or one image of so many channels"
        raise ValueError(
            f"{where}: {array.shape} can be {meanings}; make tensors (N, C, H, W) and an ImageData of them in Python"
        )
    if array.ndim == 3 and array.shape[0] == array.shape[1] != array.shape[2]:
        raise ValueError(
            f"{where}: {array.shape} can be {len(array)} images of {array.shape[1]}x{array.shape[2]}, or "
            f"{array.shape[2]} of {array.shape[0]}x{array.shape[1]}; put the number of images first, or make an "
            "ImageData of tensors (N, C, H, W) in Python"
        )
    if array.ndim == 4 and not first and not last:
        raise ValueError(f"{where}: images have 1 or 3 channels, first or last; got {array.shape}")
    return torch.from_numpy(np.ascontiguousarray(array)) if first else _channels_first(array)


def _as_labels(array: np.ndarray, count: int, where: str) -> Tensor:
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(
            f"{where}: labels are whole numbers ({count},), one per image; got {array.dtype} {array.shape}"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _channels_first(array: np.ndarray) -> Tensor:
    array = array[..., None] if array.ndim == 3 else array
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def _complete(
    name: str,
    variant: str,
    parts: dict[str, Tensor],
    labels: dict[str, Tensor] | None = None,
    ignored: Sequence[str] = (),
) -> ImageData:
    """Fills the missing splits from the others, a tenth of them, at random with a fixed seed; labels alike."""
    parts, labels, ignored = dict(parts), dict(labels or {}), list(ignored)
    if "train" not in parts:
        raise ValueError(f"{name} has no training images, only {sorted(parts)}")
    if "test" not in parts and "validation" in parts:
        # As with ImageNet, whose validation part everyone tests on.
        ignored.append("there is no test set: the validation images are it, and others take their place")
        for tensors in (parts, labels):
            if "validation" in tensors:
                tensors["test"] = tensors.pop("validation")
    missing = [split for split in ("test", "validation") if split not in parts]
    if len(parts["train"]) < 10 * len(missing):
        raise ValueError(
            f"{name} has {len(parts['train'])} images, too few to split; at least {10 * len(missing)} are needed to "
            f"take a tenth of them for {' and '.join(missing)}"
        )
    rows = {"train": torch.arange(len(parts["train"]))}
    for split in missing:
        count = len(rows["train"])
        rows["train"], rows[split] = _split(rows["train"], (count - count // 10, count // 10))
    for tensors in (parts, labels):
        if missing and "train" in tensors:
            # Once, at the end: each step would copy nearly all of a large data set.
            tensors.update({split: tensors["train"][order] for split, order in rows.items()})
    sizes = "/".join(str(len(parts[split])) for split in SPLITS)
    return ImageData(
        name, f"{variant}, {sizes} images", **parts, labels=labels or None, ignored=" ".join("; ".join(ignored).split())
    )


def _split(images: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Cuts a tensor into parts of these sizes, in an order drawn with seed 42."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(42))
    return [images[rows] for rows in order.split(sizes)]


def _by_split(labels: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip(SPLITS, labels, strict=True))


def _save_atomically(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """A cache that was cut off while written must never be read: write elsewhere, then rename."""
    temporary = file.with_name(f".{file.stem}.{secrets.token_hex(4)}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as stream:
                np.savez(stream, **arrays)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        print(f"could not cache the decoded images in {file.parent}: {error}", file=sys.stderr)
