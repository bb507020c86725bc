"""Finds the files that come with the package: next to it in a clone, inside it once installed."""

from pathlib import Path


def folder(name: str) -> Path:
    """ "notebooks" or "saved_models"."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
