"""Loads a checkpoint of the original authors; its keys say which system it belongs to."""

from pathlib import Path

from nbflows.flow import Flow
from nbflows.models.builder import no_larger_than
from nbflows.storage.unpickle import read_checkpoint, stored_bytes
from nbflows.storage.weights import first
from nbflows.upstream.caflow import caflow
from nbflows.upstream.mar_scf import mar_scf
from nbflows.upstream.residual_flow import residual_flow
from nbflows.upstream.uva import uva

_PREFIXES = {"uva": "flows.", "mar_scf": "flow.layers.", "residual_flow": "transforms.", "caflow": "model.rflow."}


def load_upstream(file: str | Path, shape: tuple[int, int, int] | None = None, num_grey_levels: int = 256) -> Flow:
    """Loads a checkpoint of the UvA tutorial, mAR-SCF, a Residual Flow or CAFLOW; returns the flow in eval mode.

    Args:
        file: the authors' file.
        shape: shape of an image. Default: the file's; ``(3, 32, 32)`` for mAR-SCF and ``(3, 64, 64)`` for CAFLOW,
            whose files do not hold it.
        num_grey_levels: grey levels of a Residual Flow; the others have 256.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a checkpoint of these systems, or is incomplete.
    """
    if not Path(file).exists():
        raise FileNotFoundError(f"no checkpoint {file}")
    content = read_checkpoint(file)
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise ValueError(f"{file}: its state_dict is a {type(state).__name__}, not a dict")
    kind = next((kind for kind, prefix in _PREFIXES.items() if any(str(key).startswith(prefix) for key in state)), None)
    if kind is None:
        raise ValueError(
            f"{file} is not a checkpoint of the UvA tutorial (keys 'flows.N...'), mAR-SCF (keys 'flow.layers.N...'), "
            f"a Residual Flow (keys 'transforms.N...') or CAFLOW (keys 'model.rflow...'); its keys begin with "
            f"{', '.join(sorted(map(str, state))[:3])}"
        )
    try:
        with no_larger_than(len(state), stored_bytes(state)):
            if kind == "uva":
                flow = uva(state)
            elif kind == "mar_scf":
                flow = mar_scf(state, (3, 32, 32) if shape is None else shape)
            elif kind == "residual_flow":
                flow = residual_flow(content, shape, num_grey_levels)
            else:
                flow = caflow(state, (3, 64, 64) if shape is None else shape)
    # The keys match a system, but the values may be anything.
    except Exception as error:
        raise ValueError(f"{file} is incomplete or damaged: {first(error)}") from error
    return flow.eval()
