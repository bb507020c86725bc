"""Checkpoints of the original authors, by file: which system they are of, and what is refused."""

import numpy as np
import pytest
import torch

from nbflows import upstream
from nbflows.cli import main
from tests.reference_data import reference


@pytest.fixture
def mar_scf_checkpoint(tmp_path):
    """A file as the authors' code writes it: a bare state dict."""
    arrays = reference("mar_scf_affine.npz")
    state = {key[6:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("state/")}
    file = tmp_path / "marscf_cifar10_affine_1_8.pt"
    torch.save(state, file)
    return file


def test_mar_scfs_checkpoints_give_bits_per_dim_and_a_picture(mar_scf_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3)).astype(np.uint8)
    np.savez("images.npz", train=images, test=images[:4])
    assert main(["evaluate", "--upstream", str(mar_scf_checkpoint), "--data", "images.npz"]) == 0
    assert "bits/dim (M = 1, 4 images)" in capsys.readouterr().out
    assert (tmp_path / "marscf_cifar10_affine_1_8.png").stat().st_size > 10_000
    assert main(["sample", "--upstream", str(mar_scf_checkpoint), "b.png", "--num-samples", "2"]) == 0
    assert (tmp_path / "b.png").exists()
    assert main(["evaluate", "--upstream", str(mar_scf_checkpoint)]) == 2
    assert "name the data with --data" in capsys.readouterr().err
    np.savez("grey.npz", train=images[..., 0])
    assert main(["evaluate", "--upstream", str(mar_scf_checkpoint), "--data", "grey.npz"]) == 2
    assert "these weights are for images of 3 channels, the shape is (1, 32, 32)" in capsys.readouterr().err


def test_an_unknown_checkpoint_is_an_error_that_shows_its_keys(tmp_path):
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"not a checkpoint of the UvA tutorial .* Residual Flow .* its keys begin with encoder.weight"
    ):
        upstream.load_upstream(tmp_path / "other.pt")


def test_a_checkpoint_without_tensors_is_an_error(tmp_path):
    torch.save({"state_dict": 3}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="its state_dict is a int, not a dict"):
        upstream.load_upstream(tmp_path / "bad.ckpt")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    import pickle

    class Harm:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").touch, ())

    file = tmp_path / "bad.ckpt"
    file.write_bytes(pickle.dumps({"state_dict": Harm()}))
    with pytest.raises(ValueError, match=r"bad.ckpt cannot be read as a checkpoint of torch"):
        upstream.load_upstream(file)
    # In a file of torch's own form, too.
    torch.save({"state_dict": Harm()}, file)
    with pytest.raises(ValueError, match=r"bad.ckpt cannot be read"):
        upstream.load_upstream(file)
    assert not (tmp_path / "harm").exists()
