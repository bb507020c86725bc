"""MADE: a fully connected network in which the outputs of input i depend on the inputs before i alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import inputs
from nbflows.nets.context import join_context
from nbflows.nets.zeros import with_zeros


class MaskedLinear(nn.Linear):
    """A linear layer whose weight is multiplied by a mask: y = (W * mask) x + b.

    Args:
        mask: bool ``(out_features, in_features)``, False where an output must not see an input.
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        out_features, in_features = mask.shape
        super().__init__(in_features, out_features)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """An autoregressive network: numbers for each input that depend on the context and the inputs before it.

    A hidden unit of degree m sees inputs 0..m - 1, and the outputs of input i see hidden units of degree at most i.
    The last layer starts at zero.

    Args:
        num_features: D, the number of inputs.
        hidden_features: width of the hidden layers; at least D, so that no degree is missing.
        num_outputs: P, numbers per input.
        num_hidden: hidden layers.
        context_features: width of the context, which all outputs see; 0 for none.

    Shapes: ``(B, D)`` to ``(B, P, D)``.
    Source: Germain et al., "MADE: Masked autoencoder for distribution estimation", 2015 (arXiv:1502.03509).
    """

    def __init__(
        self, num_features: int, hidden_features: int, num_outputs: int, num_hidden: int = 2, context_features: int = 0
    ):
        super().__init__()
        if hidden_features < num_features:
            raise ValueError(f"MADE of {num_features} inputs needs as many hidden features, got {hidden_features}")
        self.num_outputs = inputs.whole(num_outputs, "num_outputs", 1)
        self.context_features = context_features
        of_input = torch.arange(num_features)
        # Equally many units of each degree 0..D - 1, spread over the layer.
        of_hidden = torch.arange(hidden_features) % num_features
        context = torch.ones(hidden_features, context_features, dtype=torch.bool)
        masks = [torch.cat([of_hidden[:, None] > of_input, context], 1)]
        masks += [of_hidden[:, None] >= of_hidden] * (inputs.whole(num_hidden, "num_hidden", 1) - 1)
        last = (of_input[:, None] >= of_hidden).repeat(num_outputs, 1)
        hidden = [module for mask in masks for module in (MaskedLinear(mask), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, with_zeros(MaskedLinear(last)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        parameters = self.layers(join_context(x, context, self.context_features))
        return parameters.unflatten(1, (self.num_outputs, -1))
