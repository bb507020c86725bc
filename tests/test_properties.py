"""What every bijection must satisfy, over all of CASES; and what each layer does in particular."""

import math

import pytest
import torch

import nbflows
from nbflows import Bijection, BijectionError, Identity, Inverse, Multiscale, Sequential, WithContext, check_bijection
from nbflows.checks import jacobian
from nbflows.layers import AffineCoupling, Flip, LearnedTanh, Logit, Permute, SigmoidScale, Squeeze, checkerboard
from nbflows.nets import MLP, ConvNet, GatedConvNet
from tests.cases import CASES, make

# Integers in, so not a function of a real x; they have tests of their own in layers/test_dequantize.py.
NOT_STRICTLY_BIJECTIVE = {"Dequantize", "VariationalDequantize"}


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


def test_squeeze_puts_pixel_dy_dx_of_channel_c_in_channel_4c_plus_2dy_plus_dx():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    z, _ = Squeeze()(x)
    for c in range(2):
        for dy in range(2):
            for dx in range(2):
                assert torch.equal(z[0, 4 * c + 2 * dy + dx], x[0, c, dy::2, dx::2])


def test_a_coupling_keeps_what_it_keeps_and_its_jacobian_is_triangular():
    bijection, x, _ = make("affine coupling, first half", torch.float64)
    z, _ = bijection(x)
    assert torch.equal(z[:, :2], x[:, :2])
    assert torch.equal(jacobian(bijection, x)[:, :2, 2:], torch.zeros(5, 2, 2, dtype=torch.float64))


def test_a_masked_coupling_does_not_look_at_what_it_moves():
    bijection, x, context = make("affine coupling, mask", torch.float64)
    mask = checkerboard(4, 6)
    changed = torch.where(mask, x, x + 1)
    t, s = bijection._shift_and_log_scale(*bijection.split.split(x), context)
    t_changed, s_changed = bijection._shift_and_log_scale(*bijection.split.split(changed), context)
    assert torch.equal(t, t_changed)
    assert torch.equal(s, s_changed)


def test_couplings_start_as_the_identity():
    for net in (ConvNet(2, 4, 4), GatedConvNet(2, 4, 4)):
        x = torch.randn(3, 4, 2, 2)
        z, log_det = AffineCoupling(net)(x)
        assert torch.equal(z, x)
        assert torch.equal(log_det, torch.zeros(3))


def test_shift_first_is_the_same_map_with_the_shift_scaled():
    net = MLP(1, 8, 2)
    torch.nn.init.normal_(net.layers[-1].weight)
    x = torch.randn(4, 2)
    t, raw = net(x[:, :1]).chunk(2, dim=1)
    after, _ = AffineCoupling(net)(x)
    first, _ = AffineCoupling(net, shift_first=True)(x)
    torch.testing.assert_close(after[:, 1:], x[:, 1:] * raw.tanh().exp() + t)
    torch.testing.assert_close(first[:, 1:], (x[:, 1:] + t) * raw.tanh().exp())


def test_learned_tanh_is_bounded_by_its_limit_and_has_slope_one_at_zero():
    bound = LearnedTanh(2)
    torch.nn.init.constant_(bound.log_limit, 0.7)
    raw = torch.tensor([0.0, 1e3]).view(1, 2, 1, 1).requires_grad_()
    s = bound(raw)
    assert s[0, 1].item() == pytest.approx(torch.tensor(0.7).exp().item())
    (slope,) = torch.autograd.grad(s[0, 0].sum(), raw)
    assert slope[0, 0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("lowest", [0.0, 0.5])
def test_sigmoid_scales_lie_between_the_lowest_and_one_and_start_near_the_identity(lowest):
    bound = SigmoidScale(lowest=lowest)
    # float32's exp(-90) is still above 0.
    scales = bound(torch.tensor([-90.0, 0.0, 90.0])).exp()
    start = lowest + (1 - lowest) / (1 + math.exp(-2))
    torch.testing.assert_close(scales, torch.tensor([lowest, start, 1.0]))
    with pytest.raises(ValueError, match=r"lowest is at least 0 and below 1, got 1\.5"):
        SigmoidScale(lowest=1.5)


def test_with_context_computes_its_features_from_the_context():
    bijection, x, context = make("with context")
    assert not torch.allclose(bijection(x, context)[0], bijection(x, context + 1)[0])


def test_multiscale_unpacks_what_it_packs():
    bijection, x, _ = make("multiscale, keeping first")
    z, _ = bijection(x)
    levels = bijection.unpack(z)
    assert [tuple(level.shape[1:]) for level in levels] == [(2, 4, 2), (8, 2, 1)]
    assert torch.equal(bijection.pack(levels), z)


def test_multiscale_gives_each_prior_the_half_that_goes_on():
    seen = []

    class Spy(Identity):
        def forward(self, x, context=None):
            seen.append(context)
            return super().forward(x, context)

    bijection = Multiscale([Squeeze(), Squeeze()], (1, 4, 4), priors=[Spy(), Spy()])
    x, context = torch.randn(2, 1, 4, 4), torch.randn(2, 3)
    bijection(x, context)
    torch.testing.assert_close(seen[0], Squeeze()(x)[0][:, :2])
    assert seen[1] is context


def test_flip_twice_is_the_identity_and_permute_inverts_by_argsort():
    x = torch.randn(2, 3, 1, 1)
    assert torch.equal(Flip()(Flip()(x)[0])[0], x)
    assert torch.equal(Permute([1, 2, 0])(x)[0], x[:, [1, 2, 0]])


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


class _Broken(Bijection):
    """Doubles x; each argument breaks one promise."""

    def __init__(self, **breaks):
        super().__init__()
        self.breaks = breaks

    def forward(self, x, context=None):
        log_det = torch.full((len(x),), x[0].numel() * torch.tensor(2.0).log().item(), dtype=x.dtype)
        if "in_place" in self.breaks:
            return x.mul_(2), log_det
        return {
            "shape": (2 * x[:, :1], log_det),
            "log_det": (2 * x, -log_det),
            "not_summed": (2 * x, log_det[:, None].expand(len(x), 2)),
            "not_finite": (2 * x, log_det * torch.inf),
            "dtype": (2 * x.double(), log_det),
        }.get(next(iter(self.breaks), ""), (2 * x, log_det))

    def inverse(self, z, context=None):
        return z / 2.001 if "inverse" in self.breaks else z[:, :1] / 2 if "inverse_shape" in self.breaks else z / 2


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("in_place", "changed its input"),
        ("shape", "output_shape says"),
        ("log_det", "differs from the Jacobian"),
        ("not_summed", "sum over all dimensions"),
        ("not_finite", "not finite"),
        ("dtype", "into torch.float64"),
        ("inverse", "differs from x"),
        ("inverse_shape", "inverse returned"),
    ],
)
def test_check_bijection_finds_each_broken_promise(breaks, message):
    check_bijection(_Broken(), torch.randn(3, 2))
    with pytest.raises(BijectionError, match=message):
        check_bijection(_Broken(**{breaks: True}), torch.randn(3, 2))


def test_check_bijection_reports_what_it_measured():
    report = check_bijection(Flip(), torch.randn(3, 2))
    assert report.round_trip_error == 0
    assert "log_det error" in str(report)
    assert "not checked" in str(check_bijection(Flip(), torch.randn(3, 2), check_jacobian=False))


def test_check_bijection_works_where_gradients_are_switched_off():
    with torch.no_grad():
        check_bijection(make("affine coupling, first half")[0], torch.randn(3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gated_net_and_its_gradients_are_those_of_its_formula(dtype):
    from torch.nn import functional as F

    torch.manual_seed(0)
    net = GatedConvNet(2, 5, 3, num_blocks=2).to(dtype)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def concat_elu(x):
        return F.elu(torch.cat([x, -x], dim=1))

    def formula(x):
        x = net.first(x)
        for block in net.blocks:
            value, gate = block.value_and_gate(concat_elu(block.conv(concat_elu(x)))).chunk(2, dim=1)
            x = x + value * torch.sigmoid(gate)
            x = F.layer_norm(x.movedim(1, -1), (5,), block.norm.weight, block.norm.bias).movedim(-1, 1)
        return net.last(concat_elu(x))

    x = torch.randn(2, 2, 4, 4, dtype=dtype, requires_grad=True)
    inputs = [x, *net.parameters()]
    ours, theirs = net(x), formula(x)
    weights = torch.randn_like(ours)
    # Sums of about 100 terms of order 1: a hundred roundings.
    tolerance = {"atol": 1e3 * torch.finfo(dtype).eps, "rtol": 1e3 * torch.finfo(dtype).eps}
    torch.testing.assert_close(ours, theirs, **tolerance)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **tolerance)


def test_the_gated_net_computes_in_bfloat16_under_autocast_and_the_coupling_stays_in_float32():
    bijection, x, _ = make("affine coupling, second half")
    with torch.autocast("cpu", torch.bfloat16):
        assert bijection.net(x[:, :2]).dtype == torch.bfloat16
        z, log_det = bijection(x)
    assert z.dtype == log_det.dtype == torch.float32
    assert torch.equal(z[:, 2:], x[:, 2:])
