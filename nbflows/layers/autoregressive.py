"""Masked autoregressive layers: each number moves along a curve that is read off the numbers before it."""

from typing import Protocol

import torch
from torch import Tensor, nn

from nbflows import inputs
from nbflows.bijection import Bijection, sum_dimensions
from nbflows.layers.mixture import invert_mixture, mixture_logit


class ElementTransform(Protocol):
    """An increasing curve for each element, with parameters ``(num_parameters, *x.shape)``; 0 is near the identity."""

    num_parameters: int

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z and log dz/dx, both shaped like x."""
        ...

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        """Returns x."""
        ...


class Affine:
    """z = x exp(s) + t with parameters t and raw; s = limit tanh(raw / limit).

    Args:
        limit: bounds the log-scale: |s| < limit.
    """

    num_parameters = 2

    def __init__(self, limit: float = 4.0):
        self.limit = inputs.number(limit, "limit", above=0)

    def _scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return raw[0], self.limit * torch.tanh(raw[1] / self.limit)

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        t, s = self._scale(raw)
        return x * s.exp() + t, s

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        t, s = self._scale(raw)
        return (z - t) * (-s).exp()


class LogisticMixture:
    """z = logit F(x) with the CDF F of a mixture of logistics, as in ``MixtureCoupling``.

    Parameters are M logits of the weights, M means and M log-scales. Constants are added to the means, from -2 to 2:
    components that start equal would stay so.

    Args:
        num_components: M.
        min_log_scale: log-scales are at least this.
    """

    def __init__(self, num_components: int = 4, min_log_scale: float = -7.0):
        self.num_components = inputs.whole(num_components, "num_components", 1)
        self.min_log_scale = inputs.number(min_log_scale, "min_log_scale")
        self.num_parameters = 3 * num_components

    def _mixture(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, means, log_scales = raw.unflatten(0, (3, self.num_components))
        starts = torch.linspace(-2, 2, self.num_components + 2, dtype=raw.dtype, device=raw.device)[1:-1]
        return logits, means + starts.view(-1, *[1] * (means.dim() - 1)), log_scales.clamp(min=self.min_log_scale)

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return mixture_logit(x, *self._mixture(raw))

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        return invert_mixture(z, *self._mixture(raw))


class MaskedAutoregressive(Bijection):
    """Moves each number along a curve that is read off the numbers before it.

    z_i = f(x_i; net_i(x_0, ..., x_i-1, context)),   log_det = sum_i log f'(x_i): the Jacobian is triangular.
    ``forward`` takes one pass of the network and ``inverse`` takes D, one for each number. ``Inverse`` of this layer
    is the inverse autoregressive flow: one pass to sample, D + 1 to score.

    Args:
        net: maps ``(B, D)``, and the context, to ``(B, P, D)``, where the P numbers of input i depend on inputs before
            i alone: ``nets.MADE``.
        transform: the curves f, with P parameters each: ``Affine``, ``LogisticMixture`` or ``Spline``.

    Shapes: vectors ``(B, D)``; kept.
    Source: Papamakarios et al., "Masked autoregressive flow for density estimation", 2017 (arXiv:1705.07057); its
    inverse: Kingma et al., "Improving variational inference with inverse autoregressive flow", 2016 (arXiv:1606.04934).
    """

    def __init__(self, net: nn.Module, transform: ElementTransform):
        super().__init__()
        self.net = net
        self.transform = transform

    def _parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        raw = self.net(x, context)
        wanted = (len(x), self.transform.num_parameters, x.shape[1])
        if tuple(raw.shape) != wanted:
            raise ValueError(f"the net of MaskedAutoregressive returned {tuple(raw.shape)}, it should return {wanted}")
        # Coordinates stay in the flow's precision, whatever the network computes in.
        return raw.transpose(0, 1).to(x.dtype)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        z, log_slope = self.transform.forward(x, self._parameters_of(x, context))
        return z, sum_dimensions(log_slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x = torch.zeros_like(z)
        for i in range(z.shape[1]):
            column = self.transform.inverse(z[:, i], self._parameters_of(x, context)[..., i])
            # A new tensor, because autograd keeps the one that the network saw.
            x = torch.cat([x[:, :i], column[:, None], x[:, i + 1 :]], 1)
        return x

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 1:
            raise ValueError(f"MaskedAutoregressive takes vectors, got {tuple(shape)}: put Flatten before it")
        return tuple(shape)
