"""The layers of flows, each a ``Bijection``; the models choose their sizes."""

from nbflows.layers.autoregressive import Affine, LogisticMixture, MaskedAutoregressive
from nbflows.layers.coupling import (
    AffineCoupling,
    AffineInjector,
    ArctanScale,
    LearnedTanh,
    ScaledTanh,
    SigmoidScale,
    checkerboard,
)
from nbflows.layers.dequantize import Dequantize, GaussianNoise, Logit, VariationalDequantize
from nbflows.layers.fixed_point import solve_fixed_point
from nbflows.layers.linear import ActNorm, Conv1x1, with_lu
from nbflows.layers.log_det import ExactLogDet, RussianRoulette, SeriesLogDet, TruncatedSeries
from nbflows.layers.mixture import MixtureCoupling, invert_mixture, mixture_logit
from nbflows.layers.priors import CoarseToFine, ConvLSTMPrior, GaussianPrior
from nbflows.layers.reshape import Flatten, Flip, Permute, Squeeze
from nbflows.layers.residual import ResidualBlock
from nbflows.layers.spline import Spline, SplineCoupling
from nbflows.layers.subset import SubsetAutoregressive
from nbflows.layers.transformer import SOLVERS, PatchAutoregressive, Patches

__all__ = [
    "SOLVERS",
    "ActNorm",
    "Affine",
    "AffineCoupling",
    "AffineInjector",
    "ArctanScale",
    "CoarseToFine",
    "Conv1x1",
    "ConvLSTMPrior",
    "Dequantize",
    "ExactLogDet",
    "Flatten",
    "Flip",
    "GaussianNoise",
    "GaussianPrior",
    "LearnedTanh",
    "LogisticMixture",
    "Logit",
    "MaskedAutoregressive",
    "MixtureCoupling",
    "PatchAutoregressive",
    "Patches",
    "Permute",
    "ResidualBlock",
    "RussianRoulette",
    "ScaledTanh",
    "SeriesLogDet",
    "SigmoidScale",
    "Spline",
    "SplineCoupling",
    "Squeeze",
    "SubsetAutoregressive",
    "TruncatedSeries",
    "VariationalDequantize",
    "checkerboard",
    "invert_mixture",
    "mixture_logit",
    "solve_fixed_point",
    "with_lu",
]
