"""The authors' mAR-SCF weights in our models: number for number what the original computes."""

import json

import numpy as np
import pytest
import torch

from nbflows import upstream
from nbflows.bijection import sum_dimensions
from tests.reference_data import reference, replayed_noise

COUPLINGS = ["affine", "mixlogcdf"]


def _state(arrays):
    return {key[6:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("state/")}


def _flow_and_arrays(coupling, dtype):
    arrays = reference(f"mar_scf_{coupling}.npz")
    return upstream.mar_scf(_state(arrays)).to(dtype).eval(), arrays


def _error(ours, arrays, key):
    return (ours - torch.from_numpy(arrays[key])).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_every_level_agrees_with_the_original(coupling, dtype):
    flow, arrays = _flow_and_arrays(coupling, dtype)
    exact = "f64/" if dtype == torch.float64 else ""
    # The specification's tolerances; in float64 its 1e-6 of a log-likelihood of -22,000 nats.
    latent_tolerance, nats = {"affine": 1e-5, "mixlogcdf": 5e-4}[coupling], 2e-2
    with torch.no_grad(), replayed_noise(arrays["dequant_u"]):
        x, _ = flow.bijection[0](torch.from_numpy(arrays["x_uint8"]))
        assert _error(x - 0.5, arrays, "x") < 2e-6
        multiscale, log_det = flow.bijection[1], 0.0
        for i, (level, prior) in enumerate(zip(multiscale.levels, multiscale.priors, strict=True), start=1):
            x, level_log_det = level(x)
            log_det = log_det + level_log_det
            z, context = x, None
            if i < 3:
                x, z = x.chunk(2, dim=1)
                context = x
                assert _error(x, arrays, f"cond/level{i}") < latent_tolerance
            assert _error(z, arrays, f"latent/level{i}") < latent_tolerance
            noise, prior_log_det = prior(z, context)
            log_prior = prior_log_det + sum_dimensions(torch.distributions.Normal(0.0, 1.0).log_prob(noise))
            assert _error(log_prior, arrays, f"{exact}logprior/level{i}") < nats
        assert _error(log_det, arrays, f"{exact}logdet_flow") < nats


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_likelihood_agrees_with_the_original(coupling, dtype):
    flow, arrays = _flow_and_arrays(coupling, dtype)
    exact = "f64/" if dtype == torch.float64 else ""
    images = torch.from_numpy(arrays["x_uint8"])
    with torch.no_grad(), replayed_noise(arrays["dequant_u"]):
        assert _error(flow.log_prob(images), arrays, f"{exact}loglik") < 2e-2
    with torch.no_grad(), replayed_noise(arrays["dequant_u"]):
        bits = flow.bits_per_dim(images)
    expected = torch.from_numpy(arrays[f"{exact}nll_bpd"])
    assert ((bits - expected).abs() / expected).max() < (1e-6 if exact else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_sampling_and_decoding_agree_with_the_original(coupling, dtype):
    flow, arrays = _flow_and_arrays(coupling, dtype)
    noise = [torch.from_numpy(arrays[f"sample/eps_level{i}"]).to(dtype) for i in (1, 2, 3)]
    latents = [torch.from_numpy(arrays[f"sample/z_level{i}"]) for i in (1, 2, 3)]
    with torch.no_grad():
        multiscale = flow.bijection[1]
        x = multiscale.inverse(flow.pack(noise))
        assert _error(x - 0.5, arrays, "sample/x") < 5e-4
        deepest = multiscale.priors[2].inverse(noise[2])
        assert (deepest - latents[2]).abs().max() < 5e-4
        images = torch.from_numpy(arrays["x_uint8"])
        with replayed_noise(arrays["dequant_u"]):
            pixels, _ = flow.bijection[0](images)
        back = multiscale.inverse(multiscale(pixels)[0])
        wrong = flow.bijection[0].inverse(back) != images
    error = (back - pixels).abs().max()
    assert error < (1e-12 if dtype == torch.float64 else 5e-4)
    # Only a pixel whose noise lies within that error of its bin's edges can change: in float64 none.
    u = torch.from_numpy(arrays["dequant_u"])
    close = torch.minimum(u, 1 - u) < 256 * error + 1e-4
    assert not (wrong & ~close).any()
    if dtype == torch.float64:
        assert not wrong.any()


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_sizes_are_read_off_the_tensors(coupling):
    flow, arrays = _flow_and_arrays(coupling, torch.float32)
    meta = json.loads(str(arrays["meta"]))
    multiscale = flow.bijection[1]
    assert len(multiscale.levels) == meta["L"] and len(multiscale.levels[0]) - 1 == meta["K"] * (
        3 if coupling == "affine" else 4
    )
    for prior, kernel, dilation in zip(multiscale.priors, meta["prior_kernel"], meta["prior_dilation"], strict=True):
        layer = prior.lstm.layers[0].hidden_to_hidden
        assert len(prior.lstm.layers) == meta["prior_layers"] and layer.in_channels == meta["prior_hidden"]
        assert layer.kernel_size == (kernel, kernel) and layer.dilation == (dilation, dilation)
    if coupling == "mixlogcdf":
        layer = multiscale.levels[0][3]
        assert layer.num_components == meta["num_components"] and len(layer.net.blocks) == meta["num_blocks"]


def _without(state, key):
    return {k: v for k, v in state.items() if k != key}


STEP = "flow.layers.1"


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        (lambda s: {}, (3, 32, 32), "no flow steps in this state dict"),
        (lambda s: s | {"extra": torch.zeros(1)}, (3, 32, 32), "unexpected keys: extra"),
        (lambda s: _without(s, f"{STEP}.invert_1x1_layer.u"), (3, 32, 32), f"missing key: {STEP}.invert_1x1_layer.u"),
        (lambda s: s, (1, 32, 32), r"weights are for images of 3 channels, the shape is (1, 32, 32)"),
        (lambda s: s, (3, 28, 28), "even height and width, got 7x7"),
        (
            lambda s: {k: v for k, v in s.items() if "prior_list.2" not in k},
            (3, 32, 32),
            "3 flow steps do not make 2 levels",
        ),
        (
            lambda s: s | {f"{STEP}.actnormlayer.is_initialized": torch.zeros(1)},
            (3, 32, 32),
            f"'{STEP}.actnormlayer' has never seen data",
        ),
        (
            lambda s: s | {f"{STEP}.invert_1x1_layer.log_s": torch.zeros(5)},
            (3, 32, 32),
            f"a weight of '{STEP}.invert_1x1_layer' has shape (5,); the others need (12,)",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_an_error_that_names_the_key(change, shape, message):
    state = _state(reference("mar_scf_affine.npz"))
    with pytest.raises(ValueError) as error:
        upstream.mar_scf(change(state), shape)
    assert message in str(error.value)


def test_the_state_dict_stays_as_it_was_and_the_pixels_are_scaled_as_the_original_scales_them():
    arrays = reference("mar_scf_affine.npz")
    state = _state(arrays)
    before = {key: value.clone() for key, value in state.items()}
    flow = upstream.mar_scf(state)
    assert all(torch.equal(state[key], before[key]) for key in before) and len(state) == len(before)
    assert flow.bijection[0].spacing == 1 / 255
    # Every grey level comes back from both ends of its bin.
    levels = torch.arange(256).byte().view(1, 1, 16, 16)
    for u in (0.0, 1.0):
        with replayed_noise(np.float32(u)):
            x, _ = flow.bijection[0](levels)
        assert torch.equal(flow.bijection[0].inverse(x), levels)
