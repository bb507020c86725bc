"""Packages that only a part of nbflows needs: where one is missing, the error says how to install it."""

import contextlib
from collections.abc import Iterator

# What each extra of pyproject.toml brings, by the names it is imported under.
EXTRAS = {
    "train": ("lightning", "torchmetrics"),
    "data": ("sklearn", "skimage"),
    "plots": ("matplotlib", "seaborn"),
    "notebooks": ("IPython", "ipywidgets"),
}


class MissingPackageError(ModuleNotFoundError):
    """A package of an extra is not installed; the message is the line that installs it."""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Imports within it that fail because an extra is missing raise MissingPackageError, which names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        message = f'{package} is not installed: pip install "nbflows[{extra}]"'
        raise MissingPackageError(message, name=error.name) from None
