"""What tests share: the same random state and no figures, whichever ran before; one thread a worker; a server."""

import os
import re
import shutil
import signal
import sys

import pytest
import torch

from tests.http_server import serve

# Two workers with a thread for every core each would wait for each other most of the time; so would what they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Started in the background of a script, all of this would ignore the interrupts that tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["MPLBACKEND"] = "Agg"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a page may ask for: nothing from elsewhere.
_LOCAL = r"file:|data:|blob:|http://127\.0\.0\.1:"


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    # Without importing it for tests that draw nothing.
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def _seeded():
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    # A command with --threads sets them for the whole process.
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as server:
        yield server


@pytest.fixture(scope="session")
def browser():
    """Chromium, which finds no host but this machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are opened with playwright: pip install it")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser to open pages with; any of {', '.join(BROWSERS)} on the PATH will do")
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=program, args=arguments)


@pytest.fixture
def page(browser):
    """A page as wide as a telephone; ``page.faults`` are its requests to elsewhere and the errors of its console."""
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.faults = []
    page.on("request", lambda r: page.faults.append(r.url) if not re.match(_LOCAL, r.url) else None)
    # What it still loads for the page before, a browser leaves off.
    page.on("requestfailed", lambda r: page.faults.append(r.url) if r.failure != "net::ERR_ABORTED" else None)
    page.on("console", lambda m: page.faults.append(f"{page.url}: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: page.faults.append(f"{page.url}: {e}"))
    yield page
    page.close()


@pytest.fixture
def violations():
    """A function that returns what axe-core finds on an open page: rules, and the elements that break them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

    def run(page):
        # Without loading style sheets a second time, which a page that was opened as a file may not do.
        found = axe.run(page, options={"preload": False}).response["violations"]
        return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]

    return run


def pytest_collection_modifyitems(items):
    """Slow tests first, in both halves: two workers begin with a half each, and steal from each other at the end.

    Those of a file stay together, with what they share.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    fast = [item for item in items if not item.get_closest_marker("slow")]
    middle = _start_of_file(slow, len(slow) // 2)
    half = _start_of_file(fast, max(0, len(items) // 2 - middle))
    items[:] = [*slow[:middle], *fast[:half], *slow[middle:], *fast[half:]]


def _start_of_file(items, index):
    """The first index from this one on at which a file begins."""
    while 0 < index < len(items) and items[index].path == items[index - 1].path:
        index += 1
    return index
