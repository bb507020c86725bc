"""The tutorial's published weights in our models: number for number what the original computes."""

import math

import numpy as np
import pytest
import torch

from nbflows import metrics, upstream
from tests.reference_data import mnist, reference, replayed_noise, uva_checkpoint, uva_state_dict

MODELS = ["simple", "vardeq", "multiscale_random"]


def _flow_and_arrays(name, dtype):
    flow = upstream.uva(uva_state_dict(name)).to(dtype).eval()
    arrays = reference(f"uva_{name}.npz")
    return flow, arrays, torch.from_numpy(arrays["x"])


def _latents(arrays, prefix):
    split = f"{prefix}_split_0"
    return [torch.from_numpy(arrays[key]) for key in (split, prefix) if key in arrays]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_encoding_agrees_with_the_original(name, dtype):
    flow, arrays, x = _flow_and_arrays(name, dtype)
    with torch.no_grad(), replayed_noise(arrays["u"]):
        z, _ = flow.encode(x)
    for level, expected in zip(flow.unpack(z), _latents(arrays, "z"), strict=True):
        assert (level - expected).abs().max() < 1e-3
    with torch.no_grad(), replayed_noise(arrays["u"]):
        log_prob = flow.log_prob(x).numpy()
    # The spec's tolerance in float32; in float64 that of a recorded float32 noise and exact arithmetic.
    key, tolerance = ("log_likelihood", 5e-3) if dtype == torch.float32 else ("log_likelihood_f64", 1e-5)
    assert np.abs(log_prob - arrays[key]).max() < tolerance
    with torch.no_grad(), replayed_noise(arrays["u"]):
        bits = flow.bits_per_dim(x).numpy()
    assert np.abs(bits - arrays["bpd" if dtype == torch.float32 else "bpd_f64"]).max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_dequantization_agrees_with_the_original(name):
    flow, arrays, x = _flow_and_arrays(name, torch.float64)
    with torch.no_grad(), replayed_noise(arrays["u"]):
        y, log_det = flow.bijection[0](x)
    # The original's float32 logit is off by up to 3e-3 near white (it takes 1 - v from a rounded v).
    assert (y - torch.from_numpy(arrays["y_dequant"])).abs().max() < 5e-3
    assert np.abs(log_det.numpy() - arrays["ldj_dequant"]).max() < 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_decoding_agrees_with_the_original_and_gives_back_the_images(name):
    flow, arrays, x = _flow_and_arrays(name, torch.float32)
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.pack(_latents(arrays, "z"))), x)
        samples = flow.decode(flow.pack(_latents(arrays, "sample_z")))
    # One level of slack where a value lies on the edge between two.
    assert (samples.int() - torch.from_numpy(arrays["sample_x"]).int()).abs().max() <= 1


def test_sizes_are_read_off_the_tensors():
    flow = upstream.uva(uva_state_dict("multiscale_random"))
    assert flow.shape == (1, 28, 28)
    assert [tuple(level.shape[1:]) for level in flow.unpack(torch.zeros(1, 784))] == [(2, 14, 14), (8, 7, 7)]
    assert flow.bijection[1].net.first.out_channels == 4
    assert flow.bijection[0].transform[0].net.first.out_channels == 2


def _without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "no coupling layers"),
        (lambda s: s | {"extra": torch.zeros(1)}, "unexpected keys: extra"),
        (lambda s: _without(s, "flows.1.scaling_factor"), "missing key: flows.1.scaling_factor"),
        (lambda s: _without(s, "flows.1.network.nn.1.net.3.bias"), "missing key: flows.1.network.nn.1.net.3.bias"),
        (lambda s: s | {"flows.1.mask": 1 - s["flows.1.mask"]}, "not the tutorial's checkerboard"),
        (lambda s: s | {"flows.4.mask": 1 - s["flows.4.mask"]}, "does not keep the first half"),
        (lambda s: s | {"flows.1.mask": torch.ones(1, 1, 1, 1)}, "must have a checkerboard"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("flows.0.")}, "not one of the tutorial's models"),
        (lambda s: s | {"flows.2.network.nn.0.bias": torch.zeros(9)}, "a weight of 'flows.2' has shape (9,)"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_an_error_that_names_the_key(change, message):
    with pytest.raises(ValueError) as error:
        upstream.uva(change(uva_state_dict("multiscale_random")))
    assert message in str(error.value)


def test_loading_leaves_the_state_dict_as_it_was():
    state = uva_state_dict("multiscale_random")
    keys = set(state)
    upstream.uva(state)
    assert set(state) == keys


@pytest.mark.slow  # The larger of the original's models, on its own data.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mnist_images_come_back_from_their_latents(dtype):
    # 0 wrong pixels in float64; in float32 fewer than 1 in 100,000, each off by one level: here one at most.
    images = mnist().test[:32]
    flow = upstream.uva(uva_state_dict("vardeq")).to(dtype).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        back = flow.decode(flow.encode(images)[0])
    difference = (back.int() - images.int()).abs()
    assert (difference > 0).sum() <= (0 if dtype == torch.float64 else 1)
    assert difference.max() <= 1


# The original code with the same weights: each +- 0.0025, on all 10,000 test images with M = 1.
PUBLISHED = pytest.mark.parametrize(("name", "published"), [("simple", 1.0936), ("vardeq", 1.0563)])


def _evaluate(name, images):
    result = metrics.evaluate(upstream.load_upstream(uva_checkpoint(f"MNISTFlow_{name}.ckpt")), images)
    print(f"\nuva {name}: {result}")
    return result


@pytest.mark.slow  # Both models, on their own data.
@PUBLISHED
def test_mnist_bits_per_dim_of_100_images_are_near_those_of_the_original_code(name, published):
    result = _evaluate(name, mnist().test[::100])
    assert result.num_images == 100
    # By chance, one in 16,000 such samples is further off.
    assert abs(result.mean - published) < 4 * math.hypot(result.standard_error, 0.0025)


@pytest.mark.full_size
@PUBLISHED
def test_mnist_bits_per_dim_are_those_of_the_original_code(name, published):
    result = _evaluate(name, mnist().test)
    assert result.num_images == 10_000
    # The same images: what differs is the noise.
    assert abs(result.mean - published) < 0.003
