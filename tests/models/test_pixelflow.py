"""Models of integer images: sizes."""

import torch

from nbflows import models


def test_the_mnist_model_fits_into_4_megabytes():
    flow = models.pixelflow()
    assert 4 * sum(parameter.numel() for parameter in flow.parameters()) < 4e6
    assert flow.bits_per_dim(torch.zeros(2, 1, 28, 28).byte()).shape == (2,)


def test_the_untrained_digits_model_is_near_a_uniform_guess():
    torch.manual_seed(0)
    bits = models.digits_pixelflow().bits_per_dim(torch.randint(17, (64, 1, 8, 8)).byte()).mean()
    assert abs(bits.item() - torch.tensor(17.0).log2().item()) < 0.5
