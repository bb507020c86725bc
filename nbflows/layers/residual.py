"""The invertible residual block."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nbflows import derivatives, inputs
from nbflows.bijection import Bijection
from nbflows.layers.fixed_point import solve_fixed_point
from nbflows.layers.log_det import ExactLogDet, SeriesLogDet


class ResidualBlock(Bijection):
    """z = x + g(x)  for a g with Lipschitz constant below 1,   log_det = log det(I + J),  J the Jacobian of g.

    ``log_det`` computes or estimates the log-determinant; an estimate is unbiased if its terms are.
    ``inverse`` iterates x <- z - g(x), which contracts to the only solution, and has the gradient of the solution.
    Under autocast only training computes g in half precision.

    Args:
        net: g, with Lipschitz constant below 1 in any norm: for example ``nets.LipschitzConvNet``.
        log_det: how the log-determinant is computed in training: ``ExactLogDet`` or ``SeriesLogDet``.
        eval_log_det: the same in eval mode; default: as in training.
        tolerance, max_steps, window: settings of the iteration, see ``solve_fixed_point``. With tolerance e per step,
            the inverse is within e L / (1 - L) of the solution, L the Lipschitz constant of g.

    Shapes: any; kept.
    Raises:
        RuntimeError: the inverse has not converged; the message gives the length of the last step.
    Source: Behrmann et al., "Invertible residual networks", 2019, section 2 (arXiv:1811.00995); Chen et al., "Residual
    flows for invertible generative modeling", 2019 (arXiv:1906.02735).
    """

    def __init__(
        self,
        net: nn.Module,
        log_det: ExactLogDet | SeriesLogDet,
        eval_log_det: ExactLogDet | SeriesLogDet | None = None,
        tolerance: float | None = None,
        max_steps: int = 1000,
        window: int = 0,
    ):
        super().__init__()
        self.net = net
        self.log_det = log_det
        self.eval_log_det = log_det if eval_log_det is None else eval_log_det
        self.tolerance = None if tolerance is None else inputs.number(tolerance, "tolerance", above=0)
        self.max_steps, self.window = inputs.whole(max_steps, "max_steps", 1), inputs.whole(window, "window", 0)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        derivatives.refuse_transforms("a residual block differentiates its network itself")
        estimator = self.log_det if self.training else self.eval_log_det
        # The inverse solves for x in full precision, so outside of training g is computed in full precision too.
        with contextlib.nullcontext() if self.training else torch.autocast(x.device.type, enabled=False):
            g, log_det = estimator(self.net, x, context)
        return x + g, log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        derivatives.refuse_transforms("the inverse of a residual block is iterated")
        # In half precision the iteration would stop far from the solution.
        with torch.autocast(z.device.type, enabled=False):
            # The weights are the same at every step, so their norms are computed once.
            with torch.no_grad(), parametrize.cached():
                x = self._solve(lambda x, rows: z[rows] - self.net(x, None if context is None else context[rows]), z)
            return self._with_gradient(x, z, context) if torch.is_grad_enabled() else x

    def _solve(self, f: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Tensor:
        return solve_fixed_point(f, start, self.tolerance, self.max_steps, self.window)

    def _with_gradient(self, x: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
        """Evaluates x = z - g(x) once more, differentiably: backward passes on u = (I + J^T)^-1 gradient."""
        solution = z - self.net(x, context)
        if not solution.requires_grad:
            return x
        leaf = x.detach().requires_grad_()
        g = self.net(leaf, context)

        def transpose_solve(gradient: Tensor) -> Tensor:
            if derivatives.again():
                raise RuntimeError("the gradient of the inverse of a residual block has no gradient of its own")
            # The tolerance is absolute below 1, and gradients of a mean are far smaller: solve for their directions.
            largest = gradient.flatten(1).abs().amax(1).view(-1, *[1] * (gradient.dim() - 1))
            largest = torch.where(largest > 0, largest, 1.0)
            direction = gradient / largest

            def f(u: Tensor, rows: Tensor) -> Tensor:
                whole = torch.zeros_like(direction).index_copy(0, rows, u)
                return (direction - torch.autograd.grad(g, leaf, whole, retain_graph=True)[0])[rows]

            return largest * self._solve(f, direction)

        solution.register_hook(transpose_solve)
        # A view has no hook: products with the Jacobian at the solution must not pass through it.
        return solution.view_as(solution)
