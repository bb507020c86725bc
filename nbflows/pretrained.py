"""Loads trained models by name: from ``saved_models/``, the user's cache, or a download."""

import os
import re
from dataclasses import asdict
from pathlib import Path

import torch

from nbflows import installed, listing, upstream
from nbflows.flow import Flow
from nbflows.metrics import BitsPerDim
from nbflows.storage import download, weights
from nbflows.storage.manifest import Manifest, sha256

URL_VARIABLE, CACHE_VARIABLE = "NBFLOWS_PRETRAINED_URL", "NBFLOWS_CACHE"


def load_pretrained(name: str | Path, device: str | torch.device = "cpu", progress: bool = True) -> Flow:
    """Loads a trained model in eval mode.

    The file is looked for in ``saved_models/``, in the current folder or the package's, then in the user's cache, and
    otherwise downloaded into the cache. Its bytes are always compared with the manifest's SHA-256 before they are
    opened.

    Args:
        name: see ``list_pretrained``; "upstream/..." for the original authors' weights, which come from their own
            addresses.
        device: where its parameters go.
        progress: show a bar while downloading.

    Raises:
        ValueError: no such model, or a file that is not the published one.
        DownloadError: the file cannot be downloaded; the message says why, and what to try.
    """
    name = _text(name)
    if _is_theirs(name):
        return upstream.load_published(name, cache_folder(), progress).to(device)
    known = find_manifest()
    entry = known.entry(name)
    file = _find(name, known, progress)
    # A file of another size is not read at all.
    content = file.read_bytes() if (num_bytes := file.stat().st_size) == entry["bytes"] else None
    if content is None or sha256(content) != entry["sha256"]:
        found = f"it has {num_bytes} bytes" if content is None else f"its SHA-256 begins with {sha256(content)[:12]}"
        raise ValueError(
            f"{file} is not the published {name}: {found}, the manifest says {entry['bytes']} bytes and "
            f"{entry['sha256'][:12]}. Delete it, or bring it back with git checkout; a model of your own is loaded by "
            f"its file, load_flow({str(file)!r})"
        )
    return weights.rebuild(weights.parse(content, file), entry, name).to(device)


def list_pretrained() -> "Listing":
    """Returns the entries of all names that ``load_pretrained`` accepts; printed or shown, they are a table.

    Each entry's "status" is that of ``status``.
    """
    known = find_manifest()
    theirs = {name: published.describe() for name, published in upstream.PUBLISHED.items()}
    everything = {**dict(sorted(known.models.items())), **theirs}
    return Listing({name: {**entry, "status": status(name, known)} for name, entry in everything.items()})


class Listing(dict):
    """Entries of models by name, shown as a table: names and purposes in a terminal, all columns in a notebook."""

    headers = ("model", "file", "what it is for", "ours, bits/dim", "published", "data")

    def rows(self) -> list[tuple[str, ...]]:
        """Returns a row for each model, in the order of ``headers``."""
        return [
            (name, entry["status"], entry["purpose"], _score(entry), entry.get("published", ""), entry.get("data", ""))
            for name, entry in self.items()
        ]

    def facts(self, name: str) -> dict[str, str]:
        """Returns the entry of one model, for ``listing.facts``."""
        entry = self[name]
        tighter = [key for key in entry if re.fullmatch(r"test_bits_per_dim_\d+_draws", key)]
        return {
            "model": entry["purpose"],
            "file": entry["status"],
            "bits/dim": ", ".join(filter(None, (_score(entry, key) for key in ("test_bits_per_dim", *tighter)))),
            "published": entry.get("published", ""),
            "data": entry.get("data", ""),
            "trained": _budget(entry),
            "licence": entry["licence"],
        }

    def __repr__(self) -> str:
        return listing.models(self)

    def _repr_html_(self) -> str:
        from tabulate import tabulate

        return tabulate(self.rows(), self.headers, tablefmt="html")


def load(model: str | Path, device: str | torch.device = "cpu", progress: bool = True) -> Flow:
    """Loads any model in eval mode: a published one by its name, another by its file or the folder of its training.

    Args:
        model: a name as in ``load_pretrained``; or a path as in ``load_flow``, which has a folder or a suffix.
        device: where its parameters go.
        progress: show a bar while downloading.

    Raises:
        FileNotFoundError, ValueError, DownloadError: as ``load_pretrained`` and ``load_flow`` do.
    """
    return weights.load_flow(model, device) if _is_path(model) else load_pretrained(model, device, progress)


def describe(model: str | Path) -> dict:
    """Returns the description of a model: the manifest's entry if it is published, otherwise its JSON."""
    if _is_theirs(model):
        return upstream.find_published(_text(model)).describe()
    return weights.describe(model) if _is_path(model) else find_manifest().entry(_text(model))


def record(model: str | Path, score: BitsPerDim, **details: object) -> str:
    """Writes a score on all test images into the manifest, or into the JSON beside a model; returns its key there.

    ``test_bits_per_dim`` for M = 1, ``test_bits_per_dim_8_draws`` for M = 8, and so on.

    Args:
        details: further entries.
    """
    key = "test_bits_per_dim" + (f"_{score.num_draws}_draws" if (score.num_draws or 1) > 1 else "")
    details = {key: asdict(score), **details}
    if _is_theirs(model):
        raise ValueError(f"{model} is its authors' model, for which no scores are stored")
    if _is_path(model):
        weights.update_description(model, **details)
    else:
        known = find_manifest()
        known.entry(_text(model)).update(details)
        known.write(saved_models() / "manifest.json")
    return key


def saved_models() -> Path:
    """Returns the folder of published models: ``saved_models`` here if it has a manifest, otherwise the package's."""
    here = Path("saved_models")
    return here if (here / "manifest.json").exists() else installed.folder("saved_models")


def find_manifest() -> Manifest:
    """Reads the manifest in ``saved_models()``, which lists all models, even if their files are elsewhere."""
    return Manifest.read(saved_models() / "manifest.json")


def cache_folder() -> Path:
    """Returns the folder of downloads: ``NBFLOWS_CACHE``, or the system's cache folder of the user."""
    import pooch

    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("nbflows")).expanduser()


def status(name: str, known: Manifest | None = None) -> str:
    """Says where a published model's file is: "here" (a folder or the cache), "download", or "no address".

    Args:
        name: see ``list_pretrained``.
        known: the manifest, if it has been read.
    """
    if _is_theirs(name):
        return "here" if upstream.is_here(name, cache_folder()) else "download"
    known = known or find_manifest()
    if any(place.exists() for place in _places(name, known)):
        return "here"
    return "download" if _base_url(known) else "no address"


def _is_theirs(model: str | Path) -> bool:
    return Path(_text(model)).parts[:1] == ("upstream",) and not Path(model).is_dir()


def _is_path(model: str | Path) -> bool:
    """Tells whether a model is given by a path, not by a name: a name has no folder and no suffix."""
    path = Path(_text(model))
    return not _is_theirs(model) and (path.name != str(model) or bool(path.suffix) or path.is_dir())


def _text(model: str | Path) -> str:
    if not isinstance(model, str | Path):
        raise TypeError(f"a model is named by a str or a Path, not by a {type(model).__name__}")
    return str(model)


def _places(name: str, known: Manifest) -> tuple[Path, Path]:
    """Returns the places of a published model's file: the folder of published models, and the cache."""
    # Versions of the package with other weights under this name share the cache.
    cached = cache_folder() / f"{name}-{known.entry(name)['sha256'][:12]}.safetensors"
    return saved_models() / f"{name}.safetensors", cached


def _base_url(known: Manifest) -> str | None:
    return os.environ.get(URL_VARIABLE) or known.base_url


def _find(name: str, known: Manifest, progress: bool) -> Path:
    """Returns the file of a published model; downloads it if necessary."""
    entry = known.models[name]
    saved, cached = _places(name, known)
    if saved.exists():
        return saved
    if cached.exists() and sha256(cached.read_bytes()) == entry["sha256"]:
        return cached
    base = _base_url(known)
    missing = f"{name} is neither in {saved_models()} nor in {cached.parent}, and"
    by_hand = (
        f"copy saved_models/{name}.safetensors of a clone of nbflows to {cached}; or train it: nbflows train {name}"
    )
    if not base:
        raise download.DownloadError(
            f"{missing} there is no address to download it from yet. Run in the folder of a clone of nbflows, which "
            f"has all models; {by_hand}"
        )
    try:
        address = f"{base.rstrip('/')}/{name}.safetensors"
        return download.fetch(address, cached, entry["sha256"], entry["bytes"], progress)
    except download.DownloadError as error:
        raise download.DownloadError(
            f"{missing} could not be downloaded: {error}. Set {URL_VARIABLE} to another address that has it, or "
            f"{CACHE_VARIABLE} to a folder that can be written; {by_hand}"
        ) from error


def _score(entry: dict, key: str = "test_bits_per_dim") -> str:
    if key not in entry:
        return ""
    score = BitsPerDim(**entry[key])
    return f"{score.mean:.3f} ± {score.standard_error:.3f} ({score.kind})"


def total_budget(entry: dict) -> tuple[int, float]:
    """Returns steps and minutes of a model's training, and of the models that it started from."""
    steps, minutes = total_budget(entry["started_from"]) if "started_from" in entry else (0, 0.0)
    return steps + entry["steps"], minutes + entry["seconds"] / 60


def _budget(entry: dict) -> str:
    parts = [f"{entry['steps']:,} steps"] if "steps" in entry else []
    parts += [f"{entry['seconds'] / 60:.0f} minutes"] if "seconds" in entry else []
    parts += [entry["hardware"]] if "hardware" in entry else []
    before = entry.get("started_from", {})
    parts += [f"started from {before['model']} after {before['steps']:,} steps"] if "steps" in before else []
    return ", ".join(parts)
