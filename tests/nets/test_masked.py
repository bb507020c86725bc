"""MADE: which outputs see which inputs."""

import pytest
import torch

from nbflows.nets import MADE


@pytest.mark.parametrize("num_hidden", [1, 2, 3])
def test_outputs_see_all_earlier_inputs_and_no_others(num_hidden):
    torch.manual_seed(0)
    net = MADE(5, 11, 3, num_hidden, context_features=2).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    x, context = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    of_x, of_context = torch.autograd.functional.jacobian(net, (x, context))
    assert torch.equal(of_x[0, :, :, 0] != 0, torch.ones(5, 5).tril(-1).bool().expand(3, 5, 5))
    assert (of_context != 0).all()
