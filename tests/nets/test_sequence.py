"""The causal transformer on sequences: what depends on what, one element at a time, and its start."""

import pytest
import torch

from nbflows.nets import CausalSequenceNet


def _net(context_features=0):
    torch.manual_seed(0)
    net = CausalSequenceNet(5, 3, 4, width=8, num_layers=2, num_heads=2, context_features=context_features).double()
    torch.nn.init.normal_(net.out.weight)
    return net


def test_an_output_depends_on_all_earlier_elements_and_on_no_other():
    net, x = _net(), torch.randn(1, 5, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(net, x)[0, :, :, 0].abs().sum((1, 3))
    assert torch.equal(jacobian > 0, torch.ones(5, 5).tril(-1) > 0)


@pytest.mark.parametrize("context_features", [0, 2])
def test_steps_give_what_forward_gives(context_features):
    net, x = _net(context_features), torch.randn(2, 5, 3, dtype=torch.float64)
    context = torch.randn(2, context_features, 1, 1, dtype=torch.float64) if context_features else None
    whole, memories = net(x, context), net.memories(2)
    assert (whole[:, 0] == 0).all()
    with torch.no_grad():
        for t in range(4):
            step = net.step(x[:, t], memories, t, context)
            torch.testing.assert_close(step, whole[:, t + 1], atol=1e-12, rtol=1e-12)


def test_every_element_but_the_first_sees_the_context():
    net, x = _net(2), torch.randn(1, 5, 3, dtype=torch.float64)
    change = net(x, torch.ones(1, 2).double()) - net(x, torch.zeros(1, 2).double())
    assert (change[0, 0] == 0).all() and (change[0, 1:].abs().sum(1) > 0).all()


def test_it_starts_at_zero_and_refuses_bad_sizes():
    assert (CausalSequenceNet(4, 2, 4, width=8)(torch.randn(2, 4, 2)) == 0).all()
    with pytest.raises(ValueError, match="multiple of the 3 heads"):
        CausalSequenceNet(4, 2, 4, width=8, num_heads=3)
    with pytest.raises(ValueError, match="a context of 3 numbers, and got none"):
        CausalSequenceNet(4, 2, 4, width=8, context_features=3)(torch.randn(2, 4, 2))
