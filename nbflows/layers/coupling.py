"""Affine coupling: one part of the input scales and shifts the other."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import inputs
from nbflows.bijection import sum_dimensions
from nbflows.layers.split import splitter
from nbflows.nets.norm import require_data
from nbflows.recompute import CheapInverse


class AffineCoupling(CheapInverse):
    """Scales and shifts one part of the input by amounts read off the other part.

    z = [kept, moved * exp(s) + t]  or, with ``shift_first``,  [kept, (moved + t) * exp(s)],
    where  t, raw = net(kept, context),  s = bound(raw),  log_det = sum(s).

    Args:
        net: maps the kept part, and the context, to the shift t, then the raw log-scale, joined along channels. With
            halves: C/2 channels to C; with k channels kept: k to 2 (C - k); with a mask: C to 2C.
        keep: "first" or "second" keeps that half of the channels. A number k keeps the first k channels. A mask, bool
            ``(C or 1, H, W)`` or ``(D,)``, keeps x where it is True; the net sees zeros elsewhere.
        bound: elementwise map from the raw log-scale to s.
        shift_first: shift before scaling, as in Glow and the UvA tutorial; otherwise after it, as in Real NVP.

    Shapes: ``(B, C, H, W)``, or vectors ``(B, D)`` split along D; kept.
    Source: Dinh et al., "Density estimation using Real NVP", 2017, section 3.2 (arXiv:1605.08803).
    """

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
        self.split = splitter(keep)

    def _shift_and_log_scale(self, kept: Tensor, moved: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        # Coordinates stay in the flow's precision, whatever the network computes in.
        t, raw = self.net(kept, context).to(kept.dtype).chunk(2, dim=1)
        return self.split.of_other(t), self.split.of_other(self.bound(raw))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        kept, moved = self.split.split(x)
        t, s = self._shift_and_log_scale(kept, moved, context)
        return self.split.join(kept, self._move(moved, t, s)), sum_dimensions(s)

    def _move(self, moved: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (moved + t) * s.exp() if self.shift_first else moved * s.exp() + t

    def _move_back(self, moved: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return moved * (-s).exp() - t if self.shift_first else (moved - t) * (-s).exp()

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        require_data(self.net)
        kept, moved = self.split.split(z)
        t, s = self._shift_and_log_scale(kept, moved, context)
        return self.split.join(kept, self._move_back(moved, t, s))

    def recompute(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # z contains the kept part too, so one evaluation of the network serves the inverse and the way forward.
        leaf = z.detach().requires_grad_()
        kept, moved_on = self.split.split(leaf)
        t, s = self._shift_and_log_scale(kept, moved_on, context)
        with torch.no_grad():
            moved = self._move_back(moved_on, t, s)
            x = self.split.join(kept, moved)
        # The value of the moved part of x, with the gradient of the leaf.
        moved = moved + (moved_on - moved_on.detach())
        return x, leaf, self.split.join(kept, self._move(moved, t, s)), sum_dimensions(s)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        self.split.check(shape)
        return tuple(shape)


class AffineInjector(AffineCoupling):
    """A coupling that keeps nothing: it scales and shifts the whole input by amounts read off the context alone.

    z = x * exp(s) + t  with  t, raw = net(context),  s = bound(raw),  log_det = sum(s).

    Args:
        net: maps the context to the shift t, then the raw log-scale, joined along channels: ``(B, 2C, H, W)`` for an
            input ``(B, C, H, W)``.
        bound: elementwise map from the raw log-scale to s.

    Shapes: as the input.
    Source: Lugmayr et al., "SRFlow", 2020 (arXiv:2006.14200).
    """

    def __init__(self, net: nn.Module, bound: nn.Module | None = None):
        super().__init__(net, keep=0, bound=bound)

    def _shift_and_log_scale(self, kept: Tensor, moved: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        t, raw = read_off(self.net, context, like=moved, name="AffineInjector")
        return t, self.bound(raw)


def read_off(net: nn.Module, context: Tensor | None, like: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Returns the two halves of what a network makes of the context, each with the shape and the dtype of ``like``."""
    if context is None:
        raise ValueError(f"{name} got no context to read off; pass one to the call")
    parameters = net(context).to(like.dtype)
    wanted = (like.shape[0], 2 * like.shape[1], *like.shape[2:])
    if tuple(parameters.shape) != wanted:
        raise ValueError(f"{name}'s network returned {tuple(parameters.shape)}, it should return {wanted}")
    first, second = parameters.chunk(2, dim=1)
    return first, second


def maps_of(net: nn.Module, kept: Tensor, moved: Tensor, context: Tensor | None, num_maps: int, name: str) -> Tensor:
    """Returns what a coupling's network makes of the kept half, ``(num_maps, *moved.shape)``."""
    raw, wanted = net(kept, context), num_maps * moved.shape[1]
    if raw.shape[1] != wanted:
        raise ValueError(
            f"the net of {name} returned {raw.shape[1]} channels for {moved.shape[1]} moved ones; it should return "
            f"{wanted}"
        )
    # Coordinates stay in the flow's precision, whatever the network computes in.
    return raw.unflatten(1, (-1, moved.shape[1])).transpose(0, 1).to(kept.dtype)


class LearnedTanh(nn.Module):
    """s = exp(a) tanh(raw / exp(a)), with a learned limit exp(a) per channel: |s| < exp(a), slope 1 at 0.

    Args:
        num_channels: channels of the raw log-scale.
        num_dims: its number of spatial dimensions, 2 for images, 0 for vectors.

    Source: UvA Deep Learning Tutorial 11, 2021 (there a is ``scaling_factor``, 0 at the start).
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
        offset: 2 starts with scales near the identity: 0.88 if lowest is 0.
        lowest: 0 as in Glow. The inverse divides by the scales. With scales near 0 it overflows for latents unlike
            those of data; with 0.5 no layer more than doubles a number.

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
        num_channels: channels of the raw log-scale.
        num_dims: its number of spatial dimensions, 2 for images, 0 for vectors.

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
        limit: the bound of the log-scale.

    Source: Batzolis et al., "CAFLOW", 2021, the authors' code (arXiv:2106.02531), who took it from the FrEIA
    library.
    """

    def __init__(self, limit: float = 2.0):
        super().__init__()
        self.limit = inputs.number(limit, "limit", above=0)

    def forward(self, raw: Tensor) -> Tensor:
        return 0.636 * self.limit * raw.atan()


def checkerboard(height: int, width: int, invert: bool = False) -> Tensor:
    """Returns a mask ``(1, height, width)``, True where row + column is odd, or even with ``invert``."""
    odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 1
    return (~odd if invert else odd)[None]
