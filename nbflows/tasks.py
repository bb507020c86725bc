"""Image-to-image tasks: rules that make a source and a target of any image; and a user's own pairs."""

import math
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nbflows import extras, inputs
from nbflows.data import SPLITS, Data, ImageData, PairData, reading
from nbflows.data.folders import load_folder_pairs
from nbflows.data.pixels import grey, resize, with_channels
from nbflows.progress import bar


@dataclass(frozen=True)
class Task:
    """A rule that makes a source and a target of every image, the same ones each time.

    Attributes:
        name: as given to ``get``.
    """

    name: ClassVar[str]

    def pair(self, images: Tensor, num_grey_levels: int = 256) -> tuple[Tensor, Tensor]:
        """Sources and targets, uint8 ``(N, C_s, H, W)`` and ``(N, C, H, W)``.

        Args:
            images: uint8 ``(N, C, H, W)``.
            num_grey_levels: grey levels; values are 0..num_grey_levels - 1.

        Raises:
            ValueError: the task is not for such images.
        """
        raise NotImplementedError

    def image_size(self, size: int | None) -> int | tuple[int, int] | None:
        """The ``image_size`` to load images with, so that targets are ``size`` x ``size``."""
        return size

    def known(self, height: int, width: int) -> Tensor | None:
        """Bool ``(height, width)``, True where the target's pixels are those of the source; None if none are given."""
        return None

    def baseline(self, sources: Tensor, channels: int, num_grey_levels: int = 256) -> Tensor:
        """The guess that every model is compared with, uint8 ``(N, channels, H, W)``; here the source itself."""
        return with_channels(sources, channels)

    def describe(self) -> dict:
        """Name and arguments, for the JSON of a model; ``get(**task.describe())`` is the task again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class SuperResolution(Task):
    """A picture out of a smaller one, which is first brought to its size.

    source = enlarge(shrink(target)), both bicubic with antialiasing, each rounded to grey levels.

    Args:
        factor: ratio of the heights and of the widths.
    """

    name = "super-resolution"
    factor: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", inputs.whole(self.factor, "the factor of super-resolution", 2))

    def pair(self, images: Tensor, num_grey_levels: int = 256) -> tuple[Tensor, Tensor]:
        return self.enlarge(self.shrink(images, num_grey_levels), num_grey_levels), images

    def shrink(self, images: Tensor, num_grey_levels: int = 256) -> Tensor:
        """The small pictures: uint8 ``(N, C, H, W)`` to ``(N, C, H/factor, W/factor)``."""
        height, width = images.shape[2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"super-resolution x{self.factor} needs a width and a height divisible by {self.factor}, "
                f"got {width}x{height}; choose another factor or another image size"
            )
        return resize(images, height // self.factor, width // self.factor, num_grey_levels)

    def enlarge(self, images: Tensor, num_grey_levels: int = 256) -> Tensor:
        """The sources: uint8 ``(N, C, H/factor, W/factor)`` to ``(N, C, H, W)``."""
        return resize(images, images.shape[2] * self.factor, images.shape[3] * self.factor, num_grey_levels)

    def __str__(self) -> str:
        return f"super-resolution x{self.factor} by bicubic interpolation"


@dataclass(frozen=True)
class Colorization(Task):
    """A colour picture out of a grey one.

    source = grey(target).

    Args:
        num_channels: channels of the source: 1, or 3 equal ones as in CAFLOW.
    """

    name = "colorization"
    num_channels: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "num_channels", inputs.whole(self.num_channels, "the number of channels of a grey source")
        )
        if self.num_channels not in (1, 3):
            raise ValueError(f"a grey source has 1 channel or 3 equal ones, got {self.num_channels}")

    def pair(self, images: Tensor, num_grey_levels: int = 256) -> tuple[Tensor, Tensor]:
        if images.shape[1] != 3:
            raise ValueError(f"colorization needs colour images of 3 channels, these have {images.shape[1]}")
        return with_channels(grey(images), self.num_channels), images

    def __str__(self) -> str:
        return "colorization of grey (ITU-R 601)"


@dataclass(frozen=True)
class Inpainting(Task):
    """A whole picture out of one with a hole, which is black.

    source = known * target.

    Args:
        mask: where the hole is: "square", of side int(sqrt(H W ratio)), in the middle; "half", the right one; or an
            image file as large as the pictures, white where they are known, black in the hole.
        ratio: the square's share of the area.
    """

    name = "inpainting"
    mask: str = "square"
    ratio: float = 0.15

    def __post_init__(self) -> None:
        # A Path has no JSON.
        object.__setattr__(self, "mask", str(self.mask))
        ratio = inputs.number(self.ratio, "the square's share of the area", 0, 1)
        if ratio in (0, 1):
            raise ValueError(f"the square's share of the area is between 0 and 1, got {self.ratio}")
        object.__setattr__(self, "ratio", ratio)

    def pair(self, images: Tensor, num_grey_levels: int = 256) -> tuple[Tensor, Tensor]:
        return torch.where(self.known(*images.shape[2:]).to(images.device), images, 0), images

    def known(self, height: int, width: int) -> Tensor:
        """Bool ``(height, width)``, False in the hole.

        Raises:
            FileNotFoundError: no such mask.
            ValueError: the mask cannot be read, has another size, or hides everything or nothing.
        """
        if self.mask not in ("square", "half"):
            if not Path(self.mask).exists():
                raise FileNotFoundError(f"no mask {self.mask}: a mask is 'square', 'half' or an image file")
            known = torch.from_numpy(reading.mask(self.mask, width, height))
        else:
            known = torch.ones(height, width, dtype=torch.bool)
            if self.mask == "half":
                known[:, width // 2 :] = False
            else:
                side = int(math.sqrt(height * width * self.ratio))
                top, left = height // 2 - side // 2, width // 2 - side // 2
                known[max(top, 0) : top + side, max(left, 0) : left + side] = False
        require_hole(known, str(self))
        return known

    def paste(self, results: Tensor, sources: Tensor) -> Tensor:
        """Puts the known pixels back.

        Args:
            results: ``(N, C, H, W)``, or several for each source, ``(B, N, C, H, W)``.
            sources: ``(N, C, H, W)`` or ``(B, C, H, W)``.
        """
        if results.ndim == 5:
            sources = sources[:, None]
        return torch.where(self.known(*results.shape[-2:]).to(results.device), sources, results)

    def baseline(self, sources: Tensor, channels: int, num_grey_levels: int = 256) -> Tensor:
        """The hole filled by the smoothest surface, a solution of the biharmonic equation: ``(N, channels, H, W)``."""
        height, width = sources.shape[2:]
        # One system of equations for all: each image and channel is another right-hand side.
        columns = sources.cpu().flatten(0, 1).permute(1, 2, 0).double() / (num_grey_levels - 1)
        filled = _scikit_image("restoration").inpaint_biharmonic(
            columns.numpy(), ~self.known(height, width).numpy(), channel_axis=-1
        )
        images = (torch.from_numpy(filled) * (num_grey_levels - 1)).round().byte().permute(2, 0, 1)
        return with_channels(images.reshape(sources.shape).to(sources.device), channels)

    def __str__(self) -> str:
        if self.mask == "square":
            return f"inpainting of a square of {self.ratio:.0%} of the area"
        return f"inpainting of {'the right half' if self.mask == 'half' else f'the hole of {Path(self.mask).name}'}"


@dataclass(frozen=True)
class Sketch(Task):
    """A picture out of its edges.

    source = the edges of grey(target) found by Canny's detector, white on black, one channel.

    Args:
        sigma: width in pixels of the Gaussian that smooths before; the larger, the fewer edges.
    """

    name = "sketch"
    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", inputs.number(self.sigma, "sigma", above=0))

    def pair(self, images: Tensor, num_grey_levels: int = 256) -> tuple[Tensor, Tensor]:
        canny = _scikit_image("feature").canny
        # Its thresholds are for values from 0 to 1.
        greys = grey(images).cpu().squeeze(1).double().div(num_grey_levels - 1).numpy()
        edges = [canny(image, self.sigma) for image in bar(greys, "edges", delay=1)]
        return torch.from_numpy(np.stack(edges))[:, None].to(images.device).byte() * (num_grey_levels - 1), images

    def __str__(self) -> str:
        return f"sketch to image, edges by Canny's detector, sigma {self.sigma:g}"


@dataclass(frozen=True)
class SideBySide(Task):
    """A user's own pairs: an image of width 2W holds the source on the left and the target on the right.

    Pairs in two folders: ``load_pairs``.
    """

    name = "side-by-side"

    def image_size(self, size: int | None) -> tuple[int, int] | None:
        return None if size is None else (size, 2 * size)

    def pair(self, images: Tensor, num_grey_levels: int = 256) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        if width % 2:
            raise ValueError(f"source and target side by side need an even width, got {width}x{height}")
        sources, targets = images.split(width // 2, dim=3)
        return sources.contiguous(), targets.contiguous()

    def __str__(self) -> str:
        return "source and target side by side"


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (SuperResolution, Colorization, Inpainting, Sketch, SideBySide)
}


def require_hole(known: Tensor, where: str) -> None:
    """Raises ValueError unless some of the pixels are known and some are not; ``where`` begins the message."""
    if known.all() or not known.any():
        raise ValueError(
            f"{where}: {int(known.sum())} of {known.numel()} pixels are known; inpainting needs some known pixels and "
            "some unknown ones"
        )


def names() -> list[str]:
    """The tasks that ``get`` knows."""
    return list(TASKS)


def get(name: str, **arguments: Any) -> Task:
    """A task by its name.

    Raises:
        ValueError: no such task, or not its arguments.
    """
    if name not in TASKS:
        raise ValueError(f"no task named {name!r}; known: {', '.join(names())}")
    known = [field.name for field in fields(TASKS[name])]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(f"{name} takes no {', '.join(unknown)}; its arguments: {', '.join(known) or 'none'}")
    return TASKS[name](**arguments)


def apply(task: Task, data: Data) -> PairData:
    """Makes the pairs of all splits; labels stay with them.

    Raises:
        ValueError: the data are points or pairs already, or the task is not for such images.
    """
    if not isinstance(data, ImageData) or data.sources is not None:
        found = "points" if data.num_grey_levels is None else "pairs already"
        raise ValueError(f"{data.name}: a task makes pairs of images, these are {found}")
    pairs = {split: task.pair(getattr(data, split), data.num_grey_levels) for split in SPLITS}
    return PairData(
        data.name,
        f"{data.variant}; {task}",
        **{split: targets for split, (_, targets) in pairs.items()},
        num_grey_levels=data.num_grey_levels,
        labels=data.labels,
        attributes=data.attributes,
        attribute_values=data.attribute_values,
        sources={split: sources for split, (sources, _) in pairs.items()},
        known=task.known(*pairs["train"][1].shape[2:]),
        task=task.describe(),
        origin=data.origin,
        ignored=data.ignored,
    )


def load_pairs(
    sources: str | Path, targets: str | Path, image_size: int | None = None, root: str | Path = "data"
) -> PairData:
    """Loads two folders of images: a source and its target have the same path in them, but for the suffix.

    Args:
        sources, targets: the folders. They may hold ``train``, ``validation`` and ``test`` folders; a missing split is
            taken from the others at random with a fixed seed, a tenth of them, pair by pair.
        image_size: images are resized (area average) and cropped to this square; by default a source must
            have the size of its target.
        root: where the cache goes.

    Raises:
        ValueError: nothing readable, a file without a partner, or sizes that do not fit; names files and numbers.
    """
    pairs = load_folder_pairs(Path(sources), Path(targets), image_size, Path(root) / "cache")
    folders = {"sources": str(Path(sources).resolve()), "targets": str(Path(targets).resolve())}
    return replace(pairs, task=SideBySide().describe(), origin={**folders, "image_size": image_size})


def _scikit_image(module: str) -> ModuleType:
    # Imported here: training on other tasks runs without it.
    with extras.explained():
        return import_module(f"skimage.{module}")
