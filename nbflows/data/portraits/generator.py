"""Images from attributes: layers over each other, and noise before values are rounded to grey levels."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product

import numpy as np

from nbflows.data.portraits.attributes import Attributes
from nbflows.data.portraits.drawing import Canvas

# What is rendered is in steps of 1/128 grey level. Noise is the sum of four bytes, less its mean; x = round(r + noise).
STEPS = 128
REACH = 510
_BYTE = np.full(256, 1 / 256)
NOISE = np.convolve(np.convolve(_BYTE, _BYTE), np.convolve(_BYTE, _BYTE))


@dataclass(frozen=True)
class Layer:
    """A layer, drawn for all values of its attributes.

    Attributes:
        names: its attributes.
        where: the pixels that it covers for some values, indices into height * width.
        table: ``(number of values of each attribute ..., 4, len(where))``: ``Canvas.pixels``.
    """

    names: tuple[str, ...]
    where: np.ndarray
    table: np.ndarray

    @property
    def opaque(self) -> np.ndarray:
        """Pixels of ``where`` that are covered entirely, whatever the values."""
        return self.where[(self.table[..., 3, :] == 0).reshape(-1, len(self.where)).all(0)]


class Generator:
    """Draws images of given attributes.

    image = round(r + noise),  r = render(attributes),  the noise independent for all pixels and channels.

    Args:
        attributes: names, values and probabilities.
        layers: functions that paint on a ``Canvas``, from back to front. Their other parameters are names of
            attributes; they are called with names of values, and see no others.
        size: height and width.
    """

    def __init__(self, attributes: Attributes, layers: tuple[Callable, ...], size: int):
        self.attributes, self.functions, self.size = attributes, layers, size

    @cached_property
    def layers(self) -> list[Layer]:
        return [self._drawn(function) for function in self.functions]

    def _drawn(self, function: Callable) -> Layer:
        names = tuple(inspect.signature(function).parameters)[1:]
        choices = [self.attributes.values[name] for name in names]
        drawn = []
        for values in product(*choices):
            canvas = Canvas(max(4 * self.size, 128))
            function(canvas, *values)
            drawn.append(_shrunk(canvas.pixels, self.size).reshape(-1, 4).T)
        table = np.stack(drawn)
        where = np.flatnonzero((table[:, 3] != 1).any(0))
        table = np.ascontiguousarray(table[:, :, where])
        return Layer(names, where, table.reshape(*map(len, choices), 4, len(where)))

    def render(self, labels: np.ndarray, pixels: np.ndarray | None = None) -> np.ndarray:
        """Draws without noise, in steps of 1/128 grey level, int32 ``(N, 3, P)``.

        Args:
            labels: ``(N, A)``.
            pixels: indices of pixels, sorted; by default all P = size^2. Attributes that do not touch them may be -1.
        """
        pixels = np.arange(self.size**2) if pixels is None else pixels
        canvas = np.zeros((len(labels), 3, len(pixels)), np.float32)
        for layer in self.layers:
            _, inside, columns = np.intersect1d(pixels, layer.where, assume_unique=True, return_indices=True)
            if len(inside) == 0:
                continue
            # Often all pixels of the layer are asked for; then nothing needs to be picked.
            table = layer.table if len(columns) == len(layer.where) else layer.table[..., columns]
            drawn = table[tuple(labels[:, self.attributes.columns(layer.names)].T)]
            canvas[:, :, inside] = canvas[:, :, inside] * drawn[:, 3:] + drawn[:, :3]
        return np.rint(canvas * np.float32(STEPS)).astype(np.int32)

    def labels(self, num_images: int, seed: int = 0, first: int = 0) -> np.ndarray:
        """Attributes of the images ``first`` to ``first + num_images - 1``, int64 ``(N, A)``."""
        # A counter gives four words.
        blocks = -(-len(self.attributes) // 4)
        words = np.random.Philox(key=[seed, 0], counter=first * blocks).random_raw(num_images * blocks * 4)
        return self.attributes.draw(words.reshape(num_images, -1)[:, : len(self.attributes)])

    def images(self, labels: np.ndarray, seed: int = 0, first: int = 0) -> np.ndarray:
        """Images with these attributes, uint8 ``(N, 3, size, size)``; image i is a function of seed, i and labels."""
        values = 3 * self.size**2
        # Four bytes of noise a value, 32 a counter.
        blocks = -(-values // 8)
        result = np.empty((len(labels), 3, self.size, self.size), np.uint8)
        for start in range(0, len(labels), 256):
            part = labels[start : start + 256]
            random = np.random.Philox(key=[seed, self.size], counter=(first + start) * blocks)
            bytes_ = random.random_raw(len(part) * blocks * 4).astype("<u8").view(np.uint8).reshape(len(part), -1, 4)
            noise = bytes_[:, :values].sum(-1, dtype=np.int32).reshape(len(part), 3, -1) - REACH
            rendered = self.render(part) + noise + STEPS // 2
            result[start : start + 256] = (rendered >> 7).reshape(-1, 3, self.size, self.size)
        return result


def _shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    """Means over squares, ``(size, size, 4)``; added one after the other, so that they are rounded alike everywhere."""
    times = len(pixels) // size
    rows = reduce(np.add, [pixels[i::times] for i in range(times)])
    return reduce(np.add, [rows[:, i::times] for i in range(times)]) / np.float32(times * times)
