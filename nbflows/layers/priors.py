"""Priors: bijections from a latent to standard normal noise, given what the latent may look at."""

from torch import nn

from nbflows.bijection import Bijection, sum_dimensions


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
        mean, log_std = self._mean_and_log_std(z, context)
        return z * log_std.exp() + mean
