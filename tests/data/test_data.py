"""Data sets: what is in them, how they split, and what happens when files are missing or broken."""

import hashlib
import os
import shutil
import statistics
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nbflows import data, recipes
from nbflows.cli import main
from nbflows.data import Batches, ImageData, folders, sets, toys
from nbflows.data import batches as batching


def _picture(file, size=(8, 8), mode="RGB", seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(file)


def _folder(path, count=30, **options):
    for i in range(count):
        _picture(path / f"{i:03d}.png", seed=i, **options)
    return path


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


def test_data_say_what_a_model_of_them_needs():
    assert data.load("moons").model_arguments() == {"shape": (2,)}
    assert data.load("digits").model_arguments() == {"shape": (1, 8, 8), "num_grey_levels": 17}
    assert data.load("photo-patches").num_classes is None


def test_fewer_bits_are_the_highest_ones(tmp_path):
    values = np.arange(256, dtype=np.uint8).repeat(4).reshape(64, 4, 4)
    np.savez(tmp_path / "a.npz", train=values, validation=values, test=values)
    for num_bits in range(1, 8):
        images = data.load(tmp_path / "a.npz", num_bits=num_bits)
        expected = np.floor(values / 2 ** (8 - num_bits))
        for split in (images.train, images.validation, images.test):
            assert split.dtype == torch.uint8 and np.array_equal(split[:, 0].numpy(), expected)
        assert images.num_grey_levels == 2**num_bits == images.train.max() + 1
        assert images.variant == f"arrays of a.npz, 64/64/64 images, reduced to {num_bits} bit"
    assert data.load(tmp_path / "a.npz", num_bits=8).variant == "arrays of a.npz, 64/64/64 images"


def test_fewer_bits_keep_the_labels():
    images = ImageData(
        "a", "b", *[torch.full((3, 1, 2, 2), 255).byte()] * 3, labels={split: torch.arange(3) for split in data.SPLITS}
    )
    reduced = sets.reduce_bits(images, 5)
    assert reduced.labels is images.labels and reduced.num_classes == 3
    assert images.train.max() == 255 and reduced.train.max() == 31


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
    _folder(tmp_path / "moons")
    monkeypatch.chdir(tmp_path)
    assert data.load("moons").shape == (2,)
    assert data.load("./moons").shape == (3, 8, 8)


def test_celeba_hq_is_resized_by_averaging_and_reduced_to_5_bit(tmp_path):
    folder = tmp_path / "celeba-hq-256"
    for split, count in (("train", 10), ("val", 2)):
        for i in range(count):
            _picture(folder / split / f"{i}.png", size=(256, 256) if i else (512, 512), seed=i)
    images = data.load("celeba-hq-256-5bit", root=tmp_path)
    assert images.shape == (3, 256, 256) and images.num_grey_levels == 32
    assert images.name == "celeba-hq-256-5bit" and "9/1/2 images, reduced to 5 bit" in images.variant
    large, same = (np.asarray(Image.open(folder / "val" / f"{i}.png")).transpose(2, 0, 1) for i in range(2))
    assert np.array_equal(images.test[1].numpy(), same // 8)
    averaged = large.reshape(3, 256, 2, 256, 2).mean((2, 4))
    # Rounded twice before the floor: at most one level off, and that only for averages beside a multiple of 8.
    assert np.abs(images.test[0].numpy() - averaged // 8).max() <= 1
    with pytest.raises(FileNotFoundError, match=r"celeba-hq-256: it should hold .* train/ \(27000\) and val/"):
        data.load("celeba-hq-256-5bit", root=tmp_path / "elsewhere")


def test_tiny_imagenet_is_halved_by_averaging_and_its_val_is_the_test(tmp_path):
    folder = tmp_path / "tiny-imagenet-64"
    _folder(folder / "train" / "n01", size=(64, 64))
    _folder(folder / "val" / "n01", count=3, size=(64, 64))
    images = data.load("tiny-imagenet-32", root=tmp_path)
    assert images.name == "tiny-imagenet-32" and "27/3/3 images" in images.variant
    assert images.shape == (3, 32, 32) and len(images.test) == 3
    picture = np.asarray(Image.open(folder / "val" / "n01" / "000.png")).astype(float)
    averaged = picture.reshape(32, 2, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    # The average is rounded twice, along each axis once.
    assert np.abs(images.test[0].numpy() - averaged).max() <= 1
    with pytest.raises(FileNotFoundError, match="train/ and val/ with 64x64 photographs"):
        data.load("tiny-imagenet-32", root=tmp_path / "elsewhere")


def test_shifted_images_repeat_their_edge_along_one_axis():
    torch.manual_seed(0)
    columns = torch.arange(6).byte().expand(400, 1, 6, 6)
    moved = data.shift_and_flip(columns, max_shift=2)
    mirrored = moved[:, :, :, 0] > moved[:, :, :, -1]
    straight = torch.where(mirrored[..., None], moved.flip(3), moved)
    # Rows stay alike, whatever the shift: only columns move, and those that enter repeat the edge.
    assert (straight == straight[:, :, :1]).all()
    kinds = {tuple(row.tolist()) for row in straight[:, 0, 0]}
    assert kinds == {tuple(min(max(i + shift, 0), 5) for i in range(6)) for shift in range(-2, 3)}
    # A fifth of one half moves by 0, the other half moves vertically: 0.6; 4 standard errors of 400 draws.
    still = (straight[:, 0, 0] == torch.arange(6)).all(1).double().mean()
    assert abs(still - 0.6) < 4 * (0.24 / 400) ** 0.5
    assert abs(mirrored[:, 0, 0].double().mean() - 0.5) < 4 * (0.25 / 400) ** 0.5


def test_mirroring_turns_half_of_the_images_left_to_right():
    torch.manual_seed(0)
    images = torch.arange(400 * 6).view(400, 1, 2, 3)
    moved = data.mirror(images)
    mirrored = (moved == images.flip(3)).all((1, 2, 3))
    assert torch.equal(moved[~mirrored], images[~mirrored])
    # 4 standard errors of 400 draws.
    assert abs(mirrored.double().mean() - 0.5) < 4 * (0.25 / 400) ** 0.5


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


def test_a_folder_is_decoded_resized_split_and_cached(tmp_path, monkeypatch):
    folder = _folder(tmp_path / "pictures", size=(20, 12))
    images = data.load(folder, image_size=4, root=tmp_path)
    assert images.shape == (3, 4, 4)
    assert (len(images.train), len(images.validation), len(images.test)) == (25, 2, 3)
    monkeypatch.setattr(folders, "_decode_all", None)
    again = data.load(folder, image_size=4, root=tmp_path)
    assert torch.equal(again.train, images.train)
    assert torch.equal(again.test, images.test)


def test_halving_a_folder_of_images_averages_areas(tmp_path):
    folder = _folder(tmp_path / "pictures", size=(8, 8))
    small = data.load(folder, image_size=4, root=tmp_path)
    full = data.load(folder, root=tmp_path)
    assert full.shape == (3, 8, 8)
    exact = torch.nn.functional.avg_pool2d(full.train.float(), 2)
    # Rows are averaged and rounded, then columns: half a level each.
    assert (small.train - exact).abs().max() <= 1


def test_a_changed_folder_is_read_again(tmp_path):
    folder = _folder(tmp_path / "pictures")
    before = data.load(folder, root=tmp_path)
    _picture(folder / "new.png", seed=99)
    after = data.load(folder, root=tmp_path)
    assert len(after.train) + len(after.validation) + len(after.test) == 31
    assert len(before.train) != len(after.train) or not torch.equal(before.train, after.train)


def _put_in_place(folder, other, how):
    if how == "moved":
        folder.rename(folder.with_name("away"))
        other.rename(folder)
    elif how == "copied":
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
    else:
        # The same files with other content: the same inodes, and the time is put back.
        for file in folder.iterdir():
            before = file.stat()
            file.write_bytes((other / file.name).read_bytes())
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("how", ["moved", "copied", "overwritten"])
def test_other_pictures_of_the_same_names_sizes_and_times_are_read_again(tmp_path, how):
    folder, other = _folder(tmp_path / "pictures"), tmp_path / "other"
    for i in range(30):
        _picture(other / f"{i:03d}.png", seed=1000 + i)
    for file in (*folder.iterdir(), *other.iterdir()):
        # Deflated, noise of one shape has one size; without compression it is certain.
        Image.open(file).save(file, compress_level=0)
        os.utime(file, (1_000_000_000, 1_000_000_000))
    before = data.load(folder, root=tmp_path / "root")
    wanted = data.load(other, root=tmp_path / "root")
    assert before.variant == wanted.variant.replace("other", "pictures") and not torch.equal(before.train, wanted.train)
    _put_in_place(folder, other, how)
    after = data.load(folder, root=tmp_path / "root")
    assert torch.equal(after.train, wanted.train) and torch.equal(after.test, wanted.test)


def test_folders_named_after_splits_are_the_splits(tmp_path):
    _folder(tmp_path / "set" / "train" / "cats", 20)
    _folder(tmp_path / "set" / "val", 7)
    images = data.load(tmp_path / "set", root=tmp_path)
    # One held-out folder is the test set; the validation images come from training.
    assert (len(images.train), len(images.validation), len(images.test)) == (18, 2, 7)
    _folder(tmp_path / "set" / "test", 5)
    images = data.load(tmp_path / "set", root=tmp_path)
    assert (len(images.train), len(images.validation), len(images.test)) == (20, 7, 5)


def test_grey_images_stay_grey_and_mixed_ones_become_colour(tmp_path):
    folder = _folder(tmp_path / "grey", mode="L")
    assert data.load(folder, root=tmp_path).shape == (1, 8, 8)
    _picture(folder / "colour.png", mode="RGBA")
    assert data.load(folder, root=tmp_path).shape == (3, 8, 8)


def test_broken_files_are_named_counted_and_skipped(tmp_path):
    folder = _folder(tmp_path / "pictures")
    (folder / "empty.png").touch()
    (folder / "broken.jpg").write_bytes(b"not a picture")
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:60])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "deep.tif")
    with pytest.warns(UserWarning) as caught:
        images = data.load(folder, root=tmp_path)
    message = str(caught[0].message)
    assert "skipped 4 of 34 files" in message
    for name in ("empty.png: empty file", "broken.jpg", "cut.png", "deep.tif: 32 bits a channel"):
        assert name in message
    assert len(images.train) + len(images.validation) + len(images.test) == 30


def test_a_folder_with_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no image files below"):
        data.load(tmp_path, root=tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match="none of the 1 image files"):
        data.load(tmp_path, root=tmp_path)


def test_images_of_different_sizes_need_an_image_size(tmp_path):
    folder = _folder(tmp_path / "pictures")
    _picture(folder / "large.png", size=(9, 8))
    with pytest.raises(ValueError, match=r"2 sizes \(8x8, 9x8 ...\); give --image-size"):
        data.load(folder, root=tmp_path)


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(tmp_path, capsys):
    folder = _folder(tmp_path / "pictures")
    (tmp_path / "cache").touch()
    images = data.load(folder, root=tmp_path)
    assert len(images.train) == 25
    assert "could not cache" in capsys.readouterr().err


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


def test_a_folder_without_training_images_is_an_error(tmp_path):
    _folder(tmp_path / "set" / "test", 5)
    with pytest.raises(ValueError, match=r"no training images, only \['test'\]"):
        data.load(tmp_path / "set", root=tmp_path)


def test_a_fixed_size_data_set_takes_no_image_size():
    with pytest.raises(ValueError, match="fixed size"):
        data.load("digits", image_size=16)


def _images(n):
    return torch.arange(n, dtype=torch.int32).view(n, 1, 1, 1)


def test_an_epoch_holds_every_image_once_but_for_the_last_incomplete_batch():
    batches = Batches(_images(10), 3, shuffle=True)
    epoch = torch.cat(list(batches)).flatten().tolist()
    assert len(batches) == 3
    assert len(set(epoch)) == 9
    assert epoch != torch.cat(list(batches)).flatten().tolist()
    assert torch.cat(list(Batches(_images(10), 3))).flatten().tolist() == list(range(10))


def test_a_stream_resumes_exactly_where_its_state_was_taken():
    reference = Batches(_images(10), 3, shuffle=True, seed=5)
    both = [batch.flatten().tolist() for _ in range(3) for batch in reference]
    resumed = Batches(_images(10), 3, shuffle=True, seed=5)
    resumed.position = 4
    assert [batch.flatten().tolist() for batch in resumed] == both[4:7]
    assert resumed.position == 7


@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_a_batch_without_overlap(shuffle):
    whole = list(Batches(_images(10), 4, shuffle))
    parts = [list(Batches(_images(10), 4, shuffle, rank=rank, world_size=2)) for rank in range(2)]
    for batch, a, b in zip(whole, *parts, strict=True):
        assert sorted(torch.cat([a, b]).flatten().tolist()) == sorted(batch.flatten().tolist())


@pytest.mark.parametrize("shuffle", [True, False])
def test_labels_come_with_the_images_that_they_belong_to(shuffle):
    options = {"shuffle": shuffle, "seed": 3, "rank": 1, "world_size": 2}
    pairs = list(Batches(_images(10), 4, **options, paired=torch.arange(10) + 100))
    for images, (same, labels) in zip(Batches(_images(10), 4, **options), pairs, strict=True):
        assert torch.equal(same, images)
        assert torch.equal(labels, images.flatten() + 100)


def _room(monkeypatch, free):
    """A GPU with so many bytes free; what is asked of it is counted."""
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (free, 2 * free))
    return asked


def test_a_gpu_keeps_a_data_set_of_at_most_a_tenth_of_its_free_memory(monkeypatch):
    gpu = torch.device("cuda", 1)
    asked = _room(monkeypatch, 1000)
    assert batching.has_room_for(100, gpu) and not batching.has_room_for(101, gpu)
    assert asked == [gpu, gpu]
    # It lies there already; of others nothing is known.
    assert batching.has_room_for(10**18, torch.device("cpu")) and not batching.has_room_for(1, torch.device("mps"))


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_set_with_room_is_copied_to_the_device_once_and_batches_are_made_there(monkeypatch, shuffle):
    sizes = []
    monkeypatch.setattr(batching, "has_room_for", lambda size, device: sizes.append((size, device)) or True)
    copied = _count_copies(monkeypatch)
    batches = Batches(_images(10), 4, shuffle, paired=torch.arange(10), rank=1, world_size=2, device="meta")
    # Images of 4 bytes and labels of 8.
    assert sizes == [(120, torch.device("meta"))] and copied == [10, 10]
    shapes = [(tuple(images.shape), len(labels), images.device.type) for images, labels in batches]
    assert shapes == [((2, 1, 1, 1), 2, "meta")] * 2 + ([] if shuffle else [((1, 1, 1, 1), 1, "meta")])
    # Then the order of the epoch, and no more.
    assert copied == [10, 10, 10]


def test_without_room_nothing_but_the_rows_of_this_rank_is_copied(monkeypatch):
    monkeypatch.setattr(batching, "has_room_for", lambda size, device: False)
    copied = _count_copies(monkeypatch)
    for images, labels in Batches(_images(10), 4, True, paired=torch.arange(10), rank=1, world_size=2, device="meta"):
        assert images.shape == (2, 1, 1, 1) and labels.shape == (2,) and images.is_meta and labels.is_meta
    assert copied == [2] * 4


def _count_copies(monkeypatch):
    copied, to = [], torch.Tensor.to

    def count(tensor, *arguments, **options):
        result = to(tensor, *arguments, **options)
        if result.device != tensor.device:
            copied.append(len(tensor))
        return result

    monkeypatch.setattr(torch.Tensor, "to", count)
    return copied


def test_a_batch_on_its_way_to_a_gpu_is_pinned_and_copied_while_that_computes(monkeypatch):
    """Without a GPU: pinned memory and the copy are those that torch would be asked for."""
    seen, empty = [], torch.empty
    _room(monkeypatch, 0)
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory, **o: seen.append(pin_memory) or empty(*a, **o))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, **o: seen.append((str(device), o)) or tensor)
    both = [
        [batch.flatten().tolist() for batch in Batches(_images(10), 4, True, device=device)]
        for device in ("cuda:0", None)
    ]
    assert both[0] == both[1]
    assert seen.count(True) == seen.count(("cuda:0", {"non_blocking": True})) == 2


def test_batches_take_less_than_a_fiftieth_of_a_training_step_20_times_as_fast():
    """As on a GPU, and of the smallest model on the smallest images: every other step takes longer."""
    recipe = recipes.get("digits-simple")
    digits = data.load("digits")
    flow = recipe.build(digits)

    def seconds(work, count):
        times = []
        for _ in range(count):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    batches = Batches(digits.train, recipe.batch_size, shuffle=True)
    images = next(iter(batches))
    step = seconds(lambda: flow.bits_per_dim(images).mean().backward(), 5)
    # A whole epoch at a time, its order included.
    batch = seconds(lambda: list(batches), 20) / len(batches)
    assert batch < step / 20 / 50


def test_as_many_labels_as_images_are_needed():
    with pytest.raises(ValueError, match="there are 10 images, and 9 labels or sources"):
        Batches(_images(10), 4, paired=torch.arange(9))


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(ValueError, match="batch_size 12 does not fit 10 images"):
        Batches(_images(10), 12, shuffle=True)
