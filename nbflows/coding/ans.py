"""Asymmetric numeral systems: symbols to bits and back, at the length given by their probabilities."""

import hashlib
import math
from dataclasses import dataclass

# The frequencies of a Gaussian's cells add up to 2^48. This leaves 5 of the 53 bits of a float64 for rounding.
PRECISION = 48


@dataclass(frozen=True)
class DiscreteGaussian:
    """N(mean, std^2) on the integers low, ..., low + size - 1, as frequencies that add up to 2^48.

    The integers are grouped in cells of a power of two, at most std / 1024 wide or one integer; within a cell all are
    equally probable. The first c of N cells have 2c + floor((2^48 - 2N) Phi) of the frequencies, with Phi the
    Gaussian's distribution function at the edge. The tails belong to the first and the last cell.

    Raises:
        ValueError: mean or std is not finite, std is not positive, or there are more than 2^46 cells.
    """

    mean: float
    std: float
    low: int
    size: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf and 0 < self.num_cells <= 2 ** (PRECISION - 2)):
            raise ValueError(f"no code for N({self.mean}, {self.std}^2) on {self.size} integers")

    @property
    def cell_bits(self) -> int:
        """log2 of the number of integers per cell; equal probabilities within a cell cost only 1e-7 bits."""
        return max(0, math.frexp(self.std)[1] - 11)

    @property
    def num_cells(self) -> int:
        """N, including a last cell that may be partly used."""
        return -(-self.size >> self.cell_bits)

    def cumulative(self, cell: int) -> int:
        """Returns the sum of the frequencies of all earlier cells."""
        if cell <= 0 or cell >= self.num_cells:
            return 0 if cell <= 0 else 1 << PRECISION
        edge = self.low + (cell << self.cell_bits) - 0.5
        phi = 0.5 * math.erfc((self.mean - edge) / (self.std * math.sqrt(2)))
        # Each cell gets two: through rounding erfc may fall where it should rise, after scaling by less than 1, which
        # takes away at most 1. So every cell keeps a frequency of at least 1 and has a code.
        return 2 * cell + math.floor(((1 << PRECISION) - 2 * self.num_cells) * phi)

    def interval(self, cell: int) -> tuple[int, int]:
        """Returns start and frequency of a cell."""
        start = self.cumulative(cell)
        return start, self.cumulative(cell + 1) - start

    def cell_at(self, slot: int) -> int:
        """Returns the cell whose interval contains a number in 0..2^48 - 1."""
        first, beyond = 0, self.num_cells
        while beyond - first > 1:
            middle = (first + beyond) // 2
            first, beyond = (middle, beyond) if self.cumulative(middle) <= slot else (first, middle)
        return first


class Bits:
    """A stack of bits in one integer, the state of an asymmetric numeral system: last in, first out.

    Pushing a symbol of probability p = frequency / 2^precision makes the state -log2 p bits longer. Popping is the
    exact inverse; from random bits it draws the symbol with probability p.

    Args:
        state: the integer. When it runs out, popped symbols can still be pushed back exactly but are no longer random.

    Source: Duda, "Asymmetric numeral systems", 2013, section 3 (arXiv:1311.2540).
    """

    def __init__(self, state: int):
        self.state = state

    @classmethod
    def random(cls, num_bits: int, seed: int) -> "Bits":
        """Returns exactly ``num_bits`` random bits to start from, the same on every machine."""
        stream = hashlib.shake_256(f"nbflows {seed}".encode()).digest((num_bits + 7) // 8)
        return cls(int.from_bytes(stream, "little") % (1 << num_bits - 1) | 1 << num_bits - 1)

    def __len__(self) -> int:
        return self.state.bit_length()

    def push(self, start: int, frequency: int, precision: int) -> None:
        """Pushes a symbol that owns start, ..., start + frequency - 1 of the 2^precision numbers."""
        self.state = (self.state // frequency << precision) + self.state % frequency + start

    def peek(self, precision: int) -> int:
        """Returns a number that the symbol on top owns."""
        return self.state & (1 << precision) - 1

    def pop(self, start: int, frequency: int, precision: int) -> None:
        """Pops the symbol on top."""
        self.state = frequency * (self.state >> precision) + self.peek(precision) - start

    def push_uniform(self, value: int, num_bits: int) -> None:
        """Pushes a number in 0..2^num_bits - 1."""
        self.push(value, 1, num_bits)

    def pop_uniform(self, num_bits: int) -> int:
        """Pops a number in 0..2^num_bits - 1."""
        value = self.peek(num_bits)
        self.pop(value, 1, num_bits)
        return value

    def push_gaussian(self, value: int, gaussian: DiscreteGaussian) -> None:
        """Pushes an integer. Raises ValueError if it is outside the Gaussian's range."""
        offset, bits = value - gaussian.low, gaussian.cell_bits
        if not 0 <= offset < gaussian.num_cells << bits:
            raise ValueError(f"{value} is not among the {gaussian.size} integers from {gaussian.low} on")
        self.push_uniform(offset & (1 << bits) - 1, bits)
        self.push(*gaussian.interval(offset >> bits), PRECISION)

    def pop_gaussian(self, gaussian: DiscreteGaussian) -> int:
        """Pops an integer of this Gaussian."""
        cell = gaussian.cell_at(self.peek(PRECISION))
        self.pop(*gaussian.interval(cell), PRECISION)
        return gaussian.low + (cell << gaussian.cell_bits) + self.pop_uniform(gaussian.cell_bits)
