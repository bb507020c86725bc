"""Rational-quadratic splines: flexible increasing curves with an inverse in closed form, and a coupling of them."""

import math

import torch
from torch import Tensor, nn

from nbflows import inputs
from nbflows.bijection import sum_dimensions
from nbflows.layers.coupling import maps_of
from nbflows.layers.split import splitter
from nbflows.nets.norm import require_data
from nbflows.recompute import CheapInverse


class Spline:
    """An increasing rational-quadratic spline on [-B, B] in each element, the identity outside.

    Between knots (x_k, y_k) and (x_k+1, y_k+1) with slopes d_k, d_k+1, where w and h are the bin's width and height,
    s = h / w and t = (x - x_k) / w:

        z = y_k + h (s t^2 + d_k t (1 - t)) / (s + (d_k+1 + d_k - 2 s) t (1 - t)).

    The slope is 1 at both ends. If all parameters are 0, the spline is the identity.

    Args:
        num_bins: K.
        bound: B.
        min_size: the smallest width and height of a bin, relative to 2B; bounds the slopes between knots. The rounding
            error of the inverse is proportional to 1 / slope: it is the price of the smaller sizes of other packages.
        max_slope: slopes at knots are between 1 / max_slope and max_slope.

    Attributes:
        num_parameters: 3K - 1 for each element: K widths and K heights as logits, K - 1 slopes as logarithms.

    Source: Durkan et al., "Neural spline flows", 2019, section 3.1 (arXiv:1906.04032).
    """

    def __init__(self, num_bins: int = 8, bound: float = 4.0, min_size: float = 0.02, max_slope: float = 10.0):
        self.num_bins = inputs.whole(num_bins, "num_bins", 1)
        self.bound = inputs.number(bound, "bound", above=0)
        self.min_size = inputs.number(min_size, "min_size", above=0)
        self.max_log_slope = math.log(inputs.number(max_slope, "max_slope", above=1))
        if num_bins * min_size >= 1:
            raise ValueError(f"{num_bins} bins of at least {min_size} of the interval do not fit into it")
        self.num_parameters = 3 * num_bins - 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z and log dz/dx for parameters ``(3K - 1, *x.shape)``."""
        return self.curve(x, *self.knots(raw))

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        """Returns the x of z, with the derivatives of the inverse function."""
        knots = self.knots(raw)
        with torch.no_grad():
            x = self._root(z, *knots)
        # One Newton step removes most of the root's rounding error, and has its first derivatives; two have the second.
        for _ in range(2 if torch.is_grad_enabled() else 1):
            found, log_slope = self.curve(x, *knots)
            x = x - (found - z) * (-log_slope).exp()
        return x

    def knots(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns positions, heights and slopes of the knots, each ``(K + 1, ...)``."""
        widths, heights, log_slopes = raw.split([self.num_bins, self.num_bins, self.num_bins - 1])
        # tanh bounds the slopes smoothly and has slope 1 at 0.
        log_slopes = self.max_log_slope * torch.tanh(log_slopes / self.max_log_slope)
        end = torch.zeros_like(raw[:1])
        return self._places(widths), self._places(heights), torch.cat([end, log_slopes, end]).exp()

    def _places(self, logits: Tensor) -> Tensor:
        sizes = self.min_size + (1 - self.num_bins * self.min_size) * logits.softmax(0)
        inner = (2 * sizes.cumsum(0)[:-1] - 1) * self.bound
        # The ends are exact, so that the spline is continuous there.
        end = torch.full_like(logits[:1], self.bound)
        return torch.cat([-end, inner, end])

    def _bin(self, value: Tensor, edges: Tensor, *of_knots: Tensor) -> list[Tensor]:
        """For each tensor of knots, its values at the left and the right end of the bin of each element."""
        left = (value >= edges[1:-1]).sum(0, keepdim=True)
        return [part.gather(0, left + i)[0] for part in of_knots for i in (0, 1)]

    def curve(self, x: Tensor, xs: Tensor, ys: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z and log dz/dx of the curve through knots ``(K + 1, *x.shape)``, which begin at -B and end at B."""
        inside = x.abs() < self.bound
        # Elements outside take part with a harmless value: a NaN there would spoil the gradients of all others.
        safe = torch.where(inside, x, 0)
        x0, x1, y0, y1, d0, d1 = self._bin(safe, xs, xs, ys, slopes)
        width, height = x1 - x0, y1 - y0
        slope, t = height / width, (safe - x0) / width
        # From the nearer end, where few digits cancel.
        u, mixed = (x1 - safe) / width, d0 + d1 - 2 * (height / width)
        denominator = slope + mixed * t * u
        from_left = y0 + height * t * (slope * t + d0 * u) / denominator
        from_right = y1 - height * u * (slope * u + d1 * t) / denominator
        z = torch.where(t < 0.5, from_left, from_right)
        numerator = d1 * t.square() + 2 * slope * t * u + d0 * u.square()
        log_slope = 2 * slope.log() + numerator.log() - 2 * denominator.log()
        return torch.where(inside, z, x), torch.where(inside, log_slope, 0)

    def _root(self, z: Tensor, xs: Tensor, ys: Tensor, slopes: Tensor) -> Tensor:
        inside = z.abs() < self.bound
        safe = torch.where(inside, z, 0)
        x0, x1, y0, y1, d0, d1 = self._bin(safe, ys, xs, ys, slopes)
        width, height = x1 - x0, y1 - y0
        slope, part = height / width, (safe - y0) / height
        mixed = d0 + d1 - 2 * slope
        # a t^2 + b t + c = 0, with the root written so that nothing cancels; rounding may make b^2 - 4ac negative.
        a, b, c = slope - d0 + part * mixed, d0 - part * mixed, -slope * part
        t = -2 * c / (b + (b.square() - 4 * a * c).clamp(min=0).sqrt())
        return torch.where(inside, x0 + width * t.clamp(0, 1), z)


class SplineCoupling(CheapInverse):
    """Moves one part of the input along splines that are read off the other part.

    z = [kept, spline(moved)],   log_det = sum( log spline'(moved) ),   parameters of the splines = net(kept, context).

    Args:
        net: maps the kept part, and the context, to ``spline.num_parameters`` maps of the moved channels, joined along
            channels; with a mask, of all channels.
        spline: number of bins, bounds.
        keep: as in ``AffineCoupling``.

    Shapes: ``(B, C, H, W)``, or vectors ``(B, D)`` split along D; kept.
    Source: Durkan et al., "Neural spline flows", 2019 (arXiv:1906.04032).
    """

    def __init__(self, net: nn.Module, spline: Spline, keep: str | int | Tensor = "first"):
        super().__init__()
        self.net = net
        self.spline = spline
        self.split = splitter(keep)

    def _parameters_of(self, kept: Tensor, moved: Tensor, context: Tensor | None) -> Tensor:
        name = f"splines of {self.spline.num_bins} bins"
        return maps_of(self.net, kept, moved, context, self.spline.num_parameters, name)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        kept, moved = self.split.split(x)
        z, log_slope = self.spline.forward(moved, self._parameters_of(kept, moved, context))
        return self.split.join(kept, self.split.of_other(z)), sum_dimensions(self.split.of_other(log_slope))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        require_data(self.net)
        kept, moved = self.split.split(z)
        x = self.spline.inverse(moved, self._parameters_of(kept, moved, context))
        return self.split.join(kept, self.split.of_other(x))

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.split.check(shape)
        return tuple(shape)
