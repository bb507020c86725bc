"""The fixed point: every example on its own until its real step is small, or an error that says how it went."""

import math
import re
from itertools import pairwise

import pytest
import torch

from nbflows.layers import solve_fixed_point

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


class _Linear:
    """f(x) = A x + b of known contraction and fixed point; counts the rows that it sees."""

    def __init__(self, lipschitz, num_examples, dtype=torch.float64, num_features=12):
        torch.manual_seed(0)
        q = torch.linalg.qr(torch.randn(num_examples, num_features, num_features, dtype=dtype))[0]
        lipschitz = torch.as_tensor(lipschitz, dtype=dtype).expand(num_examples)
        # Symmetric, with eigenvalues spread over -L..L.
        spectrum = torch.linspace(-1, 1, num_features, dtype=dtype)
        self.a = q @ torch.diag_embed(spectrum * lipschitz[:, None]) @ q.mT
        self.b = torch.randn(num_examples, num_features, dtype=dtype)
        self.solution = torch.linalg.solve(torch.eye(num_features, dtype=dtype) - self.a, self.b[:, :, None])[:, :, 0]
        self.seen = []

    def __call__(self, x, rows):
        self.seen.append(rows.tolist())
        return (self.a[rows] @ x[:, :, None])[:, :, 0] + self.b[rows]


@BOTH
@pytest.mark.parametrize("window", [0, 1, 3, 8])
@pytest.mark.parametrize("lipschitz", [0.0, 0.5, 0.9])
def test_the_solution_is_as_near_as_documented(lipschitz, window, dtype):
    for tolerance in (1e-3, 1e-5, None):
        f = _Linear(lipschitz, 5, dtype)
        x = solve_fixed_point(f, torch.zeros(5, 12, dtype=dtype), tolerance, window=window)
        step = 64 * torch.finfo(dtype).eps if tolerance is None else tolerance
        moved = (f(x, torch.arange(5)) - x).abs().amax(1)
        allowed = step * f.solution.abs().amax(1).clamp(min=1) * (1 + step)
        # Another application shrinks the last step, up to the rounding of 13 terms. In the largest entry A is
        # contracting only up to the root of the number of entries.
        rounding = 13 * torch.finfo(dtype).eps * f.solution.abs().amax(1).clamp(min=1)
        assert (moved <= 12**0.5 * (lipschitz * allowed + rounding)).all()
        error = (x - f.solution).norm(dim=1)
        assert (error <= 12**0.5 * (lipschitz / (1 - lipschitz) * allowed + 4 / (1 - lipschitz) * rounding)).all()


def test_the_tolerance_is_that_of_the_step_and_not_of_its_square():
    # A step of 1e-3 where the tolerance is 1e-5: the original, which squares it, would stop.
    steps = [1.0, 1e-2, 1e-3, 1e-4, 9e-6, 1e-9]
    seen = []

    def f(x, rows):
        seen.append(x.item())
        return x + steps[len(seen) - 1]

    solve_fixed_point(f, torch.zeros(1, 1, dtype=torch.float64), tolerance=1e-5)
    assert len(seen) == 5


def test_the_tolerance_is_relative_for_numbers_above_1_and_absolute_below():
    for size, num_steps in ((1e-3, 2), (1.0, 2), (1e4, 1)):
        seen = []

        def f(x, rows, seen=seen):
            seen.append(1)
            # The first step is 5e-4: below 1e-3 times 1e4 only if that counts.
            return x + (5e-4 if len(seen) == 1 else 1e-9)

        solve_fixed_point(f, torch.full((1, 1), size, dtype=torch.float64), tolerance=1e-4)
        assert len(seen) == num_steps


@pytest.mark.parametrize("window", [0, 4])
def test_an_example_that_is_done_is_not_looked_at_again(window):
    f = _Linear([0.0, 0.9, 0.3, 0.97, 0.6], 5)
    x = solve_fixed_point(f, torch.zeros(5, 12, dtype=torch.float64), 1e-8, window=window)
    together, counts = f.seen, [sum(row in rows for rows in f.seen) for row in range(5)]
    assert counts[0] == 2 and counts[0] < counts[2] < counts[4] < counts[1] < counts[3] == len(together)
    # Rows only leave, and those left keep their order.
    assert all(set(b) <= set(a) and b == sorted(b) for a, b in pairwise(together))
    for row in range(5):
        alone = _Linear([0.0, 0.9, 0.3, 0.97, 0.6], 5)
        result = solve_fixed_point(
            lambda x, rows, row=row, alone=alone: alone(x, rows + row), torch.zeros(1, 12).double(), 1e-8, window=window
        )
        # No example sees another: in rounding at most, which a batched product may order differently.
        assert abs(len(alone.seen) - counts[row]) <= (0 if window == 0 else 1)
        assert (result[0] - x[row]).abs().max() < 1e-6
    assert (x - f.solution).norm(dim=1).max() < 12**0.5 * 0.97 / 0.03 * 1e-8 * f.solution.abs().max()


@BOTH
def test_anderson_acceleration_needs_far_fewer_steps_on_a_slow_contraction(dtype):
    tolerance = 1e-5
    plain, accelerated = (_Linear(0.98, 4, dtype) for _ in range(2))
    start = torch.zeros(4, 12, dtype=dtype)
    x = solve_fixed_point(plain, start, tolerance)
    y = solve_fixed_point(accelerated, start, tolerance, window=5)
    # Plain steps: to shrink the first one to the tolerance takes log(1e-5) / log(0.98) of them.
    assert len(plain.seen) > 0.5 * math.log(tolerance) / math.log(0.98)
    assert len(accelerated.seen) < len(plain.seen) / 4
    bound = 2 * 12**0.5 * 0.98 / 0.02 * tolerance * plain.solution.abs().amax(1).clamp(min=1)
    assert ((x - y).norm(dim=1) <= bound).all()


@pytest.mark.parametrize("window", [1, 4])
def test_anderson_acceleration_survives_steps_that_are_parallel_or_repeat(window):
    # One dimension: all steps are parallel, and the Gram matrix is singular.
    x = solve_fixed_point(lambda x, rows: 0.9 * x + 1, torch.zeros(3, 1, dtype=torch.float64), 1e-10, window=window)
    assert (x - 10).abs().max() < 10 * 0.9 / 0.1 * 1e-10
    # A map that has a kink, so that a linear model of it is wrong.
    x = solve_fixed_point(lambda x, rows: 0.95 * x.sin().abs() - 3, torch.zeros(2, 1).double(), 1e-10, window=window)
    assert (x - (0.95 * x.sin().abs() - 3)).abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (4, 5), (4, 1)])
def test_any_shape_is_kept_and_the_start_stays_as_it_was(shape):
    start = torch.randn(shape)
    before = start.clone()
    for window in (0, 2):
        x = solve_fixed_point(lambda x, rows: 0.5 * x + 1, start, window=window)
        assert x.shape == shape and (x - 2).abs().max() < 1e-4 and torch.equal(start, before)


def test_an_empty_batch_has_an_empty_solution():
    x = solve_fixed_point(lambda x, rows: 0.5 * x, torch.zeros(0, 3))
    assert x.shape == (0, 3)


@pytest.mark.parametrize("window", [0, 3])
def test_a_map_that_expands_is_an_error_with_the_numbers(window):
    slopes = torch.tensor([0.5, 1.5, 0.1, 1.5])[:, None]
    with pytest.raises(RuntimeError) as error:
        solve_fixed_point(
            # Nonlinear, or acceleration would find its fixed point, which repels.
            lambda x, rows: (slopes[rows] * x + 1).clamp(max=1e3) + (slopes[rows] > 1) * torch.rand_like(x) * 10,
            torch.ones(4, 1),
            1e-6,
            max_steps=60,
            window=window,
        )
    message = str(error.value)
    match = re.search(r"of 2 of 4 examples was not found in 60 steps: the last one moved by (\d\.\de[+-]\d\d)", message)
    assert match and 1e-6 < float(match[1]) < 1e4
    assert "tolerance is 1.0e-06; allow more steps or a larger tolerance" in message


def test_the_error_says_by_how_much_the_last_step_moved():
    with pytest.raises(RuntimeError, match=r"1 of 1 examples .* in 7 steps: the last one moved by 6\.4e\+01"):
        solve_fixed_point(lambda x, rows: 2 * x, torch.ones(1, 1), max_steps=7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("window", [0, 3])
def test_a_number_that_is_not_finite_ends_the_search_at_once(window, bad):
    seen = []

    def f(x, rows):
        seen.append(len(rows))
        return torch.where((rows == 1)[:, None], bad, 0.5 * x)

    with pytest.raises(RuntimeError, match="of 3 of 3 examples was not found"):
        solve_fixed_point(f, torch.ones(3, 2), window=window)
    assert len(seen) == 1


def test_too_few_steps_are_an_error_and_enough_are_not():
    f = _Linear(0.5, 2)
    solve_fixed_point(f, torch.zeros(2, 12).double(), 1e-6)
    needed = len(f.seen)
    solve_fixed_point(_Linear(0.5, 2), torch.zeros(2, 12).double(), 1e-6, max_steps=needed)
    with pytest.raises(RuntimeError, match=f"not found in {needed - 1} steps"):
        solve_fixed_point(_Linear(0.5, 2), torch.zeros(2, 12).double(), 1e-6, max_steps=needed - 1)
