"""One builder per model: its numbers and their source."""

from nbflows.models.glow import digits_glow, glow
from nbflows.models.mar_scf import digits_mar_scf, mar_scf
from nbflows.models.realnvp_2d import realnvp_2d
from nbflows.models.tutorial import (
    digits_multiscale,
    digits_simple,
    digits_variational,
    multiscale,
    simple,
    variational,
)

__all__ = [
    "digits_glow",
    "digits_mar_scf",
    "digits_multiscale",
    "digits_simple",
    "digits_variational",
    "glow",
    "mar_scf",
    "multiscale",
    "realnvp_2d",
    "simple",
    "variational",
]
