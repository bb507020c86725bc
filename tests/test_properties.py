"""What every bijection must satisfy, over all of CASES; and what is refused."""

import pytest
import torch

import nbflows
from nbflows import Bijection, Identity, Inverse, Multiscale, Sequential, WithContext, check_bijection
from nbflows.layers import AffineCoupling, Flip, Logit, Permute, Squeeze, checkerboard
from nbflows.nets import MLP, ConvNet, GatedConvNet
from tests.cases import CASES, make

# Integers in, so not a function of a real x; their tests are in layers/test_dequantize.py and layers/test_subset.py.
NOT_STRICTLY_BIJECTIVE = {"Dequantize", "GaussianNoise", "SubsetAutoregressive", "VariationalDequantize"}


def test_every_public_bijection_has_a_case():
    public = [getattr(nbflows, name) for name in nbflows.__all__]
    public += [getattr(nbflows.layers, name) for name in nbflows.layers.__all__]
    classes = {c for c in public if isinstance(c, type) and issubclass(c, Bijection) and c is not Bijection}
    covered = {type(module) for name in CASES for module in make(name)[0].modules()}
    missing = {c.__name__ for c in classes - covered} - NOT_STRICTLY_BIJECTIVE
    assert not missing


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_round_trip_shapes_and_log_det_hold(name, dtype):
    bijection, x, context = make(name, dtype)
    check_bijection(bijection, x, context)


@pytest.mark.parametrize("name", CASES)
def test_the_other_round_trip_holds_too(name):
    bijection, x, context = make(name, torch.float64)
    z = bijection(x, context)[0].detach()
    torch.testing.assert_close(bijection(bijection.inverse(z, context), context)[0], z, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_gets_a_gradient(name):
    bijection, x, context = make(name)
    z, log_det = bijection(x.requires_grad_(), context)
    (z.square().sum() + log_det.sum()).backward()
    for parameter_name, parameter in bijection.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", CASES)
def test_examples_do_not_depend_on_their_batch(name):
    bijection, x, context = make(name, torch.float64)
    z, log_det = bijection(x, context)
    z_alone, log_det_alone = bijection(x[:1], None if context is None else context[:1])
    torch.testing.assert_close(z_alone, z[:1], atol=1e-10, rtol=0)
    torch.testing.assert_close(log_det_alone, log_det[:1], atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_weights_carry_over_through_a_state_dict(name):
    bijection, x, context = make(name)
    torch.manual_seed(1)
    copy = CASES[name]()[0]
    copy.load_state_dict(bijection.state_dict())
    assert torch.equal(copy(x, context)[0], bijection(x, context)[0])


@pytest.mark.parametrize("name", CASES)
def test_the_inverse_leaves_its_input_alone(name):
    bijection, x, context = make(name)
    z = bijection(x, context)[0].detach()
    before = z.clone()
    bijection.inverse(z, context)
    assert torch.equal(z, before)


def test_log_det_stays_float32_when_the_data_are_bfloat16():
    _, log_det = Sequential(Flip(), Squeeze())(torch.randn(2, 1, 4, 4, dtype=torch.bfloat16))
    assert log_det.dtype == torch.float32


@pytest.mark.parametrize(
    ("make_it", "exception", "message"),
    [
        (lambda: Squeeze().output_shape((1, 7, 8)), ValueError, "even height and width, got 7x8"),
        (lambda: Squeeze()(torch.zeros(1, 1, 3, 4)), ValueError, "got 3x4"),
        (lambda: Permute([0, 0]), ValueError, "each of 0..1 once"),
        (lambda: Permute([1, 0])(torch.zeros(1, 3)), ValueError, "2 channels, got 3"),
        (lambda: AffineCoupling(MLP(1, 2, 2), keep="last"), ValueError, "'last'"),
        (lambda: AffineCoupling(MLP(1, 2, 2), keep=torch.ones(1, 2, 2)), ValueError, "bool tensor"),
        (lambda: AffineCoupling(MLP(1, 2, 2))(torch.zeros(1, 3)), ValueError, "got 3"),
        (lambda: AffineCoupling(ConvNet(1, 2, 2), checkerboard(4, 4)).output_shape((1, 4, 5)), ValueError, "(1, 4, 5)"),
        (
            lambda: AffineCoupling(MLP(3, 2, 6), torch.ones(3).bool())(torch.zeros(1, 4)),
            ValueError,
            "(3,) does not fit",
        ),
        (lambda: Sequential(Flip(), torch.nn.ReLU()), ValueError, "layer 1 is a ReLU"),
        (lambda: Inverse(Squeeze()).output_shape((1, 4, 4)), ValueError, "keeps the shape"),
        (lambda: Logit(1.0), ValueError, "got 1.0"),
        (lambda: Multiscale([], (1, 4, 4)), ValueError, "0 levels"),
        (lambda: Multiscale([Squeeze()], (1, 4, 4), keep="left"), ValueError, "'left'"),
        (lambda: Multiscale([Identity(), Identity()], (1, 4, 4)), ValueError, "1 channels"),
        (lambda: Multiscale([Squeeze()], (1, 4, 4), priors=[Squeeze()]), ValueError, "prior of level 0"),
        (lambda: Multiscale([Squeeze()], (1, 4, 4))(torch.zeros(1, 1, 8, 8)), ValueError, "(1, 8, 8)"),
        (lambda: Multiscale([Squeeze()], (1, 4, 4)).output_shape((1, 8, 8)), ValueError, "(1, 8, 8)"),
        (lambda: WithContext(Identity(), ConvNet(1, 2, 2))(torch.zeros(1, 1)), ValueError, "no context"),
        (lambda: ConvNet(1, 2, 2, context_channels=2)(torch.zeros(1, 1, 2, 2)), ValueError, "got none"),
        (
            lambda: GatedConvNet(1, 2, 2, context_channels=2)(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)),
            ValueError,
            "got (1, 1, 2, 2)",
        ),
        (lambda: check_bijection(Identity(), torch.zeros(2, 2, dtype=torch.int64)), ValueError, "real data"),
    ],
)
def test_bad_input_is_a_clear_error(make_it, exception, message):
    with pytest.raises(exception) as error:
        make_it()
    assert message in str(error.value)
