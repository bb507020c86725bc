"""The truth about generated images: entropy, log-probabilities, and posteriors of attributes given a part of an image.

Everything follows from one fact about layers. A pixel depends on the attributes of those layers alone that cover it for
some values, and lie before the last one that covers it entirely for all values. Attributes are taken block by block;
after each block some more pixels are determined by those so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nbflows.data.portraits.generator import NOISE, REACH, STEPS, Generator

if TYPE_CHECKING:
    from nbflows.tasks import Task

# Two renderings farther apart than this, in steps, never give the same value.
_APART = 2 * REACH + STEPS


class Truth:
    """The exact distribution of the images of a generator.

    Args:
        generator: what draws the images.
        blocks: pairs (told, also): all attributes in the order in which they can be told from the pixels that depend
            on those told before, on these, and on some that are also unknown.
    """

    def __init__(self, generator: Generator, blocks: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]):
        self.generator, self.attributes, self.blocks = generator, generator.attributes, blocks
        if sorted(name for told, _ in blocks for name in told) != sorted(self.attributes.names):
            raise ValueError(f"the blocks tell each attribute once, these are {blocks}")

    # --- entropy -----------------------------------------------------------------------------------------------------

    def entropy_bits_per_dim(self, ambiguity: float | None = None) -> tuple[float, float]:
        """Bounds of H(image) / D in bits, from below and from above; no model has fewer bits/dim on average.

        H(image) = H(a) + H(image | a) - H(a | image), for attributes a. The first is exact. In the second each value
        has the entropy of its noise, which depends, hardly, on the fraction of a grey level that is rendered.

        Args:
            ambiguity: H(a | image) in bits: 0 if no pair is ``indistinct``, or what ``ambiguity`` measures. By default
                all that is known of it is used for a proof: it is between 0 and H(a).
        """
        values = 3 * self.generator.size**2
        noise = [noise_entropy(fraction) for fraction in range(STEPS)]
        bits = self.attributes.entropy()
        least, most = (bits, 0.0) if ambiguity is None else (ambiguity, ambiguity)
        return min(noise) + (bits - least) / values, max(noise) + (bits - most) / values

    def ambiguity(self, images: Tensor) -> tuple[float, float]:
        """H(a | image) in bits: the mean over images of the generator, each exact, and its standard error.

        Raises:
            ValueError: the generator never draws one of the images.
        """
        entropies = []
        for image in images.cpu().numpy().reshape(len(images), 1, 3, -1):
            _, log_image, scores = self._search(_log_image, image, np.ones(image.shape[-1], bool))
            if len(scores) == 0:
                raise ValueError("an image has probability 0; give images of the generator")
            log_p = scores - log_image.item()
            entropies.append(-(np.exp(log_p) * log_p).sum() / math.log(2))
        return float(np.mean(entropies)), float(np.std(entropies) / len(entropies) ** 0.5)

    def indistinct(self) -> np.ndarray:
        """Pairs of combinations that no pixel tells apart, ``(N, 2, A)``, -1 for any value; none for a proof.

        Two different combinations differ in a first block. The pixels that are determined with it depend on nothing
        else that differs, so it is enough to compare its values, for all values of those before it that a pixel
        depends on. Those pairs that one pixel tells apart for certain need no further pixel.
        """
        failed, before = [np.empty((0, 2, len(self.attributes)), np.int8)], set()
        for told, also in self.blocks:
            pixels = self._determined(before | {*told, *also})
            groups = list(self._groups(pixels, {*told, *also}))
            choices, _ = self._extended(np.full((1, len(self.attributes)), -1, np.int8), told + also)
            first, second = np.triu_indices(len(choices), 1)
            columns = self.attributes.columns(told)
            differ = (choices[first][:, columns] != choices[second][:, columns]).any(1)
            pairs = np.stack([choices[first[differ]], choices[second[differ]]], 1)
            failed += self._alike(pairs, groups, {*told, *also})
            before |= set(told)
        return np.concatenate(failed)

    def _alike(self, pairs: np.ndarray, groups: list, known: set[str]) -> Iterator[np.ndarray]:
        """Yields the pairs that none of the groups of pixels tells apart for all values of what they depend on."""
        if not groups or len(pairs) == 0:
            yield pairs
            return
        (names, pixels), *others = groups
        # In parts: each pair is compared for thousands of values of the attributes before.
        for part in np.array_split(pairs, 1 + len(pairs) // 4096):
            part, _ = self._extended(part, tuple(name for name in names if name not in known))
            yield from self._alike(part[~self._apart(part, names, pixels)], others, known | set(names))

    def _apart(self, pairs: np.ndarray, names: tuple[str, ...], pixels: np.ndarray) -> np.ndarray:
        """Whether one of these pixels, which depend on these attributes, tells a pair apart whatever the noise."""
        rows, inverse = self._unique(pairs.reshape(-1, pairs.shape[-1]), names)
        rendered = self.generator.render(rows, pixels).reshape(len(rows), -1)
        chunks = np.array_split(inverse.reshape(-1, 2), 1 + len(pairs) // 2**14)
        return np.concatenate([(abs(rendered[i] - rendered[j]) > _APART).any(1) for i, j in (c.T for c in chunks)])

    def _unique(self, rows: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Rows that differ in some attributes, with -1 for all others, and which of them each given row is."""
        columns = self.attributes.columns(names)
        sizes = [len(self.attributes.values[name]) for name in names]
        numbers = (
            np.ravel_multi_index(tuple(rows[:, columns].T.astype(np.int64)), sizes)
            if names
            else np.zeros(len(rows), int)
        )
        numbers, inverse = np.unique(numbers, return_inverse=True)
        unique = np.full((len(numbers), len(self.attributes)), -1, np.int8)
        if names:
            unique[:, columns] = np.stack(np.unravel_index(numbers, sizes), 1)
        return unique, inverse.reshape(-1)

    def _groups(self, pixels: np.ndarray, block: set[str]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """Yields the pixels that depend on the block, grouped by all that they depend on, the smallest first."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for pixel in pixels:
            names = self._dependencies[pixel]
            if set(names) & block:
                groups.setdefault(names, []).append(pixel)
        for names in sorted(groups, key=lambda names: math.prod(len(self.attributes.values[name]) for name in names)):
            yield names, np.array(groups[names])

    @cached_property
    def _dependencies(self) -> list[tuple[str, ...]]:
        """The attributes that each pixel depends on."""
        found: list[set] = [set() for _ in range(self.generator.size**2)]
        for layer in self.generator.layers:
            for pixel in layer.opaque:
                found[pixel] = set()
            for axis, name in enumerate(layer.names):
                varies = (np.ptp(layer.table, axis=axis) > 0).reshape(-1, len(layer.where)).any(0)
                for pixel in layer.where[varies]:
                    found[pixel].add(name)
        return [tuple(name for name in self.attributes.names if name in names) for names in found]

    def _determined(self, known: set[str]) -> np.ndarray:
        """The pixels that depend on these attributes alone."""
        return np.array([i for i, names in enumerate(self._dependencies) if set(names) <= known], int)

    def _extended(self, rows: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Each row with all values of some attributes that are possible with it, and the number of that row.

        Args:
            rows: ``(N, A)``, or pairs ``(N, 2, A)``, which get the same values.
        """
        origin = np.arange(len(rows))
        for column, name in zip(self.attributes.columns(names), names, strict=True):
            count = len(self.attributes.values[name])
            rows, origin = np.repeat(rows, count, axis=0), np.repeat(origin, count)
            rows[..., column] = np.arange(len(rows)).reshape(-1, *[1] * (rows.ndim - 2)) % count
            possible = self.attributes.possible(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape[:-1])
            keep = possible.reshape(len(rows), math.prod(rows.shape[1:-1])).all(1)
            rows, origin = rows[keep], origin[keep]
        return rows, origin

    # --- probabilities -----------------------------------------------------------------------------------------------

    def log_prob(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p(image) in nats, float64 ``(N,)``; -inf for what the generator never draws.

        Args:
            images: uint8 ``(N, 3, size, size)``.
            labels: the attributes of the images, ``(N, A)``, which saves the search for them; log p(image, labels),
                the same number if they are right.
        """
        seen = images.cpu().numpy().reshape(len(images), 3, -1)
        if labels is not None:
            rows = labels.cpu().numpy()
            chunks = [
                _log_image(seen[i : i + 256], self.generator.render(rows[i : i + 256]))
                for i in range(0, len(rows), 256)
            ]
            return torch.from_numpy(self.attributes.log_prob(rows) + np.concatenate(chunks))
        everywhere = np.ones(seen.shape[-1], bool)
        return torch.stack([self._search(_log_image, image[None], everywhere)[1] for image in seen])

    def posterior(self, source: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """p(attributes | source): all combinations that are possible, and their probabilities.

        Returns:
            int64 ``(M, A)`` and float64 ``(M,)``, the likeliest first; M = 0 if no image has this source.

        Args:
            source: one source, as ``task.pair`` makes it, ``(C, size, size)``.
            task: ``Colorization`` or ``Inpainting``; both give some pixels, each alone.

        Raises:
            ValueError: another task; its sources mix the noise of several pixels.
        """
        size = self.generator.size
        seen, known = source.cpu().numpy().reshape(1, len(source), -1), np.ones(size**2, bool)
        if task.name not in ("colorization", "inpainting"):
            raise ValueError(f"the posterior is known for colorization and inpainting, not for {task}")
        if task.name == "inpainting":
            known = np.asarray(task.known(size, size)).reshape(-1)
        score = _log_image if task.name == "inpainting" else _log_grey
        rows, log_source, scores = self._search(score, seen, known)
        order = np.argsort(-scores, kind="stable")
        return torch.from_numpy(rows[order].astype(np.int64)), torch.from_numpy(
            np.exp(scores[order] - log_source.item())
        )

    def _search(self, score: Callable, seen: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """All possible combinations, log p(seen), and log p(seen, combination) for each.

        Noise reaches so far and no farther: most combinations give what is seen with probability 0, and are left out
        as soon as one pixel says so.
        """
        rows, scores, done = np.full((1, len(self.attributes)), -1, np.int8), np.zeros(1), np.empty(0, int)
        branched: set[str] = set()
        for told, also in self.blocks:
            rows, origin = self._extended(rows, tuple(name for name in told + also if name not in branched))
            scores, branched = scores[origin], branched | {*told, *also}
            pixels = self._determined(branched)
            new, done = np.setdiff1d(pixels, done), pixels
            for names, group in self._by_names(new[known[new]]):
                # Many rows differ in nothing that these pixels depend on.
                partial, inverse = self._unique(rows, names)
                parts = np.array_split(partial, 1 + len(partial) * len(group) // 2**16)
                found = [score(seen[..., group], self.generator.render(part, group)) for part in parts]
                scores = scores + np.concatenate(found)[inverse]
                rows, scores = rows[scores > -np.inf], scores[scores > -np.inf]
        scores = scores + self.attributes.log_prob(rows)
        rows, scores = rows[scores > -np.inf], scores[scores > -np.inf]
        return rows, torch.logsumexp(torch.from_numpy(scores), 0), scores

    def _by_names(self, pixels: np.ndarray) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        groups: dict[tuple[str, ...], list[int]] = {}
        for pixel in pixels:
            groups.setdefault(self._dependencies[pixel], []).append(pixel)
        return ((names, np.array(group)) for names, group in groups.items())


def noise_entropy(fraction: int) -> float:
    """H(round(r + noise)) in bits, for an r that is ``fraction`` steps above a whole grey level."""
    values = (np.arange(-REACH, REACH + 1) + fraction + STEPS // 2) >> 7
    p = np.bincount(values - values.min(), weights=NOISE)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


# P(noise < n) for n = -REACH, ..., REACH + 1.
_BELOW = np.concatenate([[0], np.cumsum(NOISE)])


def _between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """P(low <= noise < high)."""
    return _BELOW[np.clip(high + REACH, 0, 2 * REACH + 1)] - _BELOW[np.clip(low + REACH, 0, 2 * REACH + 1)]


def _log_image(seen: np.ndarray, rendered: np.ndarray) -> np.ndarray:
    """log P(round(r + noise) = x), summed over channels and pixels, ``(N, 3, P)`` to ``(N,)``."""
    low = STEPS * seen.astype(np.int64) - STEPS // 2 - rendered
    with np.errstate(divide="ignore"):
        return np.log(_between(low, low + STEPS)).sum((1, 2))


def _log_grey(seen: np.ndarray, rendered: np.ndarray) -> np.ndarray:
    """log P(grey(round(r + noise)) = x), summed over pixels: ``(1, 1 or 3, P)``, ``(N, 3, P)`` to ``(N,)``.

    For each red and blue that noise reaches, those greens count that give the grey level x, see ``pixels.grey``.
    """
    nearest = (rendered + STEPS // 2) >> 7
    far = np.arange(-5, 6)
    red, blue = ((nearest[:, channel, :, None] + far) for channel in (0, 2))
    chances = [
        _between(low, low + STEPS)
        for values, channel in ((red, 0), (blue, 2))
        for low in [STEPS * values - STEPS // 2 - rendered[:, channel, :, None]]
    ]
    rest = red[..., :, None] * 19595 + blue[..., None, :] * 7471 + 2**15
    level = seen[:, 0, :, None, None].astype(np.int64) << 16
    green = rendered[:, 1, :, None, None]
    # The first green that gives at least this grey level, and the first that gives the next.
    first, after = (-((rest - bound) // 38470) for bound in (level, level + 2**16))
    chance = _between(STEPS * first - STEPS // 2 - green, STEPS * after - STEPS // 2 - green)
    with np.errstate(divide="ignore"):
        return np.log(np.einsum("npr,npb,nprb->np", *chances, chance)).sum(1)
