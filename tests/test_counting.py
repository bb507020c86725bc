"""The counting baseline: its probabilities sum to 1, and it learns what neighbours say."""

import itertools

import pytest
import torch

from nbflows.counting import CountingModel


def test_the_probabilities_of_all_256_images_of_2x2_pixels_and_4_levels_sum_to_1():
    model = CountingModel(torch.randint(4, (50, 1, 2, 2)).byte(), num_grey_levels=4)
    images = torch.tensor(list(itertools.product(range(4), repeat=4))).byte().view(-1, 1, 2, 2)
    total = (2.0 ** (-4 * model.bits_per_dim(images))).sum()
    # 256 terms of float64, each with a relative error of some 1e-15.
    assert abs(total.item() - 1) < 1e-12


def test_uniform_noise_costs_its_entropy_and_a_copied_neighbour_nearly_nothing():
    noise = torch.randint(4, (2000, 1, 8, 8)).byte()
    bits = CountingModel(noise[:1900], 4).bits_per_dim(noise[1900:])
    # Never below the truth but by chance, 5 standard errors; above it by what counting costs.
    assert 2 - 5 * bits.std() / 10 < bits.mean() < 2.1
    rows = noise[..., :1].expand(-1, -1, -1, 8)
    # Each row has one free pixel in eight, 2 / 8 bits; the edge looks like black, and so costs some more.
    bits = CountingModel(rows[:1900], 4).bits_per_dim(rows[1900:])
    assert 0.25 - 5 * bits.std() / 10 < bits.mean() < 2 * 0.25


def test_an_image_says_the_same_alone_and_among_others():
    images = torch.randint(256, (20, 1, 5, 7)).byte()
    model = CountingModel(images[:10])
    assert torch.equal(model.bits_per_dim(images)[7:8], model.bits_per_dim(images[7:8]))


@pytest.mark.parametrize("shape", [(3, 3, 4, 4), (3, 4, 4)])
def test_images_that_are_not_grey_are_refused(shape):
    with pytest.raises(ValueError, match=r"uint8 images \(N, 1, H, W\)"):
        CountingModel(torch.zeros(shape).byte())
