"""Adds to the documentation site what is not in docs/: the lessons, the model cards, the API; run by `make docs`."""

import ast
import base64
import html
import importlib.resources
import json
import posixpath
import re
import tempfile
from pathlib import Path

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Other folders and pages of the repository that are part of the site, under the same address.
PAGES = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    "notebooks/symbols.md",
    "notebooks/teaching.md",
    "saved_models/README.md",
    "saved_models/queue.md",
)
PICTURES = ("saved_models/samples/*.png",)
# What a reader of the package imports, in the order in which it is met.
API = (
    "nbflows",
    "nbflows.layers",
    "nbflows.nets",
    "nbflows.models",
    "nbflows.data",
    "nbflows.recipes",
    "nbflows.tasks",
    "nbflows.training",
    "nbflows.metrics",
    "nbflows.quality",
    "nbflows.coding",
    "nbflows.upstream",
    "nbflows.data.toys",
    "nbflows.plotting",
    "nbflows.exercises",
)


def lesson(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """Returns a stored notebook as Markdown, and its figures by name."""
    parts, figures = [], {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        # What is folded is text with formulas, too.
        source = "".join(cell["source"]).replace("<details>", '<details markdown="1">')
        # Each formula of its own is a paragraph.
        parts.append(
            source.replace("$$\n$$", "$$\n\n$$") if cell["cell_type"] == "markdown" else _fenced(source, "python")
        )
        for output in cell.get("outputs", []):
            data, metadata = output.get("data", {}), output.get("metadata", {})
            if output["output_type"] == "stream":
                parts.append(_fenced("".join(output["text"]), "{ .text .output }"))
            elif "image/png" in data:
                name = f"{notebook.stem}/{len(figures) + 1}.png"
                figures[name] = base64.b64decode(data["image/png"])
                alt, width = (metadata["image/png"][key] for key in ("alt", "width"))
                parts.append(f'<img class="figure" src="{name}" alt="{html.escape(alt)}" width="{width}">')
            # Outputs with metadata repeat the alternative text of a figure, which the page has already.
            elif "text/html" in data and not metadata:
                # Without line breaks, or Markdown would look into it.
                parts.append("<div>" + re.sub(r"\s*\n\s*", "", "".join(data["text/html"])) + "</div>")
    return "\n\n".join(parts), figures


def _fenced(text, language):
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence} {language}\n{text.rstrip()}\n{fence}"


def _reference(name):
    """A page with the public names of a module."""
    text = f"# {name}\n\n::: {name}\n"
    folder = ROOT.joinpath(*name.split("."))
    for statement in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body if folder.is_dir() else []:
        for imported in statement.names if isinstance(statement, ast.ImportFrom) else []:
            # A function with the name of its file: the tool takes the file for what is meant.
            if statement.module == f"{name}.{imported.name}":
                text += f"\n::: {statement.module}.{imported.name}\n    options: {{show_root_heading: true}}\n"
    return text


def _aspect(png):
    """Width over height, from the picture's header."""
    return int.from_bytes(png[16:20], "big") / int.from_bytes(png[20:24], "big")


def _lessons():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def _overview():
    """A page with a card for each lesson: its title, what it is about, and one of its figures."""
    cards = []
    for notebook in _lessons():
        text, figures = lesson(notebook)
        title, about = re.match(r"# (?:Lesson \d+: )?(.+)\n\n((?:.+\n)+)", text).groups()
        number = notebook.stem[:2]
        shown = min(figures, key=lambda name: abs(_aspect(figures[name]) - 1.6))
        cards.append(
            f'<a class="card" href="{notebook.stem}.html"><img src="{shown}" alt="">'
            f"<b>{number} {title[0].upper()}{title[1:]}</b><span>{html.escape(' '.join(about.split()))}</span></a>"
        )
    return "# Lessons\n\n" + '<div class="cards">' + "".join(cards) + "</div>\n"


def _explorer():
    """The Flow Explorer: its page has a model of each kind of image; only MNIST may be missing here."""
    from nbflows.explorer import write_page

    models = [*(["mnist-glow"] if (ROOT / "data/MNIST/raw").is_dir() else []), "portraits-glow", "digits-multiscale"]
    with tempfile.TemporaryDirectory() as folder:
        return write_page(models, Path(folder) / "explorer.html").read_bytes()


def on_config(config):
    """Puts the generated pages into the navigation, where it says so with a star."""
    generated = {
        "notebooks/*": [
            "notebooks/index.md",
            *(f"notebooks/{notebook.stem}.md" for notebook in _lessons()),
            "notebooks/symbols.md",
            "notebooks/teaching.md",
        ],
        "saved_models/*": ["saved_models/README.md", "saved_models/queue.md"],
        "api/*": [{name: f"api/{name}.md"} for name in API],
    }
    for part in config.nav:
        for title, pages in part.items():
            part[title] = generated.get(pages, pages) if isinstance(pages, str) else pages
    return config


def on_files(files: Files, config) -> Files:
    """Adds the pages and pictures that are generated or lie elsewhere in the repository."""

    def add(uri, **source):
        files.append(File.generated(config, uri, **source))

    for page in PAGES:
        add(page, abs_src_path=str(ROOT / page))
    for pattern in PICTURES:
        for picture in ROOT.glob(pattern):
            add(picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture))
    add("notebooks/index.md", content=_overview())
    for notebook in _lessons():
        text, figures = lesson(notebook)
        title, rest = text.split("\n", 1)
        add(f"notebooks/{notebook.name}", abs_src_path=str(notebook))
        add(
            f"notebooks/{notebook.stem}.md",
            content=f'{title}\n\n<a href="{notebook.name}" download>Download this notebook</a>\n{rest}',
        )
        for name, figure in figures.items():
            add(f"notebooks/{name}", content=figure)
    for name in API:
        add(f"api/{name}.md", content=_reference(name))
    add("flow-explorer.html", content=_explorer())
    # The file with all extensions of TeX: the smaller ones would load these when a formula needs one.
    mathjax = importlib.resources.files("mathjax") / "static/mathjax/es5/tex-svg-full.js"
    add("assets/mathjax.js", content=mathjax.read_bytes())
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links and pictures between files of the repository into those between pages of the site.

    A link to a file that is not on the site keeps its text alone.
    """
    here = page.file.src_uri
    if here == "saved_models/README.md":
        # A wide table takes the room of the table of contents; spaces that widen a column on GitHub do not help here.
        page.meta["hide"], markdown = ["toc"], markdown.replace("&nbsp;", "")
    in_repository = here if page.file.generated_by else f"docs/{here}"

    def replace(match):
        picture, text, address = match.groups()
        path, mark, anchor = address.partition("#")
        if not path or re.match(r"\w+:", address):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), path))
        target = re.sub(r"^docs/", "", target.replace(".ipynb", ".md"))
        if files.get_file_from_path(target) is None:
            return text
        return f"{picture}[{text}]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{mark}{anchor})"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.M | re.S)
    # Every second part is code.
    parts[::2] = [re.sub(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)", replace, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(content, page, config, files):
    """A search finds what the reference says, not the code that it quotes."""
    return content.replace(
        '<details class="mkdocstrings-source"', '<details data-search-exclude class="mkdocstrings-source"'
    )


def on_post_page(output, page, config):
    """Names for screen readers what the theme leaves without a name: the search, and menus whose section is a page."""
    search = 'data-md-component="search" role="dialog"'
    title = r'[^>]*>\s*<label class="md-nav__title"[^>]*>\s*<span[^>]*></span>\s*'
    output = output.replace(search, f'{search} aria-label="Search"')
    return re.sub(rf'aria-labelledby="__nav_\d+_label"({title})([^<]+?)\s*<', r'aria-label="\2"\1\2<', output)


class Docstrings(griffe.Extension):
    """Prepares docstrings for Markdown: ``q[i](z)`` is not a link, and shapes and sources begin a paragraph."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            text = obj.docstring.value.replace("](", "]\\(")
            obj.docstring.value = re.sub(r"\n+(Shapes?|Sources?):", r"\n\n**\1**:", text)
