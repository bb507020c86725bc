"""Sets in memory: bits, labels, and random changes of images."""

import numpy as np
import pytest
import torch

from nbflows import data
from nbflows.data import Batches, ImageData, sets


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


def _images(n):
    return torch.arange(n, dtype=torch.int32).view(n, 1, 1, 1)


def test_as_many_labels_as_images_are_needed():
    with pytest.raises(ValueError, match="there are 10 images, and 9 labels or sources"):
        Batches(_images(10), 4, paired=torch.arange(9))
