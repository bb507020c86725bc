"""The norm of a layer's operator: that of the true zero-padded operator, with its gradient."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from nbflows.nets import LipschitzConvNet, LipschitzMLP, OperatorNorm, update_norms

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
EPS = torch.finfo(torch.float64).eps

# (out, in[, k, k]) and the images' size: both orientations, not square, smaller than the kernel.
OPERATORS = [
    ((5, 3), None),
    ((3, 7), None),
    ((4, 4), None),
    ((6, 2, 3, 3), (5, 5)),
    ((2, 6, 3, 3), (5, 5)),
    ((3, 3, 3, 3), (4, 7)),
    ((4, 2, 5, 5), (6, 3)),
    ((2, 4, 3, 3), (2, 1)),
    ((3, 2, 5, 5), (2, 2)),
    ((2, 3, 5, 5), (1, 3)),
    ((6, 4, 1, 1), (3, 4)),
    ((3, 5, 1, 1), (4, 2)),
]
EACH_OPERATOR = pytest.mark.parametrize(("shape", "size"), OPERATORS)


def _dense(weight, size):
    """The matrix of a layer: what it makes of each unit vector, as columns."""
    if size is None:
        return weight
    unit = torch.eye(weight.shape[1] * math.prod(size), dtype=weight.dtype).view(-1, weight.shape[1], *size)
    return F.conv2d(unit, weight, padding=weight.shape[-1] // 2).flatten(1).T


def _layer(weight, size, **settings):
    """A layer with that weight, its norm, and the parameter behind it."""
    layer = nn.Linear(1, 1) if size is None else nn.Conv2d(1, 1, 1)
    layer.weight = nn.Parameter(weight.clone())
    norm = OperatorNorm(layer.weight, size, **settings)
    parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
    return layer, norm, layer.parametrizations.weight.original


def _gap(singular):
    """1 - t, with t the squared ratio of the largest singular value and the next one that differs from it."""
    smaller = singular[singular < singular[0] * (1 - 1e-9)]
    return 1 - (smaller[0] / singular[0]).item() ** 2 if len(smaller) else 1.0


def _weight_and_gap(shape, size, smallest_gap=0.03):
    """A random weight whose largest singular value stands apart from the next, for power iteration to end soon."""
    gap = 0.0
    while gap < smallest_gap:
        weight = torch.randn(shape, dtype=torch.float64)
        gap = _gap(torch.linalg.svdvals(_dense(weight, size)))
    return weight, gap


@EACH_OPERATOR
def test_sigma_is_the_largest_singular_value_of_the_operator(shape, size):
    weight, gap = _weight_and_gap(shape, size)
    norm = OperatorNorm(weight, size, tolerance=1e-12)
    assert norm.transposed == (shape[0] < shape[1])
    sigma = torch.linalg.matrix_norm(_dense(weight, size), 2)
    # For a v at a small angle a to the right one, half a step raises sigma by the share a^2 (1 - t)^2 / 2, and
    # a^2 (1 - t) / 2 of it is missing: the share over 1 - t. It counts for one of all vectors. Rounding adds to that.
    missing = 1 - norm.sigma(weight).item() / sigma.item()
    assert -100 * EPS < missing < (1 + len(norm.others)) * 1e-12 / gap + 100 * EPS


# Larger images, where the search starts from a wave.
LARGER = [((3, 2, 3, 3), (9, 12)), ((2, 4, 5, 5), (10, 9))]


@BOTH
@pytest.mark.parametrize(("shape", "size"), OPERATORS + LARGER)
def test_at_the_default_tolerance_a_singular_value_lies_close(shape, size, dtype):
    for _ in range(10):
        weight = torch.randn(shape, dtype=dtype)
        norm = OperatorNorm(weight, size)
        sigma = norm.sigma(weight).double()
        singular = torch.linalg.svdvals(_dense(weight.double(), size))
        # Half a step raises sigma by a share e of (|W^T W v|^2 / sigma^4 - 1) / 2 or more: the residual of W^T W is at
        # most sqrt(2 e) sigma^2, and a singular value within half of that. e counts for one of all vectors.
        share = (1 + len(norm.others)) * norm.tolerance
        assert ((singular - sigma) / sigma).abs().min() <= (share / 2) ** 0.5 + share
        assert sigma <= singular[0] * (1 + 100 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(("shape", "size"), OPERATORS + LARGER)
def test_the_scaled_operator_has_a_norm_below_1_whatever_the_start(shape, size):
    for _ in range(40):
        weight = 3 * torch.randn(shape)
        norm = OperatorNorm(weight, size)
        assert torch.linalg.matrix_norm(_dense(norm(weight), size), 2) < 1


@pytest.mark.parametrize("size", [(5, 5), (2, 3), (12, 9)])
def test_sigma_is_not_the_norm_of_the_kernel_as_a_matrix(size):
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    as_matrix = torch.linalg.matrix_norm(weight.flatten(1), 2)
    assert (OperatorNorm(weight, size, tolerance=1e-8).sigma(weight) / as_matrix - 1).abs() > 0.02


def test_the_norm_grows_with_the_image_up_to_that_of_an_endless_one():
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    norms = [OperatorNorm(weight, (side, side), tolerance=1e-12).sigma(weight).item() for side in (1, 2, 4, 16)]
    assert norms == sorted(norms) and abs(norms[0] - 1) < 1e-9 and abs(norms[1] - 4) < 1e-9 and 8.5 < norms[3] < 9


@BOTH
@EACH_OPERATOR
def test_a_weight_below_the_bound_is_untouched(shape, size, dtype):
    weight = torch.randn(shape, dtype=dtype)
    weight = weight / (2 * torch.linalg.matrix_norm(_dense(weight, size), 2))
    layer, _, original = _layer(weight, size)
    assert torch.equal(layer.weight, weight)
    layer.weight.sum().backward()
    assert torch.equal(original.grad, torch.ones_like(weight))


@BOTH
@EACH_OPERATOR
def test_a_weight_above_the_bound_is_scaled_onto_it(shape, size, dtype):
    weight = 5 * torch.randn(shape, dtype=dtype)
    layer, norm, _ = _layer(weight, size, coeff=0.7)
    scale = (layer.weight / weight).flatten()
    eps = torch.finfo(dtype).eps
    assert (scale / scale[0] - 1).abs().max() < 4 * eps
    assert abs(norm.sigma(layer.weight).item() / 0.7 - 1) < 100 * eps


@pytest.mark.parametrize(("zeros", "size"), [((4, 3, 3, 3), (9, 9)), ((4, 3, 3, 3), (5, 5)), ((4, 3), None)])
def test_a_weight_of_zeros_stays_zero_and_has_a_gradient(zeros, size):
    layer, _, original = _layer(torch.zeros(zeros), size)
    update_norms(layer)
    assert torch.equal(layer.weight, torch.zeros(zeros))
    layer.weight.sum().backward()
    assert torch.equal(original.grad, torch.ones(zeros))


@EACH_OPERATOR
def test_the_gradient_is_that_through_the_singular_value(shape, size):
    weight, gap = _weight_and_gap(shape, size)
    weight = 2 * weight
    layer, norm, original = _layer(weight, size, tolerance=1e-10)
    # On to the limit of rounding: the gradient is linear in v's angle, of which tolerance leaves its root.
    for _ in range(int(18 / gap)):
        norm.step(weight)
    direction = torch.randn_like(weight)
    (ours,) = torch.autograd.grad((layer.weight * direction).sum(), original)
    raw = weight.clone().requires_grad_()
    sigma = torch.linalg.svdvals(_dense(raw, size))[0]
    (theirs,) = torch.autograd.grad((raw / (sigma / 0.98).clamp(min=1) * direction).sum(), raw)
    # v carries a rounding error per element, which power iteration damps by t per step: 1 / (1 - t) of them in all.
    assert (ours - theirs).abs().max() < 1e3 * EPS / gap * theirs.abs().max()


@BOTH
def test_a_saved_net_is_loaded_with_its_norms_without_a_forward(dtype):
    def make():
        return LipschitzConvNet((2, 3, 4), 5).to(dtype)

    net = make()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
    update_norms(net)
    other = make()
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 2, 3, 4, dtype=dtype)
    assert torch.equal(other(x), net(x))
    clone = copy.deepcopy(net)
    assert torch.equal(clone(x), net(x))
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.zero_()
    assert torch.equal(other(x), net(x))


@BOTH
@EACH_OPERATOR
def test_update_norms_follows_a_change_of_the_weights(shape, size, dtype):
    layer, norm, weight = _layer(torch.randn(shape, dtype=dtype), size)
    before = norm.vector.clone()
    with torch.no_grad():
        weight.copy_(3 * torch.randn_like(weight))
    stale = norm.sigma(weight)
    update_norms(layer)
    assert norm.sigma(weight) > stale and not torch.equal(norm.vector, before)
    assert torch.linalg.matrix_norm(_dense(layer.weight.detach().double(), size), 2) < 1
    # Converged: another step is one step only, and raises it by less than the tolerance.
    assert norm.step(weight) <= norm.tolerance


def test_update_norms_takes_one_step_at_least_and_costs_one_wait_for_all():
    net = LipschitzMLP(4, 6)
    update_norms(net)
    norms = [module for module in net.modules() if isinstance(module, OperatorNorm)]
    before = [norm.vector.clone() for norm in norms]
    update_norms(net)
    assert not any(torch.equal(norm.vector, old) for norm, old in zip(norms, before, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_an_error(bad):
    net = LipschitzConvNet((1, 4, 4), 3)
    with torch.no_grad():
        net.layers[3].parametrizations.weight.original[0, 0] = bad
    with pytest.raises(RuntimeError, match="a weight that is not finite"):
        update_norms(net)


def test_too_few_steps_are_an_error_with_the_numbers():
    weight = torch.randn(6, 5)
    with pytest.raises(RuntimeError, match=r"not converged in 3 steps: .* share of \d\.\de-\d\d; allow more max_steps"):
        OperatorNorm(weight, tolerance=1e-12, max_steps=3)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@EACH_OPERATOR
def test_a_norm_is_not_computed_in_half_precision(shape, size, half):
    layer, _, _ = _layer(3 * torch.randn(shape), size)
    expected = layer.weight.clone()
    with torch.autocast("cpu", half):
        weight = layer.weight
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OperatorNorm(torch.ones(3)), r"got (3,) and None"),
        (lambda: OperatorNorm(torch.ones(3, 3, 3)), r"got (3, 3, 3) and None"),
        (lambda: OperatorNorm(torch.ones(2, 2), (4, 4)), r"got (2, 2) and (4, 4)"),
        (lambda: OperatorNorm(torch.ones(2, 2, 3, 3)), r"got (2, 2, 3, 3) and None"),
        (lambda: OperatorNorm(torch.ones(2, 2, 3, 1), (4, 4)), r"square and of odd size, got (3, 1)"),
        (lambda: OperatorNorm(torch.ones(2, 2, 2, 2), (4, 4)), r"square and of odd size, got (2, 2)"),
        (lambda: OperatorNorm(torch.ones(2, 2), coeff=0.0), "coeff and tolerance are positive, got 0.0 and 0.0001"),
        (lambda: OperatorNorm(torch.ones(2, 2), coeff=math.nan), "coeff and tolerance are positive, got nan"),
        (lambda: OperatorNorm(torch.ones(2, 2), tolerance=-1.0), "coeff and tolerance are positive, got 0.98 and -1.0"),
    ],
)
def test_bad_arguments_are_errors_with_the_numbers(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
