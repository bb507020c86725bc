"""The conditioner with attention: dropout, and attention as torch computes it."""

import pytest
import torch

from nbflows.nets import GatedAttention, GatedAttentionNet, position_code


def test_dropout_acts_in_training_mode_only():
    torch.manual_seed(0)
    net, x = GatedAttentionNet(2, 8, 4, num_blocks=1, dropout=0.5), torch.randn(2, 2, 4, 4)
    torch.nn.init.ones_(net.last.parametrizations.weight.original0)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_with_gradients_is_that_of_torch_s_kernel_without(dtype):
    torch.manual_seed(0)
    attention, x = GatedAttention(24, 4).to(dtype), torch.randn(2, 24, 5, 6, dtype=dtype)
    code = position_code(5, 6, 24).to(dtype)
    looked = attention(x, code)
    with torch.no_grad():
        kernel = attention(x, code)
    assert looked.requires_grad and not kernel.requires_grad
    # Sums of at most 30 terms, three times after another, of numbers of order 1.
    assert (looked - kernel).abs().max() < 100 * torch.finfo(dtype).eps * kernel.abs().max()
