"""Autoregressive and spline flows: round trips, and passes forwards and backwards."""

import pytest
import torch

from nbflows import models


@pytest.mark.parametrize("name", ["maf_2d", "iaf_2d", "nsf_2d"])
def test_points_come_back(name):
    torch.manual_seed(0)
    flow = getattr(models, name)(hidden_features=8)
    flow.log_prob(torch.randn(64, 2))
    flow.double()
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(flow.decode(flow.encode(x)[0]), x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["digits_maf", "digits_iaf", "digits_nsf"])
def test_digits_come_back(name):
    torch.manual_seed(0)
    flow = getattr(models, name)()
    x = torch.randint(17, (8, 1, 8, 8)).byte()
    flow.log_prob(x)
    flow.eval()
    assert torch.equal(flow.decode(flow.encode(x)[0]), x)
