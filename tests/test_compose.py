"""Combinations of bijections."""

import torch

from tests.cases import make


def test_with_context_computes_its_features_from_the_context():
    bijection, x, context = make("with context")
    assert not torch.allclose(bijection(x, context)[0], bijection(x, context + 1)[0])
