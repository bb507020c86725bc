"""The original codes' recorded inputs and outputs, and a way to replay recorded noise."""

import hashlib
import itertools
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

REFERENCE = Path(__file__).parent / "reference"
DATA = Path(__file__).parents[1] / "data"
CHECKPOINTS = {
    "MNISTFlow_simple.ckpt": "d5e596723a9c12240f3180615cc76aa29c82dcf3b52bcf03d71f584494ab5e94",
    "MNISTFlow_vardeq.ckpt": "f571031f2fd719b19e6e23fb32c896b581594b4a690e9377be941b0b51a41791",
}


def reference(name: str) -> dict[str, np.ndarray]:
    """All arrays of a reference file."""
    with np.load(REFERENCE / name, allow_pickle=False) as arrays:
        return dict(arrays)


def uva_checkpoint(name: str) -> Path:
    """The authors' file, in data/upstream/; skips the test where it is not."""
    file = DATA / "upstream" / name
    if not file.exists():
        pytest.skip(f"{name} is not in data/upstream/: see data/README.md")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == CHECKPOINTS[name]
    return file


def uva_state_dict(name: str) -> dict[str, torch.Tensor]:
    """A tutorial model's weights: the authors' file, or the random ones of the reference."""
    if name == "multiscale_random":
        arrays = reference("uva_multiscale_random.npz")
        return {key[6:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("state/")}
    return torch.load(uva_checkpoint(f"MNISTFlow_{name}.ckpt"), map_location="cpu", weights_only=True)["state_dict"]


@contextmanager
def replayed_noise(*draws):
    """The next draws of torch.rand are these, one after the other, and again from the first."""
    draws = itertools.cycle([torch.as_tensor(u) for u in draws])
    with mock.patch.object(torch, "rand", lambda shape, dtype, device: next(draws).to(dtype).expand(shape).clone()):
        yield


def mnist():
    """MNIST, if it is in data/; skips the test where it is not. Nothing is downloaded."""
    from nbflows import data

    if not (DATA / "MNIST" / "raw" / "t10k-images-idx3-ubyte").exists():
        pytest.skip("MNIST is not in data/: see data/README.md")
    return data.load("mnist", root=DATA)
