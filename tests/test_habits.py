"""What people from other packages try with a flow: it works, or one sentence says what to write."""

import copy
import io
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from nbflows import (
    Flow,
    JointFlow,
    Sequential,
    check_bijection,
    layers,
    load_pretrained,
    metrics,
    models,
    recipes,
    save_flow,
)
from nbflows.compose import Identity
from nbflows.derivatives import traced
from nbflows.flow import require_finite
from nbflows.layers import ActNorm, AffineCoupling, Conv1x1, Flip, MixtureCoupling
from nbflows.models.caflow import relation_block
from nbflows.nets import MLP, ActNormConvNet, PooledFeatures
from nbflows.nets.norm import ActNormAffine
from tests.flows import random_caflow, random_images


def points_flow(dtype=torch.float32, context_features=0):
    torch.manual_seed(0)
    couplings = [AffineCoupling(MLP(1, 8, 2, context_features=context_features), keep) for keep in ("first", "second")]
    flow = Flow(Sequential(*couplings), (2,), (context_features,) if context_features else None)
    return moved(flow, 0.5).to(dtype)


def moved(flow, std=0.02):
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return flow


def small_glow(dtype=torch.float32):
    torch.manual_seed(0)
    flow = models.digits_glow(num_steps=1, hidden_channels=8).to(dtype).train()
    flow.log_prob(digits(32))
    return moved(flow).eval()


def digits(count=6):
    return torch.randint(17, (count, 1, 8, 8), generator=torch.Generator().manual_seed(1)).byte()


def seeded(call):
    torch.manual_seed(5)
    return call()


def test_a_flow_is_called_for_its_log_prob():
    x = torch.randn(4, 2)
    flow = points_flow()
    assert torch.equal(flow(x), flow.log_prob(x))
    assert torch.equal(torch.func.functional_call(flow, dict(flow.named_parameters()), x), flow(x))
    assert torch.equal(torch.nn.DataParallel(flow)(x), flow(x))
    glow, images = small_glow(), digits()
    assert torch.equal(seeded(lambda: glow(images)), seeded(lambda: glow.log_prob(images)))
    caflow = random_caflow()
    pair = random_images(2, caflow.shape), random_images(2, caflow.context_shape)
    assert torch.equal(seeded(lambda: caflow(*pair)), seeded(lambda: caflow.log_prob(*pair)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flow_says_where_it_is_and_in_which_precision(dtype):
    flow = Flow(Identity(), (2,)).to(dtype)
    assert flow.dtype == dtype and flow.device == torch.device("cpu")
    assert Flow(Identity(), (2,)).to("meta").device.type == "meta"


@pytest.mark.parametrize("size", [5, (5,), (3, 4), [2], torch.Size([2, 2]), (), np.int64(3), torch.tensor(2), (0, 3)])
def test_the_number_of_samples_may_be_a_shape(size):
    flow = points_flow()
    shape = tuple(size) if isinstance(size, (tuple, list)) else (int(size),)
    samples = flow.sample(size, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (*shape, 2)
    flat = flow.sample(int(np.prod(shape)), generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples.reshape(-1, 2), flat)
    assert flow.rsample(size).shape == samples.shape


@pytest.mark.parametrize("one", [0.8, torch.tensor(0.8), np.float32(0.8), np.array(0.8), torch.tensor(0.8).double()])
def test_a_temperature_is_a_number_of_any_kind(one):
    def draw(temperature):
        return small.draw_noise(3, temperature, torch.Generator().manual_seed(0))

    small = models.digits_multiscale()
    torch.testing.assert_close(draw(one), draw(0.8))
    torch.testing.assert_close(draw([one, 1]), draw([0.8, 1.0]))
    assert torch.equal(draw(torch.linspace(0, 1, 2)), draw([0.0, 1.0]))
    assert torch.equal(draw(np.linspace(0, 1, 2)), draw((0.0, 1.0)))


BAD_NUMBERS = [
    float("nan"),
    float("inf"),
    -1,
    -float("inf"),
    "warm",
    None,
    torch.tensor(float("nan")),
    np.float32("inf"),
]


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
def test_numbers_that_mean_nothing_are_refused_by_name(bad):
    flow, x = points_flow(), torch.randn(2, 2)
    for call in (
        lambda: flow.sample(2, temperature=bad),
        lambda: flow.sample(2, temperature=[bad]),
        lambda: flow.rsample(2, temperature=bad),
        lambda: flow.draw_noise(2, bad),
    ):
        with pytest.raises(ValueError, match=r"^temperature is "):
            call()
    for name in ("num_draws", "chunk_size"):
        with pytest.raises(ValueError, match=f"^{name} is "):
            flow.bits_per_dim(x, **{name: bad})
    for call in (flow.sample, flow.rsample, flow.sample_and_log_prob, flow.draw_noise, lambda n: flow.sample((2, n))):
        with pytest.raises(ValueError, match=r"^num_samples is "):
            call(bad)


def entrances(flow):
    """Every function that takes data, latents or a context."""
    calls = {"encode": flow.encode, "log_prob": flow.log_prob, "flow": flow, "bits_per_dim": flow.bits_per_dim}
    return calls | {"log_prob_bound": flow.log_prob_bound, "decode": flow.decode}


@pytest.mark.parametrize("name", entrances(points_flow()))
def test_the_door_says_what_is_wrong_with_points(name):
    flow = points_flow()
    call = entrances(flow)[name]
    x = torch.randn(4, 2)
    for wrong in (x.numpy(), x.tolist(), {"x": x}, None, "x", [x]):
        with pytest.raises(TypeError, match=r"expected a batch of \(2,\) as a tensor, got a "):
            call(wrong)
    with pytest.raises(TypeError, match=r"torch\.as_tensor makes a tensor of it"):
        call(x.numpy())
    for dtype in (torch.float64, torch.int64, torch.uint8, torch.bool, torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match=rf"computes in torch.float32, got {dtype}: give it x.to\(flow.dtype\)"):
            call(x.to(dtype))
    with pytest.raises(ValueError, match=r"flow.double\(\)"):
        call(x.double())
    assert call(x.to(flow.dtype)) is not None
    for bad in (float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=r"2 of 4 (examples|latents) contain NaN or infinite numbers, for example number 1"
        ):
            call(torch.where(torch.tensor([0, 1, 0, 1])[:, None] == 1, bad, x))
    for shape in ((), (2,), (4, 3), (4, 2, 1)):
        with pytest.raises(ValueError, match="expected a batch of"):
            call(torch.zeros(shape))


@pytest.mark.parametrize("name", [name for name in entrances(points_flow()) if name != "decode"])
def test_the_door_says_what_is_wrong_with_images(name):
    call = entrances(models.digits_simple())[name]
    for wrong in (digits().numpy(), [digits()], None):
        with pytest.raises(TypeError, match=r"expected a batch of \(1, 8, 8\) as a tensor"):
            call(wrong)
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(ValueError, match=r"takes integers 0\.\.16"):
            call(digits().to(dtype))
    assert call(digits().long()) is not None


@pytest.mark.parametrize("context", [{"labels": torch.zeros(4, 3)}, np.zeros((4, 3)), [[0.0] * 3] * 4, 7])
def test_a_context_is_a_tensor(context):
    flow, x = points_flow(context_features=3), torch.randn(4, 2)
    for call in (flow.log_prob, flow.encode, flow.decode, flow.bits_per_dim):
        with pytest.raises(TypeError, match=r"expected a context of \(4, 3\) as a tensor, got a "):
            call(x, context)
    for draw in (flow.sample, flow.rsample, flow.sample_and_log_prob):
        with pytest.raises(TypeError, match=r"expected a context of \(4, 3\) as a tensor, got a "):
            draw(4, context)
    with pytest.raises(ValueError, match="1 of 4 rows of the context contain NaN"):
        flow.log_prob(x, torch.zeros(4, 3).index_fill(0, torch.tensor([2]), torch.nan))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_of_other_kinds_are_refused_with_the_way_out():
    flow, translation = points_flow(context_features=2), random_caflow()
    x, images = torch.randn(4, 2), random_images(4, translation.shape)
    kinds = {
        "complex .*view_as_real": lambda x: x.to(torch.complex64),
        "sparse .*to_dense": lambda x: x.to_sparse(),
        "nested .*stack": lambda x: torch.nested.nested_tensor(list(x.float())),
    }
    if torch.backends.mkldnn.is_available():
        kinds["mkldnn .*to_dense"] = lambda x: x.float().to_mkldnn()
    for message, other in kinds.items():
        calls = [partial(call, other(x), x) for call in entrances(flow).values()]
        calls += [partial(call, x, other(x)) for call in entrances(flow).values()]
        calls += [partial(flow.encode, other(x), x, torch.float64), partial(flow.sample, 4, other(x))]
        calls += [partial(call, other(images), images) for call in entrances(translation).values()]
        calls += [partial(translation.rank, other(images), images), partial(translation.translate, other(images))]
        for call in calls:
            with pytest.raises(TypeError, match=f"as a dense tensor of real numbers, got a .*{message}"):
                call()


def test_tensors_on_another_device_are_named_with_the_way_out():
    flow, translation = points_flow(context_features=2), random_caflow()
    x, images = torch.randn(4, 2), random_images(4, translation.shape)
    cases = [("z" if name == "decode" else "x", call, x) for name, call in entrances(flow).items()]
    cases += [("x", translation.log_prob, images), ("x", translation.log_probs, images)]
    for name, call, given in cases:
        for wrong, arguments in ((name, (given.to("meta"), given)), ("context", (given, given.to("meta")))):
            with pytest.raises(
                ValueError, match=rf"^{wrong} is on meta, the flow is on cpu: .* {wrong}.to\(flow.device\)$"
            ):
                call(*arguments)
    for call in (partial(flow.sample, 4, x.to("meta")), partial(translation.translate, images.to("meta"))):
        with pytest.raises(ValueError, match=r"^context is on meta, the flow is on cpu: "):
            call()
    with pytest.raises(ValueError, match=r"^x is on cpu, the flow is on meta: "):
        points_flow().to("meta").log_prob(x)


@pytest.mark.parametrize("wrong", [3, True, "cpu", np.random.default_rng(0), torch.Generator])
def test_a_generator_is_one_of_torch(wrong):
    flow, translation = points_flow(), random_caflow()
    draws = [partial(draw, 3) for draw in (flow.sample, flow.rsample, flow.sample_and_log_prob, flow.draw_noise)]
    for draw in (*draws, partial(translation.translate, random_images(2, translation.context_shape))):
        with pytest.raises(TypeError, match=r"^generator is a torch.Generator, got .*flow.device\).manual_seed"):
            draw(generator=wrong)


def test_a_translation_says_what_is_wrong_with_sources_and_candidates():
    flow = random_caflow()
    images, sources = random_images(2, flow.shape), random_images(2, flow.context_shape)
    for call in (lambda: flow.translate(sources.numpy()), lambda: flow.rank(images[:, None].numpy(), sources)):
        with pytest.raises(TypeError, match="as a tensor, got a ndarray"):
            call()
    with pytest.raises(TypeError, match="as a tensor, got a int"):
        flow.translate(5)
    for bad in (0, -1, 2.5, float("nan"), None):
        with pytest.raises(ValueError, match="num_samples is "):
            flow.translate(sources, bad)


@pytest.mark.parametrize("wrong", [[Flip()], torch.nn.Linear(2, 2), None])
def test_a_flow_is_made_of_a_bijection(wrong):
    with pytest.raises(TypeError, match=r"takes one bijection, got a .*Sequential\(\*layers\)"):
        Flow(wrong, (2,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_flow_in_half_precision_points_to_autocast(dtype):
    flow = points_flow(dtype)
    for call in (lambda: flow(torch.randn(2, 2).to(dtype)), lambda: flow.sample(2), lambda: flow.rsample(2)):
        with pytest.raises(ValueError, match=rf"converted to {dtype}: .*flow.float\(\) within torch.autocast"):
            call()
    glow = small_glow().to(dtype)
    for call in (lambda: glow.sample(2), lambda: glow(digits())):
        with pytest.raises(ValueError, match="float32 or float64"):
            call()


def mixture_flow():
    torch.manual_seed(0)
    return moved(
        Flow(Sequential(MixtureCoupling(MLP(1, 8, 11), 3), Flip(), MixtureCoupling(MLP(1, 8, 11), 3)), (2,)), 0.3
    )


@pytest.mark.parametrize(
    "build", [points_flow, mixture_flow, lambda: moved(models.residual_flow_2d(num_blocks=2, actnorm=False), 0.05)]
)
def test_samples_have_the_log_prob_of_their_flow_and_gradients_of_reverse_kl(build):
    flow = build().double().eval()
    x, log_prob = flow.sample_and_log_prob(5, generator=torch.Generator().manual_seed(0))
    again = flow.rsample(5, generator=torch.Generator().manual_seed(0))
    # With gradients a searched inverse takes further steps.
    torch.testing.assert_close(x, again, rtol=0, atol=0)
    torch.testing.assert_close(x, flow.sample(5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(log_prob, flow.log_prob(x))
    parameter = next(p for p in flow.parameters() if p.requires_grad and p.dim() == 2)

    def reverse_kl():
        x, log_prob = flow.sample_and_log_prob(5, generator=torch.Generator().manual_seed(0))
        return (log_prob + x.square().sum(1)).mean()

    (gradient,) = torch.autograd.grad(reverse_kl(), parameter)
    direction, step = torch.randn_like(parameter), 1e-5
    with torch.no_grad():
        parameter.add_(direction, alpha=step)
        above = reverse_kl()
        parameter.sub_(direction, alpha=2 * step)
        below = reverse_kl()
    # Errors of a central difference: h^2 times a third derivative of about the size of the first, and rounding over h.
    slope = (gradient * direction).sum()
    assert abs((above - below) / (2 * step) - slope) < 1e-6 * (1 + abs(slope))


def test_samples_of_images_have_scores_but_no_gradients():
    flow = small_glow()
    with pytest.raises(ValueError, match="are integers, which have no gradients"):
        flow.rsample(2)
    images, log_prob = flow.sample_and_log_prob(3)
    assert images.dtype == torch.uint8 and log_prob.shape == (3,) and log_prob.isfinite().all()


def test_samples_of_one_context_row_are_scored_given_it():
    flow, context = points_flow(torch.float64, context_features=3), torch.randn(1, 3, dtype=torch.float64)
    x, log_prob = flow.sample_and_log_prob(6, context)
    torch.testing.assert_close(log_prob, flow.log_prob(x, context.expand(6, 3)))


BUILDERS = [
    models.digits_simple,
    lambda: models.digits_mar_scf(num_steps=1),
    lambda: models.digits_residual_flow(num_blocks=(1, 1), hidden_channels=8),
    lambda: models.digits_joint_residual_flow(num_blocks=(1, 1), hidden_channels=8),
]


@pytest.mark.parametrize("build", BUILDERS)
def test_copies_are_flows_and_pickles_too_or_point_to_save_flow(build):
    flow = build()
    twin = copy.deepcopy(flow)
    assert type(twin) is type(flow) and twin.built_by == flow.built_by
    for a, b in zip(flow.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(next(flow.parameters()), next(twin.parameters()))
    if any(torch.nn.utils.parametrize.is_parametrized(module) for module in flow.modules()):
        for store in (lambda: pickle.dumps(flow), lambda: torch.save(flow, io.BytesIO())):
            with pytest.raises(TypeError, match=r"cannot be pickled: save_flow\(flow, file\) and load_flow\(file\)"):
                store()
        return
    file = io.BytesIO()
    torch.save(flow, file)
    file.seek(0)
    for loaded in (pickle.loads(pickle.dumps(flow)), torch.load(file, weights_only=False)):
        assert torch.equal(seeded(lambda: loaded(digits())), seeded(lambda: flow(digits())))  # noqa: B023


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (6, 3)])
def test_actnorm_is_not_poisoned_by_its_first_batch(bad, shape):
    layer, good = ActNorm(3).train(), torch.randn(shape)
    for count in (1, good[:, 1].numel()):
        values = good.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        values[1].view(-1)[:count] = bad
        with pytest.raises(ValueError, match=r"cannot scale channel 1 of 3: in the first batch .* NaN or infinite"):
            layer(values.transpose(0, 1))
        assert not layer.initialized and not layer.bias.any() and not layer.log_scale.any()
    with pytest.raises(ValueError, match="a first batch that is empty"):
        layer(good[:0])
    with pytest.raises(ValueError, match="does not vary"):
        layer(torch.ones(shape))
    assert not layer.has_seen_data
    z, _ = layer(good)
    torch.testing.assert_close(z.transpose(0, 1).flatten(1).std(1, correction=0), torch.ones(3))


@pytest.mark.parametrize("net", [lambda: ActNormConvNet(2, 4, 3), lambda: PooledFeatures(2, 3)])
def test_networks_with_actnorm_are_not_poisoned_either(net):
    net, x = net().train(), torch.randn(4, 2, 3, 3)
    for wrong in (x + torch.nan, x[:0]):
        with pytest.raises(ValueError, match="ActNorm cannot"):
            net(wrong)
    assert not any(layer.has_seen_data for layer in net.modules() if isinstance(layer, ActNormAffine))
    assert net(x).isfinite().all()


def test_actnorm_is_not_set_where_that_would_be_lost():
    layer, x = ActNorm(2).train(), torch.randn(5, 2)
    with pytest.raises(RuntimeError, match="run one batch in train"):
        torch.func.vmap(lambda row: layer(row[None])[0])(x)
    replica = layer._replicate_for_data_parallel()
    replica.bias, replica.log_scale, replica.initialized = layer.bias, layer.log_scale, layer.initialized
    with pytest.raises(RuntimeError, match="without wrappers"):
        replica(x)
    assert not layer.initialized


def test_weights_that_are_not_finite_are_named_when_scored():
    flow = small_glow()
    name, parameter = list(flow.named_parameters())[5]
    with torch.no_grad():
        parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match=f"^{name} has values that are not finite"):
        require_finite(flow)
    with pytest.raises(ValueError, match=f"^{name} has values that are not finite"):
        metrics.evaluate(flow, digits())
    flow = points_flow()
    with torch.no_grad():
        flow.bijection[0].net.layers[-1].bias.fill_(3e38)
    with pytest.raises(
        ValueError, match="bits/dim of 4 of 4 images are NaN or infinite, though its weights are finite"
    ):
        metrics.evaluate(flow, torch.ones(4, 2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("build", [points_flow, models.digits_pixelflow])
def test_samples_of_weights_that_are_not_finite_name_the_weight(build, value):
    flow = build()
    with torch.no_grad():
        list(flow.parameters())[-1].fill_(value)
    name = list(dict(flow.named_parameters()))[-1]
    with pytest.raises(ValueError, match=f"^{name} has values that are not finite"):
        flow.sample(2)


def test_a_score_of_one_image_has_no_error():
    flow = models.digits_simple()
    assert "nan" not in str(metrics.evaluate(flow, digits(1)))
    assert " ± " in str(metrics.evaluate(flow, digits(2)))


@pytest.mark.parametrize("num_draws", [1, 3])
def test_gradients_of_several_chunks_are_those_of_one_and_keep_no_graphs(num_draws):
    flow, images = small_glow(torch.float64), digits(24)

    def gradients(chunk_size):
        def kept(tensor):
            held.append(tensor.numel())
            return tensor

        held = []
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
            bits = flow.bits_per_dim(images, num_draws=num_draws, chunk_size=chunk_size)
        return sum(held), bits, torch.autograd.grad(bits.square().sum(), list(flow.parameters()))

    whole_kept, whole, expected = gradients(1000)
    parts_kept, parts, got = gradients(12 * num_draws)
    # Uniform noise of two halves, one after the other, is that of the whole.
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=0)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * (1 + b.abs().max().item()))
    # The images, and the bits/dim.
    assert parts_kept < whole_kept / 20 and parts_kept <= 4 * images.numel() * num_draws
    with pytest.raises(RuntimeError, match="chunk_size=len"):
        torch.autograd.grad(flow.bits_per_dim(images, chunk_size=5).sum(), next(flow.parameters()), create_graph=True)


def test_chunks_keep_gradients_for_data_and_contexts():
    flow, x = points_flow(torch.float64, context_features=3), torch.randn(7, 2, dtype=torch.float64)
    context = torch.randn(7, 3, dtype=torch.float64).requires_grad_()
    x.requires_grad_()
    whole = torch.autograd.grad(flow.log_prob(x, context).sum(), [x, context])
    parts = torch.autograd.grad(flow.log_prob_bound(x, context, chunk_size=2).sum(), [x, context])
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b)


class Decoder(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, z, context=None):
        return self.flow.decode(z, context)


EXPORTED = {
    "realnvp_2d": lambda: moved(models.realnvp_2d(2, 8), 0.3),
    "simple": lambda: moved(models.simple((1, 8, 8), 17, num_couplings=2, hidden_channels=8, num_blocks=1)),
    "variational": lambda: moved(models.variational((1, 8, 8), 17, 2, 8, 1, 2, 8)),
    "multiscale": lambda: moved(models.multiscale((1, 8, 8), 17, (2, 2, 2), (8, 8, 8), 1, 2, 8)),
    "glow": small_glow,
    "mar_scf, affine": lambda: trained_alike(models.digits_mar_scf(num_steps=1, coupling="affine")),
    "caflow": lambda: random_caflow(dtype=torch.float32),
}


def trained_alike(flow):
    flow.train().log_prob(digits(32))
    return moved(flow).eval()


SLOW_EXPORTS = "glow", "multiscale", "mar_scf, affine", "caflow"  # Long graphs, of thousands of operations.


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_EXPORTS else name for name in EXPORTED]
)
def test_flows_without_search_are_exported(name):
    flow = EXPORTED[name]().eval()
    data = (
        torch.randn(4, 2) if name == "realnvp_2d" else digits(4) if name != "caflow" else random_images(4, flow.shape)
    )
    inputs = (data,) if flow.context_shape is None else (data, random_images(4, flow.context_shape))
    with torch.no_grad():
        z, _ = flow.encode(*inputs)
    decoder = Decoder(flow)
    exported = torch.export.export(decoder, (z, *inputs[1:])).module()
    torch.manual_seed(0)
    expected = decoder(z, *inputs[1:])
    torch.manual_seed(0)
    assert torch.equal(exported(z, *inputs[1:]), expected)
    if hasattr(torch.compiler, "is_exporting"):
        # ONNX has none.
        assert "triangular" not in str(exported.graph)
    scored = torch.export.export(flow, inputs).module()
    torch.testing.assert_close(seeded(lambda: scored(*inputs)), seeded(lambda: flow(*inputs)), rtol=1e-5, atol=1e-4)


def onnx_flow(name):
    """A flow and a batch for it."""
    if name == "relation":
        torch.manual_seed(0)
        flow = Flow(relation_block(4, 3, num_steps=2, squeeze=False), (4, 4, 4), (3, 4, 4))
        data = torch.randn(16, 4, 4, 4), torch.randn(16, 3, 4, 4)
        flow.train().log_prob(*data)
        return moved(flow).eval(), data
    flow = EXPORTED[name]().eval()
    return flow, (torch.randn(4, 2),) if name == "realnvp_2d" else (digits(4),)


@pytest.mark.filterwarnings("ignore:::torch", "ignore:::onnxscript", "ignore:::copyreg")
@pytest.mark.parametrize("name", ["realnvp_2d", "simple", "glow", "relation"])
def test_onnx_has_the_same_numbers(name, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    flow, (data, *context) = onnx_flow(name)
    with torch.no_grad():
        z, _ = flow.encode(data, *context)
        taken = layers.with_lu(flow)
        decoded = run_onnx(Decoder(taken).eval(), (z, *context), tmp_path)
        np.testing.assert_allclose(decoded, flow.decode(z, *context), rtol=1e-5, atol=1e-5)
        scores = run_onnx(taken, (data, *context), tmp_path)
        if name in ("realnvp_2d", "relation"):
            np.testing.assert_allclose(scores, flow(data, *context), rtol=1e-5, atol=1e-5)
        else:
            # A draw of dequantization noise each.
            assert np.isfinite(scores).all()


@pytest.mark.slow  # Long graphs: 40 seconds.
@pytest.mark.filterwarnings("ignore:::torch", "ignore:::onnxscript", "ignore:::copyreg")
def test_translation_flows_go_to_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    flow = layers.with_lu(EXPORTED["caflow"]())
    x, source = random_images(4, flow.shape), random_images(4, flow.context_shape)
    with torch.no_grad():
        z, _ = flow.encode(x, source)
    # The source draws dequantization noise.
    assert run_onnx(Decoder(flow).eval(), (z, source), tmp_path).shape == x.shape
    assert np.isfinite(run_onnx(flow, (x, source), tmp_path)).all()


def run_onnx(module, inputs, folder):
    import onnxruntime

    torch.onnx.export(module, inputs, dynamo=True, verbose=False).save(folder / "flow.onnx")
    session = onnxruntime.InferenceSession(folder / "flow.onnx")
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    return found


@pytest.mark.filterwarnings("ignore:::torch", "ignore:::onnxscript", "ignore:::copyreg")
def test_the_error_of_onnx_names_the_copy_that_it_takes():
    pytest.importorskip("onnxscript")
    flow = Flow(Sequential(Conv1x1(4, form="full")), (4, 2, 2)).eval()
    with pytest.raises(Exception, match=r"ONNX lacks: export nbflows.layers.with_lu\(flow\)"):
        torch.onnx.export(flow, (torch.randn(3, 4, 2, 2),), dynamo=True, verbose=False)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch 2.6 does not say that it exports")
def test_onnx_lacks_the_determinant_of_a_full_convolution_and_the_error_names_the_copy_that_has_it(monkeypatch):
    flow = Flow(Sequential(Conv1x1(4, form="full")), (4, 2, 2))
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    for module in (flow, Decoder(flow)):
        # torch.onnx tries both, one after the other.
        for strict in (False, True):
            with pytest.raises(Exception, match=r"form='full'.*ONNX lacks: export nbflows.layers.with_lu\(flow\)"):
                torch.export.export(module, (torch.randn(3, 4, 2, 2),), strict=strict)


def test_a_flow_that_has_seen_no_data_is_not_exported():
    flow = models.digits_glow(num_steps=1, hidden_channels=8)
    # Torch 2.6 does not repeat what an exception of the model says.
    with pytest.raises(RuntimeError, match=r"has not seen data|Observed exception"):
        torch.export.export(flow, (digits(2),))
    assert not traced()


def test_empty_batches_are_fine():
    flow = small_glow()
    assert flow(digits(0)).shape == (0,) and flow.decode(torch.zeros(0, 64)).shape == (0, 1, 8, 8)
    plain = Flow(Sequential(Conv1x1(1)), (1, 2, 2))
    assert plain(torch.zeros(0, 1, 2, 2)).shape == (0,)
    for build in (models.digits_residual_flow, models.digits_mar_scf):
        flow = build()
        flow.log_prob(digits(8))
        assert flow.train()(digits(0)).shape == flow.eval()(digits(0)).shape == (0,)
    assert isinstance(models.digits_joint_residual_flow(), JointFlow)


def patterns(shape, num_grey_levels, seed=0):
    """Images that flows have not seen: black, white, checkerboards, stripes, noise, and noise of two levels."""
    generator = torch.Generator().manual_seed(seed)
    top, (_, height, width) = num_grey_levels - 1, shape
    board = (torch.arange(height)[:, None] + torch.arange(width)) % 2 * top
    stripes = torch.arange(height)[:, None] % 2 * top + torch.zeros(width, dtype=torch.int64)
    noise = torch.randint(num_grey_levels, (4, *shape), generator=generator)
    two = torch.randint(2, (4, *shape), generator=generator) * top
    still = [torch.zeros(shape), torch.full(shape, top), board.expand(shape), top - board.expand(shape)]
    return torch.cat([torch.stack([*still, stripes.expand(shape)]), noise, two]).byte()


@pytest.mark.parametrize(
    "name",
    [
        *("digits-simple", "digits-multiscale", "digits-glow", "digits-marscf-mixlogcdf", "digits-residual"),
        pytest.param("mnist-glow", marks=pytest.mark.slow),  # The deepest flow here.
    ],
)
def test_every_grey_level_comes_back_in_float64(name):
    flow = load_pretrained(name)
    before = {key: tensor.clone() for key, tensor in flow.state_dict().items()}
    images = patterns(flow.shape, flow.num_grey_levels)
    z, log_det = flow.encode(images, dtype=torch.float64)
    assert z.dtype == log_det.dtype == torch.float64 and not z.requires_grad
    assert torch.equal(flow.decode(z, dtype=torch.float64), images)
    # The flow itself is as it was.
    assert flow.dtype == torch.float32
    assert all(torch.equal(before[key], tensor) for key, tensor in flow.state_dict().items())
    with pytest.raises(ValueError, match=r"computes in torch\.float32, got torch\.float64"):
        flow.decode(z)


def test_points_too_are_encoded_in_another_precision():
    flow, x = points_flow(context_features=3), torch.randn(4, 2)
    context = torch.randn(4, 3)
    z, _ = flow.encode(x, context, dtype=torch.float64)
    # One coupling after the other, of numbers about 1: a few dozen roundings.
    torch.testing.assert_close(flow.decode(z, context, dtype=torch.float64), x.double(), rtol=0, atol=1e-13)
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(ValueError, match="float32 or float64"):
            flow.encode(x, context, dtype=dtype)


@pytest.mark.parametrize(
    "name", ["simple", "variational", "glow", pytest.param("mar_scf, affine", marks=pytest.mark.slow)]
)
def test_whole_flows_have_per_example_gradients_under_vmap(name):
    flow, images = EXPORTED[name]().double().eval(), digits(3)
    parameters = {key: p.detach() for key, p in flow.named_parameters()}

    def loss(parameters, image):
        return torch.func.functional_call(flow, parameters, (image[None],)).sum()

    # The same noise for every image.
    per_example = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="same")
    got = seeded(lambda: per_example(parameters, images))
    for i in range(3):
        value = seeded(lambda: flow(images[i : i + 1]).sum())  # noqa: B023
        for key, e in zip(
            parameters, torch.autograd.grad(value, list(flow.parameters()), materialize_grads=True), strict=True
        ):
            torch.testing.assert_close(got[key][i], e, rtol=1e-7, atol=1e-7 * (1 + e.abs().max().item()), msg=key)


@pytest.mark.slow  # Each is a trace of the whole model.
@pytest.mark.parametrize("name", ["realnvp_2d", "simple", "glow"])
def test_flows_are_compiled_in_one_graph(name):
    flow = EXPORTED[name]().eval()
    x = torch.randn(4, 2) if name == "realnvp_2d" else digits(4)
    compiled = torch.compile(flow, backend="eager", fullgraph=True)
    torch.testing.assert_close(seeded(lambda: compiled(x)), seeded(lambda: flow(x)), rtol=1e-5, atol=1e-4)
    torch._dynamo.reset()


LAYERS_WITH_NUMBERS = {
    "num_grey_levels": lambda v: layers.Dequantize(num_grey_levels=v),
    "alpha": lambda v: layers.Logit(v),
    "num_components": lambda v: MixtureCoupling(MLP(1, 8, 11), v),
    "min_log_scale": lambda v: MixtureCoupling(MLP(1, 8, 11), 3, min_log_scale=v),
    "max_log_std": lambda v: layers.GaussianPrior(MLP(1, 8, 4), max_log_std=v),
    "num_terms": lambda v: layers.TruncatedSeries(v),
    "parameter": lambda v: layers.RussianRoulette(parameter=v),
    "num_exact_terms": lambda v: layers.RussianRoulette(num_exact_terms=v),
    "num_draws": lambda v: layers.RussianRoulette(num_draws=v),
    "num_probes": lambda v: layers.SeriesLogDet(layers.TruncatedSeries(1), num_probes=v),
    "tolerance": lambda v: layers.ResidualBlock(MLP(1, 8, 1), layers.ExactLogDet(), tolerance=v),
    "max_steps": lambda v: layers.ResidualBlock(MLP(1, 8, 1), layers.ExactLogDet(), max_steps=v),
    "window": lambda v: layers.ResidualBlock(MLP(1, 8, 1), layers.ExactLogDet(), window=v),
    "offset": lambda v: layers.SigmoidScale(v),
    "limit": lambda v: layers.ArctanScale(v),
}


@pytest.mark.parametrize("name", LAYERS_WITH_NUMBERS)
def test_layers_refuse_numbers_that_mean_nothing_by_name(name):
    for bad in (float("nan"), float("inf"), "many", [1, 2], True, torch.tensor(float("nan")), np.float32("nan")):
        with pytest.raises(ValueError, match=f"^{name} is "):
            LAYERS_WITH_NUMBERS[name](bad)
    good = 2 if name.startswith(("num", "max_steps", "window")) else 0.5
    for kind in (torch.tensor, np.float64):
        LAYERS_WITH_NUMBERS[name](kind(good))


@pytest.mark.parametrize("alpha", [0.0, 0.05])
@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_logit_refuses_numbers_outside_of_its_domain(alpha, bad):
    layer, x = layers.Logit(alpha), torch.full((3, 4), 0.5)
    x[1, 2] = bad
    with pytest.raises(ValueError, match="1 of 12 are outside"):
        layer(x)
    ends = torch.tensor([[0.0, 1.0]])
    if alpha:
        assert layer(ends)[0].isfinite().all()
    else:
        with pytest.raises(ValueError, match="between 0 and 1, but 2 of 2 are outside"):
            layer(ends)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch 2.6 does not say that it exports")
def test_residual_flows_say_that_they_are_not_exported():
    flow = models.digits_residual_flow(num_blocks=(1, 1), hidden_channels=8)
    flow.log_prob(digits(8))
    for module, given in ((flow, digits(2)), (Decoder(flow), torch.zeros(2, *flow.latent_shape))):
        with pytest.raises(RuntimeError, match=r"which torch\.export cannot trace"):
            torch.export.export(module.eval(), (given,))


def test_check_bijection_takes_tensors():
    with pytest.raises(TypeError, match="as a tensor, got a ndarray"):
        check_bijection(Flip(), np.zeros((2, 2)))


def test_a_flow_with_weights_that_are_not_finite_is_neither_scored_nor_sampled_nor_saved(tmp_path):
    flow = models.digits_glow()
    images = torch.randint(17, (20, 1, 8, 8)).byte()
    flow.log_prob(images)
    flow.eval()
    with torch.no_grad():
        last = [weight for weight in flow.parameters() if weight.dim() == 4][-1]
        last[0, 0] = torch.nan
    for use in (lambda: flow.bits_per_dim(images), lambda: flow.sample(2), lambda: save_flow(flow, tmp_path / "a")):
        with pytest.raises(ValueError, match="has values that are not finite"):
            use()
    with torch.no_grad():
        last[0, 0] = 1e5
    with pytest.raises(ValueError, match="not finite in float16: nothing was written"):
        save_flow(flow, tmp_path / "a", half=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"clip_norm": 0}, {"ema_decay": 1.0}, {"betas": (0.9,)}, {"betas": (0.9, 1.5)}])
def test_a_recipe_that_would_train_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(recipes.get("digits-simple"), **wrong)
