"""Interleaved numeral systems give symbols back, at the length of their frequencies."""

import numpy as np
import pytest

from nbflows.coding import rans
from nbflows.coding.exact import PRECISION


def drawn(num_rows, num_sequences, num_symbols=7, seed=0):
    """Tables (T, N, K + 1) and symbols drawn from them."""
    generator = np.random.default_rng(seed)
    weights = generator.exponential(size=(num_rows, num_sequences, num_symbols)) ** 4
    counts = (weights / weights.sum(-1, keepdims=True) * (2**PRECISION - num_symbols)).astype(np.uint64) + 1
    counts[..., -1] += 2**PRECISION - counts.sum(-1)
    tables = np.concatenate([np.zeros((num_rows, num_sequences, 1), np.uint64), counts.cumsum(-1)], -1)
    slots = generator.integers(0, 2**PRECISION, (num_rows, num_sequences), dtype=np.uint64)
    return tables.astype(np.uint64), (tables[..., 1:] <= slots[..., None]).sum(-1)


def coded(tables, symbols):
    starts = np.take_along_axis(tables, symbols[..., None], -1)[..., 0]
    ends = np.take_along_axis(tables, symbols[..., None] + 1, -1)[..., 0]
    return rans.encode(starts, ends - starts), -np.log2((ends - starts) / 2**PRECISION).sum()


@pytest.mark.parametrize("num_sequences", [1, 15, 16, 33, 500, 5000])
def test_symbols_come_back_and_cost_their_probability(num_sequences):
    tables, symbols = drawn(12, num_sequences)
    content, bits = coded(tables, symbols)
    decoder = rans.Decoder(content, num_sequences)
    assert all(np.array_equal(decoder.row(table), row) for table, row in zip(tables, symbols, strict=True))
    assert decoder.at_end()
    # A state holds 64 bits, of which the first 32 code nothing; a symbol loses less than 2^-8 bits by rounding.
    lanes = len(decoder.states)
    assert bits - 1 <= 8 * len(content) <= bits + 64 * lanes + symbols.size * 2.0**-8


def test_symbols_of_frequency_one_and_of_almost_all_come_back():
    table = np.array([0, 1, 2**PRECISION - 1, 2**PRECISION], np.uint64)
    symbols = np.array([[0], [1], [2], [1], [0]] * 40)
    content, _ = coded(np.tile(table, (len(symbols), 1, 1)), symbols)
    decoder = rans.Decoder(content, 1)
    assert [decoder.row(table[None])[0] for _ in symbols] == symbols[:, 0].tolist() and decoder.at_end()


def test_a_code_that_ends_early_is_refused():
    tables, symbols = drawn(12, 100)
    content, _ = coded(tables, symbols)
    for short in (content[:10], content[:-3]):
        with pytest.raises(ValueError, match="too short"):
            rans.Decoder(short, 100)
    decoder = rans.Decoder(content[:-40], 100)
    with pytest.raises(ValueError, match="ends too early"):
        for table in tables:
            decoder.row(table)
