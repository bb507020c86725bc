"""Symbols to bits and back: exact partitions, and lengths that are the information of the symbols."""

import math
import random

import pytest
import torch
from torch.distributions import Normal

from nbflows.coding import Bits, DiscreteGaussian, ans
from nbflows.coding.ans import PRECISION

# Of a state of 100 bits and more, bit_length is log2 rounded up: a difference of two is off by less than 1.
LENGTH_ERROR = 1


def _within_four_errors(values, expected=0.0):
    return abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(len(values))


# --- symbols ----------------------------------------------------------------------------------------------------------


def test_symbols_come_back_last_in_first_out_and_leave_the_bits_as_they_were():
    rng, bits = random.Random(0), Bits.random(100, 0)
    before, pushed = bits.state, []
    for _ in range(500):
        precision = rng.randint(1, 60)
        start = rng.randrange(1 << precision)
        pushed.append((start, rng.randint(1, (1 << precision) - start), precision))
        bits.push(*pushed[-1])
    for start, frequency, precision in reversed(pushed):
        assert start <= bits.peek(precision) < start + frequency
        bits.pop(start, frequency, precision)
    assert bits.state == before


@pytest.mark.parametrize("state", [0, 1, 12345, (1 << 200) + 17])
def test_what_is_popped_is_pushed_back_exactly_even_when_the_bits_run_out(state):
    bits, gaussian = Bits(state), DiscreteGaussian(0.3, 5.0, -40, 80)
    popped = [(bits.pop_uniform(13), bits.pop_gaussian(gaussian)) for _ in range(20)]
    for uniform, normal in reversed(popped):
        bits.push_gaussian(normal, gaussian)
        bits.push_uniform(uniform, 13)
    assert bits.state == state


def test_the_coded_length_is_the_information_of_the_symbols_and_so_near_their_entropy():
    frequencies = [1, 3, 60, 192]
    starts = [0, 1, 4, 64]
    symbols = random.Random(0).choices(range(4), frequencies, k=4000)
    bits = Bits.random(200, 0)
    for symbol in symbols:
        bits.push(starts[symbol], frequencies[symbol], 8)
    information = torch.tensor([8 - math.log2(f) for f in frequencies]).double()
    each = information[torch.tensor(symbols)]
    assert abs(len(bits) - 200 - each.sum().item()) < LENGTH_ERROR
    entropy = sum(f / 256 * (8 - math.log2(f)) for f in frequencies)
    assert _within_four_errors(each, entropy)


def test_random_bits_are_of_the_length_asked_for_and_repeat_with_their_seed():
    for length in (1, 8, 97, 1000):
        assert len(Bits.random(length, 3)) == length
    assert Bits.random(500, 3).state == Bits.random(500, 3).state != Bits.random(500, 4).state
    # For ever: messages are read with them.
    assert Bits.random(32, 0).state == 0xDDA92B75


# --- Gaussians --------------------------------------------------------------------------------------------------------

GAUSSIANS = {
    "narrow": DiscreteGaussian(0.3, 2.0, -9, 20),
    "within one integer": DiscreteGaussian(100.2, 0.01, 95, 10),
    "on the edge between two": DiscreteGaussian(0.5, 1e-9, 0, 2),
    "below its support": DiscreteGaussian(-1e12, 1.0, 0, 64),
    "above its support": DiscreteGaussian(1e12, 1.0, 0, 64),
    "on one integer": DiscreteGaussian(7.0, 3.0, 7, 1),
    "in cells": DiscreteGaussian(777.7, 5000.0, -2000, 6001),
    "with empty tails": DiscreteGaussian(0.0, 4.0, -2000, 4000),
}


@pytest.mark.parametrize("gaussian", GAUSSIANS.values(), ids=GAUSSIANS)
def test_the_frequencies_are_a_partition_in_which_every_integer_has_a_code(gaussian):
    intervals = [gaussian.interval(cell) for cell in range(gaussian.num_cells)]
    assert intervals[0][0] == 0 and sum(intervals[-1]) == 1 << PRECISION
    assert all(frequency >= 1 for _, frequency in intervals)
    assert all(sum(intervals[i]) == intervals[i + 1][0] for i in range(len(intervals) - 1))
    for cell, (start, frequency) in enumerate(intervals):
        assert gaussian.cell_at(start) == gaussian.cell_at(start + frequency - 1) == cell
    for value in range(gaussian.low, gaussian.low + gaussian.size):
        bits = Bits.random(100, value + 5000)
        before = bits.state
        bits.push_gaussian(value, gaussian)
        assert bits.pop_gaussian(gaussian) == value and bits.state == before


def test_erfc_may_be_off_by_rounding_errors_without_taking_an_integers_code(monkeypatch):
    exact, signs = math.erfc, random.Random(0)
    # Five ulp of the largest value, 2, either way: worse than libraries promise.
    monkeypatch.setattr(ans.math, "erfc", lambda t: exact(t) + signs.choice([-5, 5]) * 2.0**-52)
    gaussian = GAUSSIANS["with empty tails"]
    starts = [gaussian.cumulative(cell) for cell in range(1, gaussian.num_cells)]
    assert min(after - before for before, after in zip([0, *starts], [*starts, 1 << PRECISION], strict=True)) >= 1


@pytest.mark.parametrize("name", ["narrow", "in cells", "with empty tails"])
def test_the_frequencies_are_those_of_the_gaussian(name):
    gaussian = GAUSSIANS[name]
    cells = range(1, gaussian.num_cells - 1)
    edges = torch.tensor([gaussian.low + (cell << gaussian.cell_bits) - 0.5 for cell in [*cells, cells[-1] + 1]])
    mean = torch.tensor(gaussian.mean).double().fill_(gaussian.mean)
    expected = Normal(mean, gaussian.std).cdf(edges.double()).diff() * 2.0**PRECISION
    # 2 for the cell, of which 2N in all are taken from the Gaussian; 1 for the floor; rounding of both sides' cdf.
    allowed = 3 + 2 * gaussian.num_cells * expected / 2.0**PRECISION + 4 * 2.0 ** (PRECISION - 52)
    frequencies = torch.tensor([gaussian.interval(cell)[1] for cell in cells]).double()
    assert ((frequencies - expected).abs() <= allowed).all()


@pytest.mark.parametrize("std", [3.0, 3e5])
def test_random_bits_pop_the_gaussian_itself(std):
    gaussian = DiscreteGaussian(0.25 * std, std, math.floor(-16 * std), math.ceil(32 * std))
    bits = Bits.random(200_000, 0)
    values = torch.tensor([bits.pop_gaussian(gaussian) for _ in range(3000)]).double() / std
    # An integer adds the variance of its bin.
    variance = 1 + 1 / (12 * std**2)
    assert _within_four_errors(values, 0.25)
    assert _within_four_errors((values - 0.25).square(), variance)
    # What has gone is the information of what came: 3000 draws of the entropy of a Gaussian.
    entropy = 0.5 * math.log2(2 * math.pi * math.e * std**2)
    error = math.log2(math.e) * math.sqrt(0.5 * 3000)
    assert abs(200_000 - len(bits) - 3000 * entropy) < 4 * error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((math.nan, 1.0, 0, 4), "no code for N.nan"),
        ((math.inf, 1.0, 0, 4), "no code for N.inf"),
        ((0.0, 0.0, 0, 4), "no code"),
        ((0.0, math.inf, 0, 4), "no code"),
        ((0.0, 1.0, 0, 0), "on 0 integers"),
        ((0.0, 1.0, 0, 2**47), "no code"),
    ],
)
def test_gaussians_that_cannot_be_coded_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiscreteGaussian(*arguments)


@pytest.mark.parametrize("value", [-10, 11])
def test_a_value_without_a_code_is_refused(value):
    with pytest.raises(ValueError, match=rf"{value} is not among the 20 integers from -9 on"):
        Bits(1).push_gaussian(value, GAUSSIANS["narrow"])
