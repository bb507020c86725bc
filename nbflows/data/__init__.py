"""Data sets as tensors in memory, images and points, behind one small interface: ``load(name)`` and ``Batches``."""

from nbflows.data.batches import Batches, mirror, shift_and_flip
from nbflows.data.by_name import load, names
from nbflows.data.mnist_samples import mnist_samples
from nbflows.data.pixels import grey, resize, with_channels
from nbflows.data.sets import SPLITS, Data, ImageData, PairData

__all__ = [
    "SPLITS",
    "Batches",
    "Data",
    "ImageData",
    "PairData",
    "grey",
    "load",
    "mirror",
    "mnist_samples",
    "names",
    "resize",
    "shift_and_flip",
    "with_channels",
]
