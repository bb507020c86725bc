"""Tables of the pages in docs/, each between a mark, which names the command that makes it, and an end."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.revisions import ROOT

DOCS = ROOT / "docs"
_END = "<!-- end -->"


def read(page: Path, mark: str) -> dict[str, list[str]]:
    """The rows of a table by their first cells."""
    text = page.read_text()
    start, end = _place(text, mark)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text[start:end].strip().splitlines()]
    # The first two lines are the titles and a rule.
    return {row[0]: row for row in rows[2:]}


def write(page: Path, mark: str, rows: Iterable[Sequence], titles: list[str], names: Iterable[str]) -> None:
    """Puts rows into a table, in the order of ``names``; rows with other names are kept if ``names`` has them."""
    from tabulate import tabulate

    known = read(page, mark) | {row[0]: row for row in rows}
    table = tabulate([known[name] for name in names if name in known], titles, "github", disable_numparse=True)
    text = page.read_text()
    start, end = _place(text, mark)
    page.write_text(f"{text[:start]}\n{table}\n{text[end:]}")


def _place(text: str, mark: str) -> tuple[int, int]:
    begin = f"<!-- {mark} -->"
    start = text.index(begin) + len(begin)
    return start, text.index(_END, start)
