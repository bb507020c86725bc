"""Solves x = f(x) by iteration, for every example until it has converged."""

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
    """The x with x = f(x) for a contraction f, by steps from x to f(x).

    An example is done, and left out of further steps, when max |f(x) - x| <= tolerance max(1, max |f(x)|). It is then
    within L / (1 - L) times that of the solution, L the Lipschitz constant of f.

    Args:
        f: takes x ``(rows, ...)`` and which rows of ``start`` these are, ``(rows,)``.
        start: the first guess ``(B, ...)``.
        tolerance: of a step; default: 16 rounding errors of the dtype.
        max_steps: at most so many.
        window: of Anderson acceleration, which extrapolates from so many earlier steps; 0 for plain steps.

    Raises:
        RuntimeError: after ``max_steps`` an example still moves, or is not finite; says how far it moved last.
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
        # Not finite is not found: where x has run away, the tolerance would have run with it.
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
        "tolerance, and see that the map contracts"
    )


class _History:
    """Anderson acceleration: the step whose linear model from the last steps comes to rest, for every example."""

    def __init__(self, window: int):
        self.window = window
        self.images, self.residuals = [], []
        self.last = None

    def keep(self, moving: Tensor) -> None:
        self.images = [difference[moving] for difference in self.images]
        self.residuals = [difference[moving] for difference in self.residuals]
        if self.last:
            self.last = tuple(tensor[moving] for tensor in self.last)

    def extrapolate(self, x: Tensor, fx: Tensor) -> Tensor:
        fx, residual, shape = fx.flatten(1), (fx - x).flatten(1), x.shape
        if self.last is None:
            self.last = fx, residual
            return fx.view(shape)
        last_fx, last_residual = self.last
        # Where the last step made it worse: back to before it, a plain step, and no memory of what led there.
        worse = (residual.norm(dim=1) > last_residual.norm(dim=1))[:, None]
        for differences, difference in ((self.images, fx - last_fx), (self.residuals, residual - last_residual)):
            differences.append(difference)
            differences[:] = [torch.where(worse, 0.0, d) for d in differences[-self.window :]]
        fx, residual = torch.where(worse, last_fx, fx), torch.where(worse, last_residual, residual)
        self.last = fx, residual
        images, residuals = torch.stack(self.images, 2), torch.stack(self.residuals, 2).double()  # (rows, D, steps)
        gram = residuals.mT @ residuals
        # Steps that are nearly parallel, or forgotten, leave it singular.
        limits = torch.finfo(x.dtype)
        ridge = limits.eps * gram.diagonal(dim1=1, dim2=2).sum(1) + limits.tiny
        gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        mixing = torch.linalg.solve(gram, residuals.mT @ residual.double()[:, :, None])
        return (fx - (images @ mixing.to(fx.dtype))[:, :, 0]).view(shape)
