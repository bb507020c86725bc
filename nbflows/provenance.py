"""Fingerprints of data: kept with a model, and compared before its training data are used again."""

import hashlib
from pathlib import Path

from torch import Tensor

from nbflows import data as datasets
from nbflows import tasks
from nbflows.data import SPLITS, Data, toys
from nbflows.data.sets import labels_of
from nbflows.flow import Flow
from nbflows.labelled import LabelledFlow

# How the text of a user's own data begins, see ``data.load`` and ``tasks.load_pairs``.
_OWN = ("images of folder ", "arrays of ", "pairs of folders ")


def fingerprint(data: Data, labelled: bool = False) -> dict:
    """A record of the data for JSON and checkpoints: their origin, what they are, and a digest of every value.

    Points that are those of ``data.load(name)`` up to rounding have the name instead of their values.

    Args:
        labelled: whether their labels are trained on too; None in it if there are none.
    """
    paired = [] if data.sources is None else [data.sources]
    labels = [part for part in (data.labels, data.attributes) if part is not None]
    drawn = data.origin["name"] if _is_as_drawn(data) else None
    return {
        "origin": data.origin,
        "variant": data.variant,
        "shape": list(data.shape),
        "num_levels": data.num_grey_levels,
        "content": _digest([{split: getattr(data, split) for split in SPLITS}, *paired], drawn),
        **({"labels": _digest(labels) if labels else None} if labelled else {}),
    }


# float32's last digit is 5e-7 between 4 and 8, where the farthest points are, and a few operations add up.
_ROUNDING = 1e-5


def _is_as_drawn(data: Data) -> bool:
    """Whether these are points of ``data.load``. Each machine draws them, and the last digits of a sine differ."""
    name = data.origin.get("name")
    if not data.train.is_floating_point() or name not in toys.names():
        return False
    drawn = datasets.load(name)
    return all(_close(getattr(data, split), getattr(drawn, split)) for split in SPLITS)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    fits = ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return fits and bool((ours.cpu() - theirs).abs().max() <= _ROUNDING)


def _digest(parts: list[dict[str, Tensor]], drawn: str | None = None) -> str:
    digest = hashlib.blake2b(str(drawn).encode(), digest_size=16)
    for tensors in parts:
        for split in SPLITS:
            tensor = tensors[split]
            digest.update(f"{split} {tuple(tensor.shape)} {tensor.dtype}".encode())
            # In pieces: a tensor that is a view of another one is copied.
            for piece in tensor.split(4096) if drawn is None else ():
                digest.update(piece.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def like(known: dict, data: Data) -> dict:
    """The fingerprint of data to compare with one that is known: with labels if that has them."""
    return fingerprint(data, labelled="labels" in known)


def same(known: dict, found: dict) -> bool:
    """Whether two fingerprints are of the same data, wherever they were found; labels that one lacks are not equal."""
    return ("labels" in known) == ("labels" in found) and all(
        known.get(part) == found.get(part) for part in ("shape", "num_levels", "content", "labels")
    )


def against(known: dict, found: dict) -> str:
    """Both sides of two fingerprints that differ, in words."""
    if known.get("variant") != found["variant"] or known.get("num_levels") != found["num_levels"]:
        return f"{_named(known)}, against {_named(found)}"
    if known.get("content") == found["content"]:
        return f"{known.get('variant')}, against the same images with other labels or none"
    return f"{known.get('variant')}, against data of the same description with other values"


def _named(known: dict) -> str:
    levels = known.get("num_levels")
    return f"{known.get('variant')}{'' if levels is None else f' ({levels} grey levels)'}"


def load(known: dict, model: str | Path) -> Data:
    """Loads the data of a model's fingerprint again from their origin; the caller compares the fingerprints.

    Raises:
        ValueError: they did not come from a name or path, they are gone, or the fingerprint is damaged.
    """
    origin = part(known, "origin", model)
    places = {key: origin[key] for key in ("name", "sources", "targets") if key in origin}
    if not set(known) >= {"variant", "shape", "num_levels", "content"} or not (
        set(places) in (set(), {"name"}, {"sources", "targets"}) and all(isinstance(p, str) for p in places.values())
    ):
        raise ValueError(f"what {model} says of its data is damaged: name them with --data")
    trained = f"{model} was trained on {known['variant']}"
    if not places:
        raise ValueError(f"{trained}, which was not loaded by a name or path: give it with --data")
    gone = [place for place in places.values() if Path(place).is_absolute() and not Path(place).exists()]
    if gone:
        raise ValueError(f"{trained}, and {gone[0]} is no longer there: give its place with --data")
    size = origin.get("image_size")
    if "name" in places:
        # JSON made a list of a tuple.
        known_size = tuple(size) if isinstance(size, list) else size
        return datasets.load(places["name"], known_size, num_bits=origin.get("num_bits", 8))
    return tasks.load_pairs(places["sources"], places["targets"], size)


def require_fit(flow: Flow, data: Data) -> None:
    """Raises ValueError if a flow is for data of another shape, or of other grey levels."""
    levels, found = flow.num_grey_levels, data.num_grey_levels
    # A file may count as 256 levels and hold fewer: too large a value is found by the flow itself.
    if (levels is None) != (found is None) or (levels and found and found < levels):
        raise ValueError(f"the model is for {levels} grey levels, {data.name} has {found}")
    if flow.shape != data.shape:
        raise ValueError(f"the model expected a batch of {flow.shape}, the examples of {data.name} are {data.shape}")


def contexts(flow: Flow, data: Data) -> dict[str, Tensor] | None:
    """The labels or sources that a flow takes with images, by split. Raises ValueError if it needs labels in vain."""
    return labels_of(data) if isinstance(flow, LabelledFlow) else data.sources


def training_data(description: dict, model: str | Path) -> Data:
    """The data that a model was trained on, as its JSON tells; made into pairs if it translates.

    Raises:
        ValueError: the JSON does not say it, or what is there now are other data.
    """
    known, task = part(description, "trained_on", model), task_of(description, model)
    if known:
        images = load(known, model)
    else:
        name = part(description, "recipe", model).get("data")
        if name not in datasets.names():
            raise ValueError(f"{model} does not say on which data set it was trained: name the data with --data")
        images = datasets.load(name)
    if task and images.sources is None:
        images = tasks.apply(task, images)
    if known and not same(known, found := like(known, images)):
        raise ValueError(
            f"{model} was trained on other data than are there now: {against(known, found)}. Bring them back, or name "
            "the data to use with --data"
        )
    # Earlier versions kept the text alone, and looked for the recipe's data whatever it said.
    text = str(description.get("data", ""))
    if not known and text != images.variant and text.startswith(_OWN):
        raise ValueError(f"{model} was trained on {text}, not on {name}: name the data with --data")
    return images


def task_of(description: dict, model: str | Path) -> tasks.Task | None:
    """The task in the JSON of a model. Raises ValueError if it is damaged."""
    try:
        return tasks.get(**found) if (found := part(description, "task", model)) else None
    except TypeError as error:
        raise ValueError(f"the JSON of {model} is damaged: 'task' does not name one ({error})") from error


def part(description: dict, key: str, model: str | Path) -> dict:
    """An object in the JSON of a model, empty if it is not there. Raises ValueError if it is something else."""
    value = description.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"the JSON of {model} is damaged: {key!r} is {value!r:.50}, and should be an object")
    return value
