"""Imports go one way through the house: no circle, and nothing heavy for those who only sample."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up; what stands in one line does not import each other, but for what is said in a folder of its own.
FLOORS = [
    ["derivatives", "determinants", "extras", "files", "hardware", "inputs", "installed"],
    ["progress", "ranks", "seeded"],
    ["bijection"],
    ["recompute"],
    ["compose"],
    ["nets"],
    ["flow"],
    ["checks", "joint", "labelled", "layers"],
    ["coding", "counting", "guidance", "multiscale", "pixelflow", "translation"],
    ["data", "models", "metrics"],
    ["attributes", "listing", "storage", "tasks"],
    ["objectives", "provenance", "quality", "upstream"],
    ["recipes"],
    ["plotting", "pretrained"],
    ["exercises", "explorer", "training"],
    ["cli"],
    ["__main__"],
]


def _room(module: str) -> str:
    return module.split(".")[1]


def _imports() -> dict[str, set[str]]:
    """Which modules of the package each of them imports, within functions too, but not for type checkers alone."""
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in (ROOT / "nbflows").rglob("*.py")
    }
    found = {}
    for module, file in files.items():
        tree = ast.parse(file.read_text())
        typing = {
            n
            for i in ast.walk(tree)
            if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
            for n in ast.walk(i)
        }
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node not in typing and (node.module or "").startswith("nbflows"):
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in files else node.module for name in full}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names if alias.name in files}
        found[module] = names - {module}
    return found


def test_no_import_runs_upwards():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = [
        f"{module} imports {name}"
        for module, names in _imports().items()
        for name in names
        if "." in module and "." in name and _room(module) != _room(name) and floor[_room(module)] <= floor[_room(name)]
    ]
    assert not wrong


def test_no_circle():
    # A package's __init__ stands for what it hands on.
    TopologicalSorter({module: names for module, names in _imports().items() if module != "nbflows"}).prepare()


def test_sampling_needs_neither_torchs_compiler_nor_lightning(tmp_path):
    heavy = ("torchvision", "torch._dynamo", "lightning", "matplotlib", "sklearn")
    code = "import sys, nbflows.cli, nbflows.cli.translate, nbflows.cli.evaluate;"
    code += "nbflows.cli.main(['sample', 'digits-multiscale', sys.argv[1]]);"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("nbflows", "toys", "nbflows.data import toys"),
        ("nbflows", "weights", "nbflows.storage import weights"),
        ("nbflows", "compiling", "nbflows.training import compiling"),
        ("nbflows.bijection", "Sequential", "nbflows import Sequential"),
    ],
)
def test_what_has_moved_is_an_error_that_names_its_place(old, name, new):
    with pytest.raises(ImportError, match=f"from {new}"):
        getattr(importlib.import_module(old), name)
    module, _, imported = new.partition(" import ")
    assert getattr(importlib.import_module(module), imported)
