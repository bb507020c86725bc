"""nbflows list and nbflows lessons: the recipes, the models, copies of the notebooks."""

import argparse
import shutil
from pathlib import Path

from nbflows import listing, pretrained, recipes
from nbflows.cli.options import Commands, add_command
from nbflows.installed import folder


def add_lessons(commands: Commands) -> None:
    """Adds ``nbflows lessons DIR``."""
    parser = add_command(commands, "lessons", _lessons, "copy the lessons to a folder")
    parser.add_argument("folder", metavar="DIR", help="folder for the lessons; created if missing")


def add_list(commands: Commands) -> None:
    """Adds ``nbflows list``."""
    parser = add_command(commands, "list", _list, "list the recipes and the trained models")
    parser.add_argument("name", nargs="?", help="show the details of this recipe or model (default: list all)")


def _lessons(options: argparse.Namespace) -> None:
    copies = copy_lessons(options.folder)
    print(f"{len(copies)} lessons, the first one {copies[0]}. Open them with: jupyter lab {options.folder}")


def _list(options: argparse.Namespace) -> None:
    known = pretrained.list_pretrained()
    if options.name:
        print(listing.facts({**_recipe_facts(options.name), **_model_facts(options.name, known)}))
        return
    print("Recipes, for nbflows train\n")
    print(listing.recipes(recipes.RECIPES))
    print("\n\nTrained models, for nbflows sample, evaluate and translate\n")
    print(known)
    notes = (
        "here: the file is on this machine.",
        "download: the file is downloaded once, when the model is first used.",
        "no address: train the model with its recipe, or copy its file from a clone of nbflows.",
        "nbflows list NAME shows the scores, the data and the training of a model.",
    )
    print("", *map(listing.paragraph, notes), sep="\n")


def _recipe_facts(name: str) -> dict[str, str]:
    if name not in recipes.RECIPES:
        return {}
    recipe = recipes.get(name)
    return {
        "recipe": recipe.description,
        "trained on": recipe.data or "images of your own, given with --data",
        "schedule": f"{recipe.epochs} epochs, batches of {recipe.batch_size}, {recipe.optimizer} at "
        f"{recipe.learning_rate:g}",
    }


def _model_facts(name: str, known: pretrained.Listing) -> dict[str, str]:
    if name in known:
        return known.facts(name)
    if name in recipes.RECIPES:
        return {"model": "none is published; the recipe trains one"}
    raise ValueError(f"no recipe and no model named {name!r}; nbflows list shows them all")


def copy_lessons(to: str | Path) -> list[Path]:
    """Copies all notebooks into a folder, which is created if missing, with the page of symbols; returns the notebooks.

    Raises:
        FileExistsError: the folder already has notebooks with these names, perhaps with somebody's work in them.
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
    shutil.copyfile(folder("notebooks") / "symbols.md", Path(to) / "symbols.md")
    return copies
