"""Sheets of samples."""

import pytest
import torch
from torchvision.utils import make_grid

from nbflows.data import pictures


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 64])
def test_a_sheet_is_the_grid_of_torchvision(count, channels):
    images = torch.rand(count, channels, 5, 4)
    assert torch.equal(pictures._grid(images, min(8, count)), make_grid(images, nrow=8))
