"""Hand-written gradients: they and the values are those of the formulas in the docstrings, to rounding."""

import pytest
import torch
from torch.nn import functional as F

from nbflows.nets import fast

FUNCTIONS = {
    "concat_elu": (lambda x, beta: fast.concat_elu(x), lambda x, beta: F.elu(torch.cat([x, -x], dim=1))),
    "lip_swish": (fast.lip_swish, lambda x, beta: F.silu(x * beta) / (1.1 * beta)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_the_formula(name, dtype):
    torch.manual_seed(0)
    x = (4 * torch.randn(3, 5, 4, 4, dtype=dtype)).requires_grad_()
    beta = torch.tensor(0.8, dtype=dtype, requires_grad=name == "lip_swish")
    inputs = [x, beta] if beta.requires_grad else [x]
    (ours, theirs), weights = (function(x, beta) for function in FUNCTIONS[name]), None
    weights = torch.randn_like(theirs)
    eps = torch.finfo(dtype).eps
    assert ours.dtype == dtype
    # A few operations, each rounded once; u = beta x is rounded too, and the slopes of both functions are at most 1.
    torch.testing.assert_close(ours, theirs, rtol=8 * eps, atol=8 * eps * x.abs().max().item())
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, theirs)]
    sizes = [weights.abs().max() * 2, *([(x.abs() * weights.abs()).sum()] if len(inputs) > 1 else [])]
    for a, b, size in zip(*gradients, sizes, strict=True):
        assert (a - b).abs().max() <= 16 * eps * (size * x.abs().max()).item()
