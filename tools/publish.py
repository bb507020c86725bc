"""Publishes a trained model: writes its weights, its entry in the manifest and its card into ``saved_models/``.

python -m tools.publish RUN NAME --purpose "what it is for"; python -m tools.publish --cards
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from nbflows import __version__, cli, data, files, metrics, pretrained, provenance
from nbflows.cli.options import checked, not_empty
from nbflows.flow import Flow
from nbflows.storage import weights
from nbflows.storage.manifest import Manifest, check_name, sha256
from tools import cards

# All files together must stay below 80 MB, or a clone takes too long in a class.
MOST_BYTES = 8_000_000
# The largest change of bits/dim by rounding the weights.
MOST_CHANGE = 0.0005


def publish(
    model: str | Path, name: str, purpose: str, half: bool = False, licence: str = "MIT", published: str = ""
) -> dict:
    """Puts a model into ``saved_models/`` and its manifest; returns the entry.

    Bits/dim on all test images are measured again, with the weights as they are stored.

    Args:
        model: a .safetensors file or the folder of a training run, see ``load_flow``.
        name: name for ``load_pretrained``.
        purpose: purpose of the model, in a line.
        half: whether to store float16.
        licence: licence of the weights.
        published: bits/dim that a paper reports of this model on these data, with its M: "1.020 (M = 8)".

    Raises:
        ValueError: the file would be too large, float16 changes bits/dim by 0.0005 or more, the name is invalid, or the
            training data are not public.
    """
    check_name(name)
    folder = pretrained.saved_models()
    known = pretrained.find_manifest() if (folder / "manifest.json").exists() else Manifest({})
    description, flow = weights.describe(model), weights.load_flow(model)
    content = weights.to_bytes(flow, half)
    if len(content) >= MOST_BYTES:
        raise ValueError(
            f"{name} would have {len(content)} bytes, but a model in {folder} must have less than {MOST_BYTES}: store "
            "it in float16 (--half), or publish a smaller one"
        )
    stored = weights.rebuild(weights.parse(content, name), description, name)
    images = training_data(description, model)
    _check_rounding(flow, stored, images)
    # Earlier scores may belong to other weights. One draw is measured here, more by `evaluate --record`.
    description = {
        key: value
        for key, value in description.items()
        if not key.startswith("test_bits_per_dim") and key != "weights_sha256"
    }
    ours = {
        "purpose": purpose,
        "licence": licence,
        "version": __version__,
        "sha256": sha256(content),
        "bytes": len(content),
        "parameters": sum(parameter.numel() for parameter in stored.parameters()),
        "weights": "float16" if half else "float32",
        **({"published": published} if published else {}),
        "test_bits_per_dim": asdict(_score(stored, images, step=1)),
        **measure(stored, images, description.get("task")),
    }
    entry = {**ours, **{key: value for key, value in description.items() if key not in ours}}
    known.models[name] = entry
    folder.mkdir(exist_ok=True)
    files.write(folder / f"{name}.safetensors", content)
    known.write(folder / "manifest.json")
    return entry


def _check_rounding(flow: Flow, stored: Flow, images: data.Data) -> None:
    step = max(1, len(images.test) // 100)
    change = _score(stored, images, step).mean - _score(flow, images, step).mean
    if abs(change) >= MOST_CHANGE:
        raise ValueError(f"rounding the weights changes bits/dim by {change:.4f}: publish without --half")


def measure(flow: Flow, images: data.Data, task: dict | None = None) -> dict:
    """Measures reference scores, with which tests later check that code and weights still make the same model.

    "subset": bits/dim on about 100 evenly spaced test images; "check": bits/dim on 16 images that every installation
    has.
    """
    step = max(1, len(images.test) // 100)
    check = metrics.evaluate(flow, *cards.fixed_images(flow, task))
    return {"subset": {"every": step, **asdict(_score(flow, images, step))}, "check": asdict(check)}


def subset(flow: Flow, images: data.Data, step: int) -> tuple[Tensor, Tensor | None]:
    """Returns every ``step``-th test image, and the sources or labels that the flow takes with them."""
    contexts = provenance.contexts(flow, images)
    return images.test[::step], contexts and contexts["test"][::step]


def _score(flow: Flow, images: data.Data, step: int) -> metrics.BitsPerDim:
    return metrics.evaluate(flow, *subset(flow, images, step))


def training_data(description: dict, model: str | Path = "the model") -> data.Data:
    """Returns the data that a model was trained on, if they are public; pairs for a translation.

    Raises:
        ValueError: the data have no name, or differ from those of the training.
    """
    known = provenance.part(description, "trained_on", model)
    name = provenance.part(known, "origin", model).get("name") if known else None
    name = name if known else provenance.part(description, "recipe", model).get("data")
    if name not in data.names():
        raise ValueError(
            f"{model} was not trained on a named data set, but on {name!r}: publish needs one to score the model"
        )
    return provenance.training_data(description, model)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.publish",
        description="Puts a trained model into saved_models/, its manifest and README.md.",
    )
    parser.register("type", None, checked(not_empty))
    parser.add_argument("model", nargs="?", help="a .safetensors file, or the folder of a run")
    parser.add_argument("name", nargs="?", help="name for load_pretrained: lower case, digits and hyphens")
    parser.add_argument("--purpose", metavar="TEXT", help="purpose of the model, in a line")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    parser.add_argument("--licence", metavar="TEXT", default="MIT", help="licence of the weights (default: MIT)")
    parser.add_argument(
        "--published", metavar="TEXT", help='bits/dim that a paper reports for this model, as in "1.020 (M = 8)"'
    )
    parser.add_argument(
        "--cards",
        action="store_true",
        help="publish no model, only write README.md from the manifest and the pictures that are missing or outdated",
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.set_defaults(command=_publish, parser=parser)
    return parser


def _folder() -> Path:
    """The folder of published models. Raises ValueError unless it is in a git checkout and can be written to."""
    folder = pretrained.saved_models()
    if not (folder.resolve().parent / ".git").exists():
        raise ValueError(f"{folder.resolve()} is not in a git checkout; run the command in a clone of nbflows")
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        raise ValueError(f"{folder.resolve()} cannot be written to; change its permissions or use another clone")
    return folder


def _publish(options) -> None:
    if options.cards and (options.model or options.purpose or options.half or options.published):
        options.parser.error(
            "--cards takes no other options: it writes the cards of the models that are already published"
        )
    if not options.cards and not (options.model and options.name and options.purpose):
        options.parser.error('give MODEL, NAME and --purpose "what it is for"; or --cards alone')
    folder = _folder()
    print(f"writing into {folder}")
    if not options.cards:
        entry = publish(
            options.model, options.name, options.purpose, options.half, options.licence, options.published or ""
        )
        print(f"{options.name}: {metrics.BitsPerDim(**entry['test_bits_per_dim'])}, {entry['bytes']} bytes")
    print(f"written: {', '.join(map(str, cards.write_cards(folder)))}")


def main(arguments: list[str] | None = None) -> int:
    """Publishes a model, or writes the cards; returns the exit status."""
    return cli.run(_parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())
