"""The editions of the lessons: nothing of a solution for students, everything for teachers, slides without network."""

import html.parser
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbflows import exercises
from nbflows.exercises.lab import solution_code
from tools import course, notebooks

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def read(file):
    return nbformat.read(file, as_version=4)


def text_of(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells)


def stored(file):
    """The exercises of a lesson whose solutions are not on the page."""
    return exercises.lab(int(file.stem[:2])).exercises if "exercises.lab(" in text_of(read(file)) else {}


@pytest.fixture
def lesson():
    """A page with a prediction, a figure, a folded answer and an exercise."""
    picture = new_output("display_data", {"image/png": "aGk="}, metadata={"image/png": {"alt": "<hi>"}})
    predict = 'ends = ["stays", "rises"]\nguess = exercises.predict("Halve " "it?", None, ends)'
    return new_notebook(
        cells=[
            new_markdown_cell("# Lesson 01: a title\n\nWhat it is about."),
            new_markdown_cell("## 1. A section\n\nFirst paragraph.\n\n$$z = x$$"),
            new_code_cell(predict, outputs=[picture], execution_count=1),
            new_markdown_cell("<details><summary>Why?</summary>Because of this.</details>"),
            new_markdown_cell("## Exercises\n\n### Exercise 3: centimetres"),
            new_code_cell("lab.check(3, score)"),
            # Two sections in one cell.
            new_markdown_cell("## Summary\n\n- All of it.\n\n## Solutions\n\nThe secret."),
            new_code_cell("secret()"),
            new_markdown_cell("## References"),
        ]
    )


def test_students_get_neither_outputs_nor_solutions(lesson):
    edition = course.student(lesson)
    assert "secret" not in text_of(edition) and "## References" in text_of(edition)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in edition.cells)
    # What it was made of is as before.
    assert lesson.cells[2].outputs and "secret" in text_of(lesson)


def test_teachers_get_times_questions_solutions_and_named_mistakes(lesson):
    edition = course.instructor(lesson, 1)
    text, exercise = text_of(edition), exercises.lab(1).exercises[3]
    assert "before they run it, ask: Halve it? stays / rises" in text and "ask at the end: Why?" in text
    assert solution_code(exercise) in text and exercise.explanation in text
    assert all(hint in text for hint in exercise.hints) and all(name in text for name in exercise.mistakes)
    # A code cell of no words and a figure; an exercise of five minutes.
    assert [int(n) for n in re.findall(r"> - about (\d+) minutes\n", text)] == [1, 5, 1, 1, 1]
    assert "secret" in text and edition.cells[4].outputs


def test_slides_have_formulas_questions_figures_and_no_code(lesson):
    deck = course.slides(lesson)
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in deck.cells]
    assert kinds == ["slide", "slide", "subslide", "subslide", "subslide", "fragment", "slide", "slide"]
    text = text_of(deck)
    for shown in (
        "$$z = x$$",
        "it?\n\na) stays\n\nb) rises",
        'alt="&lt;hi&gt;"',
        "Why?",
        "Because of this.",
        "- All of it.",
    ):
        assert shown in text
    assert "Exercise 3" in text and "lab.check" not in text and "secret" not in text


@each_notebook
def test_no_student_sees_a_solution_and_every_teacher_does(file):
    content = read(file)
    student, instructor = text_of(course.student(content)), text_of(course.instructor(content, int(file.stem[:2])))
    assert not re.search(r"^## Solutions", student, re.M)
    for exercise in stored(file).values():
        assert exercise.explanation not in student and exercise.explanation in instructor
        assert solution_code(exercise) in instructor
        if callable(exercise.solution):
            assert solution_code(exercise) not in student
    # Apart from solutions, nothing is lost.
    pieces = [piece for cell in content.cells for piece in re.split(r"^(?=## )", cell.source, flags=re.M)]
    assert all(piece.rstrip() in instructor for piece in pieces)
    assert "## References" in student or file.stem.startswith("00")


class Loaded(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses, self.alts = [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        address = attrs.get("href") if tag == "link" else attrs.get("src")
        if address and not address.startswith("data:"):
            self.addresses.append(address)
        if tag == "img":
            self.alts.append(attrs.get("alt"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx_revealjs") is None, reason="reveal.js is not installed")
def test_slides_of_a_lesson_need_no_network_and_show_its_figures(tmp_path):
    course.write_slides(course.slides(read(NOTEBOOKS[1])), tmp_path / "slides.html")
    page = (tmp_path / "slides.html").read_text(encoding="utf-8")
    parser = Loaded()
    parser.feed(page)
    assert not parser.addresses and "@import" not in page
    assert parser.alts == notebooks.figures(NOTEBOOKS[1])
    assert "Reveal.initialize(" in page


@pytest.mark.full_size  # A whole lesson once more; `make test` runs them all as they are.
def test_the_student_edition_of_a_lesson_runs(tmp_path):
    file = tmp_path / NOTEBOOKS[1].name
    nbformat.write(course.student(read(NOTEBOOKS[1])), file)
    options = ["--nbval-lax", "--nbval-current-env", "-n0", "-p", "no:cacheprovider", "-p", "no:cov", "-W", "default"]
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", *options, str(file)]
    run = subprocess.run(command, cwd=NOTEBOOKS[1].parent.parent, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
