"""Layers between grey levels and real numbers: uniform, learned and Gaussian noise, the logit."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nbflows import inputs
from nbflows.bijection import Bijection, sum_dimensions
from nbflows.derivatives import traced
from nbflows.recompute import NotRecomputed


def check_grey_levels(x: Tensor, num_grey_levels: int) -> None:
    """Raises ValueError if integers are not grey levels 0..num_grey_levels - 1."""
    # While a graph is recorded there are no numbers to check; and a byte is always one of 256 grey levels.
    if traced() or not x.numel() or (x.dtype == torch.uint8 and num_grey_levels == 256):
        return
    low, high = (bound.item() for bound in x.aminmax())
    if low < 0 or high >= num_grey_levels:
        raise ValueError(
            f"this flow was built for {num_grey_levels} grey levels, 0..{num_grey_levels - 1}, "
            f"got values in {low}..{high}"
        )


class Logit(Bijection):
    """Stretches the unit interval over the real line: z = log(v / (1 - v)) with v = (1 - alpha) x + alpha / 2.

    log_det = sum( log(1 - alpha) - log v - log(1 - v) ).

    Args:
        alpha: shrinks [0, 1] away from its ends, where the logit is infinite.

    Source: Dinh et al., "Density estimation using Real NVP", 2017, section 4.1 (arXiv:1605.08803).
    """

    def __init__(self, alpha: float = 1e-5):
        super().__init__()
        self.alpha = _check_alpha(alpha)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        beyond = self.alpha / 2 / (1 - self.alpha)
        inside = (x > -beyond) & (x < 1 + beyond)
        if not traced() and not inside.all():
            raise ValueError(
                f"Logit takes numbers between {0 - beyond:g} and {1 + beyond:g}, but {(~inside).sum()} of {x.numel()} "
                "are outside: scale the data to that interval"
            )
        z, log_det = _logit(x, 1 - x, self.alpha)
        return z, sum_dimensions(log_det)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return _unshrink(torch.sigmoid(z), self.alpha)


class Dequantization(NotRecomputed):
    """The common base of uniform and variational dequantization, which differ only in ``noise``.

    This is not a bijection in the strict sense: ``inverse(forward(x)) == x`` exactly, but not the converse.
    """

    _like: Tensor

    def __init__(self, num_grey_levels: int, alpha: float | None):
        super().__init__()
        self.num_grey_levels = inputs.whole(num_grey_levels, "num_grey_levels", 2, 256)
        self.alpha = None if alpha is None else _check_alpha(alpha)
        self.spacing = 1 / self.num_grey_levels
        # Follows .to() and .double(), because integers do not tell the precision of the flow.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def noise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws the noise u for integers x: ``(u, 1 - u, -log q(u | x))``; the last summed to ``(B,)``."""
        raise NotImplementedError

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.is_floating_point():
            raise ValueError(f"dequantization takes integers 0..{self.num_grey_levels - 1} (uint8), got {x.dtype}")
        check_grey_levels(x, self.num_grey_levels)
        u, rest, entropy = self.noise(x)
        x = x.to(u.dtype)
        u, rest = self._keep_off_the_edges(x, u, rest)
        if self.alpha is None:
            num_dims = math.prod(x.shape[1:])
            return x * self.spacing + u / self.num_grey_levels, entropy - math.log(self.num_grey_levels) * num_dims
        # From both ends: near white, 1 minus a rounded v has few correct digits.
        v = (x + u) / self.num_grey_levels
        complement = ((self.num_grey_levels - 1 - x) + rest) / self.num_grey_levels
        z, log_det = _logit(v, complement, self.alpha)
        # Pixel by pixel before the sum: a difference of two large sums has few correct digits.
        return z, sum_dimensions(log_det - math.log(self.num_grey_levels)) + entropy

    def _keep_off_the_edges(self, x: Tensor, u: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Moves noise that is within a rounding error of the edges of its bin, so that the round trip is exact.

        The rounding error of the logit and its inverse is proportional to the distance from the nearer end of the
        shrunk range: in float32 up to 1e-4 of a bin in the middle, and almost zero at the ends. So at mid-grey about
        one draw in ten thousand moves, by less than that. Float64 moves the same draws, so the two precisions agree.
        """
        eps = torch.finfo(torch.float32).eps
        below, above = x, x + 1
        if self.alpha is not None:
            beyond = self.num_grey_levels * self.alpha / 2 / (1 - self.alpha)
            below = torch.minimum(below, self.num_grey_levels - below) + beyond
            above = torch.minimum(above, self.num_grey_levels - above) + beyond
        lower, upper = 8 * eps * below, 8 * eps * above
        # At the ends of the range it is enough to avoid log(0).
        lower, upper = lower.clamp(min=eps / 4), upper.clamp(min=eps / 4)
        return torch.minimum(torch.maximum(u, lower), 1 - upper), torch.minimum(torch.maximum(rest, upper), 1 - lower)

    def log_slope(self, z: Tensor) -> Tensor:
        """Returns log|dz/du| at z, ``(B,)``: added to log p(z) it gives the log-density of x + u, u in [0, 1)."""
        if self.alpha is None:
            return z.new_full((len(z),), -math.log(self.num_grey_levels) * math.prod(z.shape[1:]))
        log_slope = math.log1p(-self.alpha) - F.logsigmoid(z) - F.logsigmoid(-z)
        return sum_dimensions(log_slope - math.log(self.num_grey_levels))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        _require_finite_pixels(z)
        if self.alpha is None:
            return (z / self.spacing).floor().clamp(0, self.num_grey_levels - 1).to(torch.uint8)
        from_black = _unshrink(torch.sigmoid(z), self.alpha) * self.num_grey_levels
        from_white = _unshrink(torch.sigmoid(-z), self.alpha) * self.num_grey_levels
        x = torch.where(z < 0, from_black.floor(), self.num_grey_levels - 1 - from_white.floor())
        return x.clamp(0, self.num_grey_levels - 1).to(torch.uint8)


class Dequantize(Dequantization):
    """Spreads each grey level evenly over its bin: z = logit((x + u) / K), u uniform on [0, 1).

    With v = (1 - alpha) (x + u) / K + alpha / 2:  log_det = sum( log((1 - alpha) / K) - log v - log(1 - v) ).
    E[log p(z) + log_det] is at most the log-probability of the discrete image. Each call draws noise by ``torch.rand``.

    Args:
        num_grey_levels: K, the number of grey levels.
        alpha: as in ``Logit``; None leaves the values in [0, 1): z = (x + u) / K.
        spacing: distance between grey levels without the logit: z = x spacing + u / K. More than 1 / K leaves gaps that
            cost log2(K spacing) bits/dim; some published models were trained this way.

    Shapes: integers ``(B, ...)`` to reals of the same shape; ``inverse`` returns uint8.
    Source: Theis et al., "A note on the evaluation of generative models", 2016, section 3.1 (arXiv:1511.01844).
    """

    def __init__(self, num_grey_levels: int = 256, alpha: float | None = 1e-5, spacing: float | None = None):
        super().__init__(num_grey_levels, alpha)
        if spacing is not None and (alpha is not None or not spacing >= 1 / num_grey_levels):
            raise ValueError(
                f"spacing goes with alpha=None and is at least 1/{num_grey_levels}, or the bins overlap; got spacing "
                f"{spacing} and alpha {alpha}"
            )
        self.spacing = self.spacing if spacing is None else spacing

    def noise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = torch.rand(x.shape, dtype=self._like.dtype, device=x.device)
        return u, 1 - u, u.new_zeros(len(u))


class VariationalDequantize(Dequantization):
    """Spreads each grey level over its bin by learned noise: u ~ q(u | x), given by a flow, instead of uniform u.

    u = sigmoid(transform(logit(base), image)) with base uniform, all with the alpha of ``Logit``, and
    -log q(u | x) = log_det of logit + transform + sigmoid.  Then z and log_det as in ``Dequantize``, plus -log q.

    Args:
        transform: a bijection whose ``forward`` maps base noise to dequantization noise, both as logits. Its context is
            the image scaled to [-1, 1], which has the shape of the noise.
        num_grey_levels: K, the number of grey levels.
        alpha: as in ``Logit``.

    Shapes: integers ``(B, C, H, W)`` to reals of the same shape; ``inverse`` returns uint8.
    Source: Ho et al., "Flow++", 2019, section 3.1 (arXiv:1902.00275).
    """

    alpha: float

    def __init__(self, transform: Bijection, num_grey_levels: int = 256, alpha: float = 1e-5):
        super().__init__(num_grey_levels, alpha)
        self.transform = transform

    def noise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        base = torch.rand(x.shape, dtype=self._like.dtype, device=x.device)
        image = x.to(base.dtype) * (2 / (self.num_grey_levels - 1)) - 1
        z, logit_log_det = _logit(base, 1 - base, self.alpha)
        z, log_det = self.transform(z, context=image)
        sigmoid_log_det = F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-self.alpha)
        u, rest = _unshrink(torch.sigmoid(z), self.alpha), _unshrink(torch.sigmoid(-z), self.alpha)
        return u, rest, log_det + sum_dimensions(logit_log_det + sigmoid_log_det)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.transform.output_shape(shape)


class GaussianNoise(NotRecomputed):
    """Adds Gaussian noise to grey levels scaled to [-1, 1]: z = 2 x / (K - 1) - 1 + sigma eps.

    The flow after it learns the density p(z) of noisy images, which has no peaks narrower than sigma. A grey level is
    read from z with the odds of the densities N(z; level, sigma^2), and E[log p(z) + log_det] is at most the
    log-probability of the discrete image, with log_det = -sum log sum_k N(z; 2 k / (K - 1) - 1, sigma^2).

    The inverse rounds to the nearest grey level. Noise is wider than a level, so the image does not come back: the
    inverse is for samples, in which the noise stays. ``guidance.denoise`` removes it.

    Args:
        num_grey_levels: K.
        sigma: the standard deviation.

    Shapes: integers ``(B, ...)`` to reals of the same shape; ``inverse`` returns uint8.
    Source: Zhai et al., "Normalizing flows are capable generative models", 2024, section 2 (arXiv:2412.06329); the
    bound is ours.
    """

    _like: Tensor

    def __init__(self, num_grey_levels: int = 256, sigma: float = 0.1):
        super().__init__()
        self.num_grey_levels = inputs.whole(num_grey_levels, "num_grey_levels", 2, 256)
        self.sigma = inputs.number(sigma, "sigma", above=0)
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.is_floating_point():
            raise ValueError(f"noise is added to integers 0..{self.num_grey_levels - 1} (uint8), got {x.dtype}")
        check_grey_levels(x, self.num_grey_levels)
        eps = torch.randn(x.shape, dtype=self._like.dtype, device=x.device)
        spacing = 2 / (self.num_grey_levels - 1)
        z = x.to(eps.dtype) * spacing - 1 + self.sigma * eps
        # Level by level: all at once would take K times the memory of the images.
        total = torch.zeros_like(z)
        for k in range(self.num_grey_levels):
            total += ((z - (k * spacing - 1)) / self.sigma).square().mul_(-0.5).exp_()
        return z, -sum_dimensions(total.log() - math.log(self.sigma * math.sqrt(2 * math.pi)))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        _require_finite_pixels(z)
        return ((z + 1) * ((self.num_grey_levels - 1) / 2)).round().clamp(0, self.num_grey_levels - 1).to(torch.uint8)


def _require_finite_pixels(z: Tensor) -> None:
    # As integers they would be black.
    bad = 0 if traced() else (~z.flatten(1).isfinite()).any(1).sum().item()
    if bad:
        raise RuntimeError(
            f"{bad} of {len(z)} images have pixels that are NaN or infinite: an inverse overflowed because the latents "
            "are too far from those of real data. Lower the temperature, train longer, or bound the coupling scales "
            "with SigmoidScale(lowest=0.5)"
        )


def _check_alpha(alpha: float) -> float:
    alpha = inputs.number(alpha, "alpha")
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha is in [0, 1), got {alpha}")
    return alpha


def _logit(v: Tensor, complement: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Returns the logit of the shrunk v and its log-derivative, per element; ``complement`` is 1 - v, most exactly."""
    log_v = (v * (1 - alpha) + alpha / 2).log()
    log_complement = (complement * (1 - alpha) + alpha / 2).log()
    return log_v - log_complement, math.log1p(-alpha) - log_v - log_complement


def _unshrink(v: Tensor, alpha: float) -> Tensor:
    return (v - alpha / 2) / (1 - alpha)
