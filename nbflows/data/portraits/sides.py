"""Whether two distant parts of a portrait agree, read from the pixels of each side alone."""

import numpy as np
import torch
from torch import Tensor

from nbflows.data.portraits.generator import STEPS, Generator

# Each part has an attribute and a place on the left: x from, x to, y from, y to; on the right it is mirrored.
_PARTS = {
    "eyes": ("eye_colour", (-0.4, -0.02, -0.07, 0.07)),
    "clothing": ("clothing_colour", (-0.82, -0.3, 0.76, 1.0)),
    "earrings": ("earrings", (-0.66, -0.38, 0.06, 0.4)),
}
# Renderings to compare with. They have a seed that no data have.
_COUNT, _SEED = 60_000, 2**32


def values(generator: Generator, images: Tensor, part: str) -> tuple[Tensor, Tensor]:
    """Reads the attribute of a part from the left and from the right half, each alone, int64 ``(N,)`` and ``(N,)``.

    The value is that of the closest rendering, by the squared error of the pixels around the part. It needs no image
    that the generator could have drawn, so that samples of a model have values too.

    Args:
        images: uint8 ``(N, 3, size, size)``.
        part: "eyes", "clothing" or "earrings".

    Raises:
        ValueError: another part, or images of another size.
    """
    if part not in _PARTS:
        raise ValueError(f"no part {part!r}; known: {', '.join(_PARTS)}")
    size = generator.size
    if images.shape[1:] != (3, size, size):
        raise ValueError(f"expected images (N, 3, {size}, {size}), got {tuple(images.shape)}")
    attribute, (left, right, top, bottom) = _PARTS[part]
    centre = (np.arange(size) + 0.5) * 2 / size - 1
    column = generator.attributes.columns((attribute,))[0]
    labels = generator.labels(_COUNT, _SEED)
    found = []
    for x in (centre, -centre):
        inside = (top < centre)[:, None] & (centre < bottom)[:, None] & (left < x) & (x < right)
        pixels = np.flatnonzero(inside)
        known = torch.from_numpy(generator.render(labels, pixels).reshape(_COUNT, -1)).float() / STEPS
        seen = images.cpu().flatten(2)[:, :, pixels].flatten(1).float()
        # |x - r|^2 but for |x|^2, which is the same for all r.
        closest = [(known.square().sum(1) - 2 * chunk @ known.T).argmin(1) for chunk in seen.split(256)]
        found.append(torch.from_numpy(labels)[torch.cat(closest), column])
    return found[0], found[1]
