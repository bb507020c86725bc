"""Averaged weights."""

import pytest
import torch

from nbflows.training import callbacks


def test_averaged_weights_follow_their_formula():
    average = callbacks.AveragedWeights(decay=0.9)
    averages, weights = [torch.tensor([1.0])], [torch.tensor([3.0])]
    average._kwargs["multi_avg_fn"](averages, weights, torch.tensor(5))
    assert averages[0].item() == pytest.approx(1 + (1 - 6 / 15) * 2)
    average._kwargs["multi_avg_fn"](averages, weights, torch.tensor(1000))
    assert averages[0].item() == pytest.approx(3 - 0.9 * (3 - 2.2))
