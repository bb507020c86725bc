"""log det(I + J), J the Jacobian of a residual network g: exact, or estimated by a power series with random probes."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nbflows import derivatives, inputs, ranks
from nbflows.bijection import sum_dimensions, zero_log_det
from nbflows.determinants import log_abs_det


class ExactLogDet:
    """log det(I + J) from the whole Jacobian by one backward pass per dimension: for few dimensions.

    The value and its gradient are exact.
    """

    def __call__(self, net: nn.Module, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns g(x) and the log-determinants ``(B,)``."""
        return _differentiate(net, self._estimate, x, context)

    def _estimate(self, g: Tensor, x: Tensor, differentiable: bool) -> Tensor:
        # Examples are independent, so the gradient of a sum over the batch contains the gradient of each.
        rows = [_product(g, x, unit, differentiable) for unit in _unit_vectors(g)]
        jacobian = torch.stack([row.flatten(1) for row in rows], dim=1)
        identity = torch.eye(jacobian.shape[1], dtype=jacobian.dtype, device=jacobian.device)
        return log_abs_det(identity + jacobian)


def _unit_vectors(like: Tensor) -> Iterator[Tensor]:
    """Yields one-hot batches of the shape of ``like``, one per dimension."""
    for i in range(math.prod(like.shape[1:])):
        unit = torch.zeros_like(like).flatten(1)
        unit[:, i] = 1
        yield unit.view_as(like)


class TruncatedSeries:
    """The first n terms of the power series: biased, as in i-ResNets.

    The error is at most -D (log(1 - L) + sum_{k=1..n} L^k / k) in D dimensions, with L the Lipschitz constant of g.

    Args:
        num_terms: n.

    Source: Behrmann et al., "Invertible residual networks", 2019, section 3.2 (arXiv:1811.00995).
    """

    def __init__(self, num_terms: int):
        self.num_terms = inputs.whole(num_terms, "num_terms", 1)

    def draw(self) -> list[float]:
        """Returns the weights of the terms, c_1 to c_n."""
        return [1.0] * self.num_terms


class RussianRoulette:
    """A random number of power-series terms, weighted so that their sum is unbiased.

    It draws N and uses n = m + N terms: the first m have weight 1, later ones c_k = 1 / P(N >= k - m). For Poisson N
    the weights grow faster than any power series falls: the mean is right but the variance is infinite, though draws of
    N that would show it are rare. For geometric N the variance is finite if L^2 < 1 - parameter.

    Args:
        distribution: the distribution of N: "poisson", from 0, or "geometric", from 1.
        parameter: the mean of the Poisson distribution, or the probability to stop of the geometric one.
        num_exact_terms: m.
        num_draws: draws of N; their estimates are averaged, at the cost of the longest one.

    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, section 3.1 (arXiv:1906.02735).
    """

    def __init__(
        self, distribution: str = "poisson", parameter: float = 2.0, num_exact_terms: int = 2, num_draws: int = 1
    ):
        if distribution not in ("poisson", "geometric"):
            raise ValueError(f"distribution is 'poisson' or 'geometric', got {distribution!r}")
        self.distribution, self.parameter = distribution, inputs.number(parameter, "parameter", above=0)
        if distribution == "geometric" and self.parameter >= 1:
            raise ValueError(f"parameter, the probability to stop, is below 1, not {parameter}")
        self.num_exact_terms = inputs.whole(num_exact_terms, "num_exact_terms", 0)
        self.num_draws = inputs.whole(num_draws, "num_draws", 1)

    def draw(self) -> list[float]:
        """Draws N on the CPU and returns the weights of the terms, c_1 to c_n. In training all ranks draw the same N.

        The ranks wait for each other after every step, so a rank with many terms would hold up the others.
        """
        generator = ranks.common_generator()
        if self.distribution == "poisson":
            draws = torch.poisson(torch.full((self.num_draws,), self.parameter, device="cpu"), generator=generator)
        else:
            draws = torch.empty(self.num_draws, device="cpu").geometric_(self.parameter, generator=generator)
        return self.weights(draws)

    def weights(self, draws: Tensor) -> list[float]:
        """Returns the weights of the terms for given draws of N ``(num_draws,)``."""
        further = torch.arange(1.0, draws.max().item() + 1, dtype=torch.float64)
        reached = (draws >= further[:, None]).double().mean(1)
        return [1.0] * self.num_exact_terms + (reached / self.chance(further)).tolist()

    def chance(self, terms: Tensor) -> Tensor:
        """Returns P(N >= j) for every j >= 1 in ``terms``."""
        if self.distribution == "geometric":
            return (1 - self.parameter) ** (terms - 1)
        # For large j rounding turns 1 - P(N < j) into 0.
        return torch.special.gammainc(terms, torch.full_like(terms, self.parameter))


# Late terms of a series fall below 1e-38, where processors are up to ten times slower, so v^T J^k is multiplied by this
# factor. A power of 2 is exact, and nothing overflows because J contracts.
_SCALE = 2.0**100


class SeriesLogDet:
    """log det(I + J) = sum_k (-1)^(k+1) / k tr(J^k)  with tr(J^k) = E[v^T J^k v], from products v^T J alone.

    The value is always sum_k (-1)^(k+1) / k c_k v^T J^k v, with random probes v and the weights c_k that ``terms``
    draws, shared by the batch. Its gradient, for the parameters theta of g:

    "basic": the gradient of that sum; it keeps a graph of every term.
    "neumann": E[w^T (dJ / dtheta) v]  with  w = v + sum_k (-1)^k c_k (J^T)^k v, the Neumann series of (I + J)^-1. It
    has the same expectation and keeps the graph of one product only.

    Args:
        terms: the number of terms and their weights: ``TruncatedSeries`` or ``RussianRoulette``.
        gradient: "basic" or "neumann".
        in_forward: compute the gradient in forward and free its graph; backward only scales it. If the examples have
            different weights in the loss, backward repeats the computation with these weights.
        probe: "gaussian" or "rademacher" (entries +-1: less variance).
        num_probes: draws of v, whose estimates are averaged.

    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, sections 3.1 and 3.2
    (arXiv:1906.02735).
    """

    def __init__(
        self,
        terms: TruncatedSeries | RussianRoulette,
        gradient: str = "neumann",
        in_forward: bool = True,
        probe: str = "rademacher",
        num_probes: int = 1,
    ):
        if gradient not in ("basic", "neumann"):
            raise ValueError(f"gradient is 'basic' or 'neumann', got {gradient!r}")
        if probe not in ("gaussian", "rademacher"):
            raise ValueError(f"probe is 'gaussian' or 'rademacher', got {probe!r}")
        self.terms, self.gradient, self.in_forward = terms, gradient, in_forward
        self.probe, self.num_probes = probe, inputs.whole(num_probes, "num_probes", 1)

    def __call__(self, net: nn.Module, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns g(x) and estimates of the log-determinants ``(B,)``."""
        weights = self.terms.draw()
        probes = [self._draw_probe(x) for _ in range(self.num_probes)]
        return self.estimate(net, x, context, weights, probes)

    def _draw_probe(self, x: Tensor) -> Tensor:
        v = torch.randn_like(x)
        return v if self.probe == "gaussian" else torch.where(v < 0, -1.0, 1.0).to(v.dtype)

    def estimate(
        self, net: nn.Module, x: Tensor, context: Tensor | None, weights: list[float], probes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns the same for given weights of the terms and given probes, each of the shape of x."""

        def mean_of_series(g: Tensor, x: Tensor, differentiable: bool) -> Tensor:
            return sum((self._series(g, x, v, weights, differentiable) for v in probes), zero_log_det(x)) / len(probes)

        return _differentiate(net, mean_of_series, x, context, self.in_forward)

    def _series(self, g: Tensor, x: Tensor, v: Tensor, weights: list[float], differentiable: bool) -> Tensor:
        basic = differentiable and self.gradient == "basic"
        # A graph would divide its gradients by the scale: none is used there.
        scale = 1.0 if basic else _SCALE
        product, neumann, log_det = v * scale, v, zero_log_det(x)
        for k, weight in enumerate(weights, start=1):
            product = _product(g, x, product, differentiable=basic)
            log_det = log_det - (-1) ** k * weight / k / scale * sum_dimensions(product * v)
            if differentiable and not basic:
                neumann = torch.add(neumann, product, alpha=(-1) ** k * weight / scale)
        if differentiable and not basic:
            # Adds zero to the value, and the whole gradient.
            surrogate = sum_dimensions(_product(g, x, neumann, differentiable=True) * v)
            surrogate = derivatives.once(surrogate, f"a Neumann gradient {_TWICE}")
            log_det = log_det + (surrogate - surrogate.detach())
        return log_det


_TWICE = 'has no gradient of its own; SeriesLogDet(..., gradient="basic", in_forward=False) has one'


def _product(g: Tensor, x: Tensor, v: Tensor, differentiable: bool) -> Tensor:
    """Returns v^T J for every example."""
    return torch.autograd.grad(g, x, v, retain_graph=True, create_graph=differentiable)[0]


# (g, x, whether gradients are wanted) -> log-determinants. g is a function of x in autograd's graph.
Estimate = Callable[[Tensor, Tensor, bool], Tensor]


def _differentiate(
    net: nn.Module, estimate: Estimate, x: Tensor, context: Tensor | None, in_forward: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns g(x) and an estimate that differentiates g, also within no_grad and inference_mode."""
    derivatives.refuse_transforms("a log-determinant differentiates its network itself")
    inputs = [x] if context is None else [x, context]
    if not torch.is_grad_enabled():
        # Inside inference_mode nothing is differentiable, not even tensors made there: leave it, with copies.
        with torch.inference_mode(False), torch.enable_grad():
            x, *rest = (tensor.clone() for tensor in inputs)
            g = net(x.requires_grad_(), *rest)
            return g.detach(), estimate(g, x, False).detach()
    if in_forward:
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        return _InForward.apply(net, estimate, len(inputs), *inputs, *parameters)
    x = x if x.requires_grad else x.detach().requires_grad_()
    g = net(x, *inputs[1:])
    return g, estimate(g, x, True)


class _InForward(torch.autograd.Function):
    """Computes the estimate's gradient together with the estimate, and keeps only the graph of g."""

    @staticmethod
    def forward(
        ctx: Any, net: nn.Module, estimate: Estimate, num_inputs: int, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = [tensor.detach().requires_grad_() for tensor in tensors[:num_inputs]]
        ctx.wanted = [*inputs, *tensors[num_inputs:]]
        ctx.estimate = estimate
        with torch.enable_grad():
            ctx.g = net(*inputs)
            log_det = estimate(ctx.g, inputs[0], True)
        # The gradient of the sum over the batch; backward scales it, as all examples usually have the same weight.
        ctx.gradients = _gradients(log_det, ctx.wanted, torch.ones_like(log_det))
        return ctx.g.detach(), log_det.detach()

    @staticmethod
    def backward(ctx: Any, grad_g: Tensor, grad_log_det: Tensor) -> tuple:
        if derivatives.again():
            raise RuntimeError(f"a gradient computed in forward {_TWICE}")
        if bool((grad_log_det == grad_log_det[0]).all()):
            of_log_det = [gradient * grad_log_det[0] for gradient in ctx.gradients]
        else:
            with torch.enable_grad():
                log_det = ctx.estimate(ctx.g, ctx.wanted[0], True)
            of_log_det = _gradients(log_det, ctx.wanted, grad_log_det)
        of_g = _gradients(ctx.g, ctx.wanted, grad_g)
        return None, None, None, *(a + b for a, b in zip(of_g, of_log_det, strict=True))


def _gradients(output: Tensor, wanted: list[Tensor], weights: Tensor) -> Sequence[Tensor]:
    """Returns the gradients of the weighted output, zeros where it does not depend on an input; keeps the graph."""
    if not output.requires_grad:
        return [torch.zeros_like(tensor) for tensor in wanted]
    return torch.autograd.grad(output, wanted, weights, retain_graph=True, materialize_grads=True)
