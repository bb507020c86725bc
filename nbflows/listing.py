"""Tables of what there is to train and what is trained already, for ``nbflows list``; at most 100 columns wide."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping

from nbflows.data import toys

# Narrower than the longest name with its status, nothing could be aligned.
MIN_WIDTH, MAX_WIDTH = 60, 100
_DATA = {
    "digits": "digits: 8x8 digits of scikit-learn",
    "mnist": "mnist: MNIST, 28x28",
    "photo-patches": "photo-patches: crops of photos, 32x32",
    "portraits": "portraits: drawn faces, 32x32",
    "portraits-16": "portraits-16: drawn faces, 16x16",
    "portraits-64": "portraits-64: drawn faces, 64x64",
    "cifar10": "cifar10: CIFAR-10, 32x32",
    "tiny-imagenet-32": "tiny-imagenet-32: Tiny ImageNet, 32x32",
    "imagenet32": "imagenet32: ImageNet, 32x32",
    "imagenet64": "imagenet64: ImageNet, 64x64",
    "celeba-hq-256-5bit": "celeba-hq-256-5bit: CelebA-HQ faces, 256x256 in 5 bits",
    **{name: "toy densities: points in the plane" for name in toys.names()},
    None: "images of your own, given with --data",
}
_UPSTREAM = "upstream: the original authors' weights"
_IMAGE_TO_IMAGE = "; image to image"


def recipes(known: Mapping, width: int | None = None) -> str:
    """A table of recipes in groups by data set: name and description.

    Args:
        known: recipes by name.
        width: in columns; None for that of the terminal, between 60 and 100.
    """
    groups = {}
    for name, recipe in known.items():
        groups.setdefault((recipe.data, recipe.objective.task is not None), []).append((name, recipe.description))
    return _tables(groups, width)


def models(known: Mapping[str, Mapping], width: int | None = None) -> str:
    """A table of models in groups by data set: name, where the file is, what the model is for.

    Args:
        known: what ``list_pretrained`` returns.
        width: in columns; None for that of the terminal, between 60 and 100.
    """
    groups = {}
    # Models of one task are listed together.
    for name, entry in sorted(known.items(), key=lambda model: model[1].get("task", {}).get("name", "")):
        data = _UPSTREAM if name.startswith("upstream/") else entry.get("recipe", {}).get("data")
        groups.setdefault((data, "task" in entry), []).append((name, entry["status"], entry["purpose"]))
    return _tables(groups, width)


def facts(known: Mapping[str, str], width: int | None = None) -> str:
    """A table of what is known of one thing: a name and a wrapped text a row; empty texts are left out."""
    known = {name: text for name, text in known.items() if text}
    indent = " " * (max(map(len, known)) + 2)
    return "\n".join(_fill(text, _columns(width), name.ljust(len(indent)), indent) for name, text in known.items())


def paragraph(text: str, width: int | None = None) -> str:
    """The text in lines of the terminal's width, between 60 and 100 columns."""
    return _fill(text, _columns(width))


def _columns(width: int | None) -> int:
    # What is not a terminal, a file or a notebook, gets the full width.
    width = width or shutil.get_terminal_size((MAX_WIDTH, 24)).columns
    return max(MIN_WIDTH, min(width, MAX_WIDTH))


def _tables(groups: Mapping[tuple, list[tuple[str, ...]]], width: int | None) -> str:
    """The rows of each (data, is it image to image), below a heading."""
    columns = _columns(width)
    known = [*_DATA]
    # In the order of _DATA, others behind, a task behind the images alone.
    ordered = sorted(groups, key=lambda key: (known.index(key[0]) if key[0] in known else len(known), key[1]))
    titled = {}
    for data, is_task in ordered:
        title = _DATA.get(data, data) + _IMAGE_TO_IMAGE * is_task
        titled.setdefault(title, []).extend(groups[data, is_task])
    return "\n\n".join(
        "\n".join([f"-- {title} ".ljust(columns, "-"), *_rows(rows, columns)]) for title, rows in titled.items()
    )


def _rows(rows: list[tuple[str, ...]], columns: int) -> Iterable[str]:
    """One line a row; where the longest does not fit, the last cell of all stands below the others."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    fits = sum(widths) + 2 * (len(widths) - 1) <= columns
    for *cells, text in rows:
        start = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        if fits:
            yield f"{start}  {text}"
        else:
            yield start.rstrip()
            yield _fill(text, columns, "    ", "    ")


def _fill(text: str, columns: int, first_indent: str = "", indent: str = "") -> str:
    return textwrap.fill(text, columns, initial_indent=first_indent, subsequent_indent=indent, break_on_hyphens=False)
