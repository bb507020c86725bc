"""Folders of images: decoded, resized, split and cached; what is broken or has changed."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nbflows import data
from nbflows.data import folders
from tests.pictures import save_folder, save_picture


def test_celeba_hq_is_resized_by_averaging_and_reduced_to_5_bit(tmp_path):
    folder = tmp_path / "celeba-hq-256"
    for split, count in (("train", 10), ("val", 2)):
        for i in range(count):
            save_picture(folder / split / f"{i}.png", size=(256, 256) if i else (512, 512), seed=i)
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
    save_folder(folder / "train" / "n01", size=(64, 64))
    save_folder(folder / "val" / "n01", count=3, size=(64, 64))
    images = data.load("tiny-imagenet-32", root=tmp_path)
    assert images.name == "tiny-imagenet-32" and "27/3/3 images" in images.variant
    assert images.shape == (3, 32, 32) and len(images.test) == 3
    picture = np.asarray(Image.open(folder / "val" / "n01" / "000.png")).astype(float)
    averaged = picture.reshape(32, 2, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    # The average is rounded twice, along each axis once.
    assert np.abs(images.test[0].numpy() - averaged).max() <= 1
    with pytest.raises(FileNotFoundError, match="train/ and val/ with 64x64 photographs"):
        data.load("tiny-imagenet-32", root=tmp_path / "elsewhere")


def test_a_folder_is_decoded_resized_split_and_cached(tmp_path, monkeypatch):
    folder = save_folder(tmp_path / "pictures", size=(20, 12))
    images = data.load(folder, image_size=4, root=tmp_path)
    assert images.shape == (3, 4, 4)
    assert (len(images.train), len(images.validation), len(images.test)) == (25, 2, 3)
    monkeypatch.setattr(folders, "_decode_all", None)
    again = data.load(folder, image_size=4, root=tmp_path)
    assert torch.equal(again.train, images.train)
    assert torch.equal(again.test, images.test)


def test_halving_a_folder_of_images_averages_areas(tmp_path):
    folder = save_folder(tmp_path / "pictures", size=(8, 8))
    small = data.load(folder, image_size=4, root=tmp_path)
    full = data.load(folder, root=tmp_path)
    assert full.shape == (3, 8, 8)
    exact = torch.nn.functional.avg_pool2d(full.train.float(), 2)
    # Rows are averaged and rounded, then columns: half a level each.
    assert (small.train - exact).abs().max() <= 1


def test_a_changed_folder_is_read_again(tmp_path):
    folder = save_folder(tmp_path / "pictures")
    before = data.load(folder, root=tmp_path)
    save_picture(folder / "new.png", seed=99)
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
    folder, other = save_folder(tmp_path / "pictures"), tmp_path / "other"
    for i in range(30):
        save_picture(other / f"{i:03d}.png", seed=1000 + i)
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
    save_folder(tmp_path / "set" / "train" / "cats", 20)
    save_folder(tmp_path / "set" / "val", 7)
    images = data.load(tmp_path / "set", root=tmp_path)
    # One held-out folder is the test set; the validation images come from training.
    assert (len(images.train), len(images.validation), len(images.test)) == (18, 2, 7)
    save_folder(tmp_path / "set" / "test", 5)
    images = data.load(tmp_path / "set", root=tmp_path)
    assert (len(images.train), len(images.validation), len(images.test)) == (20, 7, 5)


def test_grey_images_stay_grey_and_mixed_ones_become_colour(tmp_path):
    folder = save_folder(tmp_path / "grey", mode="L")
    assert data.load(folder, root=tmp_path).shape == (1, 8, 8)
    save_picture(folder / "colour.png", mode="RGBA")
    assert data.load(folder, root=tmp_path).shape == (3, 8, 8)


def test_broken_files_are_named_counted_and_skipped(tmp_path):
    folder = save_folder(tmp_path / "pictures")
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
    folder = save_folder(tmp_path / "pictures")
    save_picture(folder / "large.png", size=(9, 8))
    with pytest.raises(ValueError, match=r"2 sizes \(8x8, 9x8 ...\); give --image-size"):
        data.load(folder, root=tmp_path)


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(tmp_path, capsys):
    folder = save_folder(tmp_path / "pictures")
    (tmp_path / "cache").touch()
    images = data.load(folder, root=tmp_path)
    assert len(images.train) == 25
    assert "could not cache" in capsys.readouterr().err


def test_a_folder_without_training_images_is_an_error(tmp_path):
    save_folder(tmp_path / "set" / "test", 5)
    with pytest.raises(ValueError, match=r"no training images, only \['test'\]"):
        data.load(tmp_path / "set", root=tmp_path)
