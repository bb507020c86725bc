"""Loads the original authors' published weights into our models: one file per system."""

from nbflows.upstream.mar_scf import mar_scf
from nbflows.upstream.residual_flow import residual_flow
from nbflows.upstream.unpickle import read_checkpoint
from nbflows.upstream.uva import uva

__all__ = ["mar_scf", "read_checkpoint", "residual_flow", "uva"]
