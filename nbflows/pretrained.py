"""Saves a flow to two small files and loads it back: weights as safetensors, the rest as JSON."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from nbflows import models, upstream
from nbflows.flow import Flow
from nbflows.metrics import BitsPerDim


def saved_models() -> Path:
    """The folder of named models: ``saved_models`` here, or else the one that lies beside the package."""
    here = Path("saved_models")
    return here if here.is_dir() else Path(__file__).resolve().parents[1] / "saved_models"


def save_flow(flow: Flow, file: str | Path, builder: str, arguments: dict, half: bool = False, **details) -> Path:
    """Writes ``FILE.safetensors`` and ``FILE.json``, each at once or not at all.

    Args:
        file: with or without the suffix.
        builder, arguments: the function of ``nbflows.models`` that makes this flow, and its arguments.
        half: store float32 as float16, in half the bytes; ``load_flow`` makes float32 of it again. Scores are then to
            be measured anew.
        details: whatever else the JSON should say: recipe, data, bits/dim, budget.

    Returns:
        The safetensors file.
    """
    from safetensors.torch import save

    file = Path(file).with_suffix(".safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    state = flow.state_dict()
    # Of layers that several parts of a flow share, each tensor once.
    weights = {name: state[name].detach().cpu().contiguous() for name, *_ in _names(flow) if name in state}
    if half:
        weights = {name: w.half() if w.dtype == torch.float32 else w for name, w in weights.items()}
        details = {"weights": "float16", **details}
    _write(file, save(weights))
    _write(
        file.with_suffix(".json"),
        json.dumps({"builder": builder, "arguments": arguments, **details}, indent=1).encode(),
    )
    return file


def load_flow(model: str | Path, device: str | torch.device = "cpu") -> Flow:
    """Loads a flow in eval mode.

    Args:
        model: a name in ``saved_models/``, a .safetensors file, or the folder of a training run.
        device: where its parameters go.

    Raises:
        FileNotFoundError: no such model; names those in ``saved_models/``.
        ValueError: the files do not belong together.
    """
    weights, description = _find(model)
    builders = {name: getattr(models, name) for name in models.__all__}
    if description["builder"] not in builders:
        raise ValueError(f"{model}: unknown builder {description['builder']!r}; known: {', '.join(sorted(builders))}")
    arguments = {
        name: tuple(value) if isinstance(value, list) else value for name, value in description["arguments"].items()
    }
    flow = builders[description["builder"]](**arguments)
    try:
        shared = {other: weights[name] for name, *others in _names(flow) if name in weights for other in others}
        flow.load_state_dict({**weights, **shared})
    except RuntimeError as error:
        raise ValueError(f"{model}: the weights are not those of its builder: {error}") from error
    return flow.to(device).eval()


def describe(model: str | Path) -> dict:
    """What the JSON beside a model says."""
    return json.loads(_existing_files(model)[1].read_text())


def record(model: str | Path, score: BitsPerDim, **details) -> str:
    """Writes a score on all test images into the JSON beside a model; returns its key there.

    ``test_bits_per_dim`` for M = 1, ``test_bits_per_dim_8_draws`` for M = 8, and so on.

    Args:
        details: whatever else the JSON should say.
    """
    key = "test_bits_per_dim" + (f"_{score.num_draws}_draws" if score.num_draws > 1 else "")
    _write(_files(model)[1], json.dumps({**describe(model), key: asdict(score), **details}, indent=1).encode())
    return key


def load_upstream(file: str | Path, shape: tuple[int, int, int] | None = None) -> Flow:
    """A checkpoint of the authors' code, in eval mode: of the UvA tutorial, mAR-SCF, a Residual Flow or CAFLOW.

    Args:
        file: the authors' file.
        shape: of an image. Default: what the file says; ``(3, 32, 32)`` for mAR-SCF and ``(3, 64, 64)`` for CAFLOW,
            whose files do not say it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not one of these systems, or not complete; see ``nbflows.upstream``.
    """
    if not Path(file).exists():
        raise FileNotFoundError(f"no checkpoint {file}")
    content = upstream.read_checkpoint(file)
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise ValueError(f"{file}: its state_dict is a {type(state).__name__}, not a dict")
    if any(key.startswith("flows.") for key in state):
        return upstream.uva(state).eval()
    if any(key.startswith("flow.layers.") for key in state):
        return upstream.mar_scf(state, (3, 32, 32) if shape is None else shape).eval()
    if any(key.startswith("transforms.") for key in state):
        return upstream.residual_flow(content, shape).eval()
    if any(key.startswith("model.rflow.") for key in state):
        return upstream.caflow(state, (3, 64, 64) if shape is None else shape).eval()
    raise ValueError(
        f"{file} is no checkpoint of the UvA tutorial (keys 'flows.N...'), of mAR-SCF (keys 'flow.layers.N...'), of a "
        f"Residual Flow (keys 'transforms.N...') or of CAFLOW (keys 'model.rflow...'); its keys begin with "
        f"{', '.join(sorted(state)[:3])}"
    )


def _names(flow: Flow) -> list[list[str]]:
    """The names of every parameter and buffer, in order; more than one where parts of the flow share it."""
    names: dict[int, list[str]] = {}
    for tensors in (flow.named_parameters, flow.named_buffers):
        for name, tensor in tensors(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def _files(model: str | Path) -> tuple[Path, Path]:
    path = Path(model)
    if path.is_dir():
        exported = path / "model.safetensors"
        return (exported if exported.exists() else path / "best.ckpt"), path / "model.json"
    if path.suffix != ".safetensors":
        path = saved_models() / f"{model}.safetensors"
    return path, path.with_suffix(".json")


def _existing_files(model: str | Path) -> tuple[Path, Path]:
    for file in _files(model):
        if not file.exists():
            known = ", ".join(sorted(p.stem for p in saved_models().glob("*.safetensors"))) or "none"
            raise FileNotFoundError(
                f"{file} does not exist. A model is a name in {saved_models().resolve()} ({known}), "
                "a .safetensors file with its .json, or the folder of a training run"
            )
    return _files(model)


def _find(model: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    weights, description = _existing_files(model)
    if weights.suffix == ".ckpt":
        state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
        tensors = {name.removeprefix("flow."): tensor for name, tensor in state.items() if name.startswith("flow.")}
    else:
        from safetensors.torch import load_file

        tensors = load_file(weights)
    return tensors, json.loads(description.read_text())


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(file)
