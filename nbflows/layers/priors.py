"""Priors: bijections from a latent to standard normal noise, given what the latent may look at."""

import torch
from torch import nn

from nbflows.bijection import Bijection, sum_dimensions
from nbflows.layers.linear import require_data


class GaussianPrior(Bijection):
    """A Gaussian whose mean and scale are read off the context: noise = (z - mean) exp(-log_std).

    mean, log_std = net(context),   log_det = -sum(log_std):  log N(z; mean, std) = log N(noise; 0, 1) + log_det.

    Args:
        net: maps the context to the means, then the log standard deviations, joined along channels:
            ``(B, 2C, H, W)`` for a latent ``(B, C, H, W)``.

    Shapes: as the latent.
    Source: Kingma and Dhariwal, "Glow", 2018: the split prior of the authors' code (arXiv:1807.03039).
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def _mean_and_log_std(self, z, context):
        if context is None:
            raise ValueError(
                "GaussianPrior got no context to read mean and scale from; the standard normal is Identity"
            )
        parameters = self.net(context).to(z.dtype)
        wanted = (z.shape[0], 2 * z.shape[1], *z.shape[2:])
        if tuple(parameters.shape) != wanted:
            raise ValueError(f"the prior's network returned {tuple(parameters.shape)}, it should return {wanted}")
        return parameters.chunk(2, dim=1)

    def forward(self, x, context=None):
        mean, log_std = self._mean_and_log_std(x, context)
        return (x - mean) * (-log_std).exp(), -sum_dimensions(log_std)

    def inverse(self, z, context=None):
        require_data(self.net)
        mean, log_std = self._mean_and_log_std(z, context)
        return z * log_std.exp() + mean


class ConvLSTMPrior(Bijection):
    """A Gaussian per channel, whose mean and scale come from all channels before it: the prior of mAR-SCF.

    noise[t] = (z[t] - mean[t]) exp(-log_std[t])  for channels t = 0, 1, ...,   log_det = -sum(log_std),
    mean[t], log_std[t] = lstm(z[0], ..., z[t - 1]; features(context)), two maps per step, all positions at once.
    ``forward`` knows all channels and takes all steps together; ``inverse`` goes channel by channel.

    Args:
        lstm: a ``nets.ConvLSTM`` or alike, from 1 channel (and the features) to 2.
        features: maps the context to maps that every step sees; None for a prior that looks at no context.
        max_log_std: log_std is cut off at plus and minus this, so that no scale overflows.

    Shapes: ``(B, C, H, W)`` with any C, H and W; kept.
    Source: Bhattacharyya et al., "Normalizing flows with multi-scale autoregressive priors", 2020 (arXiv:2004.03891).
    """

    def __init__(self, lstm: nn.Module, features: nn.Module | None = None, max_log_std: float = 10.0):
        super().__init__()
        self.lstm = lstm
        self.features = features
        self.max_log_std = max_log_std

    def _features(self, z, context):
        if self.features is None:
            return z[:, :0]
        if context is None:
            raise ValueError("this ConvLSTMPrior was built with features of a context, and got no context")
        return self.features(context).to(z.dtype)

    def _mean_and_log_std(self, outputs, dtype):
        mean, log_std = outputs.to(dtype).unbind(dim=-3)
        return mean, log_std.clamp(-self.max_log_std, self.max_log_std)

    def forward(self, x, context=None):
        self.output_shape(tuple(x.shape[1:]))
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)[:, :, None]  # (B, C, 1, H, W)
        features = self._features(x, context)[:, None].expand(-1, x.shape[1], -1, -1, -1)
        outputs = self.lstm(torch.cat([before, features], dim=2))
        mean, log_std = self._mean_and_log_std(outputs, x.dtype)
        return (x - mean) * (-log_std).exp(), -sum_dimensions(log_std)

    def inverse(self, z, context=None):
        require_data(self)
        features = self._features(z, context)
        channel, states, channels = torch.zeros_like(z[:, :1]), None, []
        for noise in z.split(1, dim=1):
            outputs, states = self.lstm.step(torch.cat([channel, features], dim=1), states)
            mean, log_std = self._mean_and_log_std(outputs[:, None], z.dtype)
            channel = noise * log_std.exp() + mean
            channels.append(channel)
        return torch.cat(channels, dim=1)

    def output_shape(self, shape):
        if len(shape) != 3:
            raise ValueError(f"ConvLSTMPrior takes latents (C, H, W), got {tuple(shape)}")
        return tuple(shape)
