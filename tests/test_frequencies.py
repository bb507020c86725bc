"""Convolutions by frequency: the convolution itself, for every size; and the ConvLSTM's single steps with them."""

import pytest
import torch
from torch.nn import functional as F

from nbflows.layers import ConvLSTMPrior
from nbflows.nets import ConvLSTM, conv_lstm
from nbflows.nets.frequencies import Frequencies

# Height and width, kernel size, dilation: also images smaller than the kernel's reach, and single pixels.
GEOMETRIES = [((8, 8), 5, 1), ((8, 4), 5, 2), ((4, 4), 3, 1), ((6, 9), 3, 3), ((2, 1), 5, 1), ((1, 1), 3, 1)]


def _step_by_step(lstm, sequence):
    outputs, states = [], None
    for x in sequence.unbind(1):
        output, states = lstm.step(x, states)
        outputs.append(output)
    return torch.stack(outputs, 1), states[0]


def _lstm(kernel_size=5, dilation=1, dtype=torch.float64):
    torch.manual_seed(0)
    lstm = ConvLSTM(3, 16, 2, num_layers=2, kernel_size=kernel_size, dilation=dilation).to(dtype)
    for parameter in lstm.last.parameters():
        torch.nn.init.normal_(parameter)
    return lstm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "kernel_size", "dilation"), GEOMETRIES)
def test_they_are_the_convolution_with_zeros_around(size, kernel_size, dilation, dtype):
    torch.manual_seed(0)
    x, bias = torch.randn(3, 4, *size, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    weight = torch.randn(6, 4, kernel_size, kernel_size, dtype=torch.float64)
    exact = F.conv2d(x, weight, bias, padding=dilation * (kernel_size // 2), dilation=dilation)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    frequencies = Frequencies(size, kernel_size, dilation, like=x)
    rows = frequencies.rows(x)
    assert torch.equal(frequencies.images(rows), x)
    y = frequencies.images(frequencies.convolve(rows, frequencies.kernel(weight), bias))
    assert y.dtype == dtype
    # A rounding error for each of the terms, of which there are 4 times k^2, all of size 1; some are four times that.
    assert (y - exact).abs().max() < 16 * kernel_size**2 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("shape", "kernel_size", "dilation", "pay"),
    [
        ((16, 64, 16, 16), 5, 2, True),
        ((16, 64, 8, 8), 5, 1, True),
        ((16, 64, 4, 4), 3, 1, True),
        ((1, 64, 8, 8), 5, 1, False),  # A product with a single row is no product of matrices.
        ((16, 64, 8, 8), 3, 1, False),
        ((16, 64, 64, 64), 5, 1, False),  # Their transforms grow with the square of the positions.
        ((16, 64, 15, 16), 5, 2, False),
        ((0, 64, 8, 8), 5, 1, False),
    ],
)
def test_they_pay_where_images_are_small_and_many(shape, kernel_size, dilation, pay):
    assert Frequencies.pay(shape, kernel_size, dilation, out_channels=2 * shape[1]) is pay


@pytest.mark.parametrize(
    ("batch", "size", "dilation", "way"),
    [
        (8, (8, 8), 1, Frequencies),
        (7, (8, 8), 1, conv_lstm._Positions),
        (2, (8, 16), 2, Frequencies),
        (2, (8, 15), 2, conv_lstm._Positions),
    ],
)
def test_steps_one_by_one_are_those_taken_together(batch, size, dilation, way):
    lstm = _lstm(dilation=dilation)
    sequence = torch.randn(batch, 4, 3, *size, dtype=torch.float64)
    outputs, found = _step_by_step(lstm, sequence)
    assert type(found) is way
    torch.testing.assert_close(outputs, lstm(sequence), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 8])
def test_gradients_of_single_steps_are_those_of_all_together(batch):
    lstm, sequence = _lstm(), torch.randn(batch, 3, 3, 8, 8, dtype=torch.float64)
    gradients = []
    for outputs in (lstm(sequence), _step_by_step(lstm, sequence)[0]):
        gradients.append(torch.autograd.grad(outputs.square().sum(), [*lstm.parameters()]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_half_precision_takes_convolutions_as_they_are():
    lstm, sequence = _lstm(dtype=torch.float32), torch.randn(9, 3, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, found = _step_by_step(lstm, sequence)
        together = lstm(sequence)
    assert type(found) is conv_lstm._Positions
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
