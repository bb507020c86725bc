"""Distributions of points in the plane, to draw from: the toys on which papers show what their flows can fit."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor


def draw(name: str, num_points: int, generator: Generator | None = None) -> Tensor:
    """Independent points ``(num_points, 2)``, float32, around zero and hardly ever outside of [-4, 4]^2.

    Raises:
        ValueError: unknown name.
    """
    _check(name, _TOYS, "toy")
    return torch.view_as_real(_TOYS[name](num_points, generator))


def log_density(name: str, points: Tensor) -> Tensor:
    """The exact log p(x) of points ``(..., 2)``, for those toys that have a short formula.

    Raises:
        ValueError: unknown name, no formula, or not points in the plane.
    """
    _check(name, _TOYS, "toy")
    _check(name, _LOG_DENSITIES, "exact density")
    if points.shape[-1:] != (2,):
        raise ValueError(f"expected points in the plane, (..., 2), got {tuple(points.shape)}")
    return _LOG_DENSITIES[name](points)


def names() -> list[str]:
    """The toys that ``draw`` knows."""
    return list(_TOYS)


def _check(name: str, known: dict, what: str) -> None:
    if name not in known:
        raise ValueError(f"no {what} named {name!r}; known: {', '.join(known)}")


# --- draws: a point (x, y) is the complex number z = x + iy, and n is noise of variance 1 in x and in y ---------------


def _noise(num_points: int, generator: Generator | None) -> Tensor:
    return torch.view_as_complex(torch.randn(num_points, 2, generator=generator))


def _signs(num_points: int, generator: Generator | None) -> Tensor:
    return 1 - 2 * torch.randint(2, (num_points,), generator=generator)


def _eight_gaussians(num_points: int, generator: Generator | None) -> Tensor:
    """z = sqrt(8) exp(i pi k/4) + n / sqrt(8),  k uniform on 0..7."""
    k = torch.randint(8, (num_points,), generator=generator)
    return math.sqrt(8) * torch.exp(0.25j * math.pi * k) + _noise(num_points, generator) / math.sqrt(8)


def _pinwheel(num_points: int, generator: Generator | None) -> Tensor:
    """z = 2 (u + iv) exp(i (2 pi k/5 + exp(u)/4)),  u ~ N(1, 0.3^2),  v ~ N(0, 0.1^2),  k uniform on 0..4."""
    k = torch.randint(5, (num_points,), generator=generator)
    u, v = torch.randn(2, num_points, generator=generator) * torch.tensor([[0.3], [0.1]]) + torch.tensor([[1.0], [0.0]])
    return 2 * (u + 1j * v) * torch.exp(1j * (0.4 * math.pi * k + u.exp() / 4))


def _swissroll(num_points: int, generator: Generator | None) -> Tensor:
    """z = (t exp(it) + n) / 4,  t uniform on [1.5 pi, 4.5 pi]."""
    t = math.pi * (1.5 + 3 * torch.rand(num_points, generator=generator))
    return (t * torch.exp(1j * t) + _noise(num_points, generator)) / 4


def _on_rings(radii: list[float], width: float, num_points: int, generator: Generator | None) -> Tensor:
    """z = r exp(it) + width n,  r uniform among the radii,  t uniform on [0, 2 pi]."""
    radius = torch.tensor(radii)[torch.randint(len(radii), (num_points,), generator=generator)]
    t = 2 * math.pi * torch.rand(num_points, generator=generator)
    return radius * torch.exp(1j * t) + width * _noise(num_points, generator)


def _circles(num_points: int, generator: Generator | None) -> Tensor:
    """z = r exp(it) + 0.2 n,  r = 1.5 or 3."""
    return _on_rings(*_CIRCLES, num_points, generator)


def _rings(num_points: int, generator: Generator | None) -> Tensor:
    """z = r exp(it) + 0.1 n,  r = 0.9, 1.8, 2.7 or 3.6."""
    return _on_rings(*_RINGS, num_points, generator)


def _moons(num_points: int, generator: Generator | None) -> Tensor:
    """z = 2 s (exp(it) - 1/2 - i/4) + 0.2 n,  t uniform on [0, pi],  s = 1 or -1."""
    t = math.pi * torch.rand(num_points, generator=generator)
    arc = torch.exp(1j * t) - (0.5 + 0.25j)
    return 2 * _signs(num_points, generator) * arc + 0.2 * _noise(num_points, generator)


def _two_spirals(num_points: int, generator: Generator | None) -> Tensor:
    """z = 0.4 s t exp(it) + 0.1 n,  t = 3 pi sqrt(u),  u uniform on [0, 1],  s = 1 or -1."""
    t = 3 * math.pi * torch.rand(num_points, generator=generator).sqrt()
    return 0.4 * _signs(num_points, generator) * t * torch.exp(1j * t) + 0.1 * _noise(num_points, generator)


def _checkerboard(num_points: int, generator: Generator | None) -> Tensor:
    """z uniform on the squares of side 2 in [-4, 4]^2 whose column and row are both even or both odd."""
    column = torch.randint(4, (num_points,), generator=generator)
    row = 2 * torch.randint(2, (num_points,), generator=generator) + column % 2
    # Steps of 2^-20, half a step off the edges: exact in float32, which would round other numbers into the next square.
    within = (torch.randint(2**21, (num_points, 2), generator=generator) + 0.5) / 2**21
    return torch.view_as_complex(2 * (torch.stack([column, row], dim=1) + within) - 4)


# The radii of the rings, and the standard deviation of the noise.
_CIRCLES = [1.5, 3.0], 0.2
_RINGS = [0.9, 1.8, 2.7, 3.6], 0.1

_TOYS: dict[str, Callable[[int, Generator | None], Tensor]] = {
    "8gaussians": _eight_gaussians,
    "pinwheel": _pinwheel,
    "swissroll": _swissroll,
    "circles": _circles,
    "moons": _moons,
    "2spirals": _two_spirals,
    "checkerboard": _checkerboard,
    "rings": _rings,
}


# --- densities --------------------------------------------------------------------------------------------------------


def _log_eight_gaussians(points: Tensor) -> Tensor:
    """p(x) = 1/8 sum_k N(x; c_k, I/8) = sum_k exp(-4 |x - c_k|^2) / (2 pi)."""
    angles = math.pi / 4 * torch.arange(8, device=points.device, dtype=points.dtype)
    centres = math.sqrt(8) * torch.stack([angles.cos(), angles.sin()], dim=-1)
    squares = (points[..., None, :] - centres).square().sum(-1)
    return torch.logsumexp(-4 * squares, -1) - math.log(2 * math.pi)


def _log_on_rings(points: Tensor, radii: list[float], width: float) -> Tensor:
    """p(x) = mean_r I_0(|x| r / w^2) exp(-(|x|^2 + r^2) / (2 w^2)) / (2 pi w^2),  I_0 the modified Bessel function."""
    radius = points.norm(dim=-1, keepdim=True)
    r = torch.tensor(radii, device=points.device, dtype=points.dtype)
    # i0e(a) = I_0(a) exp(-a), which completes the square and does not overflow.
    rings = torch.special.i0e(radius * r / width**2).log() - (radius - r).square() / (2 * width**2)
    return torch.logsumexp(rings, -1) - math.log(len(radii) * 2 * math.pi * width**2)


def _log_checkerboard(points: Tensor) -> Tensor:
    """p(x) = 1/32 on the eight squares, 0 elsewhere."""
    inside = (points.abs() < 4).all(-1) & ((points / 2).floor().sum(-1) % 2 == 0)
    return torch.where(inside, -math.log(32), -math.inf).to(points.dtype)


_LOG_DENSITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "8gaussians": _log_eight_gaussians,
    "circles": lambda points: _log_on_rings(points, *_CIRCLES),
    "checkerboard": _log_checkerboard,
    "rings": lambda points: _log_on_rings(points, *_RINGS),
}
