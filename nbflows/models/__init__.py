"""One builder per model, with its sizes and their source."""

from nbflows.models.caflow import caflow, digits_caflow
from nbflows.models.glow import digits_glow, glow
from nbflows.models.mar_scf import digits_mar_scf, mar_scf
from nbflows.models.realnvp_2d import realnvp_2d
from nbflows.models.residual_flow import (
    digits_joint_residual_flow,
    digits_residual_flow,
    joint_residual_flow,
    residual_flow,
    residual_flow_2d,
    residual_flow_celeba_hq,
    residual_flow_imagenet32,
    residual_flow_imagenet64,
    residual_flow_mnist,
)
from nbflows.models.tutorial import (
    digits_multiscale,
    digits_simple,
    digits_variational,
    multiscale,
    simple,
    variational,
)

__all__ = [
    "caflow",
    "digits_caflow",
    "digits_glow",
    "digits_joint_residual_flow",
    "digits_mar_scf",
    "digits_multiscale",
    "digits_residual_flow",
    "digits_simple",
    "digits_variational",
    "glow",
    "joint_residual_flow",
    "mar_scf",
    "multiscale",
    "realnvp_2d",
    "residual_flow",
    "residual_flow_2d",
    "residual_flow_celeba_hq",
    "residual_flow_imagenet32",
    "residual_flow_imagenet64",
    "residual_flow_mnist",
    "simple",
    "variational",
]
