"""What tests share: the same random state and no figures, whichever ran before; one thread a worker; a server."""

import os
import sys

import pytest
import torch

from tests.http_server import serve

# Two workers with a thread for every core each would wait for each other most of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    # Without importing it for tests that draw nothing.
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as server:
        yield server


def pytest_collection_modifyitems(items):
    """Slow tests first, in both halves: two workers begin with a half each, and steal from each other at the end.

    Those of a file stay together, with what they share.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    fast = [item for item in items if not item.get_closest_marker("slow")]
    middle, half = len(slow) // 2, len(items) // 2 - len(slow) // 2
    items[:] = [*slow[:middle], *fast[:half], *slow[middle:], *fast[half:]]
