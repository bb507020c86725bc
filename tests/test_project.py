"""The project itself: its packages are named alike everywhere, its files say what they are for."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import nbflows
from nbflows import cli, recipes

ROOT = Path(__file__).parents[1]
# What conda-forge calls them.
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "python-build": "build"}


def _packages_of_pyproject():
    # Python 3.10 has no tomllib: the lists are plain enough to read.
    text = (ROOT / "pyproject.toml").read_text()
    # Up to the packages that are only there to be compared with.
    text = text[text.index("dependencies = [") : text.index("bench = [")]
    return {match.groups() for match in re.finditer(r'"([\w-]+)>=([\d.]+)"', text)}


def _packages_of_conda():
    text = (ROOT / "environment.yml").read_text()
    found = {match.groups() for match in re.finditer(r"^ +- ([\w-]+)>=([\d.]+)$", text, re.M)}
    return {(CONDA_NAMES.get(name, name), version) for name, version in found}


def test_conda_and_pip_name_the_same_packages_with_the_same_bounds():
    assert _packages_of_pyproject() == _packages_of_conda()
    assert len(_packages_of_pyproject()) > 15
    assert "nodefaults" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize("file", sorted((ROOT / "nbflows").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_every_file_and_every_public_name_says_what_it_is(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    # Answers to exercises, right and wrong, as readers write them.
    answers = file.parent.name == "exercises" and file.name.startswith("lesson_")
    for node in [] if answers else tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "notebooks").glob("*.md"))


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


def test_the_readme_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names = {}
    exec(example, names)
    assert names["images"].shape == (16, 1, 8, 8) and names["bits"].shape == (180,)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def _commands():
    """What stands after ``nbflows`` in the code blocks of the pages."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.match(r"(?:\s*|srun .*|torchrun .* -m )nbflows (.+)", line):
                    yield found[1]


@pytest.mark.parametrize("command", list(_commands()))
def test_every_command_of_the_pages_can_be_given(command):
    # A variable of the script for SLURM.
    given = shlex.split(command.replace("$RESUME", "--resume"), comments=True)
    options, unknown = cli._parser().parse_known_args(given)
    assert not unknown
    if options.command is cli.train._train:
        recipes.get(options.recipe)


def test_no_file_is_larger_than_eight_megabytes():
    for folder in ("saved_models", "notebooks", "tests", "docs"):
        for file in (ROOT / folder).rglob("*"):
            assert file.stat().st_size < 8_000_000, file


def test_the_version_stands_alike_in_the_package_its_citation_and_the_newest_release_of_the_changelog():
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    released = re.findall(r"^## \[(\d[^]]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert cited == nbflows.__version__ == released[0][0]
    (date,) = re.findall(r"^date-released: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert date == released[0][1]


def test_the_changelog_begins_with_what_is_not_released():
    headings = re.findall(r"^##+ (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {heading for heading in headings if not heading.startswith("[")} <= kinds


def test_type_checkers_read_the_annotations():
    assert (ROOT / "nbflows" / "py.typed").read_text() == ""


@pytest.mark.slow  # Half a minute, most of it for the types of torch.
def test_pyright_finds_nothing():
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        pytest.skip(f"pyright cannot run here; its package fetches node and itself at first: {done.stderr[-300:]}")
    assert report["summary"]["filesAnalyzed"] > 100
    assert [(found["file"], found["message"]) for found in report["generalDiagnostics"]] == []


def _forms():
    return {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}


@pytest.mark.parametrize("name", ["bug", "lesson", "feature"])
def test_a_form_asks_in_fields_that_have_a_label_and_a_name_of_their_own(name):
    form = _forms()[name]
    assert form["name"] and form["description"]
    assert {field["type"] for field in form["body"]} <= {"textarea", "input", "dropdown"}
    assert all(field["attributes"]["label"] for field in form["body"])
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_form_for_a_lesson_offers_every_lesson():
    (field,) = (field for field in _forms()["lesson"]["body"] if field["type"] == "dropdown")
    numbers = [option.split()[0] for option in field["attributes"]["options"]]
    assert numbers == [file.name[:2] for file in sorted((ROOT / "notebooks").glob("*.ipynb"))]


WORKFLOWS = {"tests.yml": 5, "docs.yml": 1}


def _workflow(name):
    return yaml.safe_load((ROOT / ".github/workflows" / name).read_text())


@pytest.mark.parametrize(("name", "num_targets"), WORKFLOWS.items())
def test_a_workflow_runs_make_targets_and_files_that_exist(name, num_targets):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    run = "\n".join(step["run"] for job in _workflow(name)["jobs"].values() for step in job["steps"] if "run" in step)
    named = re.findall(r"\bmake ([\w-]+)", run)
    assert len(named) == num_targets and set(named) <= targets
    for file in re.findall(r"\btools/\w+\.py", run):
        assert (ROOT / file).exists()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_job_of_a_workflow_ends_and_may_only_read_or_publish_pages(name):
    workflow = _workflow(name)
    assert workflow["permissions"] == {"contents": "read"}
    for title, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60
        publishes = (name, title) == ("docs.yml", "publish")
        assert job.get("permissions") == ({"pages": "write", "id-token": "write"} if publishes else None)
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


# Modules whose tests are not in the file of their name, with the file that has them.
TESTED_IN = {
    "nbflows": "test_imports.py",
    # Properties that every bijection or every network has, over all cases.
    "bijection": "test_properties.py",
    "layers/split": "test_properties.py",
    "nets/glow": "test_derivatives.py",
    "nets/norm": "test_habits.py",
    # Portraits and their truth, from attributes to images, on one small generator.
    "data/portraits/attributes": "data/portraits/test_portraits.py",
    "data/portraits/drawing": "data/portraits/test_portraits.py",
    "data/portraits/generator": "data/portraits/test_portraits.py",
    "data/portraits/probability": "data/portraits/test_portraits.py",
    "data/portraits/sides": "data/portraits/test_portraits.py",
    # Commands are tried one after the other, on the model that the first has made.
    "cli/catalogue": "cli/test_cli.py",
    "cli/evaluate": "cli/test_cli.py",
    "cli/options": "cli/test_command_lines.py",
    "cli/sample": "cli/test_cli.py",
    "cli/train": "cli/test_cli.py",
    "explorer/explorer": "explorer/test_panel.py",
    "explorer/plane": "explorer/test_panel.py",
    "cli/picture_files": "cli/test_translate.py",
    # A verdict is what a reader is told about an answer.
    "exercises/verdict": "exercises/test_answers.py",
    # Several processes are needed.
    "ranks": "training/test_distributed.py",
    "training/launch": "training/test_distributed.py",
    # Whole trainings show it.
    "training/steps": "training/test_fit.py",
    # Figures of two lessons.
    "plotting/comparisons": "plotting/test_noise.py",
}


def test_every_module_has_tests_that_its_name_leads_to():
    """Tests of a folder's ``__init__`` are in the file of the folder's name; 40 lines, or names alone, need none."""
    used = set()
    for file in sorted((ROOT / "nbflows").rglob("*.py")):
        room = file.relative_to(ROOT / "nbflows").parent
        module = room / (file.parent.name if file.name == "__init__.py" else file.stem)
        own = ROOT / "tests" / room / f"test_{module.name}.py"
        lines = file.read_text(encoding="utf-8").splitlines()
        defines = any(line.startswith(("def ", "class ")) for line in lines)
        # The exercises of a lesson are tested by stored answers, which test_answers.py asks for.
        if len(lines) > 40 and defines and not own.exists() and not module.match("exercises/lesson_??"):
            assert module.as_posix() in TESTED_IN, f"{own.relative_to(ROOT)} is missing"
            assert (ROOT / "tests" / TESTED_IN[module.as_posix()]).exists()
            used.add(module.as_posix())
    assert used == set(TESTED_IN)
