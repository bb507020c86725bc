"""Samples as a PNG: images side by side, points in the plane as a density."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nbflows.data.reading import SHEET, mark


def picture_name(file: str | Path) -> str | Path:
    """Returns the name if a picture can be written there. Raises ValueError otherwise, before any other work."""
    if Path(file).suffix.lower() not in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"):
        raise ValueError(f"{str(file)!r} is not a name of a picture: end it in .png")
    if Path(file).is_dir():
        raise ValueError(f"{file} is a folder: name a picture in it")
    return file


def save_samples(samples: Tensor, file: str | Path, num_grey_levels: int | None, columns: int = 8) -> None:
    """Writes uint8 images as one PNG, small ones enlarged; points ``(N, 2)`` as a histogram of [-4, 4]^2."""
    file = Path(picture_name(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    if num_grey_levels is None:
        counts = torch.histogramdd(samples.cpu(), bins=[128, 128], range=[-4.0, 4.0, -4.0, 4.0]).hist
        # The picture's rows go down, y goes up.
        shown = (counts / counts.max().clamp(min=1)).T.flip(0).repeat_interleave(3, 0).repeat_interleave(3, 1)
        _save(shown.expand(3, -1, -1), file)
        return
    scale = max(1, 32 // samples.shape[-1])
    enlarged = (samples.float() / (num_grey_levels - 1)).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    _save(_grid(enlarged, min(columns, len(samples))), file)


def _grid(images: Tensor, columns: int) -> Tensor:
    """Images ``(N, C, H, W)`` in rows with two black pixels around each, and a single image as it is.

    The same as ``torchvision.utils.make_grid``. Importing that takes two seconds: it brings torch's compiler with it.
    """
    if len(images) == 1:
        return images[0].expand(3, -1, -1)
    rows = -(-len(images) // columns)
    cells = F.pad(images, (2, 0, 2, 0, 0, 0, 0, rows * columns - len(images)))
    cells = cells.expand(-1, 3, -1, -1).unflatten(0, (rows, columns))
    return F.pad(cells.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3), (0, 2, 0, 2))


def _save(image: Tensor, file: str | Path) -> None:
    from PIL import Image

    values = image.cpu().mul(255).add(0.5).clamp(0, 255).byte()
    # Marked, because a run may write into a folder of pictures, and samples must not become data.
    Image.fromarray(values.permute(1, 2, 0).numpy()).save(file, **mark(SHEET))
