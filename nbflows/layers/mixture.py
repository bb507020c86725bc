"""Mixture-of-logistics coupling: moves half of the input along a flexible, increasing curve."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import derivatives, inputs
from nbflows.bijection import Bijection, sum_dimensions
from nbflows.layers.coupling import maps_of
from nbflows.layers.split import Halves
from nbflows.nets.norm import require_data


class MixtureCoupling(Bijection):
    """Moves half of the channels through the CDF of a mixture of logistics that is read off the other half.

    z = [kept, (logit F(moved) + b) exp(a)]  with  F(x) = sum_i pi_i sigmoid((x - mu_i) / exp(s_i)),
    log_det = sum( log f - log F - log(1 - F) + a ),  f = F'.  All three logarithms are sums in log space: exact where
    F rounds to 0 or 1. ``inverse`` searches for the root of F, see ``invert_mixture``.

    Args:
        net: maps the kept half, and the context, to ``(B, (2 + 3M) C/2, H, W)``: 2 + 3M maps of C/2 channels each, the
            raw log-scale a, the shift b, then M logits of pi, M means mu, M log-scales s. If all its outputs start at
            0, the components are equal and stay so: let the biases of its last layer start at random.
        num_components: M.
        keep: "first" or "second": that half of the channels is kept.
        bound: elementwise map from the raw log-scale to a.
        min_log_scale: s is at least this.

    Shapes: ``(B, C, H, W)``, or vectors ``(B, D)`` split along D; kept.
    Source: Ho et al., "Flow++", 2019, section 3.2 (arXiv:1902.00275).
    """

    def __init__(
        self,
        net: nn.Module,
        num_components: int,
        keep: str = "first",
        bound: nn.Module | None = None,
        min_log_scale: float = -7.0,
    ):
        super().__init__()
        self.net = net
        self.num_components = inputs.whole(num_components, "num_components", 1)
        self.split = Halves(keep)
        self.bound = nn.Tanh() if bound is None else bound
        self.min_log_scale = inputs.number(min_log_scale, "min_log_scale")

    def _parameters_of(
        self, kept: Tensor, moved: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """a and b, shaped like the moved half, and the mixture's logits, means and log-scales ``(M, *kept.shape)``."""
        name = f"a mixture of {self.num_components} components"
        raw = maps_of(self.net, kept, moved, context, 2 + 3 * self.num_components, name)
        a, b = self.bound(raw[0]), raw[1]
        logits, means, log_scales = raw[2:].unflatten(0, (3, self.num_components))
        return a, b, (logits, means, log_scales.clamp(min=self.min_log_scale))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        kept, moved = self.split.split(x)
        a, b, mixture = self._parameters_of(kept, moved, context)
        logit, log_slope = mixture_logit(moved, *mixture)
        return self.split.join(kept, (logit + b) * a.exp()), sum_dimensions(log_slope + a)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        require_data(self.net)
        kept, moved = self.split.split(z)
        a, b, mixture = self._parameters_of(kept, moved, context)
        moved = invert_mixture(moved * (-a).exp() - b, *mixture)
        return self.split.join(kept, moved)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.split.check(shape)
        return tuple(shape)


def mixture_logit(x: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """logit F(x) and the logarithm of its derivative, for a mixture of logistics, in log space.

    Args:
        x: any shape ``(...)``.
        logits, means, log_scales: ``(M, ...)``, one mixture per element of x; softmax(logits) are the weights.
    """
    log_weights, standard = logits.log_softmax(0), (x - means) * (-log_scales).exp()
    below = F.logsigmoid(standard)
    above = below - standard
    log_cdf, log_rest = (log_weights + below).logsumexp(0), (log_weights + above).logsumexp(0)
    log_density = (log_weights + below + above - log_scales).logsumexp(0)
    return log_cdf - log_rest, log_density - log_cdf - log_rest


def invert_mixture(target: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """The x with logit F(x) = target, element by element, for a mixture of logistics.

    Newton's method on the logit, whose curve is nearly straight, kept inside a bracket. The bracket is proven:
    component i alone has its root at x_i = mu_i + exp(s_i) target; at min x_i the CDF of every component, and so of the
    mixture, is at most sigmoid(target), at max x_i at least that. A step that leaves the bracket, or that follows one
    which gained little, is replaced by the bracket's midpoint. So each element converges, or its bracket shrinks to it;
    each stops on its own, whatever else its batch holds. Gradients are those of the root, independent of the search.

    Args:
        target: ``(...)``.
        logits, means, log_scales: ``(M, ...)``.

    Raises:
        RuntimeError: an element has not converged, with its numbers; only input that is not finite does that.
    """
    derivatives.refuse_vmap("the inverse of a mixture is searched", target + logits[0])
    x = _search(target, logits, means, log_scales)
    if torch.is_grad_enabled() and any(part.requires_grad for part in (target, logits, means, log_scales)):
        # One Newton step from a constant x has the first derivatives of the root, each further step twice as many.
        for _ in range(2):
            logit, log_slope = mixture_logit(x, logits, means, log_scales)
            x = x - (logit - target) * (-log_slope).exp()
    return x


@torch.no_grad()
def _search(target: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Calls ``_newton`` on blocks of elements."""
    shape, num_components = target.shape, len(logits)
    target = target.flatten()
    logits, means, log_scales = (part.reshape(num_components, -1) for part in (logits, means, log_scales))
    x = torch.empty_like(target)
    # Blocks bound the memory on a CPU, where larger ones gain no speed. A GPU is fastest with all at once.
    size = max(1, _BLOCK // num_components) if target.device.type == "cpu" else max(1, target.numel())
    log_weights = logits.log_softmax(0)
    for start in range(0, target.numel(), size):
        block = slice(start, start + size)
        mixture = (part[:, block].contiguous() for part in (log_weights, means, log_scales))
        x[block] = _newton(target[block], *mixture, first=start)
    return x.view(shape)


_BLOCK = 2**18
_MAX_ITERATIONS = 200


def _newton(target: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor, first: int) -> Tensor:
    """Searches for ``(N,)`` roots with mixtures ``(M, N)``; drops elements as they converge.

    ``first`` is the index of the first element, for the error message.
    """
    eps = torch.finfo(target.dtype).eps
    roots = torch.addcmul(means, log_scales.exp(), target)
    low, high = roots.amin(0), roots.amax(0)
    weights, inverse_scales = log_weights.exp(), (-log_scales).exp()
    u = (roots * weights).sum(0).clamp(low, high)
    x, rows = u.clone(), torch.arange(len(u), device=u.device)
    residual = last = torch.full_like(u, math.inf)
    done = torch.zeros_like(u, dtype=torch.bool)
    for _ in range(_MAX_ITERATIONS):
        logit, slope = _logit_and_slope(u, log_weights, means, log_scales, weights, inverse_scales)
        residual = logit - target
        low, high = torch.where(residual < 0, u, low), torch.where(residual > 0, u, high)
        step = residual / slope
        newton = u - step
        gains = residual.abs() <= 0.8 * last
        take = gains & (newton >= low) & (newton <= high)
        # After a bisection the next Newton step is allowed, whatever it gains.
        last = torch.where(take, residual.abs(), math.inf)
        # Converged to rounding, in x, in the logit or in the bracket.
        done = (step.abs() <= 16 * eps * (1 + u.abs())) | (residual.abs() <= 4 * eps * (1 + target.abs()))
        done |= high - low <= 2 * eps * (1 + u.abs())
        u = torch.where(done, u, torch.where(take, newton, (low + high) / 2))
        x[rows] = u
        if done.all():
            return x
        # Dropping elements copies the rest, which costs about one iteration.
        if done.sum() > len(done) // 2:
            left = ~done
            rows, u, target, low, high, last = (part[left] for part in (rows, u, target, low, high, last))
            mixture = log_weights, means, log_scales, weights, inverse_scales
            log_weights, means, log_scales, weights, inverse_scales = (part[:, left] for part in mixture)
    residual = residual.abs().nan_to_num(math.inf).masked_fill(done, 0)
    raise RuntimeError(
        f"the inverse of a logistic mixture did not converge after {_MAX_ITERATIONS} iterations for {(~done).sum()} of "
        f"{len(x)} elements; element {first + rows[residual.argmax()]} has residual {residual.max():.3g}: is its "
        "latent, or a parameter of its mixture, not finite?"
    )


def _logit_and_slope(
    u: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor, weights: Tensor, inverse_scales: Tensor
) -> tuple[Tensor, Tensor]:
    """logit F(u) and its derivative, as ``mixture_logit`` computes them, but with fewer exponentials."""
    below = (u - means).mul_(inverse_scales)
    above = below.neg().sigmoid_()
    below.sigmoid_()
    cdf, rest = (weights * below).sum(0), (weights * above).sum(0)
    density = below.mul_(above).mul_(weights).mul_(inverse_scales).sum(0)
    logit, slope = cdf.log() - rest.log(), density / (cdf * rest)
    # Sums that are too small to be exact are computed in log space.
    far = ~((cdf > _SMALL) & (rest > _SMALL))
    if far.any():
        terms = mixture_logit(u[far], log_weights[:, far], means[:, far], log_scales[:, far])
        logit[far], slope[far] = terms[0], terms[1].exp()
    return logit, slope


_SMALL = 1e-25
