"""Flow layers: each a Bijection that knows no model's numbers."""

from nbflows.layers.coupling import AffineCoupling, LearnedTanh, ScaledTanh, SigmoidScale, checkerboard
from nbflows.layers.dequantize import Dequantize, Logit, VariationalDequantize
from nbflows.layers.linear import ActNorm, Conv1x1
from nbflows.layers.mixture import MixtureCoupling, invert_mixture, mixture_logit
from nbflows.layers.priors import ConvLSTMPrior, GaussianPrior
from nbflows.layers.reshape import Flip, Permute, Squeeze

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "Conv1x1",
    "ConvLSTMPrior",
    "Dequantize",
    "Flip",
    "GaussianPrior",
    "LearnedTanh",
    "Logit",
    "MixtureCoupling",
    "Permute",
    "ScaledTanh",
    "SigmoidScale",
    "Squeeze",
    "VariationalDequantize",
    "checkerboard",
    "invert_mixture",
    "mixture_logit",
]
