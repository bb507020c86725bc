"""Affine coupling: one part of the input scales and shifts the other."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import inputs
from nbflows.bijection import Bijection, sum_dimensions
from nbflows.layers.reshape import halves, join_halves
from nbflows.nets.norm import require_data


class AffineCoupling(Bijection):
    """Scales and shifts one part of the input by amounts read off the other part.

    z = [kept, moved * exp(s) + t]  or, with ``shift_first``,  [kept, (moved + t) * exp(s)],
    where  t, raw = net(kept, context),  s = bound(raw),  log_det = sum(s).

    Args:
        net: maps what is kept, and the context, to the shift t, then the raw log-scale, joined along channels. With
            halves: C/2 channels to C; with k channels kept: k to 2 (C - k); with a mask: C to 2C.
        keep: "first" or "second": that half of the channels is kept. Or a number: so many first channels are kept,
            none if it is 0, when net looks at the context alone. Or a mask, bool ``(C or 1, H, W)`` or ``(D,)``, True
            where x is kept: the net sees zeros elsewhere.
        bound: elementwise map from the raw log-scale to s.
        shift_first: shift before scaling, as in Glow and the UvA tutorial; after it, as in Real NVP.

    Shapes: ``(B, C, H, W)``, or vectors ``(B, D)`` split along D; kept.
    Source: Dinh et al., "Density estimation using Real NVP", 2017, section 3.2 (arXiv:1605.08803).
    """

    recomputed_from = "output"

    def __init__(
        self,
        net: nn.Module,
        keep: str | int | Tensor = "first",
        bound: nn.Module | None = None,
        shift_first: bool = False,
    ):
        super().__init__()
        self.net = net
        # tanh bounds each scale; without it one bad batch early in training overflows.
        self.bound = nn.Tanh() if bound is None else bound
        self.shift_first = shift_first
        mask = keep if isinstance(keep, Tensor) else None
        if mask is not None and mask.dtype != torch.bool:
            raise ValueError(f"a mask is a bool tensor, True where x is kept; got {mask.dtype}")
        counts = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 0
        if mask is None and not counts and keep not in ("first", "second"):
            raise ValueError(f"keep is 'first', 'second', a number of channels or a mask, got {keep!r}")
        self.keep = "masked" if mask is not None else keep
        self.register_buffer("mask", mask, persistent=False)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.keep == "masked":
            return x * self.mask, x * ~self.mask
        if isinstance(self.keep, int):
            return x[:, : self.keep], x[:, self.keep :]
        return halves(x, self.keep)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        if self.keep == "masked":
            return kept + moved
        if isinstance(self.keep, int):
            return torch.cat([kept, moved], dim=1)
        return join_halves(kept, moved, self.keep)

    def _shift_and_log_scale(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        # Coordinates stay in the flow's precision, whatever the network computes in.
        t, raw = self.net(kept, context).to(kept.dtype).chunk(2, dim=1)
        s = self.bound(raw)
        return (t * ~self.mask, s * ~self.mask) if self.keep == "masked" else (t, s)

    def forward(self, x, context=None):
        self.output_shape(tuple(x.shape[1:]))
        kept, moved = self._split(x)
        t, s = self._shift_and_log_scale(kept, context)
        return self._join(kept, self._move(moved, t, s)), sum_dimensions(s)

    def _move(self, moved: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (moved + t) * s.exp() if self.shift_first else moved * s.exp() + t

    def _move_back(self, moved: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return moved * (-s).exp() - t if self.shift_first else (moved - t) * (-s).exp()

    def inverse(self, z, context=None):
        require_data(self.net)
        kept, moved = self._split(z)
        t, s = self._shift_and_log_scale(kept, context)
        return self._join(kept, self._move_back(moved, t, s))

    def recompute(self, z, context=None):
        # What is kept, z has too: the network is evaluated once, for the inverse and for the way forward.
        leaf = z.detach().requires_grad_()
        kept, moved_on = self._split(leaf)
        t, s = self._shift_and_log_scale(kept, context)
        with torch.no_grad():
            moved = self._move_back(moved_on, t, s)
            x = self._join(kept, moved)
        # The value of what moved, with the gradient of the leaf.
        moved = moved + (moved_on - moved_on.detach())
        return x, leaf, self._join(kept, self._move(moved, t, s)), sum_dimensions(s)

    def output_shape(self, shape):
        if self.keep == "masked":
            channels, *size = self.mask.shape
            if len(shape) != self.mask.dim() or tuple(shape[1:]) != tuple(size) or channels not in (1, shape[0]):
                raise ValueError(f"the mask {tuple(self.mask.shape)} does not fit {tuple(shape)}")
        if isinstance(self.keep, int) and shape[0] <= self.keep:
            raise ValueError(f"a coupling that keeps {self.keep} channels has none to move of {shape[0]}")
        if isinstance(self.keep, str) and self.keep != "masked" and shape[0] % 2:
            raise ValueError(f"a coupling of halves needs an even number of channels, got {shape[0]}; use a mask")
        return tuple(shape)


class LearnedTanh(nn.Module):
    """s = exp(a) tanh(raw / exp(a)), with a learned limit exp(a) per channel: |s| < exp(a), slope 1 at 0.

    Args:
        num_channels: of the raw log-scale.
        num_dims: its spatial dimensions, 2 for images, 0 for vectors.

    Source: UvA Deep Learning Tutorial 11, 2021 (a: ``scaling_factor`` there, 0 at the start).
    """

    def __init__(self, num_channels: int, num_dims: int = 2):
        super().__init__()
        self.log_limit = nn.Parameter(torch.zeros(num_channels, *[1] * num_dims))

    def forward(self, raw: Tensor) -> Tensor:
        limit = self.log_limit.exp()
        return limit * torch.tanh(raw / limit)


class SigmoidScale(nn.Module):
    """s = log(lowest + (1 - lowest) sigmoid(raw + offset)): every scale exp(s) is between lowest and 1.

    Args:
        offset: 2 starts at scales near the identity, of 0.88 if lowest is 0.
        lowest: 0 as in Glow. The inverse divides by the scales: with scales near 0 it overflows where latents are not
            like those of data, and with 0.5 no layer more than doubles.

    Source: Kingma and Dhariwal, "Glow", 2018, the authors' code (arXiv:1807.03039); lowest: Behrmann et al.,
    "Understanding and mitigating exploding inverses in invertible neural networks", 2021 (arXiv:2006.09347).
    """

    def __init__(self, offset: float = 2.0, lowest: float = 0.0):
        super().__init__()
        if not 0 <= lowest < 1:
            raise ValueError(f"lowest is at least 0 and below 1, got {lowest}")
        self.offset, self.lowest = inputs.number(offset, "offset"), lowest

    def forward(self, raw: Tensor) -> Tensor:
        if self.lowest == 0:
            return F.logsigmoid(raw + self.offset)
        return torch.log(self.lowest + (1 - self.lowest) * torch.sigmoid(raw + self.offset))


class ScaledTanh(nn.Module):
    """s = limit tanh(raw), with a learned limit per channel, 1 at the start.

    Args:
        num_channels: of the raw log-scale.
        num_dims: its spatial dimensions, 2 for images, 0 for vectors.

    Source: Bhattacharyya et al., "Normalizing flows with multi-scale autoregressive priors", 2020, the authors' code
    (arXiv:2004.03891).
    """

    def __init__(self, num_channels: int, num_dims: int = 2):
        super().__init__()
        self.limit = nn.Parameter(torch.ones(num_channels, *[1] * num_dims))

    def forward(self, raw: Tensor) -> Tensor:
        return self.limit * torch.tanh(raw)


class ArctanScale(nn.Module):
    """s = 0.636 limit arctan(raw): |s| < limit, as 0.636 is 2/pi rounded down; slope 0.636 limit at 0.

    Args:
        limit: of the log-scale.

    Source: Batzolis et al., "CAFLOW", 2021, the authors' code (arXiv:2106.02531); it takes this bound from the FrEIA
    library.
    """

    def __init__(self, limit: float = 2.0):
        super().__init__()
        self.limit = inputs.number(limit, "limit", above=0)

    def forward(self, raw: Tensor) -> Tensor:
        return 0.636 * self.limit * raw.atan()


def checkerboard(height: int, width: int, invert: bool = False) -> Tensor:
    """A mask ``(1, height, width)``, True where row + column is odd (even if inverted)."""
    odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 1
    return (~odd if invert else odd)[None]
