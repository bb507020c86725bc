"""Flow layers: each a Bijection that knows no model's numbers."""

from nbflows.layers.coupling import AffineCoupling, LearnedTanh, checkerboard
from nbflows.layers.dequantize import Dequantize, Logit, VariationalDequantize
from nbflows.layers.reshape import Flip, Permute, Squeeze

__all__ = [
    "AffineCoupling",
    "Dequantize",
    "Flip",
    "LearnedTanh",
    "Logit",
    "Permute",
    "Squeeze",
    "VariationalDequantize",
    "checkerboard",
]
