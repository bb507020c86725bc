"""Priors: bijections from a latent to standard normal noise, given a context that the latent depends on."""

import contextlib
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from nbflows import inputs
from nbflows.bijection import Bijection, module_list, sum_dimensions, zero_log_det
from nbflows.layers.coupling import read_off
from nbflows.nets import ConvLSTM
from nbflows.nets.norm import require_data
from nbflows.recompute import NotRecomputed


class GaussianPrior(Bijection):
    """A Gaussian with mean and scale read off the context: noise = (z - mean) exp(-log_std).

    mean, log_std = net(context),   log_det = -sum(log_std):  log N(z; mean, std) = log N(noise; 0, 1) + log_det.

    Args:
        net: maps the context to the means, then the log standard deviations, joined along channels:
            ``(B, 2C, H, W)`` for a latent ``(B, C, H, W)``.
        max_log_std: log_std is clamped to plus and minus this value, so that no scale overflows.

    Shapes: as the latent.
    Source: the split prior of the authors' code of Kingma and Dhariwal, "Glow", 2018 (arXiv:1807.03039).
    """

    def __init__(self, net: nn.Module, max_log_std: float = 10.0):
        super().__init__()
        self.net = net
        self.max_log_std = inputs.number(max_log_std, "max_log_std", above=0)

    def _mean_and_log_std(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, log_std = read_off(self.net, context, like=z, name="GaussianPrior")
        return mean, log_std.clamp(-self.max_log_std, self.max_log_std)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_std = self._mean_and_log_std(x, context)
        return (x - mean) * (-log_std).exp(), -sum_dimensions(log_std)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        require_data(self.net)
        mean, log_std = self._mean_and_log_std(z, context)
        return z * log_std.exp() + mean


class ConvLSTMPrior(Bijection):
    """A Gaussian per channel with mean and scale predicted from all earlier channels: the prior of mAR-SCF.

    noise[t] = (z[t] - mean[t]) exp(-log_std[t])  for channels t = 0, 1, ...,   log_det = -sum(log_std),
    mean[t], log_std[t] = lstm(z[0], ..., z[t - 1]; features(context)), two maps per step, all positions at once.
    ``forward`` knows all channels and takes all steps together; ``inverse`` goes channel by channel.
    Under autocast the lstm runs in half precision in training only.

    Args:
        lstm: a ``nets.ConvLSTM`` or a similar module, from 1 channel plus the features to 2 channels.
        features: maps the context to maps that every step sees; None for a prior without a context.
        max_log_std: log_std is clamped to plus and minus this value, so that no scale overflows.

    Shapes: ``(B, C, H, W)`` with any C, H and W; kept.
    Source: Bhattacharyya et al., "Normalizing flows with multi-scale autoregressive priors", 2020 (arXiv:2004.03891).
    """

    def __init__(self, lstm: ConvLSTM, features: nn.Module | None = None, max_log_std: float = 10.0):
        super().__init__()
        self.lstm = lstm
        self.features = features
        self.max_log_std = inputs.number(max_log_std, "max_log_std", above=0)

    def _features(self, z: Tensor, context: Tensor | None) -> Tensor:
        if self.features is None:
            return z[:, :0]
        if context is None:
            raise ValueError("this ConvLSTMPrior was built with features of a context, and got no context")
        return self.features(context).to(z.dtype)

    def _mean_and_log_std(self, outputs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        mean, log_std = outputs.to(dtype).unbind(dim=-3)
        return mean, log_std.clamp(-self.max_log_std, self.max_log_std)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)[:, :, None]  # (B, C, 1, H, W)
        # In half precision all steps at once round differently from one step after the other.
        with contextlib.nullcontext() if self.training else torch.autocast(x.device.type, enabled=False):
            features = self._features(x, context)[:, None].expand(-1, x.shape[1], -1, -1, -1)
            outputs = self.lstm(torch.cat([before, features], dim=2))
        mean, log_std = self._mean_and_log_std(outputs, x.dtype)
        return (x - mean) * (-log_std).exp(), -sum_dimensions(log_std)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        require_data(self)
        with torch.autocast(z.device.type, enabled=False):
            features = self._features(z, context)
            channel, states, channels = torch.zeros_like(z[:, :1]), None, []
            for noise in z.split(1, dim=1):
                outputs, states = self.lstm.step(torch.cat([channel, features], dim=1), states)
                mean, log_std = self._mean_and_log_std(outputs[:, None], z.dtype)
                channel = noise * log_std.exp() + mean
                channels.append(channel)
        return torch.cat(channels, dim=1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 3:
            raise ValueError(f"ConvLSTMPrior takes latents (C, H, W), got {tuple(shape)}")
        return tuple(shape)


class CoarseToFine(NotRecomputed):
    """A prior over all levels of a multi-scale latent, coarsest first: each one given the coarser ones.

    noise[i] = priors[i](z[i], context=(c[i], ..., c[L], z[i + 1], ..., z[L]))  for the levels i = 0 (finest), ..., L.
    The context c is a latent with the same number of levels. log_det = the sum of the priors' log-determinants.
    ``forward`` knows all levels; ``inverse`` finds one after the other, the coarsest first.

    A prior gets its context flattened and joined in this order; ``nets.PickLevels`` selects from it.
    Under autocast the priors stay in full precision: where the context determines z almost completely, z - mean is as
    small as the error of a mean in half precision.

    Args:
        priors: one bijection per level, finest first.
        shapes: ``(C, H, W)`` of the levels of z, finest first: ``Multiscale.latent_shapes``.
        context_shapes: the same for the levels of the context.

    Shapes: x and z ``(B, D)`` with D the number of elements of all levels; the context likewise.
    Source: Batzolis et al., "CAFLOW", 2021, equations 7 and 8 (arXiv:2106.02531).
    """

    priors: Sequence[Bijection]

    def __init__(
        self,
        priors: Sequence[Bijection],
        shapes: Sequence[tuple[int, ...]],
        context_shapes: Sequence[tuple[int, ...]],
    ):
        super().__init__()
        if not len(priors) == len(shapes) == len(context_shapes) > 0:
            raise ValueError(
                f"CoarseToFine needs one prior and one level of the context per level: got {len(priors)} priors, "
                f"{len(shapes)} levels and {len(context_shapes)} levels of the context"
            )
        self.priors = module_list(priors)
        self.shapes = [tuple(shape) for shape in shapes]
        self.noise_shapes = [prior.output_shape(shape) for prior, shape in zip(self.priors, self.shapes, strict=True)]
        for i, (shape, noise_shape) in enumerate(zip(self.shapes, self.noise_shapes, strict=True)):
            if prod(shape) != prod(noise_shape):
                raise ValueError(f"the prior of level {i} turns a latent {shape} into noise {noise_shape}")
        self.sizes = [prod(shape) for shape in self.shapes]
        self.context_sizes = [prod(shape) for shape in context_shapes]

    def _check(self, x: Tensor, context: Tensor | None) -> Tensor:
        self.output_shape(tuple(x.shape[1:]))
        if context is None or tuple(context.shape) != (len(x), sum(self.context_sizes)):
            got = "none" if context is None else f"{tuple(context.shape)}"
            raise ValueError(f"CoarseToFine needs a context of {(len(x), sum(self.context_sizes))}, got {got}")
        return context

    def _context(self, i: int, context: Tensor, coarser: Tensor) -> Tensor:
        return torch.cat([context[:, sum(self.context_sizes[:i]) :], coarser], dim=1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        context = self._check(x, context)
        noises, log_det = [], zero_log_det(x)
        with torch.autocast(x.device.type, enabled=False):
            for i, (prior, shape, level) in enumerate(
                zip(self.priors, self.shapes, x.split(self.sizes, dim=1), strict=True)
            ):
                coarser = x[:, sum(self.sizes[: i + 1]) :]
                noise, prior_log_det = prior(level.unflatten(1, shape), self._context(i, context, coarser))
                noises.append(noise)
                log_det = log_det + prior_log_det
        return self.pack(noises), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        context = self._check(z, context)
        coarser = z[:, :0]
        with torch.autocast(z.device.type, enabled=False):
            for i, noise in reversed([*enumerate(self.unpack(z))]):
                level = self.priors[i].inverse(noise, self._context(i, context, coarser))
                coarser = torch.cat([level.flatten(1), coarser], dim=1)
        return coarser

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if tuple(shape) != (sum(self.sizes),):
            raise ValueError(f"CoarseToFine was built for a latent {(sum(self.sizes),)}, got {tuple(shape)}")
        return tuple(shape)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """Cuts ``(B, D)`` into the noise of each level, finest first, in the shape that its prior returns."""
        return [
            part.unflatten(1, shape) for part, shape in zip(z.split(self.sizes, dim=1), self.noise_shapes, strict=True)
        ]

    def pack(self, levels: list[Tensor]) -> Tensor:
        """Joins the noise of the levels into ``(B, D)``."""
        return torch.cat([level.flatten(1) for level in levels], dim=1)
