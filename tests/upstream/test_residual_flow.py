"""The authors' Residual Flows in our models: number for number what the original computes."""

import argparse
import functools
import importlib
import json
import math
import re
import sys

import numpy as np
import pytest
import torch

from nbflows import upstream
from nbflows.cli import main
from nbflows.flow import log_standard_normal
from nbflows.layers import ExactLogDet, Logit, ResidualBlock
from nbflows.nets import LipSwish, OperatorNorm
from tests.reference_data import reference

FILES = ["residual_flow", "residual_flow_factorout"]
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
EACH = pytest.mark.parametrize("name", FILES)


@functools.cache
def _arrays(name):
    return {key: torch.from_numpy(value) for key, value in reference(f"{name}.npz").items() if key != "meta"}


def _meta(name):
    return json.loads(str(reference(f"{name}.npz")["meta"]))


def _state(name):
    return {key[6:]: value for key, value in _arrays(name).items() if key.startswith("state/")}


def _flow(name, dtype, exact=True):
    """The original's flow in eval mode, with its norms as it recorded them: converged in float64."""
    state = _state(name)
    flow = upstream.residual_flow(state, alpha=0.1).to(dtype).eval()
    recorded = sorted((key.removesuffix(".u") for key in state if key.endswith(".u")), key=_place)
    norms = [module for module in flow.modules() if isinstance(module, OperatorNorm)]
    for prefix, norm in zip(recorded, norms, strict=True):
        norm.vector.copy_(state[f"{prefix}.{'u' if norm.transposed else 'v'}"].view_as(norm.vector))
    if exact:
        for block in flow.modules():
            if isinstance(block, ResidualBlock):
                block.eval_log_det = ExactLogDet()
    return flow


def _place(key):
    return [int(number) for number in re.findall(r"\d+", key)]


@pytest.fixture
def original_norm(monkeypatch):
    """The original takes the larger of sigma / coeff and a 1 in float32, also in float64, before it divides by it."""

    def forward(norm, weight):
        return weight / (norm.sigma(weight) / norm.coeff).float().clamp(min=1)

    monkeypatch.setattr(OperatorNorm, "forward", forward)


def _encode(flow, x):
    """z and log_det of numbers in (0, 1) that are dequantized already: all layers but the first, after its logit."""
    z, log_det = Logit(0.1)(x)
    for layer in list(flow.bijection.layers)[1:]:
        z, layer_log_det = layer(z)
        log_det = log_det + layer_log_det
    return z, log_det


def _decode(flow, z):
    z = z.view(-1, *flow.latent_shape)
    for layer in reversed(list(flow.bijection.layers)[1:]):
        z = layer.inverse(z)
    return Logit(0.1).inverse(z)


def _error(ours, name, key):
    return (ours - _arrays(name)[key].view_as(ours)).abs().max().item()


@BOTH
@EACH
def test_latents_likelihoods_and_bits_agree_with_the_original(name, dtype, original_norm):
    flow, x = _flow(name, dtype), _arrays(name)["x"].to(dtype)
    suffix, dimensions = "64" if dtype == torch.float64 else "", x[0].numel()
    # The specification's tolerances.
    of_z, nats = (1e-9, 1e-9) if dtype == torch.float64 else (1e-4, 2e-3)
    with torch.no_grad():
        z, log_det = _encode(flow, x)
    assert _error(z.flatten(1), name, f"z{suffix}") < of_z
    assert _error(-log_det, name, f"delta_logp{suffix}") < nats
    assert _error(log_det, name, "full_jacobian_logabsdet64") < nats
    log_prob = log_standard_normal(z, dtype) + log_det - dimensions * math.log(256)
    assert _error(log_prob, name, f"logpx{suffix}") < nats
    assert _error(-log_prob / dimensions / math.log(2), name, f"bits_per_dim{suffix}") < nats / dimensions


@pytest.mark.slow  # The originals' flow in float64, block by block.
@BOTH
@EACH
def test_every_block_has_the_originals_log_det(name, dtype, original_norm):
    flow, x = _flow(name, dtype), _arrays(name)["x"].to(dtype)
    blocks = [module for module in flow.modules() if isinstance(module, ResidualBlock)]
    log_dets = []
    for block in blocks:
        block.register_forward_hook(lambda block, args, result: log_dets.append(result[1]))
    with torch.no_grad():
        _encode(flow, x)
    theirs = _arrays(name)["block_logdets64" if dtype == torch.float64 else "block_logdets"]
    assert (torch.stack(log_dets, dim=1) - theirs).abs().max() < (1e-9 if dtype == torch.float64 else 2e-3)


@EACH
def test_without_the_originals_rounding_of_sigma_the_difference_is_that_rounding(name):
    flow, x = _flow(name, torch.float64), _arrays(name)["x"].double()
    with torch.no_grad():
        z, log_det = _encode(flow, x)
    # A share of 2^-24 of some 15 layers' weights; z and log_det are of order 100 and less.
    assert 0 < _error(z.flatten(1), name, "z64") < 15 * 2**-24 * z.abs().max()
    assert 0 < _error(-log_det, name, "delta_logp64") < 15 * 2**-24 * x[0].numel() * 20


@pytest.mark.slow  # Fixed points to rounding.
@BOTH
@EACH
def test_decoding_and_sampling_agree_with_the_original(name, dtype, original_norm):
    flow, arrays = _flow(name, dtype), _arrays(name)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    with torch.no_grad():
        assert _error(_decode(flow, arrays["z_sample"].to(dtype)), name, "x_sample64") < tolerance
        back = _decode(flow, arrays["z64"].to(dtype))
    assert _error(back, name, "x_inv64") < tolerance and _error(back, name, "x") < max(tolerance, 1e-6)


@pytest.mark.slow
@EACH
def test_the_stochastic_evaluation_has_the_originals_mean(name):
    flow, x = _flow(name, torch.float64, exact=False), _arrays(name)["x"].double()
    torch.manual_seed(0)
    # Copies of the images, for probes of their own: 20 draws of the roulette, whose tail begins at the 21st term.
    with torch.no_grad():
        log_dets = torch.stack([_encode(flow, x.repeat(20, 1, 1, 1))[1].view(20, len(x)) for _ in range(20)])
    ours = -log_dets.flatten(0, 1)
    mean, variance = ours.mean(0), ours.var(0) / len(ours)
    theirs = _arrays(name)["mc_delta_logp_mean64"][:, 0], _arrays(name)["mc_delta_logp_se64"][:, 0]
    # 4 standard errors, of both.
    assert ((mean - theirs[0]).abs() < 4 * (variance + theirs[1] ** 2).sqrt()).all()
    assert ((mean - _arrays(name)["delta_logp64"][:, 0]).abs() < 4 * variance.sqrt() + 1e-4).all()


@EACH
def test_sizes_are_read_off_the_tensors(name):
    flow, meta = _flow(name, torch.float32), _meta(name)
    blocks = [module for module in flow.modules() if isinstance(module, ResidualBlock)]
    # The original counts two constants per block.
    assert sum(p.numel() for p in flow.parameters()) == meta["nparams"] - 2 * len(blocks)
    assert flow.shape == tuple(_arrays(name)["x"].shape[1:]) == tuple(meta["input"][1:])
    assert flow.num_grey_levels == 256
    assert [list(level.shape[1:]) for level in flow.unpack(torch.zeros(1, *flow.latent_shape))] == (
        meta["latent_dims"] if meta["config"]["factor_out"] else [[math.prod(flow.shape)]]
    )


@EACH
def test_images_are_scored_and_come_back(name):
    flow = _flow(name, torch.float32, exact=False)
    images = torch.randint(256, (4, *flow.shape)).byte()
    with torch.inference_mode():
        assert flow.bits_per_dim(images).isfinite().all()
    flow = flow.double()
    with torch.inference_mode():
        assert torch.equal(flow.decode(flow.encode(images)[0]), images)


def test_the_state_dict_stays_as_it_was():
    state = _state(FILES[0])
    before = {key: value.clone() for key, value in state.items()}
    upstream.residual_flow(state)
    assert list(state) == list(before) and all(torch.equal(state[key], before[key]) for key in before)


# The authors' files ---------------------------------------------------------------------------------------------------

LIB = """
class ExponentialMovingAverage(object):
    def __init__(self, shadow_params):
        self.decay = 0.999
        self.shadow_params = shadow_params
"""


def _is_trained(key):
    return re.search(r"\.(weight|bias|beta|geom_p|lamb)$", key)


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Writes a checkpoint as the authors wrote it: with objects of a module that is gone when it is read."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").touch()
    (tmp_path / "lib" / "utils.py").write_text(LIB)

    def save(state, shadow_params, **args):
        with monkeypatch.context() as context:
            context.syspath_prepend(tmp_path)
            utils = importlib.import_module("lib.utils")
            content = {
                "state_dict": state,
                "optimizer_state_dict": torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).state_dict(),
                "args": argparse.Namespace(**{"nblocks": "2-2", "act": "swish", **args}),
                "ema": utils.ExponentialMovingAverage(shadow_params),
                "test_bpd": np.float64(1.0),
            }
            file = tmp_path / "most_recent.pth"
            torch.save(content, file)
        for name in [name for name in sys.modules if name.split(".")[0] == "lib"]:
            del sys.modules[name]
        return file

    return save


def _with_averages():
    """A state dict, and averages that differ from it: of convolutions of twice the size."""
    state = _state(FILES[0])
    averages = {}
    for key, value in state.items():
        if _is_trained(key):
            averages[key] = value.clone() if value.dim() == 0 else 2 * value + 0.01 * torch.randn_like(value)
    return state, averages


@pytest.mark.slow  # Norms from the beginning.
def test_the_averaged_weights_are_taken_unless_told_otherwise_and_their_norms_are_computed(save):
    state, averages = _with_averages()
    checkpoint = upstream.read_checkpoint(save(state, averages))
    expected = upstream.residual_flow(state | averages)
    for flow, weights in (
        (upstream.residual_flow(checkpoint), state | averages),
        (upstream.residual_flow(checkpoint, averaged=False), state),
    ):
        first = next(module for module in flow.modules() if isinstance(module, ResidualBlock)).net.layers[0]
        key = "transforms.0.chain.2.nnet.0"
        assert torch.equal(first.parametrizations.weight.original, weights[f"{key}.weight"])
        assert torch.equal(first.bias, weights[f"{key}.bias"])
        swish = next(module for module in flow.modules() if isinstance(module, LipSwish))
        assert torch.equal(swish.raw, weights["transforms.0.chain.2.nnet.1.beta"][0])
        for block in flow.modules():
            if isinstance(block, ResidualBlock):
                for layer in block.net.layers:
                    if hasattr(layer, "parametrizations"):
                        norm, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
                        # Converged for these weights: a step changes nothing more.
                        assert norm.step(weight) <= norm.tolerance
    _assert_same_weights(upstream.residual_flow(checkpoint), expected)


def _without_beta(state):
    return {key: value for key, value in state.items() if not key.endswith(".beta")}


def test_a_model_without_swish_says_its_activation_in_the_file_or_is_told(save):
    state, averages = (_without_beta(part) for part in _with_averages())
    checkpoint = upstream.read_checkpoint(save(state, averages, act="elu"))
    for flow in (upstream.residual_flow(checkpoint), upstream.residual_flow(state, activation="elu")):
        kinds = {type(module).__name__ for module in flow.modules()}
        assert "ELU" in kinds and "LipSwish" not in kinds
    told = upstream.residual_flow(checkpoint, activation="softplus")
    assert "Softplus" in {type(module).__name__ for module in told.modules()}
    with pytest.raises(ValueError, match="name it, for example activation='elu'"):
        upstream.residual_flow(state)


BLOCK = "transforms.0.chain.2"


def _renamed(state, old, new):
    return {new + key.removeprefix(old) if key.startswith(old) else key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda s: {}, {}, "no residual blocks in this state dict"),
        (lambda s: s | {"extra": torch.zeros(1)}, {}, "unexpected keys: extra"),
        (lambda s: s | {"classification_heads.0.weight": torch.zeros(1)}, {}, "unexpected keys: classification_heads"),
        (
            lambda s: {k: v for k, v in s.items() if k != f"{BLOCK}.nnet.2.bias"},
            {},
            f"missing key: {BLOCK}.nnet.2.bias",
        ),
        (
            lambda s: {k: v for k, v in s.items() if k != f"{BLOCK}.nnet.0.v"},
            {},
            f"missing key: {BLOCK}.nnet.0.v",
        ),
        (
            lambda s: {k: v for k, v in s.items() if k != "transforms.0.chain.3.bias"},
            {},
            "missing key: transforms.0.chain.3.bias",
        ),
        (
            lambda s: s | {"transforms.0.chain.3.initialized": torch.tensor(0)},
            {},
            "'transforms.0.chain.3' has never seen data",
        ),
        (
            lambda s: s | {f"{BLOCK}.nnet.2.weight": torch.zeros(16, 8, 1, 1)},
            {},
            f"a weight of '{BLOCK}.nnet.2' has shape (16, 8, 1, 1); the others need (16, 16, 1, 1)",
        ),
        (
            lambda s: _renamed(s, f"{BLOCK}.nnet.0", f"{BLOCK}.nnet.1"),
            {},
            f"'{BLOCK}' begins with an activation",
        ),
        (lambda s: s, {"shape": (3, 8, 8)}, "images of 1 channels, or a quarter; the shape is (3, 8, 8)"),
        (lambda s: s, {"shape": (1, 7, 8)}, "even height and width, got 7x8"),
        (lambda s: s, {"activation": "gelu"}, "got 'gelu'"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("transforms.0.chain.3.")},
            {},
            "blocks and ActNorms do not alternate",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_an_error_that_names_the_key(change, settings, message):
    with pytest.raises(ValueError) as error:
        upstream.residual_flow(change(_state(FILES[0])), **settings)
    assert message in str(error.value)


def test_a_file_without_averages_yet_is_an_error_and_can_be_read_without_them(save):
    checkpoint = upstream.read_checkpoint(save(_state(FILES[0]), {}))
    with pytest.raises(ValueError, match="no averaged weights yet: load it with averaged=False"):
        upstream.residual_flow(checkpoint)
    upstream.residual_flow(checkpoint, averaged=False)


def _assert_same_weights(flow, expected):
    ours, theirs = flow.state_dict(), expected.state_dict()
    # The vectors of power iteration start at random.
    names = [name for name in theirs if ".parametrizations.weight.0." not in name]
    assert ours.keys() == theirs.keys() and len(names) > 10
    assert all(torch.equal(ours[name], theirs[name]) for name in names)


@pytest.mark.slow  # Power iteration of all weights, three times.
def test_a_published_file_is_loaded_and_evaluated_from_the_command_line(save, tmp_path, monkeypatch, capsys):
    state, averages = _with_averages()
    file = save(state, averages)
    flow = upstream.load_upstream(file)
    assert not flow.training and flow.shape == (1, 8, 8) and flow.num_grey_levels == 256
    _assert_same_weights(flow, upstream.residual_flow(state | averages))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = {part: rng.integers(0, 256, (12, 8, 8), dtype=np.uint8) for part in ("train", "validation", "test")}
    np.savez("images.npz", **images)
    assert main(["evaluate", "--upstream", str(file), "--data", "images.npz"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"test images: \d+\.\d{4} ± \d+\.\d{4} bits/dim \(M = 1, 12 images\)", printed)
    assert (tmp_path / "most_recent.png").stat().st_size > 0
    assert main(["sample", "--upstream", str(file), "few.png", "--num-samples", "2"]) == 0
    assert (tmp_path / "few.png").stat().st_size > 0
