"""Writes the explorer's page: one HTML file with the weights, the code and a few test images of several flows."""

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nbflows import data, files, pretrained, provenance
from nbflows.explorer.describe import as_text, describe
from nbflows.flow import Flow
from nbflows.seeded import seeded

MAX_BYTES = 5_000_000
NUM_PICTURES, NUM_SCORED, NUM_AVERAGED, NUM_GROUPS = 20, 128, 1000, 12
# The attributes of portraits that a walk along the mean latents changes in most faces.
WALKS = ("beard", "glasses", "skin", "clothing_colour", "hair_colour", "light")


def write_page(models: Sequence[str | Path], file: str | Path) -> Path:
    """Writes an HTML file in which models can be explored; it needs no network.

    Kernels are stored in 24 bits if the page stays below 5 MB; otherwise those of the largest models are in float16.

    Args:
        models: names or files as in ``nbflows.load``. The data that a model was trained on must be here.
        file: where to write.

    Raises:
        ValueError: a model has a layer that the page does not know, or the page is larger than 5 MB.
    """
    flows = [pretrained.load(model) for model in models]
    # Before the data are read: a flow that the page cannot compute is said at once.
    described = [describe(flow) for flow in flows]
    facts = [_facts(model, flow) for model, flow in zip(models, flows, strict=True)]
    # One model after the other gets coarser kernels, the one with most weights first, until the page is small enough.
    coarser = sorted(range(len(flows)), key=lambda i: len(described[i]["weights"]))
    while len(page := _page(facts, described)) > MAX_BYTES:
        if not coarser:
            raise ValueError(f"the page would have {len(page) / 1e6:.1f} MB, more than 5: name fewer or smaller models")
        i = coarser.pop()
        described[i] = describe(flows[i], "f2")
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, page)
    return file


def _page(facts: list[dict[str, Any]], described: list[dict[str, str]]) -> bytes:
    models = [{**fact, "description": description} for fact, description in zip(facts, described, strict=True)]
    folder = resources.files("nbflows.explorer")
    parts = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "explorer.js")}
    # No text in the data ends the script that holds it.
    parts["data"] = json.dumps(models, separators=(",", ":")).replace("<", "\\u003c")
    page = folder.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (.+?) \}\}", lambda match: parts[match[1]], page).encode("utf-8")


def _facts(model: str | Path, flow: Flow) -> dict[str, Any]:
    """Returns what the page shows beside the flow: images, the bits/dim of test images, the mean latents of classes."""
    details = pretrained.describe(model)
    images = provenance.training_data(details, model)
    provenance.require_fit(flow, images)
    labels = images.labels["test"] if images.labels else None
    with seeded(0), torch.no_grad():
        test_bits = flow.bits_per_dim(images.test[:NUM_SCORED])
        means = _means(flow, images.train[:NUM_AVERAGED], _groups(images))
    chosen = _chosen(labels, len(images.test))
    parameters = sum(parameter.numel() for parameter in flow.parameters())
    return {
        "name": Path(model).stem,
        "about": f"{parameters:,} parameters, trained on {images.variant}.",
        "published": details.get("sha256"),
        "pictures": [_text(images.test[i]) for i in chosen],
        "labels": None if labels is None else [int(labels[i]) for i in chosen],
        "test_bits": [round(bits, 3) for bits in test_bits.tolist()],
        "means": means,
    }


def _groups(images: data.Data) -> dict[str, Tensor]:
    """Which of the training images are in a class, or have a value of an attribute; a dozen at most."""
    if images.labels:
        found = {str(label): images.labels["train"] == label for label in images.labels["train"].unique().tolist()}
    elif isinstance(images, data.ImageData) and images.attributes:
        names = list(images.attribute_values)
        # From the first value to the last one the mean latents move the picture most visibly.
        ends = [(name, images.attribute_values[name], i) for name in WALKS if name in names for i in (0, -1)]
        columns = images.attributes["train"].T
        found = {f"{name}: {v[i]}": columns[names.index(name)] == i % len(v) for name, v, i in ends}
    else:
        found = {}
    return dict(list(found.items())[:NUM_GROUPS])


def _chosen(labels: Tensor | None, count: int) -> list[int]:
    """Which test images are on the page: the first two of each class, or the first of all."""
    if labels is None:
        return list(range(min(NUM_PICTURES, count)))
    classes = labels.unique().tolist()
    each = max(1, NUM_PICTURES // len(classes))
    return [i for label in classes for i in (labels == label).nonzero().flatten()[:each].tolist()]


def _means(flow: Flow, images: Tensor, groups: dict[str, Tensor]) -> dict[str, str] | None:
    """Returns the mean latent of each group, in steps of 1/40; None if there is none."""
    groups = {name: chosen[: len(images)] for name, chosen in groups.items() if chosen[: len(images)].any()}
    if not groups:
        return None
    z = torch.cat([flow.encode(part)[0].flatten(1) for part in images.split(250)])
    steps = {name: (40 * z[chosen].mean(0)).round().clamp(-127, 127) for name, chosen in groups.items()}
    return {name: _text(mean.to(torch.int8)) for name, mean in steps.items()}


def _text(tensor: Tensor) -> str:
    return as_text(tensor.contiguous().numpy().tobytes())
