"""One builder per model, with its sizes and their source."""

from nbflows.models.autoregressive import digits_iaf, digits_maf, digits_nsf, iaf_2d, maf_2d, nsf_2d
from nbflows.models.caflow import caflow, digits_caflow
from nbflows.models.glow import digits_glow, glow
from nbflows.models.mar_scf import digits_mar_scf, mar_scf
from nbflows.models.pixelflow import digits_pixelflow, pixelflow
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
from nbflows.models.tarflow import tarflow
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
    "digits_iaf",
    "digits_joint_residual_flow",
    "digits_maf",
    "digits_mar_scf",
    "digits_multiscale",
    "digits_nsf",
    "digits_pixelflow",
    "digits_residual_flow",
    "digits_simple",
    "digits_variational",
    "glow",
    "iaf_2d",
    "joint_residual_flow",
    "maf_2d",
    "mar_scf",
    "multiscale",
    "nsf_2d",
    "pixelflow",
    "realnvp_2d",
    "residual_flow",
    "residual_flow_2d",
    "residual_flow_celeba_hq",
    "residual_flow_imagenet32",
    "residual_flow_imagenet64",
    "residual_flow_mnist",
    "simple",
    "tarflow",
    "variational",
]
