"""Saves a flow to two small files and loads it again: weights as safetensors, the rest as JSON."""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from nbflows import files, inputs, models
from nbflows.flow import Flow, require_finite
from nbflows.models.builder import no_larger_than
from nbflows.storage.unpickle import read_checkpoint, stored_bytes

_OTHER_SUFFIXES = {
    ".ckpt",
    ".pt",
    ".pth",
    ".bin",
    ".pkl",
    ".npz",
    ".npy",
    ".onnx",
    ".h5",
    ".zip",
    ".png",
    ".md",
    ".txt",
}


def save_flow(flow: Flow, file: str | Path, half: bool = False, **details: object) -> Path:
    """Writes ``FILE.safetensors``, and ``FILE.json`` with its SHA-256, each atomically.

    Args:
        flow: result of a function of ``nbflows.models``, whose name and arguments go into the JSON.
        file: with or without the suffix; dots within a name are part of it.
        half: store float32 as float16, in half the bytes; ``load_flow`` returns float32 again. Measure scores again
            after rounding. Otherwise float32 and float64 are stored unchanged.
        details: further entries of the JSON: recipe, data, bits/dim, budget.

    Returns:
        The safetensors file.

    Raises:
        ValueError: the flow was not made by a function of ``nbflows.models``, the name is that of a folder or of
            another kind of file, a weight is not finite, JSON cannot say one of the details, or ``half`` is asked for
            of a flow in float64.
    """
    if flow.built_by is None:
        raise ValueError(
            "this flow was put together by hand, and a file cannot say how to do it again: save its state_dict, or "
            "make it with a function of nbflows.models"
        )
    builder, arguments = flow.built_by
    if half:
        details = {"weights": "float16", **details}
    content = to_bytes(flow, half)
    # Last, because details may be those of another file.
    details["weights_sha256"] = hashlib.sha256(content).hexdigest()
    try:
        description = json.dumps({"builder": builder, "arguments": arguments, **details}, indent=1).encode()
    except TypeError as error:
        raise ValueError(f"the details of a model are numbers, text, lists and dicts: {error}") from None
    if Path(file).is_dir():
        raise ValueError(f"{file} is a folder: name a file in it, {Path(file, 'model')} for one")
    if taken := {"builder", "arguments"} & set(details):
        raise ValueError(f"{min(taken)} is what the flow was made with: call the detail something else")
    file, beside = _pair(Path(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, content)
    files.write(beside, description)
    return file


def load_flow(model: str | Path, device: str | torch.device = "cpu") -> Flow:
    """Loads a flow in eval mode, in float64 if its weights are, otherwise in float32.

    Args:
        model: a .safetensors file with its .json in the same folder, or the folder of a training run.
        device: device of the parameters.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files do not belong together (the SHA-256 in the JSON differs; older ones have none), are
            damaged or of another kind, or hold numbers that are not finite.
    """
    file, beside = _existing_files(model)
    description = describe(model)
    if file.suffix == ".ckpt":
        state = read_checkpoint(file).get("state_dict")
        if not isinstance(state, dict):
            raise ValueError(f"{file} is not a checkpoint of a training: it has no weights")
        weights = {key.removeprefix("flow."): value for key, value in state.items() if str(key).startswith("flow.")}
    else:
        weights = parse(file, file)
    flow = rebuild(weights, description, file)
    # A running training writes its description before its weights.
    if file.suffix != ".ckpt" and "weights_sha256" in description and description["weights_sha256"] != _sha256(file):
        raise ValueError(
            f"{beside} describes other weights than those of {file} (their SHA-256 differs): if their training was "
            "stopped while it saved them, continue it with --resume, which writes both again; otherwise restore both "
            "files of one model"
        )
    return flow.to(device)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while piece := stream.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def to_bytes(flow: Flow, half: bool = False) -> bytes:
    """Returns the content of a safetensors file; with ``half`` in float16 instead of float32."""
    from safetensors.torch import save

    if half and flow.dtype == torch.float64:
        raise ValueError(
            "half stores float32 as float16, and this flow is in float64: save flow.float(), or without half"
        )
    state = flow.state_dict()
    # A layer that parts of a flow share is stored once.
    weights = {name: state[name].detach().cpu().contiguous() for name, *_ in _names(flow) if name in state}
    if half:
        weights = {name: w.half() if w.dtype == torch.float32 else w for name, w in weights.items()}
    # Values beyond float16's limit, 65,504, would make a file that load_flow refuses.
    if bad := [name for name, w in weights.items() if not w.isfinite().all()]:
        raise ValueError(f"{bad[0]} has values that are not finite{' in float16' * half}: nothing was written")
    return save(weights)


def parse(content: bytes | Path, where: str | Path) -> dict[str, Tensor]:
    """Reads safetensors from bytes or a path. Raises ValueError naming ``where`` if the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        # A file takes memory only when its tensors are copied, after the checks that they fit.
        return load_file(content) if isinstance(content, Path) else load(content)
    # KeyError: a number format that torch lacks. RuntimeError: out of memory.
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{where} is not a safetensors file, or is damaged: {first(error)}") from error


def rebuild(weights: dict[str, Tensor], description: dict, where: str | Path) -> Flow:
    """Builds the flow of a description with these weights, in eval mode.

    Raises ValueError naming ``where`` if they do not fit or are not finite. A flow larger than the weights is refused
    before it takes memory.
    """
    _check(description, where)
    builders = {name: getattr(models, name) for name in models.__all__}
    if description["builder"] not in builders:
        raise ValueError(f"{where}: unknown builder {description['builder']!r}; known: {', '.join(sorted(builders))}")
    try:
        # The flow has at most this number of elements, because each takes at least one byte.
        num_bytes = stored_bytes(weights)
        with no_larger_than(len(weights), num_bytes):
            flow = builders[description["builder"]](**_arguments(description["arguments"], num_bytes))
        if any(tensor.dtype == torch.float64 for tensor in weights.values()):
            flow.double()
    # A builder may raise any error for such arguments.
    except Exception as error:
        raise ValueError(f"{where}: its builder does not take the arguments that it names: {first(error)}") from error
    try:
        shared = {other: weights[name] for name, *others in _names(flow) if name in weights for other in others}
        flow.load_state_dict({**weights, **shared})
    except RuntimeError as error:
        raise ValueError(f"{where}: the weights are not those of its builder: {first(error)}") from error
    require_finite(flow, f"{where}: ")
    return flow.eval()


def _arguments(arguments: dict, largest: int) -> dict:
    """Returns lists as tuples, and today's names. No size exceeds the bytes of the weights or 65,536 grey levels."""
    for value in arguments.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, int | float) and abs(part) > max(largest, 2**16):
                raise ValueError(f"{part:.3g} is too large for weights of {largest} bytes")
    # The name of the argument in files that were written before it was renamed.
    now = {"num_levels": "num_grey_levels"}
    return {
        now.get(name, name): tuple(value) if isinstance(value, list) else value for name, value in arguments.items()
    }


def first(error: Exception) -> str:
    """Shortens the message of an error to one line, because torch lists every key that differs."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


def describe(model: str | Path) -> dict:
    """Reads the JSON of a model; ``model`` as in ``load_flow``. Raises ValueError if it is not such a JSON."""
    file = _existing_files(model)[1]
    description = inputs.json_object(file)
    _check(description, file)
    return description


def _check(description: dict, where: str | Path) -> None:
    kinds = {"builder": str, "arguments": dict}
    # Old files also lack these entries.
    kinds |= {name: dict for name in ("recipe", "task") if name in description}
    for name, kind in kinds.items():
        if not isinstance(description.get(name), kind):
            raise ValueError(f"{where} is not a description of a model: it has no {name!r} that is a {kind.__name__}")
    data, task = description.get("recipe", {}).get("data"), description.get("task", {"name": ""})
    if not isinstance(data, str | None) or (task and not isinstance(task.get("name"), str)):
        raise ValueError(f"{where} is not a description of a model: a name of its data or its task is not text")


def update_description(model: str | Path, **details: object) -> None:
    """Adds entries to the JSON of a model; ``model`` as in ``load_flow``."""
    description = {**describe(model), **details}
    files.write(_existing_files(model)[1], json.dumps(description, indent=1).encode())


def _names(flow: Flow) -> list[list[str]]:
    """Returns the names of every parameter and buffer, in order; shared ones have several names."""
    names: dict[int, list[str]] = {}
    for tensors in (flow.named_parameters, flow.named_buffers):
        for name, tensor in tensors(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def _pair(path: Path) -> tuple[Path, Path]:
    """Returns the two files of a model, given with or without a suffix."""
    suffix = path.suffix.lower()
    if suffix in (".safetensors", ".json"):
        return path if suffix == ".safetensors" else path.with_suffix(".safetensors"), path.with_suffix(".json")
    if suffix in _OTHER_SUFFIXES:
        raise ValueError(
            f"{path} is not a .safetensors file: of a training run give the folder, {path.parent}; the checkpoints of "
            "other authors are for load_upstream, or --upstream"
        )
    if not path.name:
        raise ValueError(f"{str(path)!r} is not a name of a file")
    return path.with_name(f"{path.name}.safetensors"), path.with_name(f"{path.name}.json")


def _existing_files(model: str | Path) -> tuple[Path, Path]:
    path = Path(model)
    if path.is_dir():
        exported = path / "model.safetensors"
        pair = exported if exported.exists() else path / "best.ckpt", path / "model.json"
    else:
        pair = _pair(path)
    for file in pair:
        if not file.is_file():
            there = path if path.parent.is_dir() else path.parent
            stems = {name.stem for name in there.parent.glob("*")}
            hint = inputs.did_you_mean(there.stem, stems - {there.stem})
            raise FileNotFoundError(
                f"{file} does not exist, or is not a file; {hint}a model is a .safetensors file with its .json, or the "
                "folder of a training run; those that have a name are loaded with load_pretrained"
            )
    return pair
