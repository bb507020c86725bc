"""The documentation site: complete, readable on a telephone, and without a request to anywhere, in a real browser."""

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

import numpy as np
import pytest
import torch
from PIL import Image

from tools import docs, notebooks

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The site takes 10 seconds to build, and a browser one for every page; what only a browser does has no faster proof.
slow = pytest.mark.slow


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert built.returncode == 0, built.stdout
    return folder


# When MathJax is done, where there is one.
_OPEN = "async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }"
_SEEN = """() => ({
    width: document.documentElement.scrollWidth,
    ids: [...document.querySelectorAll("[id], a[name]")].map(e => e.id || e.name),
    links: [...document.querySelectorAll("a[href]")].map(e => e.href),
    broken: [...document.images].filter(e => !e.complete || e.naturalWidth === 0).map(e => e.src),
    silent: [...document.images].filter(e => !e.hasAttribute("alt")).map(e => e.src),
})"""


@slow
def test_every_page_opens_from_its_file_without_a_request_elsewhere_and_fits_a_telephone(site, page):
    seen = {}
    for file in sorted(site.rglob("*.html")):
        # Shown by a server alone, with its own addresses.
        if file.name != "404.html":
            page.goto(file.as_uri())
            page.evaluate(_OPEN)
            seen[file.as_uri()] = page.evaluate(_SEEN)
    assert len(seen) > len(LESSONS) + 30
    assert not page.faults
    assert not {address: found["width"] for address, found in seen.items() if found["width"] > 400}
    assert not [picture for found in seen.values() for picture in found["broken"] + found["silent"]]
    links = {(address, link) for address, found in seen.items() for link in found["links"] if link.startswith("file:")}
    assert len(links) > 1000
    assert not [link for link in links if not _leads_somewhere(link[1], seen)]


def _leads_somewhere(link, seen):
    address, anchor = urldefrag(link)
    if address in seen:
        return not anchor or unquote(anchor) in seen[address]["ids"]
    return Path(unquote(address.removeprefix("file://"))).is_file()


@slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem[:2])
def test_a_lesson_shows_all_figures_with_their_texts_and_all_formulas(lesson, site, page):
    page.goto((site / "notebooks" / f"{lesson.stem}.html").as_uri())
    page.evaluate(_OPEN)
    shown = page.eval_on_selector_all("img.figure", "all => all.map(e => e.alt)")
    assert shown == notebooks.figures(lesson) and shown
    sizes = page.eval_on_selector_all(
        "mjx-container > svg", "all => all.map(e => [e.getBoundingClientRect().width, !!e.closest('[display]')])"
    )
    display, inline = _formulas(lesson)
    assert [is_display for _, is_display in sizes].count(True) == display
    assert len(sizes) == display + inline
    assert not [width for width, _ in sizes if width < 4]
    assert not page.query_selector("[data-mml-node=merror]")
    assert "$" not in page.eval_on_selector_all("article p, article li", "all => all.map(e => e.innerText).join()")
    code = [cell for cell in json.loads(lesson.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(page.query_selector_all("article .language-python")) == len(code)


def _formulas(lesson):
    """How many formulas of their own lines and within lines the text of a notebook has."""
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    text, display = re.subn(r"\$\$.+?\$\$", "", text, flags=re.S)
    return display, len(re.findall(r"\$[^$]+\$", text))


@slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation_on_the_pages_of_the_site(theme, site, page, violations):
    page.emulate_media(color_scheme=theme)
    for name in ("index", "seminar/flowpp", "saved_models/index", "how-to/own_layer"):
        page.goto((site / f"{name}.html").as_uri())
        page.evaluate(_OPEN)
        assert not violations(page), name


@slow
@pytest.mark.parametrize("served", [False, True], ids=["file", "server"])
def test_a_search_finds_a_layer_by_its_name(served, site, page):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/" if served else (site / "index.html").as_uri())
        page.click("label[for=__search] >> visible=true")
        page.type("input[name=query]", "ConvLSTMPrior")
        page.click(".md-search-result__link[href*='nbflows.layers.ConvLSTMPrior'] >> visible=true")
        page.wait_for_url("**/api/nbflows.layers.html**")
        assert page.is_visible("h2[id='nbflows.layers.ConvLSTMPrior']")
        assert not page.faults
        server.shutdown()


@slow
def test_the_reference_has_every_public_name_of_the_packages(site):
    import nbflows

    for package in (nbflows, nbflows.layers, nbflows.nets, nbflows.models):
        text = (site / "api" / f"{package.__name__}.html").read_text(encoding="utf-8")
        ids = set(re.findall(r'id="([\w.]+)"', text))
        names = [name for name in package.__all__ if not isinstance(getattr(package, name), type(nbflows))]
        # The second is of a function with the name of its file.
        missing = [
            name for name in names if not {f"{package.__name__}.{name}", f"{package.__name__}.{name}.{name}"} & ids
        ]
        assert names and not missing


def test_the_site_names_modules_and_pages_that_exist():
    assert not [module for module in docs.API if importlib.util.find_spec(module) is None]
    pages = re.findall(r"^ +- (?:\w+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert len(pages) > 10
    assert not [page for page in pages if not (ROOT / "docs" / page).is_file() and page not in docs.PAGES]
    assert all((ROOT / page).is_file() for page in docs.PAGES)


HOW_TO = [page.stem for page in sorted((ROOT / "docs/how-to").glob("*.md"))]


# This one trains: Lightning alone takes 6 seconds to import.
@pytest.mark.parametrize("name", [pytest.param(name, marks=[slow] * (name == "own_data")) for name in HOW_TO])
def test_the_examples_of_a_page_run(name, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/how-to/{name}.md").read_text(encoding="utf-8"), re.S)
    if name == "original_weights":
        if not (ROOT / "data/upstream/MNISTFlow_simple.ckpt").is_file():
            pytest.skip("MNISTFlow_simple.ckpt is not in data/upstream/: data/README.md says where it is from")
        shutil.copytree(ROOT / "data/upstream", tmp_path / "data/upstream")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "cache"))
    os.mkdir("my_pictures")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (24, 40, 48, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(f"my_pictures/{i}.png")
    names = {}
    for block in blocks:
        exec(block, names)
    assert blocks or name in ("compress", "several_gpus")
    if name == "own_data":
        assert (tmp_path / "runs/mine/last.ckpt").is_file()
        assert names["samples"].shape == (10, 4) and torch.isfinite(names["samples"]).all()
    elif name == "python":
        assert names["answers"].images.shape == (2, 10, 1, 8, 8)
    elif name == "own_pictures":
        assert names["pictures"].train.shape[1:] == (3, 32, 32)
