"""The ConvLSTM: steps one by one are those taken together, with their gradients, also in half precision."""

import pytest
import torch

from nbflows.layers import ConvLSTMPrior
from nbflows.nets import ConvLSTM


def _step_by_step(lstm, sequence):
    outputs, states = [], None
    for x in sequence.unbind(1):
        output, states = lstm.step(x, states)
        outputs.append(output)
    return torch.stack(outputs, 1)


def _lstm(kernel_size=5, dilation=1, dtype=torch.float64):
    torch.manual_seed(0)
    lstm = ConvLSTM(3, 16, 2, num_layers=2, kernel_size=kernel_size, dilation=dilation).to(dtype)
    for parameter in lstm.last.parameters():
        torch.nn.init.normal_(parameter)
    return lstm


@pytest.mark.parametrize(("kernel_size", "dilation", "size"), [(5, 1, (8, 8)), (5, 2, (8, 15)), (3, 3, (2, 1))])
def test_steps_one_by_one_are_those_taken_together(kernel_size, dilation, size):
    lstm = _lstm(kernel_size, dilation)
    sequence = torch.randn(3, 4, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(_step_by_step(lstm, sequence), lstm(sequence), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 8])
def test_gradients_of_single_steps_are_those_of_all_together(batch):
    lstm, sequence = _lstm(), torch.randn(batch, 3, 3, 8, 8, dtype=torch.float64)
    gradients = []
    for outputs in (lstm(sequence), _step_by_step(lstm, sequence)):
        gradients.append(torch.autograd.grad(outputs.square().sum(), [*lstm.parameters()]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_steps_in_half_precision_are_close_to_those_taken_together():
    lstm, sequence = _lstm(dtype=torch.float32), torch.randn(9, 3, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = _step_by_step(lstm, sequence)
        together = lstm(sequence)
    assert outputs.dtype == torch.bfloat16
    # A few rounding errors of bfloat16, whose relative size is 2 ** -8.
    assert (outputs.float() - together.float()).abs().max() < 0.03 * together.float().abs().max()


@torch.no_grad()
def test_a_prior_is_inverted_alike_one_by_one_and_in_a_batch():
    # Weights of size 1 would make scales of up to e^8, and z would move by 10^6 times what the weights do.
    lstm = _lstm()
    for parameter in lstm.last.parameters():
        parameter.mul_(0.1)
    prior = ConvLSTMPrior(lstm, torch.nn.Conv2d(1, 2, 1).double())
    noise, context = torch.randn(9, 4, 8, 8, dtype=torch.float64), torch.randn(9, 1, 8, 8, dtype=torch.float64)
    together = prior.inverse(noise, context)
    alone = torch.cat([prior.inverse(noise[i : i + 1], context[i : i + 1]) for i in range(9)])
    # The mean is far from 0 and the scales from 1: there is something to agree on.
    assert (together - noise).abs().max() > 1
    returned, _ = prior(together, context)
    # Rounding a sum of n terms is like changing each by n eps at most. The longest has 25 positions of 32 channels.
    step = 1e-7
    for parameter in prior.parameters():
        parameter.mul_(1 + step * (2 * torch.rand_like(parameter) - 1))
    condition = (prior.inverse(noise, context) - together).abs().max().item() / step
    allowed = 25 * 32 * torch.finfo(torch.float64).eps * condition
    assert allowed < 1e-11
    torch.testing.assert_close(together, alone, atol=allowed, rtol=0)
    torch.testing.assert_close(returned, noise, atol=allowed, rtol=0)
