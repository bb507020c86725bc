"""Portraits: drawn faces, whose attributes, probabilities and entropy are known."""

from functools import cache

import torch
from torch import Tensor

from nbflows.data.portraits import sides
from nbflows.data.portraits.attributes import ATTRIBUTES
from nbflows.data.portraits.drawing import LAYERS
from nbflows.data.portraits.generator import Generator
from nbflows.data.portraits.probability import Truth

SIZES = (16, 32, 64)

# In this order attributes can be told from an image, see ``Truth``.
_BLOCKS = (
    (("background", "backdrop"), ()),
    (("light", "clothing", "clothing_colour", "skin"), ()),
    (("pose", "mouth", "beard"), ("hair_colour",)),
    (("hair", "headwear", "hat_colour"), ("hair_colour",)),
    (("hair_colour", "brows"), ()),
    (("face",), ()),
    (("earrings",), ()),
    (("glasses", "glasses_colour", "eyes", "eye_colour", "gaze"), ()),
    (("nose",), ()),
    (("cheeks",), ()),
)


@cache
def truth(size: int = 32) -> Truth:
    """The distribution of portraits of one size; its layers are drawn when they are first needed, in seconds.

    Raises:
        ValueError: not one of ``SIZES``.
    """
    if size not in SIZES:
        raise ValueError(f"portraits are {', '.join(map(str, SIZES))} pixels wide, not {size}")
    return Truth(Generator(ATTRIBUTES, LAYERS, size), _BLOCKS)


def draw(num_images: int, size: int = 32, seed: int = 0, first: int = 0) -> tuple[Tensor, Tensor]:
    """Portraits number ``first`` to ``first + num_images - 1`` of a seed, each a function of seed and number alone.

    Returns:
        images, uint8 ``(N, 3, size, size)``, and their attributes, int64 ``(N, A)``, which are the same at all sizes.

    Raises:
        ValueError: not one of ``SIZES``.
    """
    generator, attributes = truth(size).generator, labels(num_images, seed, first)
    return torch.from_numpy(generator.images(attributes.numpy(), seed, first)), attributes


def labels(num_images: int, seed: int = 0, first: int = 0) -> Tensor:
    """The attributes of the portraits that ``draw`` gives for these arguments."""
    return torch.from_numpy(truth(32).generator.labels(num_images, seed, first))


def agreement(images: Tensor, part: str = "eyes") -> float:
    """The share of images whose left and right half show the same value of a part, each read alone.

    Args:
        images: uint8 ``(N, 3, size, size)``, portraits or samples of a model.
        part: "eyes", their colour; "clothing", its colour; "earrings", their kind.

    Raises:
        ValueError: another part, or images of another size than ``SIZES``.
    """
    left, right = sides.values(truth(images.shape[-1]).generator, images, part)
    return (left == right).double().mean().item()


__all__ = ["ATTRIBUTES", "SIZES", "agreement", "draw", "labels", "truth"]
