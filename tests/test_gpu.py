"""What only a GPU can show: the same numbers as a CPU, memory, no waiting. ``make gpu`` runs these tests there."""

import os
from functools import partial

import pytest
import torch

from nbflows import Flow, Sequential, hardware, models, set_memory
from nbflows.data import Batches
from nbflows.layers import ActNorm, AffineCoupling, Dequantize, checkerboard
from nbflows.nets import GatedConvNet, update_norms
from nbflows.training import compiling

# On a CPU the same lines run on a stub: that they run is tested there, what they claim of a GPU is not.
STUB = os.environ.get("NBFLOWS_GPU") == "cpu"
DEVICE = torch.device("cpu" if STUB else "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (STUB or torch.cuda.is_available()), reason="no GPU is here"),
]
real = pytest.mark.skipif(STUB, reason="of a GPU alone")
FLOWS = {
    "multiscale": models.digits_multiscale,
    "glow": models.digits_glow,
    "mar_scf, affine": partial(models.digits_mar_scf, coupling="affine"),
    "mar_scf, mixtures": partial(models.digits_mar_scf, num_steps=1, dropout=0.0),
    "residual": models.digits_residual_flow,
}


@pytest.fixture(autouse=True)
def _exact():
    # TensorFloat-32 has 10 bits of the mantissa; the tolerances are those of float32.
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _images(count=64):
    return torch.randint(17, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


def _trained(build, steps=5):
    """A flow after a few steps on the CPU: away from its start, where much is zero."""
    torch.manual_seed(0)
    flow, images = build(), _images()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        flow.bits_per_dim(images).mean().backward()
        optimizer.step()
        update_norms(flow)
    return flow.eval()


def _encoded(flow, device):
    """Latents and log-determinants of one draw of noise, the same on every device."""
    torch.manual_seed(1)
    dequantize, rest = flow.bijection[0], flow.bijection[1:]
    with torch.no_grad():
        x, _ = dequantize(_images())
        return rest.to(device)(x.to(device))


@pytest.mark.parametrize("name", [name for name in FLOWS if name != "residual"])
def test_latents_and_log_determinants_are_those_of_the_cpu(name):
    flow = _trained(FLOWS[name])
    (z, log_det), (z_there, log_det_there) = _encoded(flow, "cpu"), _encoded(flow, DEVICE)
    # Some 30 layers, each with sums of some hundred terms in another order: 30 * sqrt(500) * 2**-24 = 4e-5 of a value.
    assert (z_there.cpu() - z).abs().max() < 4e-5 * (1 + z.abs().max())
    assert (log_det_there.cpu() - log_det).abs().max() < 4e-5 * 64 * (1 + z.abs().max())


@pytest.mark.parametrize("name", list(FLOWS))
def test_samples_of_the_same_noise_are_those_of_the_cpu(name):
    flow = _trained(FLOWS[name])
    noise = torch.randn(64, *flow.latent_shape, generator=torch.Generator().manual_seed(2)) * 0.7
    with torch.no_grad():
        here = flow.decode(noise)
        there = flow.to(DEVICE).decode(noise.to(DEVICE)).cpu()
    difference = (here.int() - there.int()).abs()
    # A value that rounding moves over the edge of its bin: by one level, and one in a thousand.
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("name", ["glow", "mar_scf, affine"])
@pytest.mark.parametrize("memory", ["checkpoint", "invertible"])
def test_memory_modes_have_the_same_gradients(name, memory):
    flow = _trained(FLOWS[name]).to(DEVICE).train()
    images, gradients = _images().to(DEVICE), {}
    for setting in ("plain", memory):
        set_memory(flow, setting)
        flow.zero_grad()
        torch.manual_seed(3)
        flow.bits_per_dim(images, chunk_size=len(images)).mean().backward()
        gradients[setting] = torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])
    plain = gradients["plain"]
    # The inverse repeats forward to some digits less than float32 has.
    assert (gradients[memory] - plain).norm() < 1e-3 * plain.norm()


@real
def test_invertible_memory_does_not_grow_with_the_number_of_layers():
    peaks = {}
    for memory in ("plain", "invertible"):
        for count in (8, 32):
            layers = [AffineCoupling(GatedConvNet(1, 32, 2, 1), checkerboard(28, 28, i % 2 == 1)) for i in range(count)]
            flow = Flow(Sequential(Dequantize(256), *layers, memory=memory), (1, 28, 28)).to(DEVICE)
            images = torch.randint(256, (64, 1, 28, 28), device=DEVICE).byte()
            for _ in range(2):
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                flow.bits_per_dim(images, chunk_size=64).mean().backward()
                peaks[memory, count] = torch.cuda.max_memory_allocated() - before
    assert peaks["plain", 32] > 3 * peaks["plain", 8]
    assert peaks["invertible", 32] < 1.5 * peaks["invertible", 8]


@real
def test_half_precision_is_the_default_of_a_training():
    assert hardware.faster_precision("cuda") == "bf16-mixed"


def test_half_precision_changes_little():
    flow, images = _trained(models.digits_multiscale).to(DEVICE), _images().to(DEVICE)
    scores = []
    for enabled in (False, True):
        torch.manual_seed(4)
        with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled):
            scores.append(flow.bits_per_dim(images))
    # bfloat16 has 8 bits: each network's output errs by some 2**-8 of itself, in both directions.
    assert (scores[1] - scores[0]).mean().abs() < 0.02
    assert scores[1].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_step_has_the_numbers_of_a_plain_one():
    flow, images = _trained(models.digits_glow).to(DEVICE).train(), _images().to(DEVICE)
    losses = []
    layers = compiling.CompiledLayers(flow, backend="aot_eager" if STUB else "inductor")
    for compiled in (False, True):
        flow.zero_grad()
        torch.manual_seed(5)
        with layers.active() if compiled else torch.enable_grad():
            loss = flow.bits_per_dim(images, chunk_size=len(images)).mean()
            loss.backward()
        losses.append((loss.item(), torch.cat([p.grad.flatten() for p in flow.parameters()])))
    (loss, gradient), (compiled_loss, compiled_gradient) = losses
    assert abs(loss - compiled_loss) < 1e-4
    assert (gradient - compiled_gradient).norm() < 1e-3 * gradient.norm()


def test_batches_stay_on_the_device():
    images = torch.randint(256, (1000, 1, 28, 28)).byte()
    batches = Batches(images, 100, shuffle=True, device=DEVICE)
    assert batches.resident
    assert all(batch.device.type == DEVICE.type for batch in batches)


@real
def test_a_step_of_training_waits_for_nothing():
    flow = _trained(models.digits_glow).to(DEVICE).train()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=True)
    stream = iter(Batches(_images(256), 64, shuffle=True, device=DEVICE))

    def step():
        optimizer.zero_grad()
        flow.bits_per_dim(next(stream), chunk_size=64).mean().backward()
        optimizer.step()

    # The first one reads whether the ActNorms are initialised.
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_actnorm_starts_alike():
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
    here, there = ActNorm(3).train(), ActNorm(3).to(DEVICE).train()
    here(x)
    there(x.to(DEVICE))
    # Its statistics are computed in float64, and kept in float32.
    assert torch.allclose(there.log_scale.cpu(), here.log_scale, atol=1e-6)
    assert torch.allclose(there.bias.cpu(), here.bias, atol=1e-6)
