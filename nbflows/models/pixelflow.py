"""Autoregressive models of integer images, as flows of one layer with exact probabilities."""

from nbflows.layers import SubsetAutoregressive
from nbflows.models.builder import builder
from nbflows.nets import CausalImageNet
from nbflows.pixelflow import PixelFlow


@builder
def pixelflow(
    shape: tuple[int, int, int] = (1, 28, 28),
    num_grey_levels: int = 256,
    piece: int = 14,
    width: int = 96,
    num_layers: int = 4,
    num_heads: int = 4,
    reach: int = 5,
    hidden: int = 64,
    num_blocks: int = 2,
) -> PixelFlow:
    """A flow of one layer with a causal transformer over pieces of rows and a masked convolution.

    Args:
        shape, num_grey_levels: those of the images.
        piece, width, num_layers, num_heads, reach, hidden, num_blocks: see ``nets.CausalImageNet``.

    Source: Nielsen and Winther, "Closing the dequantization gap: PixelCNN as a single-layer flow", 2020
    (arXiv:2002.02547); the network and its sizes are ours.
    """
    net = CausalImageNet(shape, num_grey_levels, piece, width, num_layers, num_heads, reach, hidden, num_blocks)
    return PixelFlow(SubsetAutoregressive(net))


@builder
def digits_pixelflow(shape: tuple[int, int, int] = (1, 8, 8), num_grey_levels: int = 17) -> PixelFlow:
    """``pixelflow`` for the 8x8 digits of scikit-learn; the sizes are ours."""
    return pixelflow(
        shape, num_grey_levels, piece=4, width=32, num_layers=2, num_heads=2, reach=3, hidden=32, num_blocks=1
    )
