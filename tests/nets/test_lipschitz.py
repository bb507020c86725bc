"""LipSwish with all its derivatives, and networks whose Lipschitz constant stays below the bound that they promise."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nbflows.nets import LipschitzConvNet, LipschitzMLP, LipSwish, update_norms
from nbflows.nets.lipschitz import ACTIVATIONS

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def _lipswish(x, raw):
    """The module with ``raw`` as an input."""
    return torch.func.functional_call(LipSwish(), {"raw": raw}, (x,))


def _formula(x, raw):
    return x * torch.sigmoid(F.softplus(raw) * x) / 1.1


def _x_and_raw():
    x = torch.cat([torch.randn(20, dtype=torch.float64), torch.tensor([0.0, 40.0, -40.0, 900.0, -900.0]).double()])
    return x.requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)


@BOTH
def test_lipswish_is_its_formula(dtype):
    x, raw = (tensor.detach().to(dtype) for tensor in _x_and_raw())
    assert LipSwish().raw.item() == 0.5 and LipSwish()(x).dtype == dtype
    # Its factors are rounded a few times each.
    torch.testing.assert_close(_lipswish(x, raw), _formula(x, raw), rtol=32 * torch.finfo(dtype).eps, atol=1e-37)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_lipswish_without_gradients_has_the_same_numbers(dtype):
    activation, x = LipSwish(raw=0.8), torch.linspace(-6, 6, 101, dtype=dtype)
    before = x.clone()
    with torch.no_grad():
        alone = activation(x)
    assert torch.equal(alone, activation(x)) and alone.dtype == dtype
    assert torch.equal(x, before)


def test_first_derivatives_pass_the_check_of_autograd():
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    raw = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_lipswish, (x, raw))
    assert torch.autograd.gradcheck(lambda x: _lipswish(x, raw.detach()), (x,))
    assert torch.autograd.gradcheck(lambda raw: _lipswish(x.detach(), raw), (raw,))


def test_second_derivatives_in_x_pass_the_check_of_autograd():
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    raw = torch.tensor(0.3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: _lipswish(x, raw), (x,))

    def slopes(x, raw):
        return torch.autograd.grad(_lipswish(x, raw).sum(), x, create_graph=True)[0]

    # The slope as a function of x and of raw: the mixed derivative that training a log-determinant needs.
    assert torch.autograd.gradcheck(slopes, (x, raw.clone().requires_grad_()))


def test_derivatives_of_every_order_are_those_of_the_formula():
    x, raw = _x_and_raw()
    v, w = torch.randn(2, len(x), dtype=torch.float64)
    results = []
    for function in (_lipswish, _formula):
        # One after another: what passes the second on its way back depends on x as well.
        y = function(1.3 * function(x, raw), raw)
        first = torch.autograd.grad((y * v).sum(), [x, raw], retain_graph=True)
        (slope,) = torch.autograd.grad((y * v).sum(), x, create_graph=True)
        # Of v^T J w: in x, and mixed with raw.
        second = torch.autograd.grad((slope * w).sum(), [x, raw], retain_graph=True)
        (curvature,) = torch.autograd.grad((slope * w).sum(), x, create_graph=True)
        third = torch.autograd.grad((curvature * v).sum(), x, retain_graph=True)
        results.append([*first, *second, *third])
    for ours, theirs in zip(*results, strict=True):
        # Sums of 25 terms, of which the largest is some 900^2: what is missing comes from u gate (1 - gate) at u = 40,
        # where 1 - gate is rounded off entirely, of a true value exp(-40).
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["sum", "square"])
def test_the_gradient_of_beta_cannot_be_differentiated_and_says_so(loss):
    x, raw = _x_and_raw()
    y = _lipswish(x, raw)
    # Also where the incoming gradient is a constant: the result would silently be taken for one too.
    with pytest.raises(RuntimeError, match="gradient of LipSwish for its parameter has no gradient of its own"):
        torch.autograd.grad((y if loss == "sum" else y.square()).sum(), raw, create_graph=True)


@BOTH
@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_frozen_beta_changes_no_value_and_no_gradient_of_x(requires_grad, dtype):
    activation = LipSwish().to(dtype).requires_grad_(requires_grad)
    x = torch.randn(5, dtype=dtype, requires_grad=True)
    y = activation(x)
    torch.testing.assert_close(y, _formula(x, activation.raw))
    (ours,), (theirs,) = (torch.autograd.grad(value.sum(), x) for value in (y, _formula(x, activation.raw)))
    torch.testing.assert_close(ours, theirs)


def _slopes(name, raw=None):
    activation = ACTIVATIONS[name]().double()
    if raw is not None:
        nn.init.constant_(activation.raw, raw)
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64, requires_grad=True)
    return x, torch.autograd.grad(activation(x).sum(), x)[0]


@pytest.mark.parametrize("raw", [0.5, -1.0, 3.0])
def test_the_slope_of_lipswish_has_the_published_extremes(raw):
    x, slope = _slopes("lipswish", raw)
    # In beta x the curve is always the same. Half a unit of the published digits.
    assert abs(slope.max().item() - 0.99985) < 5e-6 and slope.max() < 1
    assert abs(slope.min().item() - -0.0908) < 5e-5
    assert abs(x[slope.argmax()].item() * math.log1p(math.exp(raw)) - 2.40) < 5e-3


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_no_activation_is_steeper_than_1(name):
    _, slope = _slopes(name)
    assert 0.99 < slope.abs().max() <= 1


def _scaled_up(net, factor=10.0):
    with torch.no_grad():
        for layer in net.layers:
            if hasattr(layer, "parametrizations"):
                layer.parametrizations.weight.original.mul_(factor)
                layer.bias.normal_()
    return net


def _jacobian(net, x, context=None):
    def row(x):
        return net(x[None], None if context is None else context[:1])[0]

    return torch.autograd.functional.jacobian(row, x).reshape(x.numel(), x.numel())


NETS = {
    "convolutions": lambda act: LipschitzConvNet((2, 3, 4), 8, activation=act, coeff=0.9),
    "one convolution": lambda act: LipschitzConvNet((2, 4, 3), 8, (3,), act, 0.9, False),
    "linear layers": lambda act: LipschitzMLP(5, 16, 2, act, 0.9),
}
NUM_LAYERS = {"convolutions": 3, "one convolution": 1, "linear layers": 3}


@BOTH
@pytest.mark.parametrize("activation", ["lipswish", "elu", "sine"])
@pytest.mark.parametrize("name", sorted(NETS))
def test_no_two_points_are_torn_further_apart_than_the_bound(name, activation, dtype):
    net = NETS[name](activation).to(dtype)
    _scaled_up(net)
    update_norms(net)
    # Every norm may lack what its docstring says.
    bound = (0.9 * (1 + (1e-4 / 2) ** 0.5 + 1e-4)) ** NUM_LAYERS[name]
    shape = (5,) if name == "linear layers" else net.shape
    largest = 0.0
    with torch.no_grad():
        for distance in (1e-2, 1.0, 10.0):
            a = 2 * torch.randn(500, *shape, dtype=dtype)
            b = a + distance * torch.randn_like(a)
            before, after = (torch.linalg.vector_norm((u - v).flatten(1), dim=1) for u, v in ((a, b), (net(a), net(b))))
            largest = max(largest, (after / before).max().item())
    # Rounding of g, over the smallest distance.
    assert largest <= bound + 100 * torch.finfo(dtype).eps / 1e-2
    jacobians = [_jacobian(net, 2 * torch.randn(shape, dtype=dtype)) for _ in range(5)]
    norms = [torch.linalg.matrix_norm(matrix.double(), 2) for matrix in jacobians]
    assert max(norms) <= bound
    # The bound was needed: without it the same weights are far beyond.
    for layer in net.layers:
        if hasattr(layer, "parametrizations"):
            layer.parametrizations.weight[0].coeff = 1e6
    assert torch.linalg.matrix_norm(_jacobian(net, 0.1 * torch.randn(shape, dtype=dtype)).double(), 2) > bound


@BOTH
def test_a_layer_without_activation_in_front_reaches_its_bound(dtype):
    net = LipschitzMLP(4, 4, num_hidden=0, coeff=0.9, first_activation=False).to(dtype)
    update_norms(_scaled_up(net, 100.0))
    norm = torch.linalg.matrix_norm(_jacobian(net, torch.zeros(4, dtype=dtype)).double(), 2).item()
    assert 0.9 * (1 - 1e-6) < norm < 0.9 * (1 + (1e-4 / 2) ** 0.5 + 1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_activations_and_layers_take_turns(first):
    for net in (LipschitzConvNet((1, 4, 4), 3, first_activation=first), LipschitzMLP(2, 3, first_activation=first)):
        kinds = [type(layer).__name__ for layer in net.layers]
        assert [kind == "LipSwish" for kind in kinds] == ([True, False] * 3)[0 if first else 1 :]
    assert [layer.kernel_size for layer in LipschitzConvNet((1, 4, 4), 3).layers[1::2]] == [(3, 3), (1, 1), (3, 3)]


@BOTH
def test_the_context_reaches_the_output_and_another_example_does_not(dtype):
    nets = [
        (LipschitzConvNet((2, 3, 4), 6, context_channels=3), (2, 3, 4), (3, 3, 4)),
        (LipschitzMLP(3, 6, context_features=2), (3,), (2,)),
    ]
    for net, shape, context_shape in nets:
        net = net.to(dtype)
        x, context = torch.randn(4, *shape, dtype=dtype), torch.randn(4, *context_shape, dtype=dtype)
        y = net(x, context)
        assert y.shape == x.shape and y.dtype == dtype
        changed = context.clone()
        changed[1] += 1
        differs = (net(x, changed) - y).flatten(1).abs().amax(1)
        assert differs[1] > 1e-3 and differs[[0, 2, 3]].max() <= 4 * torch.finfo(dtype).eps
        with pytest.raises(ValueError, match=r"this network was built for a context of .*, got none"):
            net(x)


def test_half_precision_runs_inside_and_the_result_keeps_the_dtype_of_x():
    net, x = LipschitzConvNet((2, 4, 4), 8), torch.randn(3, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.float32 and not torch.equal(y, net(x))
    # Three layers of norm below 1, each of which rounds its weight, its input and its output to 8 bits: 2^-9 of
    # numbers that are no larger than those of x and the biases.
    size = x.flatten(1).norm(dim=1).max() + sum(layer.bias.norm() * 4 for layer in net.layers[1::2])
    assert (y - net(x)).flatten(1).norm(dim=1).max() < 9 * 2**-9 * size


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LipschitzConvNet((1, 4, 4), 3)(torch.zeros(2, 1, 4, 5)),
            "the norms of this net hold for images (1, 4, 4), got (1, 4, 5)",
        ),
        (lambda: LipschitzConvNet((1, 4, 4), 3)(torch.zeros(2, 2, 4, 4)), "images (1, 4, 4), got (2, 4, 4)"),
        (lambda: LipschitzMLP(2, 3, activation="gelu"), "activation is one of lipswish, elu, relu"),
        (lambda: LipschitzMLP(2, 3, activation="gelu"), "got 'gelu'"),
        (lambda: LipschitzConvNet((1, 4, 4), 3, (3, 2, 3)), "a kernel is square and of odd size, got (2, 2)"),
        (lambda: LipschitzMLP(2, 3, coeff=-1.0), "coeff and tolerance are positive, got -1.0"),
    ],
)
def test_bad_arguments_are_errors_with_the_numbers(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
