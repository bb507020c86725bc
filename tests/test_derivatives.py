"""Second derivatives and torch.func: right, or one clear error, for every bijection and every network."""

import pytest
import torch

from nbflows import nets, set_memory
from nbflows.flow import log_standard_normal
from nbflows.layers import ResidualBlock, SeriesLogDet, TruncatedSeries
from nbflows.nets.lipschitz import ACTIVATIONS, LipSwish
from tests.cases import CASES, make

EPS = torch.finfo(torch.float64).eps
INVERSE_RESIDUAL = "inverse of a residual block"
# Networks with what they take; batches of 2.
NETS = {
    "MADE": lambda: (nets.MADE(3, 5, 2, context_features=1), (3,), (1,)),
    "CausalSequenceNet": lambda: (nets.CausalSequenceNet(3, 2, 4, 8, 1, 2, context_features=1), (3, 2), (1,)),
    "MLP": lambda: (nets.MLP(3, 5, 4, context_features=1), (3,), (1,)),
    "ConvNet": lambda: (nets.ConvNet(2, 4, 3, context_channels=1), (2, 3, 4), (1, 3, 4)),
    "ActNormConvNet": lambda: (nets.ActNormConvNet(2, 4, 3), (2, 3, 4)),
    "GatedConvNet": lambda: (nets.GatedConvNet(2, 4, 3, num_blocks=2, context_channels=1), (2, 3, 4), (1, 3, 4)),
    "GatedAttentionNet": lambda: (nets.GatedAttentionNet(2, 8, 3, num_blocks=1), (2, 3, 4)),
    "GatedAttentionNet with dropout": lambda: (nets.GatedAttentionNet(2, 8, 3, num_blocks=2, dropout=0.3), (2, 3, 4)),
    "GatedAttentionNet without attention": lambda: (
        nets.GatedAttentionNet(2, 8, 3, num_blocks=1, num_heads=0),
        (2, 3, 4),
    ),
    "ConvLSTM": lambda: (nets.ConvLSTM(2, 3, 2, num_layers=2, kernel_size=3), (3, 2, 3, 4)),
    "ConvLSTM of one step": lambda: (nets.ConvLSTM(2, 3, 2, num_layers=1, kernel_size=3, dilation=2), (1, 2, 3, 4)),
    "PointwiseConv": lambda: (nets.PointwiseConv(2, 3), (2, 3, 4)),
    "ZeroConv": lambda: (nets.ZeroConv(2, 3), (2, 3, 4)),
    "PooledFeatures": lambda: (nets.PooledFeatures(2, 3), (2, 3, 4)),
    "LipschitzMLP": lambda: (nets.LipschitzMLP(3, 5, context_features=1), (3,), (1,)),
    **{
        f"LipschitzConvNet, {activation}": lambda activation=activation: (
            nets.LipschitzConvNet((2, 3, 4), 5, activation=activation),
            (2, 3, 4),
        )
        for activation in ACTIVATIONS
    },
}
# What a backward may see: gradients that need none themselves, of one output or the other, and the usual loss.
LOSSES = {
    "log_det": lambda z, log_det: log_det.sum(),
    "z": lambda z, log_det: z[:, ::2].sum(),
    "log_prob": lambda z, log_det: (log_standard_normal(z, log_det.dtype) + log_det).sum(),
}


def case_loss(name, loss):
    bijection, x, context = make(name, torch.float64)
    inputs = [x] if context is None else [x, context]
    return bijection, inputs, lambda x, context=None: LOSSES[loss](*bijection(x, context))


def make_net(name):
    torch.manual_seed(0)
    net, *shapes = NETS[name]()
    inputs = [torch.randn(2, *shape) for shape in shapes]
    net(*inputs)  # The first batch sets ActNorms.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    nets.update_norms(net)
    return net.double(), [x.double() for x in inputs]


def check_second_derivatives(function, inputs, parameters):
    """Products with the Hessian, for inputs and parameters, against differences of the gradient; and its symmetry."""
    tensors = [*(x.requires_grad_() for x in inputs), *parameters]
    generator = torch.Generator().manual_seed(0)
    directions = [[torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors] for _ in range(2)]

    def gradient(create_graph=False):
        value = function(*inputs)
        if not value.requires_grad:
            return [torch.zeros_like(t) for t in tensors]
        return torch.autograd.grad(value, tensors, create_graph=create_graph, materialize_grads=True)

    def product(direction):
        slope = dot(gradient(create_graph=True), direction)
        if not slope.requires_grad:
            return [torch.zeros_like(t) for t in tensors]
        return torch.autograd.grad(slope, tensors, materialize_grads=True)

    def moved(direction, step):
        with torch.no_grad():
            for t, d in zip(tensors, direction, strict=True):
                t.add_(d, alpha=step)
        try:
            return gradient()
        finally:
            with torch.no_grad():
                for t, d in zip(tensors, direction, strict=True):
                    t.sub_(d, alpha=step)

    def difference(direction, step):
        return [(a - b) / (2 * step) for a, b in zip(moved(direction, step), moved(direction, -step), strict=True)]

    # A gradient g, the sum of some thousand numbers, is rounded by 1e3 eps g, and its difference by 1e3 eps g / h.
    # The step is short, as ELU's second derivative jumps: what halving it changes bounds the rest of the error.
    step = 1e-6
    size = max(g.abs().max().item() for g in gradient())
    products = [product(d) for d in directions]
    coarse, fine = difference(directions[0], step), difference(directions[0], step / 2)
    for exact, a, b in zip(products[0], coarse, fine, strict=True):
        allowed = 2 * (a - b).abs().max() + 1e3 * EPS * (1 + size) / step
        assert (exact - b).abs().max() <= allowed
        # The check has teeth: the tolerance is far below the numbers.
        assert allowed <= 1e-3 * (1 + b.abs().max() + size)
    one, other = (dot(p, d) for p, d in zip(products, reversed(directions), strict=True))
    scale = sum(p.norm() * d.norm() for p, d in zip(products[0], directions[1], strict=True))
    assert (one - other).abs() <= 1e4 * EPS * (1 + scale + size)


def dot(left, right):
    return sum((a * b).sum() for a, b in zip(left, right, strict=True))


def without_beta(module):
    """All parameters but those of LipSwish, which have a test of their own."""
    own = {p for part in module.modules() if isinstance(part, LipSwish) for p in part.parameters()}
    return [p for p in module.parameters() if p not in own]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", sorted(CASES.keys() - {INVERSE_RESIDUAL}))
def test_second_derivatives_of_every_bijection_are_right(name, loss):
    bijection, inputs, function = case_loss(name, loss)
    check_second_derivatives(function, inputs, without_beta(bijection))


@pytest.mark.parametrize("name", NETS)
def test_second_derivatives_of_every_network_are_right(name):
    net, inputs = make_net(name)

    def function(*inputs):
        torch.manual_seed(1)  # The same dropout each time.
        return net(*inputs).sum()

    check_second_derivatives(function, inputs, without_beta(net))
    check_second_derivatives(lambda *inputs: function(*inputs).square(), inputs, without_beta(net))


def test_every_public_network_is_tried():
    tried = {type(part) for name in NETS for part in make_net(name)[0].modules()}
    # Copies numbers, in the case "coarse to fine"; takes integers.
    elsewhere = {nets.PickLevels, nets.CausalImageNet}
    public = {getattr(nets, name) for name in nets.__all__ if isinstance(getattr(nets, name), type)}
    assert public - tried - elsewhere == set()


@pytest.mark.parametrize("name", CASES)
def test_transforms_of_torch_func_are_right_or_a_clear_error(name):
    _, inputs, function = case_loss(name, "log_prob")
    x, *context = inputs
    v = torch.randn(x.shape, dtype=x.dtype)
    if "residual" in name:
        for transform in (torch.func.grad, torch.func.vmap, torch.func.jacfwd):
            with pytest.raises(RuntimeError, match=r"which torch\.func cannot transform"):
                transform(function)(x, *context)
        return
    x.requires_grad_()
    (expected,) = torch.autograd.grad(function(x, *context), x, create_graph=True)
    product = torch.zeros_like(x)
    if expected.requires_grad:
        (product,) = torch.autograd.grad(dot(expected, v), x, materialize_grads=True)
    x, expected = x.detach(), expected.detach()

    def equal(left, right):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-7 * (1 + right.abs().max().item()))

    gradient = torch.func.grad(lambda x: function(x, *context))
    equal(gradient(x), expected)
    # Forward over reverse, and reverse over reverse.
    equal(torch.func.jvp(gradient, (x,), (v,))[1], product)
    equal(torch.func.vjp(gradient, x)[1](v)[0], product)
    equal(torch.func.jvp(lambda x: function(x, *context), (x,), (v,))[1], dot(expected, v))
    one = torch.func.grad(lambda x, *context: function(x[None], *(c[None] for c in context)))
    if name == "inverse of a mixture coupling":
        with pytest.raises(RuntimeError, match=r"which torch\.func\.vmap cannot transform"):
            torch.func.vmap(one)(x, *context)
    else:
        equal(torch.func.vmap(one)(x, *context), expected)


@pytest.mark.parametrize("name", NETS)
def test_networks_have_per_example_gradients_under_vmap(name):
    net, inputs = make_net(name)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, *inputs):
        return torch.func.functional_call(net, parameters, tuple(x[None] for x in inputs)).square().sum()

    per_example = torch.func.vmap(torch.func.grad(loss), (None, *[0] * len(inputs)), randomness="different")
    got = per_example(parameters, *inputs)
    if "dropout" in name:
        return
    for i in range(2):
        value = net(*(x[i : i + 1] for x in inputs)).square().sum()
        expected = torch.autograd.grad(value, list(net.parameters()), materialize_grads=True)
        for key, e in zip(parameters, expected, strict=True):
            torch.testing.assert_close(got[key][i], e, rtol=1e-9, atol=1e-9 * (1 + e.abs().max().item()), msg=key)


def test_the_parameter_of_lipswish_has_second_derivatives_with_others_or_an_error():
    net, x = nets.LipSwish().double(), torch.randn(5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    (mixed,) = torch.autograd.grad(slope.square().sum(), net.raw)
    step = 1e-6

    def loss(raw):
        (slope,) = torch.autograd.grad(torch.func.functional_call(net, {"raw": raw.detach()}, x).sum(), x)
        return slope.square().sum()

    difference = (loss(net.raw + step) - loss(net.raw - step)) / (2 * step)
    torch.testing.assert_close(mixed, difference, rtol=1e-6, atol=1e-8)
    with pytest.raises(RuntimeError, match="has no gradient of its own; freeze the parameter"):
        torch.autograd.grad(net(x).sum(), net.raw, create_graph=True)


@pytest.mark.parametrize("memory", ["checkpoint", "invertible"])
@pytest.mark.parametrize("loss", LOSSES)
def test_recomputed_gradients_are_no_second_derivatives_and_say_so(memory, loss):
    bijection, (x,), function = case_loss("sequential", loss)
    set_memory(bijection, memory)
    with pytest.raises(RuntimeError, match="set_memory"):
        torch.autograd.grad(function(x.requires_grad_()), x, create_graph=True)
    # Nothing is kept under torch.func.
    gradient = torch.func.grad(function)(x.detach())
    set_memory(bijection, "plain")
    torch.testing.assert_close(gradient, torch.autograd.grad(function(x), x)[0])


@pytest.mark.parametrize("gradient", ["basic", "neumann"])
@pytest.mark.parametrize("in_forward", [True, False])
def test_estimated_log_dets_have_second_derivatives_or_say_how_to_get_them(gradient, in_forward):
    torch.manual_seed(0)
    net = nets.LipschitzMLP(3, 5, activation="sine").double()
    block = ResidualBlock(net, SeriesLogDet(TruncatedSeries(4), gradient=gradient, in_forward=in_forward))
    x = torch.randn(4, 3, dtype=torch.float64)

    def function(x):
        torch.manual_seed(1)  # The same probes each time.
        return block(x)[1].sum()

    if gradient == "basic" and not in_forward:
        check_second_derivatives(function, [x], list(net.parameters()))
        return
    with pytest.raises(RuntimeError, match=r'SeriesLogDet\(\.\.\., gradient="basic", in_forward=False\) has one'):
        torch.autograd.grad(function(x.requires_grad_()), x, create_graph=True)


def test_the_inverse_of_a_residual_block_is_differentiated_once_or_says_so():
    _, (x,), function = case_loss(INVERSE_RESIDUAL, "z")
    torch.autograd.grad(function(x.requires_grad_()), x)
    with pytest.raises(RuntimeError, match="inverse of a residual block has no gradient of its own"):
        torch.autograd.grad(function(x), x, create_graph=True)


@pytest.mark.parametrize("name", [name for name in CASES if "residual" not in name])
def test_second_derivatives_of_inverses_are_right(name):
    bijection, x, context = make(name, torch.float64)
    with torch.no_grad():
        z, _ = bijection(x, context)
    inputs = [z] if context is None else [z, context]
    check_second_derivatives(
        lambda *inputs: bijection.inverse(*inputs).cos().sum(), inputs, list(bijection.parameters())
    )


@pytest.mark.parametrize("name", ["mixture coupling", "affine coupling, second half", "ConvLSTM prior without context"])
def test_gradients_in_batches_are_those_one_by_one(name):
    bijection, (x,), _ = case_loss(name, "z")
    z, _ = bijection(x.requires_grad_())
    units = torch.eye(z[0].numel(), dtype=z.dtype).view(-1, 1, *z[0].shape)[:5].expand(-1, *z.shape)
    batched = torch.func.vmap(lambda unit: torch.autograd.grad(z, x, unit, retain_graph=True)[0])(units)
    for unit, row in zip(units, batched, strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(z, x, unit, retain_graph=True)[0])
