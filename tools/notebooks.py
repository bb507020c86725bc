"""Executes notebooks, makes pages of them and checks both: what ``make demo`` and ``make notebooks`` run."""

import argparse
import html.parser
import json
import shutil
import sys
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_BYTES = 1_000_000


def figures(notebook: Path) -> list[str]:
    """Returns the alternative texts of the figures of a notebook, empty where one has none."""
    return [
        output["metadata"].get("image/png", {}).get("alt", "")
        for _, output in _outputs(notebook)
        if "image/png" in output.get("data", {})
    ]


def faults(notebook: Path) -> list[str]:
    """Says what an executed notebook lacks (outputs, alternative texts, a size below 1 MB), a line for each."""
    found = []
    if (size := notebook.stat().st_size) >= MAX_BYTES:
        found.append(f"has {size:,} bytes; it must stay below {MAX_BYTES:,}")
    for number, cell in enumerate(_cells(notebook)):
        skipped = "skip-execution" in cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and cell["execution_count"] is None and not skipped:
            found.append(f"cell {number} was not executed")
    if not any(_outputs(notebook)):
        found.append("has no outputs")
    for number, output in _outputs(notebook):
        data = output.get("data", {})
        if output["output_type"] == "error":
            found.append(f"cell {number} raised {output['ename']}: {output['evalue']}")
        if output.get("name") == "stderr":
            found.append(f"cell {number} shows a warning: {''.join(output['text']).strip().splitlines()[0]}")
        if "<img" in "".join(data.get("text/html", "")) or any(
            kind.startswith("image/") and kind != "image/png" for kind in data
        ):
            found.append(f"cell {number} shows a picture that is not image/png; use plotting.show")
        if "image/png" in data and not output["metadata"].get("image/png", {}).get("alt"):
            found.append(f"cell {number} shows a figure without alternative text; use plotting.show")
    return found


def faults_of_page(page: Path, notebook: Path) -> list[str]:
    """Says what an exported page lacks: figures of its notebook, their texts; and what it would load from elsewhere."""
    if not page.exists():
        return ["was not written"]
    parser = _Page()
    parser.feed(page.read_text(encoding="utf-8"))
    expected = figures(notebook)
    found = [f"loads {address}" for address in parser.loaded]
    if parser.figures != expected:
        shown = sum(text in parser.figures for text in expected)
        found.append(f"shows {shown} of the {len(expected)} figures of {notebook} with their texts, in order")
    return found


def execute(notebook: Path, to: Path) -> None:
    """Executes a notebook in its own folder and writes it with its outputs, of a progress bar only the last state.

    Raises:
        SystemExit: a cell raised an error; nothing is written then.
    """
    import nbformat
    from nbconvert.preprocessors import CellExecutionError, CoalesceStreamsPreprocessor, ExecutePreprocessor

    content = nbformat.read(notebook, as_version=4)
    around = {"metadata": {"path": str(notebook.parent)}}
    try:
        # Times of cells would change with every run. The kernel would warn that it is reached without encryption: it is
        # on this machine.
        runner = ExecutePreprocessor(
            record_timing=False, store_widget_state=False, extra_arguments=["--log-level=ERROR"]
        )
        runner.preprocess(content, around)
    except CellExecutionError as error:
        sys.exit(f"{error}\n{notebook}: a cell raised {error.ename}: {error.evalue}; nothing was written")
    # After executing: nbconvert 7.17 itself would coalesce before.
    CoalesceStreamsPreprocessor().preprocess(content, {})
    for output in (output for cell in content.cells for output in cell.get("outputs", [])):
        # A panel keeps its first picture alone: without its kernel a widget is an error message.
        if "image/png" in output.get("data", {}):
            output.data.pop("application/vnd.jupyter.widget-view+json", None)
    to.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, to)


def export(notebook: Path, page: Path) -> None:
    """Writes a notebook as one HTML file that needs no network: with its figures, their texts, and MathJax."""
    import nbformat
    from nbconvert import HTMLExporter

    from nbflows.plotting.page import ALT_OUTPUT

    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            # Here the figures have an alt attribute: their texts would be read twice.
            cell.outputs = [output for output in cell.outputs if ALT_OUTPUT not in output.get("metadata", {})]
    # With all extensions of TeX: the smaller files of MathJax load them when a formula needs one.
    mathjax = (resources.files("mathjax") / "static/mathjax/es5/tex-svg-full.js").read_text(encoding="utf-8")
    exporter = HTMLExporter(template_file=str(Path(__file__).parent / "page.html.j2"))
    body, _ = exporter.from_notebook_node(content, {"metadata": {"name": notebook.stem}, "mathjax": mathjax})
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(body, encoding="utf-8")


def make_page(notebook: Path, page: Path) -> None:
    """Exports a notebook and checks the page.

    Raises:
        SystemExit: the page lacks something.
    """
    page.unlink(missing_ok=True)
    export(notebook, page)
    _stop_at({page: faults_of_page(page, notebook)})


def demo(notebook: Path, folder: Path) -> None:
    """Executes a notebook and shows it as one page and as pictures in a folder, then says what to open.

    Raises:
        SystemExit: something of it is missing.
    """
    from nbflows.plotting import save_figures

    executed, page, pictures = folder / "quickstart.ipynb", folder / "quickstart.html", folder / "figures"
    # What an earlier run left must not pass for a result of this one.
    shutil.rmtree(pictures, ignore_errors=True)
    for file in (executed, page):
        file.unlink(missing_ok=True)
    print("Executing the quickstart: about two minutes on two cores.", flush=True)
    execute(notebook, executed)
    _stop_at({executed: faults(executed)})
    make_page(executed, page)
    save_figures(executed, pictures)
    found, expected = len(list(pictures.glob("*.png"))), len(figures(executed))
    _stop_at({pictures: [f"has {found} pictures, not {expected}"] if found != expected else []})
    print(
        f"""
The quickstart has run. Open next:
  1. {page}   the lesson as one page, with its {expected} figures
  2. {pictures}/   the same figures as files
  3. `make lab`, then 01_change_of_variables.ipynb: the first of the lessons"""
    )


def main() -> None:
    """Runs one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="execute the quickstart and show it as a page and as pictures in build/")
    for name, text in (
        ("execute", "execute notebooks, keep their outputs, and check them"),
        ("check", "check stored notebooks: outputs, alternative texts, no errors or warnings, below 1 MB"),
        ("html", "write notebooks as pages that need no network into build/"),
    ):
        commands.add_parser(name, help=text).add_argument("notebooks", type=Path, nargs="+")
    options = parser.parse_args()
    if missing := [str(notebook) for notebook in getattr(options, "notebooks", []) if not notebook.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    if options.command == "demo":
        demo(ROOT / "notebooks" / "00_quickstart.ipynb", ROOT / "build")
    elif options.command == "html":
        for notebook in options.notebooks:
            make_page(notebook, page := ROOT / "build" / f"{notebook.stem}.html")
            print(page)
    else:
        if options.command == "execute":
            for notebook in options.notebooks:
                print(notebook, flush=True)
                execute(notebook, notebook)
        _stop_at({notebook: faults(notebook) for notebook in options.notebooks})


class _Page(html.parser.HTMLParser):
    """Collects the texts of the figures of a page, and the addresses that it loads."""

    def __init__(self):
        super().__init__()
        self.figures, self.loaded = [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        # Links that a reader follows are not loaded.
        address = attrs.get("href") if tag == "link" else attrs.get("src")
        if address and not address.startswith("data:"):
            self.loaded.append(address)
        elif tag == "img":
            self.figures.append(attrs.get("alt", ""))


def _cells(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def _outputs(notebook):
    """Yields the number of the cell and the output."""
    for number, cell in enumerate(_cells(notebook)):
        for output in cell.get("outputs", []):
            yield number, output


def _stop_at(faults_of):
    """Ends the program with a line for each fault."""
    lines = [f"{file}: {fault}" for file, found in faults_of.items() for fault in found]
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
