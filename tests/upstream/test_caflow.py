"""The authors' CAFLOW weights in our models: number for number what the original computes."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from nbflows import models, upstream
from nbflows.compose import WithContext
from nbflows.flow import log_standard_normal
from nbflows.models.caflow import relation_block
from nbflows.nets import PickLevels
from nbflows.objectives import Translation
from nbflows.recipes import Recipe
from nbflows.training.steps import FlowModule
from nbflows.upstream.caflow import _load_layer, _load_layers
from tests.reference_data import reference, replayed_noise

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
MODELS = ["full_2scales", "full_3scales", "full_3scales_shared", "dualglow_2scales"]
RELATIONS = dict(zip(MODELS, ["unshared", "unshared", "shared", "per-level"], strict=True))


def _state(arrays, dtype=torch.float32):
    return {key[6:]: torch.from_numpy(value).to(dtype) for key, value in arrays.items() if key.startswith("state/")}


def _tensor(arrays, key, dtype=None):
    return torch.from_numpy(arrays[key]).to(dtype or torch.float64)


def _agree(ours, arrays, key, scale=1.0):
    """Within the specification's tolerances, relative to the largest number of the array: 1e-9 and 1e-4."""
    theirs = _tensor(arrays, key)
    tolerance = 1e-9 if ours.dtype == torch.float64 else 1e-4
    assert tuple(ours.shape) == tuple(theirs.shape)
    error = (ours.double() * scale - theirs).abs().max() / theirs.abs().max().clamp(min=1)
    assert error < tolerance, f"{key}: {error:.1e}"


class _Reference:
    """A recorded model: the flow, its images and their noise."""

    def __init__(self, name, dtype=torch.float64):
        self.arrays = reference(f"caflow_{name}.npz")
        self.meta = json.loads(str(self.arrays["meta"]))
        self.shape = (self.meta["channels"], self.meta["resolution"], self.meta["resolution"])
        self.flow = upstream.caflow(_state(self.arrays, dtype), self.shape).eval()
        self.source, self.target = (torch.from_numpy(self.arrays[f"in/{image}"]).byte() for image in "yx")
        self.scales = self.meta["scales"]

    def noise(self):
        """Of the source, then of the target."""
        return replayed_noise(self.arrays["in/noise_y"], self.arrays["in/noise_x"])

    def names(self, a, prefix):
        """Of the parts of level a, counted from the finest, as the authors count: from the coarsest."""
        i = self.scales - 1 - a
        coarsest = i if self.meta["conditional"] == "SimpleConditionalFlow" else 0
        return [f"{prefix}_level{i}_scale{j}" for j in range(i, coarsest - 1, -1)]


# Whole models --------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_latent_agrees_with_the_original(name, dtype):
    recorded = _Reference(name, dtype)
    flow, arrays = recorded.flow, recorded.arrays
    dequantize, target, relation = flow.bijection.layers
    with recorded.noise():
        source_latent, _ = flow.source.encode(recorded.source)
        latent, _ = target(dequantize(recorded.target)[0])
    for a, (source_level, level) in enumerate(
        zip(flow.source.unpack(source_latent), target.unpack(latent), strict=True)
    ):
        _agree(source_level, arrays, f"out/D{recorded.scales - 1 - a}")
        _agree(level, arrays, f"out/L{recorded.scales - 1 - a}")
    with recorded.noise():
        z, _ = flow.encode(recorded.target, recorded.source)
    for a, (prior, noise) in enumerate(zip(relation.priors, flow.unpack(z), strict=True)):
        parts, names = prior.unpack(noise), recorded.names(a, "out/Z")
        assert z.dtype == dtype and len(parts) == len(names)
        for part, key in zip(parts, names, strict=True):
            _agree(part, arrays, key)


@BOTH
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_term_of_the_likelihood_agrees_with_the_original(name, dtype):
    recorded = _Reference(name, dtype)
    flow, arrays = recorded.flow, recorded.arrays
    dequantize, target, relation = flow.bijection.layers
    with recorded.noise():
        source_latent, source_log_det = flow.source.encode(recorded.source)
        x, dequantize_log_det = dequantize(recorded.target)
    latent, target_log_det = target(x)
    z, relation_log_det = relation(latent, source_latent)
    _agree(source_log_det, arrays, "out/uncond_logdet_y")
    _agree(log_standard_normal(source_latent, dtype), arrays, "out/uncond_logprior_y")
    _agree(dequantize_log_det + target_log_det, arrays, "out/logdet_x")
    _agree(log_standard_normal(latent, dtype), arrays, "out/logprior_x_unused")
    _agree(relation_log_det, arrays, "out/cond_logdet")
    _agree(log_standard_normal(z, dtype), arrays, "out/cond_logprior")


@BOTH
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_likelihoods_and_the_objective_agree_with_the_original(name, dtype):
    recorded = _Reference(name, dtype)
    flow, arrays, weight = recorded.flow, recorded.arrays, recorded.meta["lamda"]
    with recorded.noise():
        _agree(flow.log_prob(recorded.target, recorded.source), arrays, "out/cond_loglik")
    with recorded.noise():
        _agree(flow.source_log_prob(recorded.source), arrays, "out/uncond_loglik_y")
    with recorded.noise():
        log_prob, source_log_prob = flow.log_probs(recorded.target, recorded.source)
    _agree(log_prob, arrays, "out/cond_loglik")
    _agree(source_log_prob, arrays, "out/uncond_loglik_y")
    objective = weight * source_log_prob + log_prob
    _agree(objective, arrays, "out/log_objective")
    # The original divides by the product of both images' dimensions.
    dimensions = math.prod(recorded.shape)
    _agree(objective / dimensions**2, arrays, "out/log_objective_scaled")
    _agree(-(objective / dimensions**2).mean(), arrays, "out/loss")
    recipe = Recipe("", None, "caflow", objective=Translation(weight=weight))
    with recorded.noise():
        measured = FlowModule(flow, recipe, 1).measure(recorded.target, recorded.source)
    bits = dimensions * math.log(2)
    _agree(measured["loss"], arrays, "out/log_objective", scale=-bits)
    _agree(measured["bits_per_dim"], arrays, "out/cond_loglik", scale=-bits)
    _agree(measured["source_bits_per_dim"], arrays, "out/uncond_loglik_y", scale=-bits)


@BOTH
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_sampling_from_the_recorded_noise_agrees_with_the_original(name, dtype, monkeypatch):
    recorded = _Reference(name, dtype)
    flow, arrays = recorded.flow, recorded.arrays
    dequantize, target, relation = flow.bijection.layers
    eps = [
        prior.pack([_tensor(arrays, key, dtype) for key in recorded.names(a, "sample/eps")])
        for a, prior in enumerate(relation.priors)
    ]
    # The flow's own noise: what it draws is the recorded one, the temperature is its part.
    monkeypatch.setattr(torch, "randn", lambda *size, **_: flow.pack(eps).view(size))
    z = flow.draw_noise(2, temperature=float(arrays["sample/T"]))
    with recorded.noise():
        latent = relation.inverse(z, flow.encode_context(recorded.source))
    for a, level in enumerate(target.unpack(latent)):
        _agree(level, arrays, f"sample/L{recorded.scales - 1 - a}")
    values = target.inverse(latent)
    _agree(256 * torch.sigmoid(values), arrays, "sample/x_cont_before_floor")
    with recorded.noise():
        samples = flow.translate(recorded.source, temperature=float(arrays["sample/T"]), scored=False)
    images = samples.images[:, 0]
    assert torch.equal(images, dequantize.inverse(values)) and samples.scores is None
    # Quirk 5: the original leaves values where the logit's squeeze put them, up to 256 * 1e-5 / 2 from where they were.
    before_floor = _tensor(arrays, "sample/x_cont_before_floor")
    to_the_edge = (before_floor - before_floor.round()).abs()
    away = to_the_edge > 128e-5 + 256 * (1e-9 if dtype == torch.float64 else 1e-4)
    difference = images.double() - _tensor(arrays, "sample/x")
    assert (difference[away] == 0).all() and difference.abs().max() <= 1
    assert away.double().mean() > (0.98 if dtype == torch.float64 else 0.9)


@BOTH
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_images_come_back_exactly(name, dtype):
    recorded = _Reference(name, dtype)
    with recorded.noise():
        z, _ = recorded.flow.encode(recorded.target, recorded.source)
    with recorded.noise():
        assert torch.equal(recorded.flow.decode(z, recorded.source), recorded.target)
    with recorded.noise():
        latent, _ = recorded.flow.source.encode(recorded.source)
    assert torch.equal(recorded.flow.source.decode(latent), recorded.source)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_read_off_the_tensors(name):
    recorded = _Reference(name, torch.float32)
    flow, meta = recorded.flow, recorded.meta
    _, target, relation = flow.bijection.layers
    assert len(target.levels) == len(relation.priors) == meta["scales"]
    for multiscale in (target, flow.source.bijection[1]):
        for level in multiscale.levels:
            assert len(level) == 1 + 2 * meta["transition_steps_uncond"] + 3 * meta["K"]
            assert level[-1].net.layers[0].out_channels == meta["hidden_uncond"]
    for a, prior in enumerate(relation.priors):
        assert len(prior.levels) == (1 if RELATIONS[name] == "per-level" else meta["scales"] - a)
        for block in prior.levels:
            assert len(block.bijection) == 1 + 2 * meta["transition_steps_cond"] + 4 * meta["M"]
            assert block.bijection[-1].net.layers[0].out_channels == meta["hidden_cond"]
    distinct = {id(block.bijection) for prior in relation.priors for block in prior.levels}
    n = meta["scales"]
    assert len(distinct) == {"unshared": n * (n + 1) // 2, "shared": 2 * n - 1, "per-level": n}[RELATIONS[name]]


def test_a_shared_model_may_have_blocks_of_other_depths():
    recorded = _Reference("full_3scales_shared", torch.float32)
    state = _state(recorded.arrays)
    prefix = "model.SharedConditionalFlow.g_I_cond_flows"
    last = 3 + 4 * recorded.meta["M"]
    # One step more for the blocks that are not shared: a copy of their first.
    for key, tensor in list(state.items()):
        if key.startswith(prefix):
            level, _, number, rest = key[len(prefix) + 1 :].split(".", 3)
            if 3 <= int(number) < 7:
                state[f"{prefix}.{level}.layers.{int(number) - 3 + last}.{rest}"] = tensor
    flow = upstream.caflow(state, recorded.shape)
    own, shared = flow.bijection[-1].priors[0].levels[:2]
    assert (len(own.bijection) - 3) // 4 == recorded.meta["M"] + 1
    assert (len(shared.bijection) - 3) // 4 == recorded.meta["M"]


# Parts ---------------------------------------------------------------------------------------------------------------


def _flow_of_one_image(name, dtype):
    arrays = reference(f"caflow_{name}.npz")
    meta, state = json.loads(str(arrays["meta"])), _state(arrays, dtype)
    flow = models.caflow(
        (meta["channels"], meta["resolution"], meta["resolution"]),
        relation="gaussian",
        num_scales=meta["scales"],
        num_steps=meta["K"],
        hidden_channels=meta["hidden"],
        num_noise_steps=meta["vardeq_depth"] or 0,
    ).source.to(dtype)
    if meta["vardeq_depth"]:
        _load_layers(state, "scale_blocks.0.layers", flow.bijection[0].transform)
    for scale, level in enumerate(flow.bijection[1].levels, start=1):
        _load_layers(state, f"scale_blocks.{scale}.layers", level)
    assert not state
    return flow.eval(), arrays, torch.from_numpy(arrays["in/x"]).byte()


def _squeezed_noise(dequantize):
    """Learned noise as the original leaves it, where the logit's squeeze put it: u (1 - a) + a / 2."""
    noise, alpha = dequantize.noise, dequantize.alpha

    def squeezed(x):
        u, rest, entropy = noise(x)
        log_det = math.log1p(-alpha) * x[0].numel()
        return u * (1 - alpha) + alpha / 2, rest * (1 - alpha) + alpha / 2, entropy + log_det

    return squeezed


@BOTH
@pytest.mark.parametrize("name", ["uncond", "uncond_vardeq"])
@torch.no_grad()
def test_the_flow_of_one_image_agrees_with_the_original(name, dtype, monkeypatch):
    flow, arrays, images = _flow_of_one_image(name, dtype)
    if name == "uncond_vardeq":
        monkeypatch.setattr(flow.bijection[0], "noise", _squeezed_noise(flow.bijection[0]))
        # Some of the recorded noise is that close to an edge.
        monkeypatch.setattr(flow.bijection[0], "_keep_off_the_edges", lambda x, u, rest: (u, rest))
    with replayed_noise(arrays["in/noise"]):
        x, dequantize_log_det = flow.bijection[0](images)
        z, log_det = flow.encode(images)
        _agree(flow.log_prob(images), arrays, "out/loglik")
        _agree(-flow.bits_per_dim(images), arrays, "out/bpd_term")
    _agree(x, arrays, "out/h_dequant")
    _agree(dequantize_log_det, arrays, "out/logdet_dequant")
    for a, level in enumerate(flow.unpack(z)):
        _agree(level, arrays, f"out/z{a}")
    _agree(log_det, arrays, "out/logdet")
    _agree(log_standard_normal(z, dtype), arrays, "out/logprior")


@BOTH
@pytest.mark.parametrize("name", ["uncond", "uncond_vardeq"])
@torch.no_grad()
def test_images_come_back_where_the_original_is_off_by_one(name, dtype):
    flow, arrays, images = _flow_of_one_image(name, dtype)
    off = (arrays["out/x_rec"] != arrays["in/x"]).sum()
    assert off == {"uncond": 0, "uncond_vardeq": 5}[name]
    with replayed_noise(arrays["in/noise"]):
        u, rest, _ = flow.bijection[0].noise(images)
        x, _ = flow.bijection[0](images)
        z, _ = flow.encode(images)
        likelihood = flow.log_prob(images)
    error = (flow.bijection[1].inverse(z) - x).abs().max()
    wrong = flow.decode(z) != images
    # Only where the noise lies within rounding errors of its bin's edges, of which there are none in float64: a grey
    # level is dx/dh = 256 v (1 - v) <= 64 of the logit.
    close = torch.minimum(u, rest) < 64 * error
    assert not (wrong & ~close).any()
    assert dtype == torch.float32 or not wrong.any()
    # Learned noise is the original's with its squeeze undone, and moved off the edges by up to 1e-4.
    assert ((likelihood - _tensor(arrays, "out/loglik")).abs() < 1e-4 * likelihood.abs()).all()


@BOTH
@torch.no_grad()
def test_each_layer_of_a_conditional_step_agrees_with_the_original(dtype):
    arrays = reference("caflow_condstep.npz")
    meta, state = json.loads(str(arrays["meta"])), _state(arrays, dtype)
    step = relation_block(meta["channels"], meta["cond_channels"], 1, 0, meta["hidden"], squeeze=False).to(dtype)
    for name, layer in zip(meta["order"], step.layers, strict=True):
        _load_layer(state, name, layer)
    assert not state
    x, context = (_tensor(arrays, key, dtype) for key in ("in/x", "in/cond"))
    z = x
    for name, layer in zip(meta["order"], step.layers, strict=True):
        before = z
        z, log_det = layer(z, context)
        _agree(z, arrays, f"out/h_{name}")
        _agree(log_det, arrays, f"out/logdet_{name}")
        assert (layer.inverse(z, context) - before).abs().max() < (1e-12 if dtype == torch.float64 else 1e-5)
    whole, log_det = step(x, context)
    _agree(whole, arrays, "out/y")
    _agree(log_det, arrays, "out/logdet")
    _agree(step.inverse(whole, context), arrays, "in/x")


@BOTH
@pytest.mark.parametrize("name", ["gS", "gS_last"])
@torch.no_grad()
def test_a_block_with_conditions_from_both_images_agrees_with_the_original(name, dtype):
    arrays = reference(f"caflow_{name}.npz")
    meta, state = json.loads(str(arrays["meta"])), _state(arrays, dtype)
    h, target, source = (_tensor(arrays, f"in/{key}", dtype) for key in ("h", "L", "D"))
    # Joined as CoarseToFine joins them: the source's levels, then the target's.
    shapes = [tuple(source.shape[1:]), tuple(target.shape[1:])]
    context_channels = 4 * (source.shape[1] + target.shape[1])
    block = relation_block(h.shape[1], context_channels, meta["M"], 1, meta["hidden"]).to(dtype)
    _load_layers(state, "layers", block)
    assert not state
    bijection = WithContext(block, PickLevels(shapes, [1, 0], squeeze=True))
    context = torch.cat([source.flatten(1), target.flatten(1)], dim=1)
    z, log_det = bijection(h, context)
    _agree(z, arrays, "out/y")
    _agree(log_det, arrays, "out/logdet")
    _agree(bijection.inverse(z, context), arrays, "in/h")
    stacked = F.pixel_unshuffle(torch.cat([target, source], dim=1), 2)
    assert torch.equal(bijection.network(context), stacked)


# What does not fit ---------------------------------------------------------------------------------------------------


def _without(state, key):
    return {k: v for k, v in state.items() if k != key}


def _dropped(state, part):
    return {k: v for k, v in state.items() if part not in k}


RFLOW, TFLOW = "model.rflow.uflow.scale_blocks", "model.tflow.uflow.scale_blocks"
BLOCK = "model.UnsharedConditionalFlow.scale_flows.0.1.layers"


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        (lambda s: {}, (3, 16, 16), "no conditional flows in this state dict"),
        (lambda s: _dropped(s, "Conditional"), (3, 16, 16), "keys 'model.UnsharedConditionalFlow...' are missing"),
        (lambda s: _dropped(s, "rflow"), (3, 16, 16), f"keys '{RFLOW}.N.layers...' are missing"),
        (lambda s: _dropped(s, "tflow"), (3, 16, 16), f"missing key: {TFLOW}.1.layers.2.weight"),
        (lambda s: _dropped(s, "scale_flows.0.0."), (3, 16, 16), "scale_flows.0.0.layers.N.subnet.nn.0.weight"),
        (lambda s: _dropped(s, "scale_flows.0.1."), (3, 16, 16), f"missing key: {BLOCK}.1.scale"),
        (lambda s: s | {"extra": torch.zeros(1)}, (3, 16, 16), "unexpected keys: extra"),
        (lambda s: s | {f"{BLOCK}.7.scale": torch.zeros(1)}, (3, 16, 16), f"unexpected keys: {BLOCK}.7.scale"),
        (lambda s: _without(s, f"{BLOCK}.2.weight"), (3, 16, 16), f"missing key: {BLOCK}.2.weight"),
        (lambda s: _without(s, f"{TFLOW}.2.layers.1.bias"), (3, 16, 16), f"missing key: {TFLOW}.2.layers.1.bias"),
        (lambda s: s, (1, 16, 16), "weights are for images of 3 channels, the shape is (1, 16, 16)"),
        (lambda s: s, (3, 18, 16), "even height and width, got 9x8"),
        (
            lambda s: s | {f"{RFLOW}.1.layers.1.scale": torch.zeros(1, 5, 1, 1)},
            (3, 16, 16),
            f"a weight of '{RFLOW}.1.layers.1' has shape (5,); the others need (12,)",
        ),
        (
            lambda s: s | {f"{BLOCK}.5.subnet.nn.2.weight": torch.zeros(4, 5, 1, 1)},
            (3, 16, 16),
            f"a weight of '{BLOCK}.5.subnet.nn.2' has shape (4, 5, 1, 1); the others need (4, 4, 1, 1)",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_an_error_that_names_the_key(change, shape, message):
    with pytest.raises(ValueError) as error:
        upstream.caflow(change(_state(reference("caflow_full_2scales.npz"))), shape)
    assert message in str(error.value)


def test_the_state_dict_stays_as_it_was_and_the_constants_of_the_squeeze_may_be_in_it():
    recorded = _Reference("full_2scales", torch.float32)
    state = _state(recorded.arrays)
    state[f"{RFLOW}.1.layers.0.downsample_kernel"] = torch.ones(12, 1, 2, 2)
    before = {key: value.clone() for key, value in state.items()}
    flow = upstream.caflow(state, recorded.shape)
    assert state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in before)
    for ours, theirs in zip(flow.parameters(), recorded.flow.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_of_the_authors_is_recognised_by_its_keys(name, tmp_path):
    recorded = _Reference(name, torch.float32)
    torch.save({"state_dict": _state(recorded.arrays)}, tmp_path / "last.ckpt")
    flow = upstream.load_upstream(tmp_path / "last.ckpt", recorded.shape)
    assert not flow.training
    for ours, theirs in zip(flow.parameters(), recorded.flow.parameters(), strict=True):
        assert torch.equal(ours, theirs)
