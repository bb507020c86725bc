"""Levels: what leaves, and what each prior sees."""

import torch

from nbflows import Identity, Multiscale
from nbflows.layers import Squeeze
from tests.cases import make


def test_multiscale_unpacks_what_it_packs():
    bijection, x, _ = make("multiscale, keeping first")
    z, _ = bijection(x)
    levels = bijection.unpack(z)
    assert [tuple(level.shape[1:]) for level in levels] == [(2, 4, 2), (8, 2, 1)]
    assert torch.equal(bijection.pack(levels), z)


def test_multiscale_gives_each_prior_the_half_that_goes_on():
    seen = []

    class Spy(Identity):
        def forward(self, x, context=None):
            seen.append(context)
            return super().forward(x, context)

    bijection = Multiscale([Squeeze(), Squeeze()], (1, 4, 4), priors=[Spy(), Spy()])
    x, context = torch.randn(2, 1, 4, 4), torch.randn(2, 3)
    bijection(x, context)
    torch.testing.assert_close(seen[0], Squeeze()(x)[0][:, :2])
    assert seen[1] is context
