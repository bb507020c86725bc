"""Operations on the pixels of images: grey values, channels, sizes."""

import torch
from torch import Tensor
from torch.nn import functional as F


def grey(images: Tensor) -> Tensor:
    """Returns the luma of ITU-R 601, rounded as in PIL, uint8 ``(N, 1, H, W)``; grey images stay as they are.

    0.299 red + 0.587 green + 0.114 blue.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.int().split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 2**15 >> 16).byte()


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Converts images ``(N, C, H, W)`` to 1 or 3 channels: makes them grey, or repeats grey."""
    if images.shape[1] == channels:
        return images
    return grey(images).expand(-1, channels, -1, -1).contiguous()


def resize(images: Tensor, height: int, width: int, num_grey_levels: int = 256) -> Tensor:
    """Bicubic interpolation with antialiasing, uint8 ``(N, C, H, W)`` to ``(N, C, height, width)``, as PIL does it."""

    def interpolated(chunk: Tensor) -> Tensor:
        # One axis after the other, as in PIL, because values that leave the range are cut off after each.
        for size in ((chunk.shape[2], width), (height, width)):
            chunk = F.interpolate(chunk, size, mode="bicubic", antialias=True).clamp(0, num_grey_levels - 1)
        return chunk.round().byte()

    # In chunks, because a data set as floats would take four times its memory.
    return torch.cat([interpolated(chunk.float()) for chunk in images.split(1024)])
