"""Flow layers: each a Bijection that knows no model's numbers."""

from nbflows.layers.coupling import AffineCoupling, LearnedTanh, checkerboard
from nbflows.layers.dequantize import Dequantize, Logit, VariationalDequantize
from nbflows.layers.linear import ActNorm, Conv1x1
from nbflows.layers.priors import GaussianPrior
from nbflows.layers.reshape import Flip, Permute, Squeeze

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "Conv1x1",
    "Dequantize",
    "Flip",
    "GaussianPrior",
    "LearnedTanh",
    "Logit",
    "Permute",
    "Squeeze",
    "VariationalDequantize",
    "checkerboard",
]
