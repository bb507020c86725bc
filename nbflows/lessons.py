"""Copies the lessons of the installed package to a folder where one can work on them."""

import shutil
from pathlib import Path

from nbflows.installed import folder


def copy_lessons(to: str | Path) -> list[Path]:
    """Copies all notebooks into a folder, which is made if it does not exist; returns their new places.

    Raises:
        FileExistsError: the folder has notebooks of these names already, perhaps with somebody's work in them.
    """
    notebooks = sorted(folder("notebooks").glob("*.ipynb"))
    copies = [Path(to) / notebook.name for notebook in notebooks]
    if taken := [str(copy) for copy in copies if copy.exists()]:
        raise FileExistsError(
            f"{len(taken)} of {len(copies)} lessons are in {to} already, the first one is {taken[0]}: choose another "
            "folder, or move yours away"
        )
    Path(to).mkdir(parents=True, exist_ok=True)
    for notebook, copy in zip(notebooks, copies, strict=True):
        shutil.copyfile(notebook, copy)
    return copies
