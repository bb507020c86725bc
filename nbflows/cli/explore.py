"""nbflows explore: an HTML file in which models can be explored."""

import argparse
from pathlib import Path

from nbflows import explorer
from nbflows.cli.options import Commands, add_command, checked


def add_explore(commands: Commands) -> None:
    """Adds ``nbflows explore``."""
    parser = add_command(commands, "explore", _explore, "write a page in which models can be explored, for any browser")
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="a name of nbflows list, or a file; at most 5 MB fit"
    )
    parser.add_argument("html", metavar="OUT.html", type=checked(_page_name), help="where to write the page")


def _page_name(text: str) -> Path:
    if Path(text).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{text!r} is not the name of a page: end it in .html")
    return Path(text)


def _explore(options: argparse.Namespace) -> None:
    file = explorer.write_page(options.models, options.html)
    print(f"{', '.join(options.models)}: {file}, {file.stat().st_size / 1e6:.1f} MB; open it in a browser")
