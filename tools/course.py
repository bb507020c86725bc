"""The editions of the lessons for a course, from the notebooks and the stored exercises: what ``make course`` writes.

``student``: no outputs, so that a prediction is one, and no solutions. ``instructor``: outputs, solutions, the time and
the questions of each section. ``slides``: the formulas, questions and figures of a lesson, as one HTML file.
"""

import argparse
import ast
import html
import importlib.util
import re
import sys
from importlib import resources
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).parents[1]
# For a first reading at a desk: words, lines of code and figures a minute, minutes for an exercise.
WORDS, LINES, FIGURES, EXERCISE = 200, 12, 1, 5


def sections(cells: list[NotebookNode]) -> list[list[NotebookNode]]:
    """Cuts the cells of a lesson at its headings of level 2; the first part is the opening."""
    parts = [[]]
    for cell in cells:
        pieces = re.split(r"^(?=## )", cell.source, flags=re.M) if cell.cell_type == "markdown" else []
        for piece in pieces if len(pieces) > 1 else [None]:
            # Most headings begin a cell; one within a cell begins a new one.
            if piece is not None and not piece.strip():
                continue
            own = cell if piece is None else new_markdown_cell(piece.rstrip(), metadata=cell.metadata)
            if own.cell_type == "markdown" and own.source.startswith("## "):
                parts.append([])
            parts[-1].append(own)
    return parts


def heading(section: list[NotebookNode]) -> str:
    """Returns the heading of a section without its number."""
    return re.sub(r"^#+ (?:\d+\. )?", "", section[0].source.splitlines()[0])


def minutes(section: list[NotebookNode]) -> int:
    """Estimates how long a reader takes for a section."""
    words = sum(len(_without_answers(cell.source).split()) for cell in section if cell.cell_type == "markdown")
    lines = sum(len(cell.source.splitlines()) for cell in section if cell.cell_type == "code")
    exercises = sum(len(re.findall(r"^### Exercise \d", cell.source, re.M)) for cell in section)
    return max(1, round(words / WORDS + lines / LINES + len(_figures(section)) / FIGURES + exercises * EXERCISE))


def predictions(section: list[NotebookNode]) -> list[tuple[str, list[str]]]:
    """Returns question and choices of each ``exercises.predict`` of a section."""
    found = []
    for cell in section:
        if cell.cell_type == "code" and "exercises.predict(" in cell.source:
            nodes = list(ast.walk(ast.parse(cell.source)))
            names = {ast.unparse(node.targets[0]): node.value for node in nodes if isinstance(node, ast.Assign)}
            for call in (node for node in nodes if isinstance(node, ast.Call)):
                if ast.unparse(call.func) == "exercises.predict":
                    choices = [*call.args[2:3], *(k.value for k in call.keywords if k.arg == "choices")]
                    question, *known = (_literal(names.get(ast.unparse(v), v)) for v in (call.args[0], *choices))
                    found.append((question, [*map(str, known[0])] if known and isinstance(known[0], list) else []))
    return found


def questions(section: list[NotebookNode]) -> list[tuple[str, str]]:
    """Returns the questions with folded answers of a section, and the answers."""
    text = "\n".join(cell.source for cell in section if cell.cell_type == "markdown")
    found = re.findall(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", text, re.S)
    # Most begin with the word.
    bare = [re.sub(r"^\s*Question[.:]\s*", "", re.sub(r"</?b>", "", question)).strip() for question, _ in found]
    return [(text[:1].upper() + text[1:], answer.strip()) for text, (_, answer) in zip(bare, found, strict=True)]


def student(content: NotebookNode) -> NotebookNode:
    """Returns a lesson without outputs and without solutions."""
    edition = nbformat.from_dict(content)
    kept = [section for section in sections(edition.cells) if heading(section) != "Solutions"]
    edition.cells = [cell for section in kept for cell in section]
    for cell in edition.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return edition


def instructor(content: NotebookNode, lesson: int) -> NotebookNode:
    """Returns a lesson with its outputs, its solutions, and a note to the teacher before each section."""
    edition = nbformat.from_dict(content)
    parts = sections(edition.cells)
    total = sum(minutes(part) for part in parts if heading(part) not in ("Appendix", "Solutions"))
    edition.cells = []
    for number, section in enumerate(parts):
        notes = [f"about {minutes(section)} minutes"]
        if number == 0:
            notes = [
                f"about {total} minutes for a reader in all, estimated from {WORDS} words, {LINES} lines of code and "
                f"{FIGURES} figure a minute and {EXERCISE} minutes for an exercise"
            ]
        for question, choices in predictions(section):
            notes.append(f"before they run it, ask: {question} {' / '.join(choices)}".rstrip())
        notes += [f"ask at the end: {question}" for question, _ in questions(section)]
        edition.cells.append(section[0])
        edition.cells.append(new_markdown_cell("> **Teacher**\n" + "".join(f"> - {note}\n" for note in notes)))
        for cell in section[1:]:
            edition.cells.append(cell)
            checked = re.search(r"^lab\.check\((\d+)", cell.source, re.M) if cell.cell_type == "code" else None
            if checked:
                edition.cells.append(new_markdown_cell(_for_teachers(lesson, int(checked[1]))))
    return edition


def _for_teachers(lesson: int, number: int) -> str:
    """Writes solution, hints and the named mistakes of an exercise."""
    from nbflows.exercises import lab
    from nbflows.exercises.lab import solution_text

    exercise = lab(lesson).exercises[number]
    hints = "\n".join(f"{place}. {hint}" for place, hint in enumerate(exercise.hints, 1))
    mistakes = "\n".join(f"- {name}" for name in exercise.mistakes)
    named = f"\n\nMistakes of this exercise that the check names:\n\n{mistakes}" if mistakes else ""
    return f"#### Solution of exercise {number}\n\n{solution_text(exercise)}\n\nHints:\n\n{hints}{named}"


def slides(content: NotebookNode) -> NotebookNode:
    """Returns a notebook of slides: of each section what it is about, its questions and its figures, without code."""
    deck = nbformat.v4.new_notebook()
    for number, section in enumerate(sections(content.cells)):
        if heading(section) in ("Setup", "Solutions", "References"):
            continue
        deck.cells.append(_slide(_opening(section, whole=number == 0 or heading(section) == "Summary"), "slide"))
        for cell in section:
            if cell.cell_type == "code":
                for question, choices in predictions([cell]):
                    listed = "".join(f"\n\n{letter}) {text}" for letter, text in zip("abcdefgh", choices, strict=False))
                    deck.cells.append(_slide(f"### What do you expect?\n\n{question}{listed}", "subslide"))
                for png, alt in _figures([cell]):
                    picture = f'<img class="figure" src="data:image/png;base64,{png}" alt="{html.escape(alt)}">'
                    deck.cells.append(_slide(picture, "subslide"))
            for question, answer in questions([cell]):
                deck.cells.append(_slide(f"### Question\n\n{question}", "subslide"))
                deck.cells.append(_slide(answer, "fragment"))
    return deck


def _opening(section, whole):
    """The text of a section's first slide: its heading, its first paragraph, and its formulas or its exercises."""
    text = "\n\n".join(_without_answers(cell.source) for cell in section if cell.cell_type == "markdown").strip()
    if whole:
        return text
    if heading(section) == "Exercises":
        return "\n\n".join(["## Exercises", *re.findall(r"^### (.+)$", text, re.M)])
    paragraphs = re.split(r"\n\s*\n", text)
    formulas = re.findall(r"\$\$.+?\$\$", text, re.S)
    first = [part for part in paragraphs[1:] if not part.startswith(("#", "|", "$$", "<"))][:1]
    return "\n\n".join([paragraphs[0], *first, *formulas[:2]])


def _slide(text, kind):
    return new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}})


def _literal(node):
    """The value of an argument that is written out, or its code."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _without_answers(text):
    return re.sub(r"<details>.*?</details>", "", text, flags=re.S)


def _figures(section):
    """The stored pictures of the cells of a section, with their alternative texts."""
    outputs = [
        output for cell in section for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    return [
        ("".join(output.data["image/png"]).replace("\n", ""), output.metadata.get("image/png", {}).get("alt", ""))
        for output in outputs
    ]


def write_slides(deck: NotebookNode, page: Path) -> None:
    """Writes slides as one HTML file that needs no network."""
    from nbconvert import SlidesExporter

    found = importlib.util.find_spec("sphinx_revealjs")
    if found is None or found.origin is None:
        sys.exit('the slides need reveal.js, which comes with a package: pip install -e ".[course]"')
    reveal = Path(found.origin).parent / "_static" / "revealjs" / "dist"
    css = [(reveal / name).read_text(encoding="utf-8") for name in ("reveal.css", "theme/white.css")]
    exporter = SlidesExporter(template_file=str(Path(__file__).parent / "slides.html.j2"))
    body, _ = exporter.from_notebook_node(
        deck,
        {
            "metadata": {"name": page.stem},
            "mathjax": (resources.files("mathjax") / "static/mathjax/es5/tex-svg-full.js").read_text(encoding="utf-8"),
            "reveal_js": (reveal / "reveal.js").read_text(encoding="utf-8"),
            # Without its fonts, which it would load.
            "reveal_css": re.sub(r"@import[^;]+;", "", "\n".join(css)),
        },
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(body, encoding="utf-8")


def write(notebooks: list[Path], to: Path) -> None:
    """Writes the three editions of notebooks into a folder."""
    for notebook in notebooks:
        content = nbformat.read(notebook, as_version=4)
        for name, edition in (
            ("student", student(content)),
            ("instructor", instructor(content, int(notebook.stem[:2]))),
        ):
            (to / name).mkdir(parents=True, exist_ok=True)
            nbformat.write(edition, to / name / notebook.name)
        write_slides(slides(content), to / "slides" / f"{notebook.stem}.html")
        print(notebook.stem, flush=True)


def main() -> None:
    """Writes the editions of all lessons, or of those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="*", default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    write(parser.parse_args().notebooks, ROOT / "build" / "course")


if __name__ == "__main__":
    main()
