"""Networks g with Lipschitz constant below 1, so that x + g(x) is invertible."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from nbflows import derivatives
from nbflows.nets.context import channels_last, join_context
from nbflows.nets.operator_norm import LearnedOrder, OperatorNorm


class LipSwish(nn.Module):
    """x sigmoid(beta x) / 1.1  with a learned beta = softplus(raw): its slope is below 1 for every beta.

    Around its steepest place the second derivative is not zero, as it is wherever ELU or ReLU are steep: the gradient
    of a log-determinant consists of second derivatives.

    Args:
        raw: at the start.

    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, section 3.3 (arXiv:1906.02735).
    """

    def __init__(self, raw: float = 0.5):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self, x: Tensor) -> Tensor:
        # Of its own dtype: rounded to half precision it would be off by the same share everywhere, which adds up.
        beta = F.softplus(self.raw)
        if not torch.is_grad_enabled():
            # The same numbers, without the slope.
            return F.silu(x * beta, inplace=True).div_(1.1 * beta)
        if derivatives.traced():
            return F.silu(x * beta) / (1.1 * beta)
        y, slope = _LipSwish.apply(x, beta)
        # beta's own gradient in a branch of its own: products with the Jacobian then never compute it.
        return y + _BetaGradient.apply(beta, x.detach(), y.detach(), slope) if beta.requires_grad else y


class _LipSwish(torch.autograd.Function):
    """A function of x alone that keeps its slope: a power series multiplies by the same slope at every term."""

    @staticmethod
    def forward(ctx, x, beta):
        u = x * beta
        # Fused passes: silu(u) = u sigmoid(u), and the slope of it.
        slope = torch.ops.aten.silu_backward(u.new_tensor(1 / 1.1).expand_as(u), u)
        ctx.save_for_backward(x, beta, slope)
        ctx.mark_non_differentiable(slope)
        return F.silu(u).div_(1.1 * beta), slope

    @staticmethod
    def backward(ctx, grad, _):
        x, beta, slope = ctx.saved_tensors
        return (_TimesSlope.apply(grad, x, beta, slope) if torch.is_grad_enabled() else grad * slope), None


class _TimesSlope(torch.autograd.Function):
    """grad times the slope, as a function of x and beta too."""

    @staticmethod
    def forward(ctx, grad, x, beta, slope):
        ctx.save_for_backward(grad, x, beta, slope)
        return grad * slope

    @staticmethod
    def backward(ctx, outer):
        grad, x, beta, slope = ctx.saved_tensors
        u = x * beta
        gate = torch.sigmoid(u)
        # The slope is (gate + u gate (1 - gate)) / 1.1, a function of u alone; this is its derivative.
        change = torch.addcmul(u, u, gate, value=-2)
        factors = (torch.addcmul(gate, gate, gate, value=-1), outer, grad)
        if torch.is_grad_enabled():
            # A third derivative: what was kept would count as a constant.
            slope = (gate + u * factors[0]) / 1.1
            change = (change + 2) * math.prod(factors)
        else:
            change = change.add_(2)
            for factor in factors:
                change = change.mul_(factor)
        return outer * slope, change * (beta / 1.1), (x * change).sum() / 1.1, None


class _BetaGradient(torch.autograd.Function):
    """Zeros with the gradient of LipSwish for beta; that gradient itself cannot be differentiated, and says so."""

    @staticmethod
    def forward(ctx, beta, x, y, slope):
        ctx.save_for_backward(beta, x, y, slope)
        return x.new_zeros(()).expand_as(x)

    @staticmethod
    def backward(ctx, grad):
        if derivatives.again():
            raise RuntimeError(
                "the gradient of LipSwish for its parameter has no gradient of its own; freeze the parameter, or use "
                "another activation"
            )
        beta, x, y, slope = ctx.saved_tensors
        # dy / dbeta = x^2 gate (1 - gate) / 1.1 = (x slope - y) / beta.
        return (x * slope).sub_(y).mul_(grad).sum() / beta, None, None, None


class _Sine(nn.Module):
    def forward(self, x):
        return x.sin()


ACTIVATIONS = {
    "lipswish": LipSwish,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sine": _Sine,
}


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


class _LipschitzNet(nn.Module):
    """Activations and layers in turn, every layer of operator norm ``coeff`` at most."""

    def __init__(
        self,
        layers: list[nn.Module],
        size: tuple[int, int] | None,
        activation: str,
        coeff: float,
        orders: Sequence[float] | str,
        first_activation: bool,
        context_channels: int,
    ):
        super().__init__()
        self.context_channels = context_channels
        self.orders = nn.ModuleList([LearnedOrder() for _ in layers] if orders == "learned" else [])
        chain = [*self.orders, self.orders[0]] if orders == "learned" else list(orders)
        if len(chain) != len(layers) + 1 or chain[0] != chain[-1]:
            # Otherwise the norms' product would bound no Lipschitz constant.
            raise ValueError(
                f"{len(layers)} layers need {len(layers) + 1} orders, the last equal to the first, or 'learned'; "
                f"got {orders}"
            )
        self.layers = nn.Sequential()
        for i, (layer, (domain, codomain)) in enumerate(zip(layers, pairwise(chain), strict=True)):
            if i > 0 or first_activation:
                self.layers.append(_activation(activation))
            norm = OperatorNorm(layer.weight, size, coeff, domain, codomain)
            # unsafe: what the check would compute, the norm has computed already.
            parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
            self.layers.append(layer)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(join_context(x, context, self.context_channels)).to(x.dtype)


class LipschitzConvNet(_LipschitzNet):
    """Activation and convolution in turn; Lipschitz constant below ``coeff`` to the power of their number.

    Every convolution's operator norm, with zeros around images of this size, is ``coeff`` at most.

    Args:
        shape: ``(C, H, W)`` of the input and of the output. The norms hold for this size only.
        hidden_channels: width.
        kernel_sizes: of the convolutions, odd.
        activation: "lipswish", "elu", "relu", "softplus", "tanh" or "sine", each of slope at most 1.
        coeff: bound of each convolution's norm.
        orders: of the norms between the convolutions: ``(p_0, ..., p_L)`` with p_L = p_0, convolution i maps from norm
            p_i to norm p_(i+1); or "learned". Default: 2 everywhere.
        first_activation: whether to begin with an activation.
        context_channels: channels of the context, 0 for none.

    Shapes: ``(B, C, H, W)``; kept.
    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, appendix E (arXiv:1906.02735).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        hidden_channels: int,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        activation: str = "lipswish",
        coeff: float = 0.98,
        orders: Sequence[float] | str | None = None,
        first_activation: bool = True,
        context_channels: int = 0,
    ):
        channels, *size = shape
        widths = [channels + context_channels, *[hidden_channels] * (len(kernel_sizes) - 1), channels]
        layers = [nn.Conv2d(a, b, k, padding=k // 2) for (a, b), k in zip(pairwise(widths), kernel_sizes, strict=True)]
        orders = [2.0] * len(widths) if orders is None else orders
        super().__init__(layers, tuple(size), activation, coeff, orders, first_activation, context_channels)
        self.shape = tuple(shape)
        self.to(memory_format=torch.channels_last)

    def forward(self, x, context=None):
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"the norms of this net hold for images {self.shape}, got {tuple(x.shape[1:])}")
        # Twice as fast on a CPU, products with the Jacobian included.
        return super().forward(channels_last(x), context)


class LipschitzMLP(_LipschitzNet):
    """Activation and linear layer in turn; Lipschitz constant below ``coeff`` to the power of their number.

    Args:
        features: of the input and of the output.
        hidden_features: width.
        num_hidden: hidden layers.
        activation, coeff, orders, first_activation: as in ``LipschitzConvNet``.
        context_features: width of the context, 0 for none.

    Shapes: ``(B, features)``; kept.
    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, appendix E (arXiv:1906.02735).
    """

    def __init__(
        self,
        features: int,
        hidden_features: int,
        num_hidden: int = 2,
        activation: str = "lipswish",
        coeff: float = 0.98,
        orders: Sequence[float] | str | None = None,
        first_activation: bool = True,
        context_features: int = 0,
    ):
        widths = [features + context_features, *[hidden_features] * num_hidden, features]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        orders = [2.0] * len(widths) if orders is None else orders
        super().__init__(layers, None, activation, coeff, orders, first_activation, context_features)
