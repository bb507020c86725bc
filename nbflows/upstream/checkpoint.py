"""Tells by its keys which system a checkpoint of the original authors is of, and loads it."""

from pathlib import Path

from nbflows.flow import Flow
from nbflows.upstream.caflow import caflow
from nbflows.upstream.mar_scf import mar_scf
from nbflows.upstream.residual_flow import residual_flow
from nbflows.upstream.unpickle import read_checkpoint
from nbflows.upstream.uva import uva


def load_upstream(file: str | Path, shape: tuple[int, int, int] | None = None, num_levels: int = 256) -> Flow:
    """A checkpoint of the authors' code, in eval mode: of the UvA tutorial, mAR-SCF, a Residual Flow or CAFLOW.

    Args:
        file: the authors' file.
        shape: of an image. Default: what the file says; ``(3, 32, 32)`` for mAR-SCF and ``(3, 64, 64)`` for CAFLOW,
            whose files do not say it.
        num_levels: grey levels, of a Residual Flow; the others have 256.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not one of these systems, or not complete; see ``nbflows.upstream``.
    """
    if not Path(file).exists():
        raise FileNotFoundError(f"no checkpoint {file}")
    content = read_checkpoint(file)
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise ValueError(f"{file}: its state_dict is a {type(state).__name__}, not a dict")
    if any(key.startswith("flows.") for key in state):
        return uva(state).eval()
    if any(key.startswith("flow.layers.") for key in state):
        return mar_scf(state, (3, 32, 32) if shape is None else shape).eval()
    if any(key.startswith("transforms.") for key in state):
        return residual_flow(content, shape, num_levels).eval()
    if any(key.startswith("model.rflow.") for key in state):
        return caflow(state, (3, 64, 64) if shape is None else shape).eval()
    raise ValueError(
        f"{file} is no checkpoint of the UvA tutorial (keys 'flows.N...'), of mAR-SCF (keys 'flow.layers.N...'), of a "
        f"Residual Flow (keys 'transforms.N...') or of CAFLOW (keys 'model.rflow...'); its keys begin with "
        f"{', '.join(sorted(state)[:3])}"
    )
