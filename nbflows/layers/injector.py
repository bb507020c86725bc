"""The affine injector: a context scales and shifts everything."""

from torch import nn

from nbflows.bijection import Bijection, sum_dimensions
from nbflows.nets.norm import require_data


class AffineInjector(Bijection):
    """Scales and shifts all of the input by amounts read off the context alone.

    z = x * exp(s) + t  with  t, raw = net(context),  s = bound(raw),  log_det = sum(s).

    Args:
        net: maps the context to the shift t, then the raw log-scale, joined along channels: ``(B, 2C, H, W)`` for an
            input ``(B, C, H, W)``.
        bound: elementwise map from the raw log-scale to s.

    Shapes: as the input.
    Source: Lugmayr et al., "SRFlow", 2020 (arXiv:2006.14200).
    """

    recomputed_from = "output"

    def __init__(self, net: nn.Module, bound: nn.Module | None = None):
        super().__init__()
        self.net = net
        self.bound = nn.Tanh() if bound is None else bound

    def _shift_and_log_scale(self, x, context):
        if context is None:
            raise ValueError("AffineInjector got no context to read shift and scale from; pass one to the call")
        parameters = self.net(context).to(x.dtype)
        wanted = (x.shape[0], 2 * x.shape[1], *x.shape[2:])
        if tuple(parameters.shape) != wanted:
            raise ValueError(f"the injector's network returned {tuple(parameters.shape)}, it should return {wanted}")
        t, raw = parameters.chunk(2, dim=1)
        return t, self.bound(raw)

    def forward(self, x, context=None):
        t, s = self._shift_and_log_scale(x, context)
        return x * s.exp() + t, sum_dimensions(s)

    def inverse(self, z, context=None):
        require_data(self.net)
        t, s = self._shift_and_log_scale(z, context)
        return (z - t) * (-s).exp()

    def recompute(self, z, context=None):
        # The network sees the context alone: it is evaluated once, for the inverse and for the way forward.
        t, s = self._shift_and_log_scale(z, context)
        x = ((z - t) * (-s).exp()).detach()
        leaf = x.requires_grad_()
        return x, leaf, leaf * s.exp() + t, sum_dimensions(s)
