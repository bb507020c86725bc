"""Solves x = f(x) by iteration, each example until it has converged."""

from collections.abc import Callable

import torch
from torch import Tensor


def solve_fixed_point(
    f: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    tolerance: float | None = None,
    max_steps: int = 1000,
    window: int = 0,
) -> Tensor:
    """Finds the x with x = f(x) for a contraction f, by steps from x to f(x).

    An example is done, and left out of further steps, when max |f(x) - x| <= tolerance max(1, max |f(x)|). Its distance
    to the solution is then at most L / (1 - L) times that, with L the Lipschitz constant of f.

    Args:
        f: takes x ``(rows, ...)`` and the indices of these rows in ``start``, ``(rows,)``.
        start: the first guess ``(B, ...)``.
        tolerance: the tolerance of a step; default: 16 rounding errors of the dtype.
        max_steps: the largest number of steps.
        window: number of earlier steps from which Anderson acceleration extrapolates; 0 for plain steps.

    Raises:
        RuntimeError: after ``max_steps`` an example still moves, or is not finite; gives the length of the last step.
    Source: H. F. Walker and P. Ni, "Anderson acceleration for fixed-point iterations", 2011.
    """
    tolerance = 16 * torch.finfo(start.dtype).eps if tolerance is None else tolerance
    x, rows, solution = start, torch.arange(len(start), device=start.device), torch.empty_like(start)
    history = _History(window) if window else None
    change = x.new_zeros(1)
    steps = 0
    while steps < max_steps:
        steps += 1
        fx = f(x, rows)
        change = (fx - x).flatten(1).abs().amax(1)
        # An x that is not finite has not converged, although the tolerance grows with it.
        moving = ~((change <= tolerance * fx.flatten(1).abs().amax(1).clamp(min=1)) & change.isfinite())
        solution[rows[~moving]] = fx[~moving]
        if not moving.any():
            return solution
        if not change.isfinite().all():
            break
        if not moving.all():
            x, fx, rows = x[moving], fx[moving], rows[moving]
            if history:
                history.keep(moving)
        x = history.extrapolate(x, fx) if history else fx
    raise RuntimeError(
        f"the fixed point of {len(rows)} of {len(start)} examples was not found in {steps} steps: the last one "
        f"moved by {change.max().item():.1e}, the tolerance is {tolerance:.1e}; allow more steps or a larger "
        "tolerance, and check that the map contracts"
    )


class _History:
    """Anderson acceleration: for every example the step that zeroes a linear model of the residual."""

    def __init__(self, window: int):
        self.window = window
        self.images: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.last: tuple[Tensor, Tensor] | None = None

    def keep(self, moving: Tensor) -> None:
        self.images = [difference[moving] for difference in self.images]
        self.residuals = [difference[moving] for difference in self.residuals]
        if self.last:
            fx, residual = self.last
            self.last = fx[moving], residual[moving]

    def extrapolate(self, x: Tensor, fx: Tensor) -> Tensor:
        fx, residual, shape = fx.flatten(1), (fx - x).flatten(1), x.shape
        if self.last is None:
            self.last = fx, residual
            return fx.view(shape)
        last_fx, last_residual = self.last
        # Where the last step made it worse, go back, take a plain step and forget the history.
        worse = (residual.norm(dim=1) > last_residual.norm(dim=1))[:, None]
        for differences, difference in ((self.images, fx - last_fx), (self.residuals, residual - last_residual)):
            differences.append(difference)
            differences[:] = [torch.where(worse, 0.0, d) for d in differences[-self.window :]]
        fx, residual = torch.where(worse, last_fx, fx), torch.where(worse, last_residual, residual)
        self.last = fx, residual
        images, residuals = torch.stack(self.images, 2), torch.stack(self.residuals, 2).double()  # (rows, D, steps)
        gram = residuals.mT @ residuals
        # Steps that are nearly parallel, or forgotten, make it singular.
        limits = torch.finfo(x.dtype)
        ridge = limits.eps * gram.diagonal(dim1=1, dim2=2).sum(1) + limits.tiny
        gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        mixing = torch.linalg.solve(gram, residuals.mT @ residual.double()[:, :, None])
        return (fx - (images @ mixing.to(fx.dtype))[:, :, 0]).view(shape)
