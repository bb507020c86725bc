"""Levels that a network reads."""

import torch

from nbflows.layers import (
    Squeeze,
)
from nbflows.nets import PickLevels


def test_levels_are_picked_stacked_and_squeezed_in_the_order_asked_for():
    shapes = [(1, 4, 6), (2, 2, 2), (3, 4, 6)]
    levels = [torch.randn(5, *shape) for shape in shapes]
    latent = torch.cat([level.flatten(1) for level in levels], dim=1)
    for squeeze in (False, True):
        for picked in ([0], [2, 0], [0, 2], [2]):
            stack = torch.cat([levels[i] for i in picked], dim=1)
            wanted = Squeeze()(stack)[0] if squeeze else stack
            assert torch.equal(PickLevels(shapes, picked, squeeze)(latent), wanted)
    assert torch.equal(PickLevels(shapes, [1])(latent), levels[1])
