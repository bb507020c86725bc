"""The tutorial's models: published sizes, and colour images."""

import pytest
import torch

from nbflows import models


def _images(n=6, levels=17, shape=(1, 8, 8)):
    return torch.randint(levels, (n, *shape), generator=torch.Generator().manual_seed(1)).byte()


@pytest.mark.parametrize(
    ("name", "parameters"), [("simple", 556_312), ("variational", 628_388), ("multiscale", 1_657_038)]
)
def test_models_have_the_published_sizes(name, parameters):
    assert sum(p.numel() for p in getattr(models, name)().parameters()) == parameters


@pytest.mark.parametrize("name", ["simple", "variational", "multiscale"])
def test_models_take_colour_images_too(name):
    flow = getattr(models, name)(shape=(3, 8, 8))
    assert flow.decode(flow.encode(_images(2, 256, (3, 8, 8)))[0]).shape == (2, 3, 8, 8)
