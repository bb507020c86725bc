"""Counting grey levels given their neighbours in a training set: what a model of images must at least beat."""

import math

import numpy as np
import torch
from torch import Tensor

from nbflows import inputs
from nbflows.layers.dequantize import check_grey_levels

# Neighbours (rows up, columns left) that come before a pixel, each with the number of values to which it is rounded.
# Each order of context adds to the one below it. Orders and strengths were chosen on 2,000 validation images of MNIST.
_ORDERS = (
    (),
    (((0, 1), 8),),
    (((0, 1), 16), ((1, 0), 16)),
    (((0, 1), 16), ((1, 0), 16), ((1, 1), 8), ((1, -1), 8)),
    (((0, 1), 32), ((1, 0), 32), ((1, 1), 16), ((1, -1), 16), ((0, 2), 8), ((2, 0), 8)),
)
_STRENGTHS = (1.0, 1.0, 2.0, 4.0, 4.0)


class CountingModel:
    """Exact probabilities of images from counts: p(image) = prod_i p(x_i | neighbours of x_i above and to the left).

    Every order k of context has a table of counts, and backs off to the order below it:

        p_k(v | c) = (n_k(c, v) + b p_{k-1}(v | c')) / (n_k(c) + b),    p_{-1} = 1 / num_grey_levels

    where b is a_k times the number of different values that came after c: the more of them there were, the likelier is
    a new one.

    Args:
        images: uint8 ``(N, 1, H, W)``, which are counted.
        num_grey_levels: K; values are 0..K - 1.
        strengths: a_k, one for each order, 0 to 4.

    Raises:
        ValueError: the images are not grey.

    Source: method C of Moffat, "Implementing the PPM data compression scheme", 1990, with blending by interpolation
    (Witten and Bell, "The zero-frequency problem", 1991).
    """

    def __init__(self, images: Tensor, num_grey_levels: int = 256, strengths: tuple[float, ...] = _STRENGTHS):
        self.num_grey_levels = inputs.whole(num_grey_levels, "num_grey_levels", 2, 256)
        self.strengths = tuple(inputs.number(strength, "strengths", above=0) for strength in strengths)
        pixels, contexts = self._contexts(images)
        self.tables = [_Table(context, pixels) for context in contexts]

    def _contexts(self, images: Tensor) -> tuple[np.ndarray, list[np.ndarray]]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(f"counting is for uint8 images (N, 1, H, W), got {images.dtype} {tuple(images.shape)}")
        check_grey_levels(images, self.num_grey_levels)
        grey = images[:, 0].numpy()
        # Beyond the edges everything is 0.
        padded = np.pad(grey, ((0, 0), (2, 0), (2, 2)))
        height, width = grey.shape[1:]
        contexts = []
        for neighbours in _ORDERS:
            context = np.zeros(grey.shape, np.int64)
            for (up, left), count in neighbours:
                values = padded[:, 2 - up : 2 - up + height, 2 - left : 2 - left + width]
                context = context * count + self._rounded(values.astype(np.int64), count)
            contexts.append(context.ravel())
        return grey.ravel().astype(np.int64), contexts

    def _rounded(self, values: np.ndarray, count: int) -> np.ndarray:
        """Grey levels as 0..count - 1; black and the brightest 1.5 %, paper and ink, have a value of their own."""
        ink = self.num_grey_levels - max(1, self.num_grey_levels // 64)
        between = 1 + (values - 1) * (count - 2) // max(1, ink - 1)
        return np.where(values == 0, 0, np.where(values >= ink, count - 1, between))

    def bits_per_dim(self, images: Tensor) -> Tensor:
        """-log2 p(image) / (H W), exact, float64 ``(N,)``."""
        pixels, contexts = self._contexts(images)
        probability = np.full(len(pixels), 1 / self.num_grey_levels)
        for table, context, strength in zip(self.tables, contexts, self.strengths, strict=True):
            of_value, of_context, different = table.counts(context, pixels)
            back_off = strength * different
            # A context that never came says nothing.
            blended = (of_value + back_off * probability) / np.maximum(of_context + back_off, 1)
            probability = np.where(of_context > 0, blended, probability)
        log_prob = torch.from_numpy(np.log(probability)).view(len(images), -1)
        return -log_prob.mean(1) / math.log(2)


class _Table:
    """How often each value came after each context: two sorted arrays of keys, with counts."""

    def __init__(self, contexts: np.ndarray, values: np.ndarray):
        self.keys, self.key_counts = np.unique(contexts * 256 + values, return_counts=True)
        starts = np.flatnonzero(np.r_[True, np.diff(self.keys // 256) > 0])
        self.contexts = self.keys[starts] // 256
        self.context_counts = np.add.reduceat(self.key_counts, starts)
        self.num_different = np.diff(np.r_[starts, len(self.keys)])

    def counts(self, contexts: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """n(c, v), n(c), and how many different values came after c."""
        of_value = _look_up(self.keys, self.key_counts, contexts * 256 + values)
        of_context = _look_up(self.contexts, self.context_counts, contexts)
        return of_value, of_context, _look_up(self.contexts, self.num_different, contexts)


def _look_up(keys: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, counts[places], 0)
