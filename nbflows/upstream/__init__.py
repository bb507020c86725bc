"""The original authors' weights in our models: one file per system, and the published files by name."""

from nbflows.storage.unpickle import read_checkpoint
from nbflows.upstream.caflow import caflow
from nbflows.upstream.checkpoint import load_upstream
from nbflows.upstream.mar_scf import mar_scf
from nbflows.upstream.published import PUBLISHED, Published, find_published, is_here, load_published
from nbflows.upstream.residual_flow import residual_flow
from nbflows.upstream.uva import uva

__all__ = [
    "PUBLISHED",
    "Published",
    "caflow",
    "find_published",
    "is_here",
    "load_published",
    "load_upstream",
    "mar_scf",
    "read_checkpoint",
    "residual_flow",
    "uva",
]
