"""The notebooks keep the rules of lessons: short cells, alt text, exercises with solutions, clean stored outputs."""

import base64
import html
import io
import itertools
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from nbflows import exercises
from nbflows.exercises.lab import solution_code
from nbflows.plotting.page import ALT_OUTPUT
from tools import notebooks

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LESSONS = [file for file in NOTEBOOKS if not file.name.startswith("00")]
# In this order, as headings of level 2; the sections of the lesson stand between Setup and the next.
SKELETON = ["Setup", "What can go wrong", "Exercises", "Summary", "References"]


def cells(file, kind=None):
    all_cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in all_cells if kind in (None, cell["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def text_of(output):
    """All that an output shows as text."""
    data = output.get("data", {})
    return "".join(output.get("text", [])) + "".join("".join(v) for k, v in data.items() if k.startswith("text/plain"))


def is_skipped(cell):
    return "nbval-skip" in cell["metadata"].get("tags", [])


def markdown(file):
    return "\n\n".join(source(cell) for cell in cells(file, "markdown"))


each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
each_lesson = pytest.mark.parametrize("file", LESSONS, ids=lambda file: file.stem)


def test_there_are_notebooks():
    assert len(LESSONS) >= 5 and len(NOTEBOOKS) == len(LESSONS) + 1


@each_notebook
def test_notebooks_name_a_kernel_that_everyone_has(file):
    assert json.loads(file.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] == "python3"


@each_notebook
def test_the_first_cell_says_how_to_install_what_is_missing(file):
    first = source(cells(file, "code")[0]).splitlines()[0]
    assert first == '# nbflows is missing? In a clone, run this in a cell of its own: %pip install -e "..[all]"'
    # The folder above is the project, and has that extra.
    assert re.search(r"^all = \[", (file.parents[1] / "pyproject.toml").read_text(encoding="utf-8"), re.M)


@each_notebook
def test_code_cells_are_short_and_stand_apart(file):
    kinds = [cell["cell_type"] for cell in cells(file)]
    assert ("code", "code") not in list(itertools.pairwise(kinds))
    for cell in cells(file, "code"):
        lines = source(cell).splitlines()
        assert len(lines) <= 25, lines[0]
        assert all(len(line) <= 120 for line in lines), lines[0]
        assert "if testing" not in source(cell)


@each_notebook
def test_every_cell_shows_or_asserts_something(file):
    for cell in cells(file, "code"):
        assert is_skipped(cell) or cell["outputs"] or "assert" in source(cell), source(cell)


@each_notebook
def test_cells_were_executed_once_in_order(file):
    executed = [cell for cell in cells(file, "code") if not is_skipped(cell)]
    assert [cell["execution_count"] for cell in executed] == list(range(1, len(executed) + 1))
    for cell in cells(file, "code"):
        if is_skipped(cell):
            # Both tags: the one for tests, the other for `make notebooks`.
            assert "skip-execution" in cell["metadata"]["tags"] and not cell["outputs"]


@each_notebook
def test_stored_outputs_have_no_warnings_or_machine_paths(file):
    for output in (output for cell in cells(file, "code") for output in cell["outputs"]):
        assert output.get("name") != "stderr", text_of(output)
        assert not re.search(r"Warning\b|/(home|root|work|tmp|Users|usr|opt)/|[A-Z]:\\", text_of(output)), text_of(
            output
        )
    assert not re.search(r"/(home|root|work|tmp|Users)/", "".join(source(cell) for cell in cells(file)))


@each_notebook
def test_stored_notebooks_are_complete(file):
    assert not notebooks.faults(file)


@each_notebook
def test_every_figure_has_a_png_and_a_long_alt_text_which_follows_once_more(file):
    texts = notebooks.figures(file)
    assert len(texts) >= 2
    for text in texts:
        assert len(text.split()) >= 8, text
    outputs = [output for cell in cells(file, "code") for output in cell["outputs"]]
    shown = [index for index, output in enumerate(outputs) if "image/png" in output.get("data", {})]
    for index, text in zip(shown, texts, strict=True):
        if outputs[index]["output_type"] == "execute_result":
            # A panel of nbflows.explore, which is a widget with a picture of its own.
            continue
        picture = Image.open(io.BytesIO(base64.b64decode(outputs[index]["data"]["image/png"])))
        # Stored at twice the pixels that it is shown at; a width is rounded to whole pixels.
        assert abs(picture.width - 2 * outputs[index]["metadata"]["image/png"]["width"]) <= 2
        assert text_of(outputs[index]) == text
        repeated = "".join(outputs[index + 1]["data"]["text/html"])
        assert f">Figure: {html.escape(text)}</div>" in repeated and ALT_OUTPUT in outputs[index + 1]["metadata"]


@each_lesson
def test_lessons_have_the_same_skeleton(file):
    text = markdown(file)
    headings = re.findall(r"^## (?:\d+\. )?(.*)$", text, re.M)
    assert text.startswith("# ") and len(re.findall(r"^# ", text, re.M)) == 1
    headings = [heading for heading in headings if heading not in ("Solutions", "Appendix")]
    assert [heading for heading in headings if heading in SKELETON] == SKELETON
    assert 3 <= len(headings) - len(SKELETON) <= 8
    assert "**You will" in text and "**Before you start**" in text
    assert re.search(r"arXiv:\d{4}\.\d{5}", text)


@each_lesson
def test_the_main_path_of_a_lesson_fits_its_hour(file):
    """At most 2,000 words and 250 lines of code before the sections at the end."""
    words = lines = 0
    for cell in cells(file):
        main, end, _ = source(cell).partition("## What can go wrong")
        if cell["cell_type"] == "markdown":
            words += len(re.sub(r"<[^>]*>", "", main).split())
        else:
            lines += sum(bool(line.strip()) for line in main.splitlines())
        if end:
            break
    assert words <= 2000 and lines <= 250


@each_lesson
def test_lessons_check_their_layers_and_agree_with_the_package(file):
    code = "\n".join(source(cell) for cell in cells(file, "code"))
    assert "check_bijection(" in code
    assert "load_state_dict(" in code or "assert_close(" in code


@each_lesson
def test_lessons_name_the_command_that_trains_at_scale(file):
    commands = [source(cell) for cell in cells(file, "code") if is_skipped(cell)]
    # Lesson 01 is about points in the plane: nothing of it grows with a GPU.
    assert file.name.startswith("01") or any("nbflows train mnist" in command for command in commands)


def exercises_of(file):
    """The exercises of a lesson, by number; their solutions are stored apart."""
    return exercises.lab(int(file.stem[:2])).exercises


@each_notebook
def test_exercises_are_those_of_the_lab_and_no_stub_solves_one(file):
    numbers = re.findall(r"^### Exercise (\d+)", markdown(file), re.M)
    assert [int(number) for number in numbers] == sorted(exercises_of(file)) and 2 <= len(numbers) <= 5
    printed = "".join(text_of(output) for cell in cells(file, "code") for output in cell["outputs"])
    verdicts = re.findall(r"exercise (\d+): (correct|not yet)", printed)
    assert verdicts == [(number, "not yet") for number in numbers]


@each_notebook
def test_no_solution_is_on_the_page(file):
    page = "".join(source(cell) for cell in cells(file))
    assert "Solutions" not in page
    code = {line.strip() for cell in cells(file, "code") for line in source(cell).splitlines()}
    for number, exercise in exercises_of(file).items():
        assert exercise.explanation not in page
        if callable(exercise.solution):
            solved = {
                line.strip() for line in solution_code(exercise).splitlines() if not line.lstrip().startswith(")")
            }
            assert solved - code, f"all lines of solution {number} are on the page"


@each_notebook
def test_every_prediction_is_compared(file):
    code = "\n".join(source(cell) for cell in cells(file, "code"))
    guesses = re.findall(r"^(\w+) = exercises\.predict\(", code, re.M)
    assert len(guesses) == len(set(guesses)) == code.count("exercises.predict(")
    assert all(f"{guess}.compare(" in code for guess in guesses)


@each_notebook
def test_no_formula_stands_in_the_heading_of_a_fold(file):
    """The site shows HTML as it is, without formulas."""
    assert not [fold for fold in re.findall(r"<summary>.*?</summary>", markdown(file), re.S) if "$" in fold]


def test_lesson_12_has_the_scores_of_the_page_of_results():
    page = (Path(__file__).parents[1] / "docs" / "results" / "learning.md").read_text(encoding="utf-8")
    measured = {
        name: re.findall(r"(\d\.\d{3}) ±", rest) for name, rest in re.findall(r"^\| `(\w+)` \|(.*)$", page, re.M)
    }
    (lesson,) = (file for file in LESSONS if file.name.startswith("12"))
    code = "\n".join(source(cell) for cell in cells(lesson, "code"))
    shown = {name: scores.split(", ") for name, scores in re.findall(r'"(\w+)": \((\d\.[\d., ]+)\)', code)}
    assert shown == measured and len(measured) == 5
