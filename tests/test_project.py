"""The project itself: its packages are named alike everywhere, its files say what they are for."""

import ast
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# What conda-forge calls them.
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def _packages_of_pyproject():
    # Python 3.10 has no tomllib: the lists are plain enough to read.
    text = (ROOT / "pyproject.toml").read_text()
    text = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    return {match.groups() for match in re.finditer(r'"([\w-]+)>=([\d.]+)"', text)}


def _packages_of_conda():
    text = (ROOT / "environment.yml").read_text()
    found = {match.groups() for match in re.finditer(r"^  - ([\w-]+)>=([\d.]+)$", text, re.M)}
    return {(CONDA_NAMES.get(name, name), version) for name, version in found}


def test_conda_and_pip_name_the_same_packages_with_the_same_bounds():
    assert _packages_of_pyproject() == _packages_of_conda()
    assert len(_packages_of_pyproject()) > 15
    assert "nodefaults" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize("file", sorted((ROOT / "nbflows").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_every_file_and_every_public_name_says_what_it_is(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_the_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_the_readme_examples_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(examples) == 3
    names = {"x": torch.randint(256, (4, 1, 28, 28)).byte(), "sources": torch.randint(17, (2, 1, 8, 8)).byte()}
    for example in examples:
        exec(example, names)
    assert names["images"].shape == (16, 1, 8, 8)
    assert names["answers"].images.shape == (2, 10, 1, 8, 8)


def test_no_file_is_larger_than_eight_megabytes():
    for folder in ("saved_models", "notebooks", "tests", "docs"):
        for file in (ROOT / folder).rglob("*"):
            assert file.stat().st_size < 8_000_000, file
