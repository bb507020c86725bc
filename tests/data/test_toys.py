"""Points in the plane: they lie where their formulas say, and as often as their densities say."""

import math

import pytest
import torch

from nbflows.data import toys

NAMES = ["8gaussians", "pinwheel", "swissroll", "circles", "moons", "2spirals", "checkerboard", "rings"]
DENSITIES = ["8gaussians", "circles", "checkerboard", "rings"]
NUM_POINTS = 20_000


def _draw(name, seed=0):
    return toys.draw(name, NUM_POINTS, torch.Generator().manual_seed(seed))


def _complex(name):
    return torch.view_as_complex(_draw(name).double())


def _mean_and_error(values):
    return values.mean(), values.std() / len(values) ** 0.5


def test_the_eight_toys_are_known_by_name():
    assert toys.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_points_fill_the_usual_window_around_zero(name):
    points = _draw(name)
    assert points.shape == (NUM_POINTS, 2) and points.dtype == torch.float32
    assert (points.abs() > 4).any(1).double().mean() < 1e-3
    assert points.abs().max() > 3
    assert (points.mean(0).abs() < 0.6).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_alone_decides_what_is_drawn(name):
    first = _draw(name)
    torch.manual_seed(99)
    assert torch.equal(_draw(name), first)
    assert not torch.equal(_draw(name, seed=1), first)
    toys.draw(name, 5)


@pytest.mark.parametrize(("name", "fold"), [("8gaussians", 8), ("pinwheel", 5), ("2spirals", 2), ("moons", 2)])
def test_a_turn_by_its_symmetry_leaves_a_toy_as_it_is(name, fold):
    # E[exp(i m angle)] is zero for all m but the multiples of the symmetry.
    z = _complex(name)
    for m in range(1, 2 * fold + 1):
        power = (z / z.abs()) ** m
        error = 4 * NUM_POINTS**-0.5
        if m % fold:
            assert power.mean().abs() < error
        elif m == fold:
            assert power.mean().abs() > 2 * error


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        # From the curve, in units of the noise. On a spiral radius - angle is a multiple of the gap between arms.
        ("swissroll", lambda z: _wrapped(4 * z.abs() - z.angle(), 2 * math.pi)),
        ("2spirals", lambda z: _wrapped(z.abs() / 0.4 - z.angle(), math.pi) * 4),
        ("moons", lambda z: _distance_from_moons(z) / 0.2),
    ],
)
def test_points_lie_on_their_curve_but_for_noise(name, distance):
    z = _complex(name)
    # Further out the curves are straight at the scale of the noise: t > 5 on the spirals.
    mean_square, error = _mean_and_error(distance(z[z.abs() > 2]).square())
    # The angle's noise is 1/t of the radius' and adds 1/5^2; as much again for curvature, ends and wrapping.
    assert abs(mean_square - 1) < 0.08 + 4 * error


def _wrapped(angle, period):
    return (angle + period / 2) % period - period / 2


def _distance_from_moons(z):
    """From the nearer of the two half circles of radius 2, ends included."""
    distances = []
    for sign in (1, -1):
        w = sign * z + 2 * (0.5 + 0.25j)
        end = torch.minimum((w - 2).abs(), (w + 2).abs())
        distances.append(torch.where(w.imag > 0, w.abs() - 2, end))
    return torch.where(distances[0].abs() < distances[1].abs(), *distances)


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_integrates_to_one(name):
    points, area = _grid(0.02)
    assert toys.log_density(name, points).exp().sum() * area == pytest.approx(1, abs=1e-6)


def _grid(step):
    """Midpoints of the cells of a grid over [-6, 6]^2."""
    axis = torch.arange(-6 + step / 2, 6, step, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), step**2


@pytest.mark.parametrize("name", DENSITIES)
def test_points_are_as_frequent_as_their_density_says(name):
    points, area = _grid(0.02)
    expected = (toys.log_density(name, points).exp() * area).view(24, 25, 24, 25).sum((1, 3)).flatten() * NUM_POINTS
    cells = ((_draw(name) + 6) / 0.5).floor().long()
    counts = torch.bincount(cells @ torch.tensor([24, 1]), minlength=24 * 24)
    often = expected > 10
    chi_squared = ((counts - expected).square() / expected)[often].sum()
    # Mean and variance of chi-squared are its degrees of freedom, and twice them.
    assert chi_squared < often.sum() + 4 * (2 * often.sum()) ** 0.5
    rest = expected[~often].sum()
    assert abs(counts[~often].sum() - rest) <= 4 * rest.sqrt()


@pytest.mark.parametrize("name", DENSITIES)
def test_the_mean_log_density_of_points_is_the_negative_entropy(name):
    grid, area = _grid(0.02)
    log_density = toys.log_density(name, grid)
    expected = torch.special.entr(log_density.exp()).sum() * -area
    mean, error = _mean_and_error(toys.log_density(name, _draw(name).double()))
    assert abs(mean - expected) < 4 * error + 1e-6


def test_every_point_of_the_checkerboard_lies_on_a_dark_square():
    points = toys.draw("checkerboard", 1_000_000, torch.Generator().manual_seed(0))
    log_density = toys.log_density("checkerboard", points)
    assert torch.equal(log_density, torch.full_like(log_density, -math.log(32)))
    light = torch.tensor([[1.0, -1.0], [-3.0, -1.0], [5.0, 5.0], [-4.5, -3.0]])
    assert (toys.log_density("checkerboard", light) == -math.inf).all()


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_take_float32_points_of_any_batch_shape(name):
    points = _draw(name).view(100, -1, 2)
    log_density = toys.log_density(name, points)
    assert log_density.dtype == torch.float32 and log_density.shape == points.shape[:-1]
    torch.testing.assert_close(log_density.double(), toys.log_density(name, points.double()), atol=1e-3, rtol=0)
    assert toys.log_density(name, torch.zeros(2)).shape == ()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (toys.draw, ("spiral", 3), "no toy named 'spiral'; known: 8gaussians, pinwheel, swissroll"),
        (toys.log_density, ("spiral", torch.zeros(3, 2)), "no toy named 'spiral'; known: 8gaussians"),
        (toys.log_density, ("moons", torch.zeros(3, 2)), "no exact density named 'moons'; known: 8gaussians, circles"),
        (toys.log_density, ("rings", torch.zeros(3, 3)), r"expected points in the plane, \(..., 2\), got \(3, 3\)"),
    ],
)
def test_bad_input_is_an_error_that_names_the_way_out(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
