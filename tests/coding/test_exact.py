"""A ``PixelFlow``'s network in fixed point computes the same integers however sums are ordered, and loses no bits."""

import math
import os
import subprocess
import sys

import pytest
import torch

from nbflows import models
from nbflows.coding.exact import PRECISION, exact, frequencies, square_root
from nbflows.nets import CausalImageNet

# Computes the frequencies of an image in a process of its own, and prints their SHA-256.
SCRIPT = """
import hashlib, sys, torch
from tests.coding.test_exact import flow, images
from nbflows.coding.exact import exact, frequencies
torch.set_num_threads(int(sys.argv[1]))
torch.backends.mkldnn.enabled = sys.argv[2] == "on"
net = flow().bijection.net
# Random numbers depend on the instructions, too.
net.load_state_dict(torch.load(sys.argv[3], weights_only=True))
with torch.no_grad():
    table = frequencies(exact(net)(images()))
print(hashlib.sha256(table.numpy().tobytes()).hexdigest())
"""


def flow(**changes):
    torch.manual_seed(0)
    flow = models.digits_pixelflow(**changes).eval()
    with torch.no_grad():
        # Larger than at the start: tables are used over their whole range.
        for parameter in flow.parameters():
            parameter.mul_(1.5).add_(0.02 * torch.randn_like(parameter))
    return flow


def images(count=3, shape=(1, 8, 8), num_grey_levels=17):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, num_grey_levels, (count, *shape), generator=generator).to(torch.uint8)


@torch.no_grad()
def test_steps_and_forward_give_the_same_integers():
    net = exact(flow().bijection.net)
    x = images()
    whole = frequencies(net(x))
    for (channel, row, column), logits in net.steps(x):
        assert torch.equal(frequencies(logits), whole[:, channel, row, column])


@torch.no_grad()
def test_frequencies_are_positive_and_add_up():
    net = exact(flow().bijection.net)
    table = frequencies(net(images()))
    assert table.min() >= 1 and (table.sum(-1) == 2**PRECISION).all()
    extreme = frequencies(torch.tensor([[0.0, -1e4, 1e4], [5.0, 5.0, 5.0]], dtype=torch.float64))
    assert extreme[0].tolist() == [1, 1, 2**PRECISION - 2]
    assert extreme[1].max() - extreme[1].min() <= 1


@torch.no_grad()
@pytest.mark.parametrize("shape, grey_levels", [((1, 8, 8), 17), ((3, 8, 8), 256)])
def test_fixed_point_costs_less_than_a_thousandth_of_a_bit(shape, grey_levels):
    model, x = flow(shape=shape, num_grey_levels=grey_levels), images(20, shape, grey_levels)
    table = frequencies(exact(model.bijection.net)(x))
    bits = PRECISION - table.gather(-1, x.long()[..., None]).double().log2().mean()
    assert (bits - model.bits_per_dim(x).double().mean()).abs() < 1e-3


@pytest.mark.slow  # Four fresh processes.
def test_threads_kernels_and_instructions_change_no_bit(tmp_path):
    torch.save(flow().bijection.net.state_dict(), tmp_path / "weights.pt")
    plain = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    runs = [("1", "on", {}), ("2", "on", {}), ("1", "off", {}), ("1", "on", plain)]
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, threads, onednn, tmp_path / "weights.pt"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **instructions},
        ).stdout
        for threads, onednn, instructions in runs
    }
    assert len(found) == 1


@torch.no_grad()
def test_the_order_of_the_sums_changes_no_bit():
    # The features of every inner layer, in another order: other sums of the same numbers.
    net = exact(flow().bijection.net)
    x, order = torch.randn(40, 64, dtype=torch.float64), torch.randperm(64)
    layer = next(m for m in net.modules() if type(m).__name__ == "_Linear" and m.layer.in_features == 64)
    before = layer(x)
    layer.layer.weight.copy_(layer.layer.weight[:, order])
    assert torch.equal(layer(x[:, order]), before)


def test_a_square_root_is_that_of_ieee_754():
    # torch's own differs in the last bit for one number in a hundred.
    x = torch.rand(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert square_root(x).tolist() == [math.sqrt(value) for value in x.tolist()]


def test_weights_that_are_too_large_are_refused():
    model = flow()
    with torch.no_grad():
        model.bijection.net.embed.weight.mul_(1e8)
    with pytest.raises(ValueError, match="too large for a code"):
        exact(model.bijection.net)


def test_the_net_itself_is_left_as_it_was():
    net = flow().bijection.net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    twin = exact(net)
    assert isinstance(twin, CausalImageNet) and twin is not net
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
