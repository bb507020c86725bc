"""Networks g with Lipschitz constant below 1, so that x + g(x) is invertible."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from nbflows.nets import fast
from nbflows.nets.context import channels_last, join_context
from nbflows.nets.operator_norm import OperatorNorm


class LipSwish(nn.Module):
    """x sigmoid(beta x) / 1.1  with a learned beta = softplus(raw): its slope is below 1 for every beta.

    ELU and ReLU have second derivative zero wherever they are steep; LipSwish does not. The gradient of a
    log-determinant consists of second derivatives.

    Args:
        raw: its value at the start.

    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, section 3.3 (arXiv:1906.02735).
    """

    def __init__(self, raw: float = 0.5):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self, x: Tensor) -> Tensor:
        # beta keeps its own dtype: an error from rounding it to half precision would be the same everywhere and add up.
        return fast.lip_swish(x, F.softplus(self.raw))


class _Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
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
    """Alternates activations with layers of operator norm at most ``coeff``."""

    def __init__(
        self,
        layers: Sequence[nn.Conv2d | nn.Linear],
        size: tuple[int, int] | None,
        activation: str,
        coeff: float,
        first_activation: bool,
        context_channels: int,
    ):
        super().__init__()
        self.context_channels = context_channels
        self.layers = nn.Sequential()
        for i, layer in enumerate(layers):
            if i > 0 or first_activation:
                self.layers.append(_activation(activation))
            # unsafe skips a check that would compute the norm again.
            parametrize.register_parametrization(layer, "weight", OperatorNorm(layer.weight, size, coeff), unsafe=True)
            self.layers.append(layer)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(join_context(x, context, self.context_channels)).to(x.dtype)


class LipschitzConvNet(_LipschitzNet):
    """Alternates activations and L convolutions; the Lipschitz constant is at most coeff^L.

    Each convolution, with zeros around images of this size, has operator norm at most ``coeff``.

    Args:
        shape: ``(C, H, W)`` of input and output; the norms hold for this size only.
        hidden_channels: width.
        kernel_sizes: odd sizes of the L kernels.
        activation: "lipswish", "elu", "relu", "softplus", "tanh" or "sine", each of slope at most 1.
        coeff: bound on the norm of each convolution.
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
        first_activation: bool = True,
        context_channels: int = 0,
    ):
        channels, height, width = shape
        widths = [channels + context_channels, *[hidden_channels] * (len(kernel_sizes) - 1), channels]
        layers = [nn.Conv2d(a, b, k, padding=k // 2) for (a, b), k in zip(pairwise(widths), kernel_sizes, strict=True)]
        super().__init__(layers, (height, width), activation, coeff, first_activation, context_channels)
        self.shape = tuple(shape)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"the norms of this net hold for images {self.shape}, got {tuple(x.shape[1:])}")
        # Twice as fast on a CPU, products with the Jacobian included.
        return super().forward(channels_last(x), context)


class LipschitzMLP(_LipschitzNet):
    """Alternates activations and L linear layers; the Lipschitz constant is at most coeff^L.

    Args:
        features: width of input and output.
        hidden_features: width.
        num_hidden: hidden layers.
        activation, coeff, first_activation: as in ``LipschitzConvNet``.
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
        first_activation: bool = True,
        context_features: int = 0,
    ):
        widths = [features + context_features, *[hidden_features] * num_hidden, features]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        super().__init__(layers, None, activation, coeff, first_activation, context_features)
