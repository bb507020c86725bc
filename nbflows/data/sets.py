"""Data sets as tensors in memory: points, images, pairs of images, each in three splits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from nbflows import inputs

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Data:
    """A data set: three splits that never overlap, ``(N, *shape)``.

    Attributes:
        name: name given to ``load``.
        variant: exact description of the data, given with every score measured on them.
        origin: arguments of ``load`` or ``tasks.load_pairs``, with full paths; empty for other data.
        ignored: one line that says what the reader skipped or changed; empty if nothing.
        num_grey_levels, labels, attributes, sources, known, task: None or empty for points; see ``ImageData`` and
            ``PairData``.

    Raises:
        TypeError: a split is not a tensor, or holds another kind of number.
        ValueError: a split is empty, does not fit the others, or has invalid values.
    """

    name: str
    variant: str
    train: Tensor
    validation: Tensor
    test: Tensor
    origin: dict = field(default_factory=dict, kw_only=True)
    ignored: str = field(default="", kw_only=True)
    num_grey_levels: int | None = field(default=None, init=False, repr=False)
    labels: dict[str, Tensor] | None = field(default=None, init=False, repr=False)
    attributes: dict[str, Tensor] | None = field(default=None, init=False, repr=False)
    sources: dict[str, Tensor] | None = field(default=None, init=False, repr=False)
    known: Tensor | None = field(default=None, init=False, repr=False)
    task: dict = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
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
        """Shape of one example: ``(C, H, W)`` for an image, ``(D,)`` for a point."""
        return tuple(self.train.shape[1:])

    def model_arguments(self) -> dict:
        """Arguments that a builder of ``nbflows.models`` takes from the data."""
        return {"shape": self.shape}


@dataclass(frozen=True)
class ImageData(Data):
    """Images: uint8 ``(N, C, H, W)``.

    Attributes:
        num_grey_levels: grey levels; values are 0..num_grey_levels - 1.
        labels: the class of each image, int64 ``(N,)`` under "train", "validation" and "test"; None if there are none.
        attributes: several labels of each image, int64 ``(N, A)`` under the names of the splits; None otherwise.
        attribute_values: for each column of ``attributes`` its name, and the names of the values that it counts.
    """

    num_grey_levels: int = 256
    labels: dict[str, Tensor] | None = None
    attributes: dict[str, Tensor] | None = field(default=None, kw_only=True)
    attribute_values: dict[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        inputs.whole(self.num_grey_levels, "num_grey_levels", 2, 256)
        super().__post_init__()
        if self.shape[0] not in (1, 3):
            raise ValueError(f"{self.name}: images have 1 or 3 channels, these are (C, H, W) = {self.shape}")
        self._check_labels("labels", self.labels, "(N,)")
        self._check_labels("attributes", self.attributes, "(N, A)")
        if self.attributes is not None:
            counts = torch.tensor([len(values) for values in self.attribute_values.values()])
            for split, attributes in self.attributes.items():
                if attributes.shape[1] != len(counts) or (attributes >= counts).any():
                    raise ValueError(
                        f"{self.name}: attribute_values names {len(counts)} attributes with {counts.tolist()} values, "
                        f"attributes of {split} are {tuple(attributes.shape)}, with values up to "
                        f"{attributes.amax(0).tolist()}"
                    )

    def _check_labels(self, what: str, given: dict[str, Tensor] | None, form: str) -> None:
        if given is None:
            return
        if set(given) != set(SPLITS):
            raise ValueError(f"{self.name}: {what} are needed for {', '.join(SPLITS)}, there are {list(given)}")
        for split, labels in given.items():
            _require(self.name, f"{what} of {split}", labels, (torch.int64,), form)
            if len(labels) != len(getattr(self, split)):
                raise ValueError(
                    f"{self.name}: {len(labels)} {what} for the {len(getattr(self, split))} images of {split}"
                )
            if labels.min() < 0:
                raise ValueError(f"{self.name}: {what} are 0 or more, the smallest of {split} is {labels.min()}")

    def _check(self, what: str, images: Tensor) -> None:
        _require(self.name, what, images, (torch.uint8,), "(N, C, H, W)")
        # Bytes cannot exceed 256 grey levels.
        if self.num_grey_levels < 256 and images.numel() and images.max() >= self.num_grey_levels:
            raise ValueError(
                f"{self.name}: {what} has values up to {images.max()}, more than {self.num_grey_levels - 1}, the last "
                f"of {self.num_grey_levels} levels"
            )

    @property
    def num_classes(self) -> int | None:
        """Number of classes, with labels 0..num_classes - 1; None without labels."""
        return None if self.labels is None else 1 + max(int(labels.max()) for labels in self.labels.values())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(C, H, W)``."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    def model_arguments(self) -> dict:
        """Arguments that a builder of ``nbflows.models`` takes from the data."""
        return {**super().model_arguments(), "num_grey_levels": self.num_grey_levels}


@dataclass(frozen=True)
class PairData(ImageData):
    """Pairs for a translation: images, which are the targets, and a source for each.

    Attributes:
        sources: uint8 ``(N, C_s, H, W)`` under "train", "validation" and "test".
        known: bool ``(H, W)``, True where target and source have the same pixels, as in inpainting; None if no pixel is
            known.
        task: name of a task of ``nbflows.tasks`` and its arguments, for the JSON of a model.

    Raises:
        TypeError, ValueError: sources or mask are not such tensors, or do not fit the images.
    """

    sources: dict[str, Tensor] = field(default_factory=dict)
    known: Tensor | None = None
    task: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
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
        """Arguments that a builder of ``nbflows.models`` takes from the data."""
        return {**super().model_arguments(), "source_channels": self.sources["train"].shape[1]}


def _require(name: str, what: str, value: object, dtypes: tuple[torch.dtype, ...], form: str) -> None:
    """Checks that a value is a tensor of one of these kinds of number, with the dimensions that its form names."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: {what} is a {type(value).__name__}; give a tensor, torch.from_numpy makes one of an array"
        )
    if value.dtype not in dtypes:
        kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: {what} is {kinds} {form}, not {str(value.dtype).removeprefix('torch.')}")
    if value.ndim != len(form.strip("(),").split(",")):
        raise ValueError(f"{name}: {what} has the shape {form}, not {tuple(value.shape)}")


def labels_of(data: Data) -> dict[str, Tensor]:
    """Returns the labels of images by split: attributes ``(N, A)``, or classes ``(N,)`` if there are no attributes.

    Raises:
        ValueError: the data have neither.
    """
    labels = data.labels if data.attributes is None else data.attributes
    if labels is None:
        raise ValueError(f"the model is given labels, and {data.name} has none")
    return labels


def label_values(data: Data) -> dict[str, list[str]]:
    """Returns the names of all values of each attribute of images, or the numbers of their classes."""
    if data.attributes is not None:
        return {name: [*values] for name, values in cast(ImageData, data).attribute_values.items()}
    labels = labels_of(data).values()
    return {"class": [str(number) for number in range(1 + max(int(part.max()) for part in labels))]}


def reduce_bits(data: Data, num_bits: int) -> ImageData:
    """Keeps the ``num_bits`` highest bits of images with 256 grey levels. Raises ValueError for other data."""
    if not isinstance(data, ImageData) or data.num_grey_levels != 256:
        have = f"have {data.num_grey_levels}" if data.num_grey_levels else "are not images"
        raise ValueError(f"{data.name}: only images of 256 levels can be reduced to {num_bits} bit, these {have}")
    return replace(
        data,
        variant=f"{data.variant}, reduced to {num_bits} bit",
        num_grey_levels=2**num_bits,
        **{split: getattr(data, split) >> (8 - num_bits) for split in SPLITS},
    )


def channels_first(array: np.ndarray) -> Tensor:
    """Converts ``(N, H, W)`` or ``(N, H, W, C)`` to a tensor ``(N, C, H, W)``."""
    array = array[..., None] if array.ndim == 3 else array
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def complete_splits(
    name: str,
    variant: str,
    parts: dict[str, Tensor],
    labels: dict[str, Tensor] | None = None,
    ignored: Sequence[str] = (),
) -> ImageData:
    """Fills missing splits with a tenth of the others, at random with a fixed seed; labels likewise."""
    parts, labels, ignored = dict(parts), dict(labels or {}), list(ignored)
    if "train" not in parts:
        raise ValueError(f"{name} has no training images, only {sorted(parts)}")
    if "test" not in parts and "validation" in parts:
        # As with ImageNet, whose validation images are the usual test set.
        ignored.append("there is no test set: the validation images become it, and training images replace them")
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
        rows["train"], rows[split] = shuffled_parts(rows["train"], (count - count // 10, count // 10))
    for tensors in (parts, labels):
        if missing and "train" in tensors:
            # Once, at the end, because each step would copy nearly all of a large data set.
            tensors.update({split: tensors["train"][order] for split, order in rows.items()})
    if copies := num_copies(parts["train"], parts["test"]):
        count = len(parts["test"])
        ignored.append(f"{copies} of {count} test images are training images, too: their score is too good")
    sizes = "/".join(str(len(parts[split])) for split in SPLITS)
    return ImageData(
        name,
        f"{variant}, {sizes} images",
        parts["train"],
        parts["validation"],
        parts["test"],
        labels=labels or None,
        ignored=" ".join("; ".join(ignored).split()),
    )


def num_copies(train: Tensor, test: Tensor) -> int:
    """Returns how many test images are training images, too.

    A kilobyte of each image finds the candidates, and only these are read in full: the time is a microsecond or two per
    image unless there are many copies.
    """
    if train.shape[1:] != test.shape[1:]:
        return 0
    rows, tests = train.flatten(1).numpy(), test.flatten(1).numpy()
    step = max(1, rows.shape[1] // 1024)
    known = {hash(row[::step].tobytes()) for row in tests}
    copied = {hash(row.tobytes()) for row in rows if hash(row[::step].tobytes()) in known}
    return sum(hash(row.tobytes()) in copied for row in tests)


def shuffled_parts(images: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Cuts a tensor into parts of these sizes, in an order drawn with seed 42."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(42))
    return [images[rows] for rows in order.split(sizes)]


def by_split(labels: list[Tensor]) -> dict[str, Tensor]:
    """Returns the labels of train, validation and test, by the names of the splits."""
    return dict(zip(SPLITS, labels, strict=True))
