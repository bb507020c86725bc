"""Flow: densities, bounds, sampling, and every latent kept."""

import math

import pytest
import torch

from nbflows import Flow, Identity, Multiscale, Sequential, models
from nbflows.layers import AffineCoupling, Dequantize, Squeeze
from nbflows.nets import MLP, ConvNet

DIGITS = ["digits_simple", "digits_variational", "digits_multiscale"]


def _randomized(flow, std=0.01):
    """Away from the start, where couplings are the identity, and not so far that latents explode."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return flow.eval()


def _images(n=6, levels=17, shape=(1, 8, 8)):
    return torch.randint(levels, (n, *shape), generator=torch.Generator().manual_seed(1)).byte()


def _grid(size=600, bound=10.0):
    axis = torch.linspace(-bound, bound, size, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]).item() ** 2


def test_a_2d_density_integrates_to_one_and_its_samples_have_its_entropy():
    flow = _randomized(models.realnvp_2d(num_couplings=4, hidden_features=16), std=0.1).double()
    points, area = _grid()
    with torch.no_grad():
        log_prob = flow.log_prob(points)
        mass = log_prob.exp().sum().item() * area
        entropy = -(log_prob.exp() * log_prob).sum().item() * area
        sampled = -flow.log_prob(flow.sample(4000, generator=torch.Generator().manual_seed(0)))
    assert mass == pytest.approx(1, abs=1e-4)
    error = sampled.std().item() / math.sqrt(4000)
    assert abs(sampled.mean().item() - entropy) < 4 * error


def test_log_prob_is_that_of_the_noise_plus_log_det():
    flow = _randomized(models.realnvp_2d(2, 8))
    x = torch.randn(5, 2)
    z, log_det = flow.encode(x)
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(1) + log_det
    torch.testing.assert_close(flow.log_prob(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DIGITS)
def test_decode_gives_back_the_encoded_images_exactly(name, dtype):
    flow, x = _randomized(getattr(models, name)()).to(dtype), _images(200)
    with torch.no_grad():
        z, _ = flow.encode(x)
    assert z.dtype == dtype
    assert torch.equal(flow.decode(z), x)


@pytest.mark.parametrize("name", DIGITS)
def test_samples_are_uint8_images_without_naming_a_latent_shape(name):
    flow = _randomized(getattr(models, name)())
    samples = flow.sample(3)
    assert samples.shape == (3, 1, 8, 8)
    assert samples.dtype == torch.uint8
    assert samples.max() <= 16


def test_sampling_repeats_with_its_generator_and_temperature_zero_gives_the_mode():
    flow = _randomized(models.digits_multiscale())

    def draw(seed, temperature=1.0):
        return flow.sample(4, temperature=temperature, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert torch.equal(draw(0, 0.0), draw(1, 0.0))
    assert torch.equal(draw(0, [1.0, 1.0]), draw(0))
    assert not torch.equal(draw(0, [0.0, 1.0]), draw(0, [1.0, 0.0]))


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(2,), (7,), (1, 8, 8)])
@pytest.mark.parametrize("count", [0, 5, 257, 513, 1025])
def test_noise_is_that_of_one_draw_whatever_the_chunks(count, shape):
    flow = Flow(Identity(), shape)
    at_once, after = torch.randn(count, *shape, generator=_generator()), _generator()
    assert torch.equal(flow.draw_noise(count, generator=_generator()), at_once)
    for chunk_size in (1, 100, 256, 300, 5000):
        generator = _generator()
        assert torch.equal(flow.sample(count, generator=generator, chunk_size=chunk_size), at_once)
        torch.randn(count, *shape, generator=after.manual_seed(0))
        # Draws that follow are the same as well.
        assert torch.equal(generator.get_state(), after.get_state())


@pytest.mark.parametrize("name", [*DIGITS, "digits_mar_scf"])
def test_samples_are_the_same_whatever_the_chunks(name):
    flow = getattr(models, name)().double()
    flow.log_prob(_images(64))
    _randomized(flow)
    options = {"temperature": [0.7, 1.0][-len(flow.unpack(torch.zeros(1, *flow.latent_shape))) :]}
    options = options if name in ("digits_multiscale", "digits_mar_scf") else {}
    whole = flow.sample(21, generator=_generator(), **options)
    for chunk_size in (1, 8, 20, 100):
        assert torch.equal(flow.sample(21, generator=_generator(), chunk_size=chunk_size, **options), whole)
    assert len(whole.flatten(1).unique(dim=0)) == 21


def test_no_pass_through_the_flow_is_larger_than_a_chunk(monkeypatch):
    flow, sizes = Flow(Identity(), (3,)), []
    monkeypatch.setattr(flow.bijection, "inverse", lambda z, context: sizes.append(len(z)) or z)
    flow.sample(1000, chunk_size=300)
    assert sizes == [300, 300, 300, 100]
    sizes.clear()
    flow.sample(256)
    assert sizes == [256]


def test_every_sample_of_a_chunk_gets_its_own_row_of_the_context():
    flow = Flow(AffineCoupling(MLP(1, 8, 2, context_features=3)), shape=(2,), context_shape=(3,))
    _randomized(flow, std=1.0)
    context = torch.randn(20, 3)
    chunked = flow.sample(20, context, generator=_generator(), chunk_size=7)
    noise = flow.draw_noise(20, generator=_generator())
    torch.testing.assert_close(chunked, flow.decode(noise, context))
    assert not torch.allclose(chunked, flow.decode(noise, context.roll(1, 0)))
    one_row = flow.sample(20, context[:1], generator=_generator(), chunk_size=7)
    torch.testing.assert_close(one_row, flow.decode(noise, context[:1].expand(20, -1)))


@pytest.mark.parametrize(
    "name", [*DIGITS, "digits_caflow", "digits_glow", "digits_mar_scf", "digits_residual_flow", "realnvp_2d"]
)
def test_no_samples_are_an_empty_tensor(name):
    flow = getattr(models, name)()
    for module in flow.modules():
        if hasattr(module, "initialized"):
            module.initialized.fill_(True)
    sources = torch.zeros(0, *flow.context_shape, dtype=torch.uint8) if flow.context_shape else None
    samples = flow.eval().sample(0, sources)
    assert samples.shape == (0, *flow.shape)
    assert samples.dtype == (torch.float32 if name.endswith("2d") else torch.uint8)


def test_a_bar_shows_the_passes_where_there_are_several(capsys):
    flow = Flow(Identity(), (3,))
    flow.sample(10, chunk_size=10, progress=True)
    flow.sample(10, chunk_size=4)
    assert capsys.readouterr() == ("", "")
    flow.sample(10, chunk_size=4, progress=True)
    out, err = capsys.readouterr()
    assert "sampling: 100%" in out and "3/3" in out and not err


def test_levels_are_unpacked_and_packed_without_loss():
    flow = _randomized(models.digits_multiscale())
    z, _ = flow.encode(_images())
    levels = flow.unpack(z)
    assert [tuple(level.shape[1:]) for level in levels] == [(2, 4, 4), (8, 2, 2)]
    assert torch.equal(flow.pack(levels), z)
    assert flow.latent_shape == (64,)
    single = models.digits_simple()
    assert len(single.unpack(torch.zeros(2, 1, 8, 8))) == 1


def test_bits_per_dim_is_log_prob_in_bits_per_dimension():
    flow, x = _randomized(models.digits_simple()), _images()
    torch.manual_seed(3)
    bits = flow.bits_per_dim(x)
    torch.manual_seed(3)
    torch.testing.assert_close(bits, -flow.log_prob(x) / (64 * math.log(2)))


def test_chunks_change_nothing_but_the_memory():
    flow, x = _randomized(models.digits_simple()).double(), _images(5)
    torch.manual_seed(3)
    whole = flow.bits_per_dim(x, num_draws=4, chunk_size=20)
    torch.manual_seed(3)
    chunked = flow.bits_per_dim(x, num_draws=4, chunk_size=3)
    torch.testing.assert_close(whole, chunked, atol=1e-10, rtol=0)


def test_the_importance_weighted_bound_is_the_log_of_the_mean_of_its_draws():
    flow, x = _randomized(models.digits_simple()).double(), _images(2)
    torch.manual_seed(3)
    bits = flow.bits_per_dim(x, num_draws=3)
    torch.manual_seed(3)
    rows = flow.log_prob(x.repeat_interleave(3, 0)).view(2, 3)
    largest = rows.max()
    mean = (rows - largest).exp().mean(1).log() + largest
    torch.testing.assert_close(bits, -mean / (64 * math.log(2)))


def test_more_draws_tighten_the_bound():
    flow, x = _randomized(models.digits_simple()), _images(100)
    torch.manual_seed(0)
    with torch.no_grad():
        one, sixteen = flow.bits_per_dim(x), flow.bits_per_dim(x, num_draws=16)
    difference = one - sixteen
    assert difference.mean() > 4 * difference.std() / math.sqrt(100)


def test_context_reaches_every_layer_and_one_row_serves_all_samples():
    flow = Flow(AffineCoupling(MLP(1, 8, 2, context_features=3)), shape=(2,), context_shape=(3,))
    _randomized(flow, std=1.0)
    x, context = torch.randn(4, 2), torch.randn(4, 3)
    assert not torch.allclose(flow.log_prob(x, context), flow.log_prob(x, context + 1))
    z, _ = flow.encode(x, context)
    torch.testing.assert_close(flow.decode(z, context), x, atol=1e-5, rtol=0)
    one_row = flow.sample(4, context[:1], generator=torch.Generator().manual_seed(0))
    rows = flow.sample(4, context[:1].repeat(4, 1), generator=torch.Generator().manual_seed(0))
    assert torch.equal(one_row, rows)
    bits = flow.bits_per_dim(x, context, num_draws=2, chunk_size=3)
    torch.testing.assert_close(bits, -flow.log_prob(x, context) / (2 * math.log(2)))


def test_bits_per_dim_under_autocast_stay_near_those_of_float32():
    flow, x = _randomized(models.digits_multiscale()), _images(64)
    torch.manual_seed(0)
    exact = flow.bits_per_dim(x)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        fast = flow.bits_per_dim(x)
    assert fast.dtype == torch.float32
    assert (exact - fast).abs().max() < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.log_prob(torch.zeros(2, 1, 8, 9).byte()), "expected a batch of (1, 8, 8)"),
        (lambda f: f.decode(torch.zeros(2, 65)), "expected a batch of (64,)"),
        (lambda f: f.log_prob(_images(), torch.zeros(6, 3)), "takes no context"),
        (lambda f: f.bits_per_dim(_images(), num_draws=0), "num_draws is 1 or more, not 0"),
        (lambda f: f.sample(1, temperature=[1.0]), "has 2"),
        (lambda f: f.sample(1, temperature=-1.0), "temperature is 0 or more, not -1.0"),
        (lambda f: f.sample(0, temperature=[1.0]), "has 2"),
        (lambda f: f.sample(-2), "num_samples is 0 or more, not -2"),
        (lambda f: f.sample(2, chunk_size=0), "chunk_size is 1 or more, not 0"),
        (lambda f: f.log_prob(torch.zeros(1, 1, 8, 8)), "takes integers"),
    ],
)
def test_bad_input_is_a_clear_error(call, message):
    with pytest.raises(ValueError) as error:
        call(models.digits_multiscale())
    assert message in str(error.value)


def test_a_flow_with_context_asks_for_it_and_checks_its_rows():
    flow = Flow(AffineCoupling(MLP(1, 8, 2, context_features=3)), shape=(2,), context_shape=(3,))
    with pytest.raises(ValueError, match="needs a context of"):
        flow.log_prob(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="one row per example"):
        flow.log_prob(torch.zeros(4, 2), torch.zeros(3, 3))


def test_geometry_is_checked_when_the_flow_is_built():
    with pytest.raises(ValueError, match="got 7x8"):
        Flow(Sequential(Dequantize(), Squeeze()), shape=(1, 7, 8))
    with pytest.raises(ValueError, match="got 1; use a mask"):
        Flow(AffineCoupling(ConvNet(1, 2, 2)), shape=(1, 8, 8))
    with pytest.raises(ValueError, match=r"was built for images \(1, 8, 8\)"):
        Flow(Multiscale([Identity()], (1, 8, 8)), shape=(1, 4, 4))
