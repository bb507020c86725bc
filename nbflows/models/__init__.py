"""One builder per model: its numbers and their source."""

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
    "digits_multiscale",
    "digits_simple",
    "digits_variational",
    "multiscale",
    "realnvp_2d",
    "simple",
    "variational",
]
