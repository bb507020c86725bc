"""`make demo` and `make notebooks` on a small notebook: what they promise is there, and what is missing is said."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from tools import notebooks

pytest.importorskip("nbconvert")
import nbformat
from bs4 import BeautifulSoup

# A notebook is executed and converted.
pytestmark = pytest.mark.slow
ALT = ['A line from "low" to high & back', "Two lines, one <above> the other, over ten steps"]
CODE = f"""from nbflows import plotting
for step in range(3):
    print(step, end="\\r")
for alt in {ALT!r}:
    plotting.show(plotting.training_curve([{{"step": 0, "bits_per_dim": 2.0}}], title="a"), alt=alt)"""


def write(path, *cells):
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


def code(source="1", count=1, outputs=(), **metadata):
    return nbformat.v4.new_code_cell(source, execution_count=count, outputs=list(outputs), metadata=metadata)


def picture(kind="image/png", data="aGk=", **metadata):
    return nbformat.v4.new_output("display_data", {kind: data}, metadata={kind: metadata})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder that a demo of a small notebook wrote, after an older one, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    text = nbformat.v4.new_markdown_cell("# A lesson\n\nA formula, $x < e^x$, and in a line of its own: $$z = f(x)$$")
    (folder / "build" / "figures").mkdir(parents=True)
    (folder / "build" / "figures" / "03_an_older_picture.png").touch()
    with redirect_stdout(io.StringIO()) as printed:
        notebooks.demo(write(folder / "small.ipynb", text, code(CODE, count=None)), folder / "build")
    return folder / "build", printed.getvalue()


def page_of(folder):
    return (folder / "quickstart.html").read_text(encoding="utf-8")


def test_a_demo_writes_a_page_and_pictures_and_says_what_to_open(results):
    folder, printed = results
    assert sorted(file.name for file in folder.iterdir()) == ["figures", "quickstart.html", "quickstart.ipynb"]
    files = sorted((folder / "figures").iterdir())
    assert [file.name for file in files] == ["01_a_line_from_low_to.png", "02_two_lines_one_above_the.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    for promised in (folder / "quickstart.html", folder / "figures", "make lab", "01_change_of_variables.ipynb"):
        assert str(promised) in printed
    assert (notebooks.ROOT / "notebooks" / "01_change_of_variables.ipynb").exists()


def test_a_page_shows_every_figure_with_its_text_once(results):
    pictures = BeautifulSoup(page_of(results[0]), "html.parser").select("img")
    assert [tag["alt"] for tag in pictures] == ALT
    stored = [data for _, output in notebooks._outputs(results[0] / "quickstart.ipynb") if (data := output.get("data"))]
    sources = ["".join(data["image/png"]) for data in stored if "image/png" in data]
    assert [tag["src"] for tag in pictures] == [f"data:image/png;base64,{source.strip()}" for source in sources]
    assert all(int(tag["width"]) > 100 for tag in pictures)
    # Not repeated for tools that give pictures no text.
    assert "Figure: " not in page_of(results[0])


def test_a_page_has_its_formulas_and_mathjax_and_loads_nothing(results):
    page = page_of(results[0])
    tags = BeautifulSoup(page, "html.parser")
    assert "$x < e^x$" in tags.select_one(".jp-RenderedMarkdown").text
    # MathJax with its fonts has 2 MB; no other script is that large.
    assert any(len(script.text) > 1_000_000 and "MathJax" in script.text for script in tags.select("script"))
    for tag in tags.select("[src], link, [srcset], iframe, object, embed"):
        assert tag.get("src", "").startswith("data:"), str(tag)[:200]
    for style in tags.select("style"):
        assert not re.search(r"@import|url\(\s*[\"']?(?!data:)", style.text)
    assert 'type="module"' not in page


def test_axe_finds_no_violation_on_the_page_of_a_lesson(tmp_path, page, violations):
    # It has a panel, tables, folded answers and formulas that are wider than a telephone.
    notebooks.make_page(notebooks.ROOT / "notebooks/05_multiscale.ipynb", tmp_path / "lesson.html")
    page.goto((tmp_path / "lesson.html").as_uri())
    page.evaluate("MathJax.startup.promise")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert not violations(page) and not page.faults


def test_an_executed_notebook_keeps_the_last_state_of_a_progress_bar(results):
    (text,) = [output["text"] for _, output in notebooks._outputs(results[0] / "quickstart.ipynb") if "text" in output]
    assert "".join(text).strip() == "2"
    assert not notebooks.faults(results[0] / "quickstart.ipynb")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda page: re.sub(r"<img", "<span", page, count=1), "shows 1 of the 2 figures"),
        (lambda page: page.replace(f'alt="{ALT[1].split()[0]}', 'alt="'), "shows 1 of the 2 figures"),
        (
            lambda page: page.replace("<main>", '<main><script src="https://a.org/b.js"></script>'),
            "loads https://a.org",
        ),
        (lambda page: None, "was not written"),
    ],
)
def test_a_page_that_lacks_something_ends_the_export_with_one_line(results, tmp_path, monkeypatch, change, message):
    notebook, changed = results[0] / "quickstart.ipynb", change(page_of(results[0]))
    monkeypatch.setattr(notebooks, "export", lambda _, page: page.write_text(changed) if changed else None)
    (tmp_path / "page.html").write_text(page_of(results[0]))  # of an earlier run
    with pytest.raises(SystemExit) as stop:
        notebooks.make_page(notebook, tmp_path / "page.html")
    assert message in stop.value.code and len(stop.value.code.splitlines()) == 1


@pytest.mark.parametrize(
    "cells, fault",
    [
        ([code(outputs=[picture(alt="a")]), code(count=None)], "cell 1 was not executed"),
        ([code()], "has no outputs"),
        (
            [code(outputs=[nbformat.v4.new_output("error", ename="KeyError", evalue="'a'")])],
            "cell 0 raised KeyError: 'a'",
        ),
        (
            [code(outputs=[nbformat.v4.new_output("stream", name="stderr", text="Old: go\nhere")])],
            "cell 0 shows a warning: Old: go",
        ),
        ([code(outputs=[picture()])], "cell 0 shows a figure without alternative text"),
        ([code(outputs=[picture("image/svg+xml", "<svg/>")])], "cell 0 shows a picture that is not image/png"),
        ([code(outputs=[picture("text/html", '<img src="a.png">')])], "cell 0 shows a picture that is not image/png"),
        ([code(outputs=[picture(data="a" * 10**6, alt="a")])], "must stay below 1,000,000"),
    ],
)
def test_a_stored_notebook_that_lacks_something_is_named_with_its_fault(tmp_path, cells, fault):
    (found,) = notebooks.faults(write(tmp_path / "a.ipynb", *cells))
    assert fault in found
    command = [sys.executable, "tools/notebooks.py", "check", tmp_path / "a.ipynb"]
    ended = subprocess.run(command, cwd=notebooks.ROOT, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr == f"{tmp_path / 'a.ipynb'}: {found}\n"


@pytest.mark.parametrize("command", ["execute", "check", "html"])
def test_a_notebook_that_is_not_there_is_one_line(command):
    ended = subprocess.run(
        [sys.executable, "tools/notebooks.py", command, "no.ipynb"], cwd=notebooks.ROOT, capture_output=True
    )
    assert ended.returncode == 2 and ended.stderr.decode().splitlines()[-1].endswith("error: no such file: no.ipynb")


def test_a_cell_that_is_never_executed_is_not_missed(tmp_path):
    cells = [code(outputs=[picture(alt="a")]), code(count=None, tags=["skip-execution"])]
    assert not notebooks.faults(write(tmp_path / "a.ipynb", *cells))


def test_an_error_in_a_cell_ends_the_execution_and_keeps_the_notebook(tmp_path):
    notebook = write(tmp_path / "a.ipynb", code("raise KeyError('lost')", count=None))
    before = notebook.read_bytes()
    with pytest.raises(SystemExit, match=r"\n\S+a\.ipynb: a cell raised KeyError: 'lost'; nothing was written$"):
        notebooks.execute(notebook, notebook)
    assert notebook.read_bytes() == before


def test_make_runs_what_is_tested_here():
    rules = (notebooks.ROOT / "Makefile").read_text()
    assert re.search(r"^demo:.*\n\t\$\(BIN\)/python tools/notebooks\.py demo$", rules, re.M)
    assert re.search(r"^notebooks:.*\n\t\$\(BIN\)/python tools/notebooks\.py execute notebooks/\*\.ipynb$", rules, re.M)
    assert (notebooks.ROOT / "notebooks" / "00_quickstart.ipynb").exists()
