"""Interleaved asymmetric numeral systems: arrays of symbols to bytes, at the length that their frequencies give."""

import numpy as np

from nbflows.coding.exact import PRECISION

# A state holds 32 to 64 bits; 32 are written at a time. Symbol i of a row belongs to state i mod the number of lanes:
# more lanes are faster, and each costs 6 bytes.
_MOST_LANES, _SYMBOLS_A_LANE = 128, 16
_LOW = np.uint64(1) << np.uint64(32)
_WORD, _SHIFT = np.uint64(32), np.uint64(PRECISION)
_MASK = np.uint64(2**PRECISION - 1)


def encode(starts: np.ndarray, counts: np.ndarray) -> bytes:
    """Codes symbols that own ``counts`` of 2^24 numbers from ``starts`` on.

    Args:
        starts, counts: uint64 ``(T, N)``; row t of all N sequences is decoded before row t + 1.

    Source: Duda, "Asymmetric numeral systems", 2013 (arXiv:1311.2540); Giesen, "Interleaved entropy coders", 2014
    (arXiv:1402.3392).
    """
    lanes = _lanes(starts.shape[1])
    states = np.full(lanes, _LOW)
    words: list[np.ndarray] = []
    for row in range(len(starts) - 1, -1, -1):
        for first in reversed(range(0, starts.shape[1], lanes)):
            start, count = starts[row, first : first + lanes], counts[row, first : first + lanes]
            own = states[: len(start)]
            full = own >= count << np.uint64(64 - PRECISION)
            words.append(own[full].astype("<u4")[::-1])
            own = np.where(full, own >> _WORD, own)
            states[: len(start)] = (own // count << _SHIFT) + own % count + start
    return states.astype("<u8").tobytes() + np.concatenate(words)[::-1].tobytes()


def _lanes(num_sequences: int) -> int:
    return max(1, min(_MOST_LANES, num_sequences // _SYMBOLS_A_LANE))


class Decoder:
    """Reads what ``encode`` wrote, row by row.

    Args:
        content: the bytes.
        num_sequences: N.

    Raises:
        ValueError: the bytes end too early.
    """

    def __init__(self, content: bytes, num_sequences: int):
        lanes = _lanes(num_sequences)
        if len(content) < 8 * lanes or (len(content) - 8 * lanes) % 4:
            raise ValueError("the code is too short")
        self.states = np.frombuffer(content, "<u8", lanes).astype(np.uint64)
        self.words = np.frombuffer(content, "<u4", offset=8 * lanes).astype(np.uint64)
        self.position, self.num_sequences = 0, num_sequences

    def row(self, cumulative: np.ndarray) -> np.ndarray:
        """Returns the next symbol of each sequence, int64 ``(N,)``.

        Args:
            cumulative: uint64 ``(N, K + 1)``, the starts of the K symbols, and 2^24 at the end.
        """
        found = []
        for first in range(0, self.num_sequences, len(self.states)):
            table = cumulative[first : first + len(self.states)]
            own = self.states[: len(table)]
            slot = own & _MASK
            symbol = (table[:, 1:] <= slot[:, None]).sum(1)
            rows = np.arange(len(table))
            start = table[rows, symbol]
            own = (table[rows, symbol + 1] - start) * (own >> _SHIFT) + slot - start
            empty = own < _LOW
            count = int(empty.sum())
            if self.position + count > len(self.words):
                raise ValueError("the code ends too early")
            own[empty] = (own[empty] << _WORD) | self.words[self.position : self.position + count]
            self.position += count
            self.states[: len(table)] = own
            found.append(symbol)
        return np.concatenate(found)

    def at_end(self) -> bool:
        """Whether all is read, and all states are those that ``encode`` began with."""
        return self.position == len(self.words) and bool((self.states == _LOW).all())
