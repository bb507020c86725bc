"""Images to bytes and back: exact round trips from bytes alone, and lengths that are the flow's own probabilities."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.distributions import Normal

from nbflows import Bijection, Flow, Identity, Sequential, checks, data, models, pretrained
from nbflows.bijection import sum_dimensions
from nbflows.coding import Message, bits_back, decode, encode
from nbflows.coding.ans import PRECISION
from nbflows.layers import Dequantize, Logit, VariationalDequantize
from tests.flows import random_caflow

# Of a state of 100 bits and more, bit_length is log2 rounded up: a difference of two is off by less than 1.
LENGTH_ERROR = 1


class Linear(Bijection):
    """z = A x + b on (1, 2, 2)."""

    def __init__(self, matrix, shift=0.0):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.shift = shift

    def forward(self, x, context=None):
        z = x.flatten(1) @ self.matrix.T + self.shift
        return z.view_as(x), torch.linalg.slogdet(self.matrix).logabsdet.expand(len(x))

    def inverse(self, z, context=None):
        return torch.linalg.solve(self.matrix, (z.flatten(1) - self.shift).T).T.reshape(z.shape)


class Bend(Bijection):
    """z = sinh(3 x): as far from straight as it is from 0."""

    def forward(self, x, context=None):
        return torch.sinh(3 * x), sum_dimensions((3 * torch.cosh(3 * x)).log())

    def inverse(self, z, context=None):
        return torch.asinh(z) / 3


class Unsteady(Bijection):
    """z = x + a number that depends on the threads and the mode, as the last bit of a sum may, or dropout."""

    @property
    def shift(self):
        return torch.get_num_threads() + self.training / 2

    def forward(self, x, context=None):
        return x + self.shift, x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return z - self.shift


def _linear(num_grey_levels=17):
    matrix = torch.eye(4) * 4 + torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    return Flow(Sequential(Dequantize(num_grey_levels, alpha=None), Linear(matrix, -2.0)), (1, 2, 2)).double()


def _bent(num_grey_levels=17):
    return Flow(
        Sequential(Dequantize(num_grey_levels, alpha=None), Linear(torch.eye(4), -0.5), Bend()), (1, 2, 2)
    ).double()


def _images(count, num_grey_levels=17, shape=(1, 2, 2)):
    return torch.randint(num_grey_levels, (count, *shape), generator=torch.Generator().manual_seed(1)).byte()


@dataclass
class Coded:
    """A message; the v and z of its images; what each added to log2 of the state; its -log2 p(x, u)."""

    message: Message
    v: torch.Tensor
    z: torch.Tensor
    net: torch.Tensor
    bound: torch.Tensor


def _record(flow, images, std_bits=22, grid_bits=4):
    values, latents, lengths, step = [], [], [], 2.0 ** -(std_bits + grid_bits)
    borrow = bits_back._LocalBitsBack.borrow

    def recorded(self, bits, x):
        lengths.append(math.log2(bits.state))
        v, z = borrow(self, bits, x)
        values.append((torch.tensor(v).double() + 0.5) * step)
        latents.append(torch.tensor(z).double() * step)
        return v, z

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits_back._LocalBitsBack, "borrow", recorded)
        message = encode(flow, images, std_bits=std_bits, grid_bits=grid_bits)
    # The first time was the trial.
    v, z = torch.stack(values[1:]).view(images.shape), torch.stack(latents[1:])
    net = torch.tensor([*lengths[1:], math.log2(message.state)], dtype=torch.float64).diff()
    assert abs(net.sum() - message.net_bits) < LENGTH_ERROR
    with pytest.MonkeyPatch.context() as patch:
        u = v - images
        patch.setattr(flow.bijection[0], "noise", lambda x: (u, 1 - u, u.new_zeros(len(u))))
        with torch.no_grad():
            bound = -flow.log_prob(images) / math.log(2)
    return Coded(message, v, z, net, bound)


def _overheads(flow, images, **options):
    coded = _record(flow, images, **options)
    return coded.net - coded.bound


def _least_frequencies(num_grey_levels, num_values, step):
    """Bits lost to giving 2 of 2^48 frequencies to each step of a value, and to each of the 2^27 cells of a latent."""
    num_cells = num_grey_levels / step + 2.0**27
    return num_values * 2 * num_cells * 2.0**-PRECISION * math.log2(math.e)


def _equal_shares(index, low, mean, std):
    """Bits lost because all integers of a cell are as probable as its middle: log2 N(integer) - log2 N(middle)."""
    cell = 2.0 ** (torch.frexp(std).exponent - 11).clamp(min=0)
    middle = low + (torch.floor((index - low) / cell) + 0.5) * cell - 0.5
    squares = ((middle - mean) / std).square() - ((index - mean) / std).square()
    return squares.sum().item() / 2 * math.log2(math.e)


def _known_and_unknown(v, z, mean_v, widths, t_z, num_grey_levels=17, std_bits=22, grid_bits=8):
    """Bits by which a net length differs from that by densities: those known, and a bound on the rest.

    ``widths`` are those of z given v and the z before, in units of s and of either sign; z is t_z widths off its mean.
    The mass of a bin h standard deviations wide, t from the mean, differs by h^2 / 24 |t^2 - 1| nats from the density
    at its middle. h is 2^-grid_bits in v, that over the width in z, and 2^-10 in a cell of the prior of z.
    """
    step = torch.tensor(2.0 ** -(std_bits + grid_bits), dtype=torch.float64)
    index, stds = z / step, 2.0**grid_bits * widths.abs().expand_as(z)
    near_mean = index - t_z * widths * 2.0**grid_bits
    known = _equal_shares(index, -(2.0**16) / step, 0.0, 1 / step)
    known -= _equal_shares(index, torch.floor(near_mean - 16 * stds), near_mean, stds)
    known += _least_frequencies(num_grey_levels, z.numel(), step.item())
    t_v = (v - mean_v) * 2.0**std_bits
    nats = (t_v.square() - 1).abs().sum() * 4.0**-grid_bits + ((t_z.square() - 1) / stds.square()).abs().sum()
    nats += (z.square() - 1).abs().sum() * 4.0**-10
    return known, nats.item() / 24 * math.log2(math.e)


def _within_four_errors(values, expected=0.0):
    return abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(len(values))


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_flow():
    return pretrained.load_pretrained("digits-simple").double()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits").test[:12]


@pytest.fixture(scope="module")
def coded(digits_flow, digits):
    return _record(digits_flow, digits, grid_bits=8)


@pytest.mark.slow  # Twelve digits with a trained flow, as for the next three.
def test_digits_come_back_bit_for_bit_from_bytes_alone(coded, digits_flow, digits):
    content = coded.message.to_bytes()
    assert isinstance(content, bytes) and len(content) == 20 + math.ceil(coded.message.total_bits / 8)
    assert Message.from_bytes(content) == coded.message
    decoded = decode(digits_flow, Message.from_bytes(content))
    assert decoded.dtype == torch.uint8 and torch.equal(decoded, digits)


@pytest.mark.slow
def test_the_net_length_is_that_of_the_four_densities(coded, digits_flow):
    count, s = 4, 2.0**-22
    dequantize, *layers = digits_flow.bijection.layers
    f = Sequential(Logit(dequantize.alpha), *layers)
    v, z = coded.v[:count], coded.z[:count]
    jacobians = checks.jacobian(f, v / 17) / 17
    with torch.no_grad():
        means, back = f(v / 17)[0].flatten(1), f.inverse(z.view(v.shape)) * 17
    e = torch.linalg.solve(jacobians, z - means) / s
    near = Normal(0, 1).log_prob(e).sum() - torch.linalg.slogdet(jacobians).logabsdet.sum() - e.numel() * math.log(s)
    log_density = Normal(0, 1).log_prob(z).sum() + Normal(back, s).log_prob(v).sum() - near
    # The noise has density 1, on the steps of v.
    r = torch.linalg.qr(jacobians.mT).R
    t_z = torch.linalg.solve_triangular(r.mT, (z - means)[..., None], upper=False)[..., 0] / s
    known, rest = _known_and_unknown(v.flatten(1), z, back.flatten(1), r.diagonal(dim1=1, dim2=2), t_z)
    assert rest < 0.01
    assert abs(coded.net[:count].sum().item() + log_density.item() / math.log(2) - known) < rest


@pytest.mark.slow
def test_the_net_length_is_the_log_probability_that_the_flow_gives_with_this_noise(coded):
    # A rounded z is off by step^2 / 12 in each dimension, in v by that over the squares of J's singular values (here
    # above 2^-6), and costs half of that over s^2: 1/24 (2^-8 2^6)^2 nats a dimension.
    rounding = 64 / 24 * 2.0**-4 * math.log2(math.e) + _least_frequencies(17, 64, 2.0**-30)
    overheads = coded.net - coded.bound
    assert abs(overheads.mean().item()) < 4 * overheads.std().item() / math.sqrt(len(overheads)) + rounding


@pytest.mark.slow
def test_the_net_length_agrees_with_bits_per_dim(coded, digits_flow, digits):
    with torch.no_grad():
        draws = torch.stack([digits_flow.bits_per_dim(digits) for _ in range(16)])
    # The message has one draw for each image, the mean here 16.
    error = (draws.var(0).sum() * (1 + 1 / 16)).sqrt().item() / len(digits)
    assert abs(coded.message.net_bits_per_dim - draws.mean().item()) < 4 * error


def test_a_linear_flow_is_coded_at_its_log_probability():
    flow, images = _linear(), _images(200)
    coded = _record(flow, images, grid_bits=8)
    layer, z = flow.bijection[1], coded.z
    z0 = layer(coded.v / 17)[0].flatten(1)
    # All that differs is that z, not f(v), is coded under the prior.
    expected = (z.square() - z0.square()).sum().item() / 2 * math.log2(math.e)
    r = torch.linalg.qr(layer.matrix.mT / 17).R
    t_z = torch.linalg.solve_triangular(r.mT, (z - z0).T, upper=False).T * 2.0**22
    back = layer.inverse(z.view_as(coded.v)).flatten(1) * 17
    known, rest = _known_and_unknown(coded.v.flatten(1), z, back, r.diagonal(), t_z)
    assert rest < 0.02
    assert abs((coded.net - coded.bound).sum().item() - expected - known) < rest
    # And that is of the order of s.
    assert abs(expected) < 4 * 2.0**-22 * (z0 @ layer.matrix / 17).norm().item() * math.log2(math.e)
    assert torch.equal(decode(flow, coded.message), images)


@pytest.mark.parametrize(("std_bits", "grid_bits"), [(22, 4), (10, 2)])
def test_values_and_latents_are_taken_from_gaussians_of_the_width_asked_for_tails_and_all(std_bits, grid_bits):
    flow, s, step = _linear(), 2.0**-std_bits, 2.0 ** -(std_bits + grid_bits)
    coder, near = bits_back._LocalBitsBack(flow, std_bits, grid_bits), []
    z = coder._latents_near([1000, 2000, 3000, 4000], lambda i, gaussian: near.append(gaussian) or round(gaussian.mean))
    assert [gaussian.std * step for gaussian in coder._values_given(z)] == [s] * 4
    # One after the other they have the volume of N(f(v), s^2 J J^T). Of a float64 J 1e-10 is far more than rounding.
    expected = torch.linalg.slogdet(flow.bijection[1].matrix / 17).logabsdet.item() + 4 * math.log(s)
    assert sum(math.log(gaussian.std * step) for gaussian in near) == pytest.approx(expected, abs=1e-10)
    # Of what lies beyond the first and the last cell not one of the 2^48 frequencies is left: they have the least, 2.
    for gaussian in near:
        assert gaussian.interval(0)[1] == gaussian.interval(gaussian.num_cells - 1)[1] == 2


def test_widths_keep_their_digits_where_the_jacobian_is_ill_conditioned():
    left, right = torch.linalg.qr(torch.randn(2, 4, 4).double()).Q
    matrix = left @ torch.tensor([1e4, 1.0, 1.0, 1e-4]).double().diag() @ right
    coder, near = bits_back._LocalBitsBack(_flow(Dequantize(17, None), Linear(matrix)), 22, 4), []
    coder._latents_near([1000, 2000, 3000, 4000], lambda i, gaussian: near.append(gaussian) or round(gaussian.mean))
    # A float64 rounds J by 1e-16 of its largest singular value, 1e-8 of its least; J J^T by 1, all of its least.
    expected = 4 * math.log(2.0**4 / 17)
    assert sum(math.log(gaussian.std) for gaussian in near) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow  # 1800 images, for an error small enough to see it.
def test_overhead_goes_as_the_square_of_the_local_width():
    # Steps of the same size, relative to s.
    coarse, medium, fine = (_overheads(_bent(4), _images(600, 4), std_bits=bits, grid_bits=8) for bits in (1, 2, 12))
    assert medium.mean() > 4 * medium.std() / math.sqrt(600)
    assert _within_four_errors(medium - coarse / 4)
    # A quarter for every bit.
    assert abs(fine.mean()) < medium.mean() * 4.0**-10 + 4 * fine.std() / math.sqrt(600) + 2.0**-16


def test_overhead_shrinks_with_the_grid():
    flow = _linear()
    coarse, fine = (_overheads(flow, _images(300), grid_bits=bits) for bits in (0, 6))
    assert coarse.mean() - fine.mean() > 4 * math.hypot(coarse.std(), fine.std()) / math.sqrt(300)
    # Of a linear flow all overhead is that of the grid, with its square.
    assert abs(fine.mean()) < coarse.mean() * 4.0**-6 + 4 * fine.std() / math.sqrt(300)


@pytest.mark.parametrize("alpha", [None, 0.0, 1e-5])
@pytest.mark.parametrize("num_grey_levels", [2, 256])
def test_black_and_white_come_back_with_every_dequantization(alpha, num_grey_levels):
    flow = Flow(Sequential(Dequantize(num_grey_levels, alpha), Linear(torch.eye(4) * 2)), (1, 2, 2)).double()
    images = (
        torch.tensor([[0, 0, 0, 0], [num_grey_levels - 1] * 4, [0, num_grey_levels - 1, 0, 1]]).byte().view(3, 1, 2, 2)
    )
    for seed in range(10):
        assert torch.equal(decode(flow, encode(flow, images, seed)), images)


@pytest.mark.parametrize("options", [{"std_bits": 0, "grid_bits": 1}, {"std_bits": 28, "grid_bits": 4}])
def test_the_widest_and_the_finest_grid_are_exact_too(options):
    for flow in (_linear(), _bent()):
        message = encode(flow, _images(30), **options)
        assert torch.equal(decode(flow, Message.from_bytes(message.to_bytes())), _images(30))


def test_a_multiscale_flow_and_colours_are_coded_too():
    torch.manual_seed(0)
    flow = Flow(Sequential(Dequantize(256), *models.multiscale((3, 4, 4)).bijection.layers[1:]), (3, 4, 4)).double()
    images = _images(2, 256, (3, 4, 4))
    assert torch.equal(decode(flow, encode(flow, images)), images)


def test_the_jacobian_is_whole_where_it_is_computed_in_parts():
    flow = models.simple((1, 9, 9), 17, num_couplings=2, hidden_channels=2, num_blocks=1).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    coder = bits_back._LocalBitsBack(flow, 22, 4)
    v = [(k << 26) // 5 for k in range(81)]
    mean, jacobian = coder._linearize(v)
    values = ((torch.tensor(v).double() + 0.5) / 2.0**26).view(1, 1, 9, 9)
    torch.testing.assert_close(jacobian, checks.jacobian(coder.layers, values / 17)[0] / 17)
    torch.testing.assert_close(mean / 2.0**26, coder.layers(values / 17)[0].detach().flatten())


def test_the_bits_to_begin_with_are_enough_and_no_more_for_more_images(monkeypatch):
    flow, images = _linear(), _images(20)
    left, borrow = [], bits_back._LocalBitsBack.borrow

    def recorded(self, bits, x):
        borrowed = borrow(self, bits, x)
        left.append(len(bits))
        return borrowed

    monkeypatch.setattr(bits_back._LocalBitsBack, "borrow", recorded)
    message = encode(flow, images, seed=9)
    assert (message.seed, message.num_images, message.num_dims) == (9, 20, 4)
    # Enough for the next Gaussian to look at; and the slack is 96.
    assert min(left[1:]) > PRECISION and left[1] < 2 * 96
    assert encode(flow, images[:1], seed=9).initial_bits == message.initial_bits


def test_messages_repeat_with_their_seed_and_leave_no_trace(monkeypatch):
    flow, images = _linear().train(), _images(5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        state = torch.get_rng_state()
        message = encode(flow, images, seed=1)
        assert torch.get_num_threads() == 2 and flow.training and torch.equal(torch.get_rng_state(), state)
        assert encode(flow, images, seed=1) == message != encode(flow, images, seed=2)
        torch.set_num_threads(1)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert torch.equal(decode(flow, message), images)
    finally:
        torch.set_num_threads(threads)


def test_neither_the_threads_nor_the_mode_are_seen_by_the_flow_and_both_return():
    flow, images, threads = _flow(Dequantize(17, None), Unsteady()), _images(3), torch.get_num_threads()
    settings = [(number, training) for number in (1, 2) for training in (False, True)]
    try:
        messages = []
        for number, training in settings:
            torch.set_num_threads(number)
            messages.append(encode(flow.train(training), images))
            assert torch.get_num_threads() == number and flow.training == training
        assert messages == messages[:1] * 4
        for number, training in settings:
            torch.set_num_threads(number)
            assert torch.equal(decode(flow.train(training), messages[0]), images)
        # After an error too.
        with pytest.raises(ValueError, match="not a message of this flow"):
            decode(flow, replace(messages[0], seed=1))
        broken = _flow(Dequantize(17, None), Linear(torch.zeros(4, 4))).train()
        with pytest.raises(ValueError, match="its width 0"):
            encode(broken, images)
        assert torch.get_num_threads() == 2 and flow.training and broken.training
    finally:
        torch.set_num_threads(threads)


def test_the_bytes_of_a_message_stay_what_they_are():
    message = Message(0x0708, num_images=1, num_dims=2, initial_bits=3, seed=4, std_bits=5, grid_bits=6)
    header = "00000001 0002 00000003 00000004 05 06"
    assert message.to_bytes() == bytes.fromhex(f"0078a99e {header} 0708")


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_the_bytes_is_always_seen():
    content = encode(_linear(), _images(3)).to_bytes()
    for position in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError, match="the checksum is wrong"):
            Message.from_bytes(bytes(flipped))


@pytest.mark.parametrize("content", [b"", b"short", bytes(19), bytes(100), b"\xff" * 100])
def test_other_bytes_are_no_message(content):
    with pytest.raises(ValueError, match=f"these {len(content)} bytes are not a message"):
        Message.from_bytes(content)


def test_a_flipped_bit_in_the_state_is_seen_when_the_first_bits_do_not_come_back():
    message = encode(_linear(), _images(3))
    for position in range(0, message.total_bits, 7):
        with pytest.raises(ValueError, match="this is not a message of this flow"):
            decode(_linear(), replace(message, state=message.state ^ 1 << position))


@pytest.mark.parametrize(
    "change",
    [
        *({"num_images": 2}, {"num_images": 5}, {"num_images": 2**32 - 1}, {"seed": 1}, {"std_bits": 20}),
        *({"initial_bits": 7}, {"initial_bits": 0}, {"initial_bits": 2**32 - 1}),
    ],
)
def test_a_message_with_another_header_is_seen(change):
    with pytest.raises(ValueError, match="this is not a message of this flow"):
        decode(_linear(), replace(encode(_linear(), _images(3)), **change))


def test_a_message_of_another_flow_is_seen():
    message = encode(_linear(), _images(3))
    with pytest.raises(ValueError, match="this is not a message of this flow"):
        decode(_bent(), message)
    with pytest.raises(ValueError, match="has images of 4 numbers, the flow's have 64"):
        decode(models.digits_simple().double(), message)
    # The largest there are.
    with pytest.raises(ValueError, match="has images of 4 numbers, the flow's have 1024"):
        decode(_flow(Dequantize(17), shape=(1, 32, 32)), message)
    with pytest.raises(ValueError, match="the message has no images"):
        decode(_linear(), replace(message, num_images=0))


def _flow(*layers, shape=(1, 2, 2)):
    return Flow(Sequential(*layers), shape).double()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.realnvp_2d(2, 8).double(), "uniform Dequantize as the first layer"),
        (lambda: _flow(VariationalDequantize(Identity(), 17)), "first layer .* got VariationalDequantize"),
        (lambda: Flow(Dequantize(17), (1, 2, 2)).double(), "first layer of a Sequential, got Dequantize"),
        (lambda: Flow(Sequential(), (1, 2, 2)).double(), "first layer of a Sequential, got Sequential"),
        (lambda: _flow(Dequantize(17, None, spacing=1 / 16)), r"bins of 1/17 at a spacing of 0.0625"),
        (
            lambda: _flow(Dequantize(17), shape=(1, 33, 32)),
            r"\(1, 33, 32\) have 1056 dimensions; coding takes at most 1024",
        ),
        (lambda: random_caflow(), r"one has a context of \(1, 8, 8\)"),
        (
            lambda: _linear().float(),
            r"float64 on the CPU, this flow is torch.float32 on cpu: use flow.cpu\(\).double\(\)",
        ),
        (lambda: _linear().to("meta"), "this flow is torch.float64 on meta"),
    ],
)
def test_flows_that_cannot_be_coded_with_are_refused(make, message):
    flow = make()
    with pytest.raises(ValueError, match=message):
        encode(flow, _images(1, shape=flow.shape) if len(flow.shape) == 3 else torch.zeros(1, 2).byte())
    with pytest.raises(ValueError, match=message):
        decode(flow, Message(1, 1, 4, 1, 0, 22, 4))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (_images(2).float(), {}, r"expected uint8 images \(N, 1, 2, 2\), N at least 1, got torch.float32"),
        (_images(2, shape=(1, 2, 3)), {}, r"got torch.uint8 \(2, 1, 2, 3\)"),
        (_images(2)[0], {}, r"got torch.uint8 \(1, 2, 2\)"),
        (_images(2)[:0], {}, r"N at least 1, got torch.uint8 \(0, 1, 2, 2\)"),
        (_images(9, 256), {}, r"17 grey levels, 0..16; got up to 2\d\d"),
        (_images(2), {"seed": -1}, "seed is 0 or more and 4294967295 or less, not -1"),
        (_images(2), {"seed": 2**32}, "seed is 0 or more"),
        (_images(2), {"std_bits": 30}, r"std_bits \+ grid_bits is between 1 and 32, got 30 \+ 4"),
        (_images(2), {"std_bits": 0, "grid_bits": 0}, r"got 0 \+ 0"),
        (_images(2), {"grid_bits": -1}, r"grid_bits is 0 or more, not -1"),
    ],
)
def test_images_and_options_that_do_not_fit_are_refused(images, options, message):
    with pytest.raises(ValueError, match=message):
        encode(_linear(), images, **options)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Linear(torch.eye(4) * 1e6, 1e5), "latent 0 of an image is .*e.05, its width .* takes latents below 65536"),
        (Linear(torch.zeros(4, 4), 1.0), "latent 0 of an image is 1, its width 0"),
        (Linear(torch.eye(4) * math.nan), "latent 0 of an image is nan"),
        (Linear(torch.eye(4), math.nan), "latent 0 of an image is nan, its width 1.4e-08;"),
    ],
)
def test_latents_that_cannot_be_coded_are_refused_with_numbers(layer, message):
    flow = _flow(Dequantize(17, None), layer)
    with pytest.raises(ValueError, match=message):
        encode(flow, _images(1))
