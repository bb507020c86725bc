"""The project itself: its packages are named alike everywhere, its files say what they are for."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch

from nbflows import __main__, recipes

ROOT = Path(__file__).parents[1]
# What conda-forge calls them.
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def _packages_of_pyproject():
    # Python 3.10 has no tomllib: the lists are plain enough to read.
    text = (ROOT / "pyproject.toml").read_text()
    # Up to the packages that are only there to be compared with.
    text = text[text.index("dependencies = [") : text.index("bench = [")]
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


PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_files_and_headings_that_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if link.startswith("http"):
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not heading or heading in _anchors(target), link


def _anchors(page):
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_examples_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(examples) == 3
    names = {"x": torch.randint(256, (4, 1, 28, 28)).byte(), "sources": torch.randint(17, (2, 1, 8, 8)).byte()}
    for example in examples:
        exec(example, names)
    assert names["images"].shape == (16, 1, 8, 8)
    assert names["answers"].images.shape == (2, 10, 1, 8, 8)


def _commands():
    """What stands after ``nbflows`` in the code blocks of the pages."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.match(r"(?:\s*|srun .*|torchrun .* -m )nbflows (.+)", line):
                    yield found[1]


@pytest.mark.parametrize("command", list(_commands()))
def test_every_command_of_the_pages_can_be_given(command):
    # A variable of the script for SLURM.
    given = shlex.split(command.replace("$RESUME", "--resume"), comments=True)
    options, unknown = __main__._parser().parse_known_args(given)
    assert not unknown
    if options.command is __main__._train:
        recipes.get(options.recipe)


def test_no_file_is_larger_than_eight_megabytes():
    for folder in ("saved_models", "notebooks", "tests", "docs"):
        for file in (ROOT / folder).rglob("*"):
            assert file.stat().st_size < 8_000_000, file
