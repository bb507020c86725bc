"""A small fully connected conditioner, for vectors."""

from itertools import pairwise

from torch import Tensor, nn

from nbflows.nets.context import join_context
from nbflows.nets.zeros import with_zeros


class MLP(nn.Module):
    """Linear layers with SiLU between them; the last starts at zero, so that a coupling starts as the identity.

    Args:
        in_features, hidden_features, out_features: widths.
        num_hidden: hidden layers.
        context_features: width of the context, 0 for none.

    Shapes: ``(B, in_features)`` to ``(B, out_features)``.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        num_hidden: int = 2,
        context_features: int = 0,
    ):
        super().__init__()
        self.context_features = context_features
        widths = [in_features + context_features] + [hidden_features] * num_hidden
        hidden = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, with_zeros(nn.Linear(widths[-1], out_features)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(join_context(x, context, self.context_features))
