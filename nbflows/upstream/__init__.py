"""Loads the original authors' published weights into our models: one file per system."""

from nbflows.upstream.mar_scf import mar_scf
from nbflows.upstream.uva import uva

__all__ = ["mar_scf", "uva"]
