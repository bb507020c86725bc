"""Data sets by their names: what is in them, how they split, and what is said of those that are missing."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbflows import data
from nbflows.cli import main
from nbflows.data import toys
from tests.pictures import save_folder


@pytest.mark.parametrize(("name", "shape", "levels"), [("digits", (1, 8, 8), 17), ("photo-patches", (3, 32, 32), 256)])
def test_data_without_download_are_uint8_in_three_disjoint_splits(name, shape, levels):
    images = data.load(name)
    assert images.shape == shape
    assert images.num_grey_levels == levels
    splits = [images.train, images.validation, images.test]
    assert all(split.dtype == torch.uint8 and len(split) > 100 for split in splits)
    assert max(split.max() for split in splits) == levels - 1
    assert str(len(images.train)) in images.variant


def test_digits_are_those_of_scikit_learn_each_once():
    from sklearn.datasets import load_digits

    images = data.load("digits")
    ours = torch.cat([images.train, images.validation, images.test]).flatten(1)
    theirs = torch.from_numpy(load_digits().images).byte().flatten(1)
    assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_the_digits_are_split_as_they_always_were():
    # Saved models were trained on this training part; another split would put its images among the test images.
    images = data.load("digits")
    digests = [hashlib.sha256(getattr(images, split).numpy().tobytes()).hexdigest()[:16] for split in data.SPLITS]
    assert digests == ["7e1bad2d6620b5cc", "13cdafbc20f9c2ff", "76dbdc3b3e368462"]


def test_the_labels_of_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, digits = data.load("digits"), load_digits()
    classes = dict(zip((image.astype(np.uint8).tobytes() for image in digits.images), digits.target, strict=True))
    assert images.num_classes == 10
    for split, labels in images.labels.items():
        assert labels.dtype == torch.int64
        assert labels.tolist() == [classes[image.numpy().tobytes()] for image in getattr(images, split)]


def test_photo_patches_of_train_and_test_share_no_pixels():
    # A colour ramp over a photograph would do; the real ones: no patch of one split is in another.
    images = data.load("photo-patches")
    seen = [{patch.numpy().tobytes() for patch in split} for split in (images.train, images.validation, images.test)]
    # Flat patches (black borders of the retina) do look alike; they are the only ones.
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for shared in seen[a] & seen[b]:
            assert np.frombuffer(shared, np.uint8).std() < 10


def test_mnist_splits_its_training_part(tmp_path):
    import struct

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = np.zeros((count, 28, 28), np.uint8)
        pixels[:, 0, 0] = np.arange(count) % 251
        pixels[:, 0, 1] = classes = np.arange(count) // 7 % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        labels = struct.pack(">II", 2049, count) + classes.astype(np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    images = data.load("mnist", root=tmp_path)
    assert [len(split) for split in (images.train, images.validation, images.test)] == [50_000, 10_000, 10_000]
    assert images.shape == (1, 28, 28)
    _assert_split_with_seed_42(images, 60_000, 50_000)


def _assert_split_with_seed_42(images, count, num_train):
    """Of images that hold their number, modulo 251, in the first pixel, and their class in the one beside it."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(42)) % 251
    assert torch.equal(images.train[:, 0, 0, 0], order[:num_train].byte())
    assert torch.equal(images.validation[:, 0, 0, 0], order[num_train:].byte())
    assert images.num_classes == 10
    for split, labels in images.labels.items():
        assert labels.dtype == torch.int64
        assert torch.equal(labels, getattr(images, split)[:, 0, 0, 1].long())


def test_cifar10_splits_its_training_part(tmp_path, monkeypatch):
    import torchvision

    def cifar10(root, train, download):
        count = 50_000 if train else 10_000
        pixels = np.zeros((count, 32, 32, 3), np.uint8)
        pixels[:, 0, 0, 0] = np.arange(count) % 251
        pixels[:, 0, 1, 0] = np.arange(count) // 7 % 10
        return SimpleNamespace(data=pixels, targets=pixels[:, 0, 1, 0].tolist())

    cifar10.url = cifar10.filename = ""
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar10)
    images = data.load("cifar10", root=tmp_path)
    assert [len(split) for split in (images.train, images.validation, images.test)] == [45_000, 5_000, 10_000]
    assert images.shape == (3, 32, 32) and images.train.is_contiguous()
    _assert_split_with_seed_42(images, 50_000, 45_000)


@pytest.mark.parametrize("name", toys.names())
def test_points_are_drawn_once_and_for_all_in_splits_that_share_none(name):
    points = data.load(name)
    splits = [points.train, points.validation, points.test]
    assert [len(split) for split in splits] == [200_000, 10_000, 10_000]
    assert all(split.dtype == torch.float32 for split in splits)
    together = torch.cat(splits)
    # Two of 220 000 float32 points may be alike by chance, hardly more.
    assert len(together.unique(dim=0)) > len(together) - 5
    assert points.shape == (2,) and points.name in points.variant and points.name in data.names()
    again = data.load(name)
    assert torch.equal(again.train, points.train) and torch.equal(again.test, points.test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "photo-patches", "num_bits": 0}, "num_bits is 1 or more and 8 or less, not 0"),
        ({"name": "photo-patches", "num_bits": 9}, "num_bits is 1 or more and 8 or less, not 9"),
        ({"name": "photo-patches", "num_bits": 4.5}, "num_bits is a whole number, not 4.5"),
        ({"name": "digits", "num_bits": 4}, "digits: only images of 256 levels .* 4 bit, these have 17"),
        ({"name": "moons", "num_bits": 5}, "moons: only images of 256 levels .* 5 bit, these are not images"),
        ({"name": "moons", "image_size": 32}, "moons has a fixed size"),
    ],
)
def test_options_that_do_not_fit_the_data_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        data.load(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits-simple", "--num-bits", "5", "--max-steps", "1"], "only images of 256 levels"),
        (["evaluate", "digits-simple", "--num-bits", "5"], "only images of 256 levels"),
    ],
)
def test_the_command_line_hands_on_the_number_of_bits(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_the_name_of_a_data_set_is_reached_by_its_path(tmp_path, monkeypatch):
    save_folder(tmp_path / "moons")
    monkeypatch.chdir(tmp_path)
    assert data.load("moons").shape == (2,)
    assert data.load("./moons").shape == (3, 8, 8)


def test_imagenet_reads_the_official_batches(tmp_path):
    folder = tmp_path / "imagenet32"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (300, 3072), dtype=np.uint8)
    np.savez(folder / "train_data_batch_1.npz", data=rows[:100], labels=np.zeros(100))
    np.savez(folder / "train_data_batch_2.npz", data=rows[100:200], labels=np.zeros(100))
    np.savez(folder / "val_data.npz", data=rows[200:], labels=np.zeros(100))
    images = data.load("imagenet32", root=tmp_path)
    assert (len(images.train), len(images.validation), len(images.test)) == (198, 2, 100)
    assert np.array_equal(images.test[0].flatten().numpy(), rows[200])
    np.savez(folder / "val_data.npz", data=rows[200:, :100], labels=np.zeros(100))
    with pytest.raises(ValueError, match="expected uint8 rows of 3072"):
        data.load("imagenet32", root=tmp_path)


def test_missing_data_say_where_they_were_looked_for_and_how_to_get_them(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10, MNIST

    def no_network(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", no_network)
    monkeypatch.setattr(CIFAR10, "download", no_network)
    for name, address, command in (
        ("mnist", "https://", "download=True"),
        ("cifar10", "https://", "download=True"),
        ("imagenet64", "https://image-net.org", "unzip"),
    ):
        with pytest.raises(FileNotFoundError) as error:
            data.load(name, root=tmp_path)
        assert str(tmp_path) in str(error.value)
        assert address in str(error.value)
        assert command in str(error.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no data set or path 'cats'; known: cifar10, digits"):
        data.load("cats")


def test_a_fixed_size_data_set_takes_no_image_size():
    with pytest.raises(ValueError, match="fixed size"):
        data.load("digits", image_size=16)
