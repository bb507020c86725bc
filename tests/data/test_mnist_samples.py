"""The MNIST images of the package are those of the test set, 40 of each digit."""

import torch

from nbflows import data
from tests.reference_data import mnist


def test_each_digit_has_40_images():
    images, labels = data.mnist_samples()
    assert images.dtype == torch.uint8 and images.shape == (400, 1, 28, 28)
    assert labels.dtype == torch.int64 and labels.bincount().tolist() == [40] * 10


def test_they_are_the_first_of_the_test_set_in_its_order():
    images, labels = data.mnist_samples()
    whole = mnist()
    truth = whole.labels["test"]
    chosen = torch.cat([(truth == digit).nonzero()[:40, 0] for digit in range(10)]).sort().values
    assert torch.equal(whole.test[chosen], images) and torch.equal(truth[chosen], labels)
