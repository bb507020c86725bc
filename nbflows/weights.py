"""Saves a flow to two small files and loads it back: weights as safetensors, the rest as JSON."""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from nbflows import models
from nbflows.flow import Flow


def save_flow(flow: Flow, file: str | Path, half: bool = False, **details) -> Path:
    """Writes ``FILE.safetensors`` and ``FILE.json``, each at once or not at all.

    Args:
        flow: made by a function of ``nbflows.models``; its name and arguments go into the JSON.
        file: with or without the suffix.
        half: store float32 as float16, in half the bytes; ``load_flow`` makes float32 of it again. Scores are then to
            be measured anew.
        details: whatever else the JSON should say: recipe, data, bits/dim, budget.

    Returns:
        The safetensors file.

    Raises:
        ValueError: the flow was not made by a function of ``nbflows.models``.
    """
    if flow.built_by is None:
        raise ValueError(
            "this flow was put together by hand, and a file cannot say how to do it again: save its state_dict, or "
            "make it with a function of nbflows.models"
        )
    builder, arguments = flow.built_by
    file = Path(file).with_suffix(".safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    if half:
        details = {"weights": "float16", **details}
    write(file, to_bytes(flow, half))
    description = {"builder": builder, "arguments": arguments, **details}
    write(file.with_suffix(".json"), json.dumps(description, indent=1).encode())
    return file


def load_flow(model: str | Path, device: str | torch.device = "cpu") -> Flow:
    """Loads a flow in eval mode.

    Args:
        model: a .safetensors file that has its .json beside it, or the folder of a training run.
        device: where its parameters go.

    Raises:
        FileNotFoundError: no such files.
        ValueError: the files do not belong together, or are damaged.
    """
    file, description = _existing_files(model)
    if file.suffix == ".ckpt":
        state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
        weights = {name.removeprefix("flow."): tensor for name, tensor in state.items() if name.startswith("flow.")}
    else:
        weights = parse(file.read_bytes(), file)
    return rebuild(weights, json.loads(description.read_text()), model).to(device)


def to_bytes(flow: Flow, half: bool = False) -> bytes:
    """The content of a safetensors file; with ``half`` in float16 instead of float32."""
    from safetensors.torch import save

    state = flow.state_dict()
    # Of layers that several parts of a flow share, each tensor once.
    weights = {name: state[name].detach().cpu().contiguous() for name, *_ in _names(flow) if name in state}
    if half:
        weights = {name: w.half() if w.dtype == torch.float32 else w for name, w in weights.items()}
    return save(weights)


def parse(content: bytes, where: str | Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file. Raises ValueError naming ``where`` if they are damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    # KeyError: a number format of safetensors that torch has not.
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{where} is no safetensors file, or a damaged one: {error}") from error


def rebuild(weights: dict[str, Tensor], description: dict, where: str | Path) -> Flow:
    """The flow that a description names, with these weights, in eval mode. Raises ValueError if they do not fit."""
    builders = {name: getattr(models, name) for name in models.__all__}
    if description["builder"] not in builders:
        raise ValueError(f"{where}: unknown builder {description['builder']!r}; known: {', '.join(sorted(builders))}")
    arguments = {
        name: tuple(value) if isinstance(value, list) else value for name, value in description["arguments"].items()
    }
    try:
        flow = builders[description["builder"]](**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: its builder does not take the arguments that it names: {error}") from error
    try:
        shared = {other: weights[name] for name, *others in _names(flow) if name in weights for other in others}
        flow.load_state_dict({**weights, **shared})
    except RuntimeError as error:
        raise ValueError(f"{where}: the weights are not those of its builder: {error}") from error
    return flow.eval()


def describe(model: str | Path) -> dict:
    """What the JSON of a model says; ``model`` as in ``load_flow``."""
    return json.loads(_existing_files(model)[1].read_text())


def update_description(model: str | Path, **details) -> None:
    """Writes more into the JSON of a model; ``model`` as in ``load_flow``."""
    description = {**describe(model), **details}
    write(_existing_files(model)[1], json.dumps(description, indent=1).encode())


def write(file: Path, content: bytes) -> None:
    """Writes a file at once or not at all."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _names(flow: Flow) -> list[list[str]]:
    """The names of every parameter and buffer, in order; more than one where parts of the flow share it."""
    names: dict[int, list[str]] = {}
    for tensors in (flow.named_parameters, flow.named_buffers):
        for name, tensor in tensors(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def _existing_files(model: str | Path) -> tuple[Path, Path]:
    path = Path(model)
    if path.is_dir():
        exported = path / "model.safetensors"
        files = exported if exported.exists() else path / "best.ckpt", path / "model.json"
    else:
        files = path.with_suffix(".safetensors"), path.with_suffix(".json")
    for file in files:
        if not file.exists():
            raise FileNotFoundError(
                f"{file} does not exist. A model is a .safetensors file with its .json, or the folder of a training "
                "run; those that have a name are loaded with load_pretrained"
            )
    return files
