"""Every test starts from the same random state, whichever tests ran before it; one thread for each worker."""

import os

import pytest
import torch

# Two workers with a thread for every core each would wait for each other most of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
