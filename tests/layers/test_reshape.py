"""Reshaping layers: where every number goes."""

import torch

from nbflows.layers import Flip, Permute, Squeeze


def test_squeeze_puts_pixel_dy_dx_of_channel_c_in_channel_4c_plus_2dy_plus_dx():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    z, _ = Squeeze()(x)
    for c in range(2):
        for dy in range(2):
            for dx in range(2):
                assert torch.equal(z[0, 4 * c + 2 * dy + dx], x[0, c, dy::2, dx::2])


def test_flip_twice_is_the_identity_and_permute_inverts_by_argsort():
    x = torch.randn(2, 3, 1, 1)
    assert torch.equal(Flip()(Flip()(x)[0])[0], x)
    assert torch.equal(Permute([1, 2, 0])(x)[0], x[:, [1, 2, 0]])
