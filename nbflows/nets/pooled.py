"""Features for a classifier: averages over the positions of an image."""

from torch import Tensor, nn

from nbflows.nets.glow import NormalizedConv


class PooledFeatures(nn.Module):
    """conv 3x3, ActNorm, ReLU, mean over the positions.

    Args:
        in_channels: channels of the image.
        num_features: features of the result.

    Shapes: ``(B, in_channels, H, W)`` to ``(B, num_features)``. The first training batch sets the ActNorm.
    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, their code (arXiv:1906.02735).
    """

    def __init__(self, in_channels: int, num_features: int):
        super().__init__()
        self.conv = NormalizedConv(in_channels, num_features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean((2, 3))
