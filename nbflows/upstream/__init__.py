"""Loads the original authors' published weights into our models: one file per system."""

from nbflows.upstream.caflow import caflow
from nbflows.upstream.mar_scf import mar_scf
from nbflows.upstream.residual_flow import residual_flow
from nbflows.upstream.unpickle import read_checkpoint
from nbflows.upstream.uva import uva

__all__ = ["caflow", "mar_scf", "read_checkpoint", "residual_flow", "uva"]
