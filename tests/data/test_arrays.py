"""Arrays from files: layouts, splits, and what does not fit."""

import numpy as np
import pytest
import torch

from nbflows import data


@pytest.mark.parametrize("shape", [(40, 6, 6), (40, 6, 6, 1), (40, 1, 6, 6)])
def test_arrays_of_all_layouts_are_read(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    images = data.load(tmp_path / "a.npy")
    assert images.shape == (1, 6, 6)
    together = torch.cat([images.train, images.validation, images.test])
    assert sorted(together.flatten(1).tolist()) == sorted(array.reshape(40, 36).tolist())


def test_npz_arrays_named_after_splits_are_the_splits(tmp_path):
    parts = {name: np.full((n, 4, 4, 3), n, np.uint8) for name, n in (("train", 9), ("valid", 3), ("test", 2))}
    np.savez(tmp_path / "a.npz", **parts)
    images = data.load(tmp_path / "a.npz")
    assert (len(images.train), len(images.validation), len(images.test)) == (9, 3, 2)
    assert images.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((9, 4, 4))}, "expected uint8"),
        ({"a": np.zeros((9, 4, 4, 5), np.uint8)}, "1 or 3 channels"),
        ({"a": np.zeros((9, 4, 4), np.uint8), "b": np.zeros((9, 4, 4), np.uint8)}, r"got \['a', 'b'\]"),
        ({"a": np.zeros((9, 4, 4), np.uint8)}, "too few to split"),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "a.npz")
