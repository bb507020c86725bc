"""Asymmetric numeral systems: symbols to bits and back, at the length that their probabilities allow."""

import hashlib
import math
from dataclasses import dataclass

# Frequencies of a Gaussian's cells add up to 2^48. Five bits are left of the 53 of a float64, for rounding.
PRECISION = 48


@dataclass(frozen=True)
class DiscreteGaussian:
    """N(mean, std^2) on the integers low, ..., low + size - 1, as frequencies that add up to 2^48.

    The integers are taken in cells of a power of two, at most std / 1024 wide or one integer; within a cell all are
    equally probable. With N cells, the first c of them have 2c + floor((2^48 - 2N) Phi) of the frequencies, Phi the
    Gaussian's distribution function at the edge. All that lies beyond the first and the last cell is theirs.

    Raises:
        ValueError: mean or std is not finite, std is not positive, or there are more than 2^46 cells.
    """

    mean: float
    std: float
    low: int
    size: int

    def __post_init__(self):
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf and 0 < self.num_cells <= 2 ** (PRECISION - 2)):
            raise ValueError(f"no code for N({self.mean}, {self.std}^2) on {self.size} integers")

    @property
    def cell_bits(self) -> int:
        """log2 of the integers in a cell; over one the density changes so little that equal shares cost 1e-7 bits."""
        return max(0, math.frexp(self.std)[1] - 11)

    @property
    def num_cells(self) -> int:
        """N, the last cell filled up."""
        return -(-self.size >> self.cell_bits)

    def cumulative(self, cell: int) -> int:
        """The frequencies of all cells before this one, added up."""
        if cell <= 0 or cell >= self.num_cells:
            return 0 if cell <= 0 else 1 << PRECISION
        edge = self.low + (cell << self.cell_bits) - 0.5
        phi = 0.5 * math.erfc((self.mean - edge) / (self.std * math.sqrt(2)))
        # Two for each cell, not one: rounding may let erfc fall where it should rise, after scaling by less than 1,
        # which takes at most 1 away. So every cell keeps a frequency of at least 1, and has a code.
        return 2 * cell + math.floor(((1 << PRECISION) - 2 * self.num_cells) * phi)

    def interval(self, cell: int) -> tuple[int, int]:
        """Start and frequency of a cell."""
        start = self.cumulative(cell)
        return start, self.cumulative(cell + 1) - start

    def cell_at(self, slot: int) -> int:
        """The cell whose interval holds a number in 0..2^48 - 1."""
        first, beyond = 0, self.num_cells
        while beyond - first > 1:
            middle = (first + beyond) // 2
            first, beyond = (middle, beyond) if self.cumulative(middle) <= slot else (first, middle)
        return first


class Bits:
    """A stack of bits in one integer, the state of an asymmetric numeral system: last in, first out.

    Pushing a symbol of probability frequency / 2^precision makes the state longer by -log2 of it, in bits. Popping is
    the exact inverse; from random bits it draws the symbol with that probability.

    Args:
        state: the integer. As it runs out, what is popped is still pushed back exactly, but is not random any more.

    Source: Duda, "Asymmetric numeral systems", 2013, section 3 (arXiv:1311.2540).
    """

    def __init__(self, state: int):
        self.state = state

    @classmethod
    def random(cls, num_bits: int, seed: int) -> "Bits":
        """Bits to begin with: exactly so many, the same on every machine."""
        stream = hashlib.shake_256(f"nbflows {seed}".encode()).digest((num_bits + 7) // 8)
        return cls(int.from_bytes(stream, "little") % (1 << num_bits - 1) | 1 << num_bits - 1)

    def __len__(self) -> int:
        return self.state.bit_length()

    def push(self, start: int, frequency: int, precision: int) -> None:
        """Adds a symbol that owns start, ..., start + frequency - 1 of the 2^precision numbers."""
        self.state = (self.state // frequency << precision) + self.state % frequency + start

    def peek(self, precision: int) -> int:
        """A number that the symbol on top owns."""
        return self.state & (1 << precision) - 1

    def pop(self, start: int, frequency: int, precision: int) -> None:
        """Takes that symbol off."""
        self.state = frequency * (self.state >> precision) + self.peek(precision) - start

    def push_uniform(self, value: int, num_bits: int) -> None:
        """Adds a number in 0..2^num_bits - 1."""
        self.push(value, 1, num_bits)

    def pop_uniform(self, num_bits: int) -> int:
        """Takes one off."""
        value = self.peek(num_bits)
        self.pop(value, 1, num_bits)
        return value

    def push_gaussian(self, value: int, gaussian: DiscreteGaussian) -> None:
        """Adds an integer. Raises ValueError if the Gaussian has none such."""
        offset, bits = value - gaussian.low, gaussian.cell_bits
        if not 0 <= offset < gaussian.num_cells << bits:
            raise ValueError(f"{value} is not among the {gaussian.size} integers from {gaussian.low} on")
        self.push_uniform(offset & (1 << bits) - 1, bits)
        self.push(*gaussian.interval(offset >> bits), PRECISION)

    def pop_gaussian(self, gaussian: DiscreteGaussian) -> int:
        """Takes one off."""
        cell = gaussian.cell_at(self.peek(PRECISION))
        self.pop(*gaussian.interval(cell), PRECISION)
        return gaussian.low + (cell << gaussian.cell_bits) + self.pop_uniform(gaussian.cell_bits)
