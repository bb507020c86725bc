"""Half precision runs in networks alone: where bfloat16 is and where it is not, and what it changes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from benchmarks import pages, precision
from nbflows import data, load_pretrained, metrics, models, pretrained
from nbflows.data import portraits
from nbflows.layers import CoarseToFine, ResidualBlock, RussianRoulette, SeriesLogDet
from nbflows.nets import (
    MLP,
    ActNormConvNet,
    ConvLSTM,
    ConvNet,
    GatedAttentionNet,
    GatedConvNet,
    LipschitzConvNet,
    LipSwish,
    PooledFeatures,
    ZeroConv,
)
from tests.cases import CASES, make
from tests.flows import random_caflow, random_images
from tools import cards

HALF = torch.bfloat16


def half():
    return torch.autocast("cpu", HALF)


class Work(TorchDispatchMode):
    """Counts the floating-point operations of products and convolutions by the dtype of what they multiply."""

    def __init__(self):
        super().__init__()
        self.flops = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count:
            dtype = args[0].dtype if isinstance(args[0], torch.Tensor) else args[0][0].dtype
            self.flops[dtype] = self.flops.get(dtype, 0) + count(*args, **(kwargs or {}), out_val=result)
        return result

    def share(self, dtype: torch.dtype) -> float:
        return self.flops.get(dtype, 0) / sum(self.flops.values())


# Coordinates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_latents_and_log_dets_stay_float32_under_autocast_and_near_those_of_float32(name):
    bijection, x, context = make(name)
    bijection.eval()
    exact, exact_log_det = bijection(x, context)
    with half():
        z, log_det = bijection(x, context)
        back = bijection.inverse(z, context)
    assert z.dtype == log_det.dtype == back.dtype == torch.float32
    # One rounding is a share of 2^-9. A conditioner has some ten of them, of inputs, weights and outputs, which
    # add up like random numbers; few are worse than three times as large, and the flow then scales by e at most.
    tolerance = 3 * 10**0.5 * torch.e * 2**-9
    assert (z - exact).norm() <= tolerance * exact.norm()
    # Every log-scale is off by as much as a latent, and they are of order 1.
    moved = x[0].numel() ** 0.5
    assert ((log_det - exact_log_det).abs() <= tolerance * moved).all()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_layer_is_undone_to_rounding_errors_of_float32_under_autocast(name):
    bijection, x, context = make(name)
    bijection.eval()
    with half():
        z, _ = bijection(x, context)
        # The same network sees the same numbers on the way back.
        torch.testing.assert_close(bijection.inverse(z, context), x, atol=1e-4, rtol=0)


FULL = ["residual block", "residual block with a context", "coarse to fine", "ConvLSTM prior"]


@pytest.mark.parametrize("name", FULL)
@torch.no_grad()
def test_what_rounding_would_harm_is_computed_in_float32_outside_of_training(name):
    bijection, x, context = make(name)
    bijection.eval()
    exact = bijection(x, context)
    with half():
        assert all(map(torch.equal, bijection(x, context), exact))
        torch.testing.assert_close(bijection.inverse(exact[0], context), x, atol=1e-5, rtol=0)


def _estimated_block():
    torch.manual_seed(1)
    estimate = SeriesLogDet(RussianRoulette(num_exact_terms=4))
    return ResidualBlock(LipschitzConvNet((2, 4, 4), 32), estimate, estimate)


def test_residual_blocks_train_in_half_precision_and_their_log_dets_are_float32():
    block, x = _estimated_block(), torch.randn(4, 2, 4, 4)
    # In training the rest are the norms of the weights.
    for training, dtype, least in ((True, HALF, 0.9), (False, torch.float32, 1)):
        block.train(training)
        with Work() as work:
            with half():
                z, log_det = block(x)
            (z.square().sum() + log_det.sum()).backward()
        assert work.share(dtype) >= least
        assert z.dtype == log_det.dtype == torch.float32
        assert all(parameter.grad.dtype == torch.float32 for parameter in block.parameters())


def test_lipswish_is_not_off_by_the_same_share_everywhere_in_half_precision():
    for raw in (0.5, 0.9, 1.3, 1.7):
        activation = LipSwish(raw)
        x = torch.linspace(0.1, 4, 20_000).to(HALF)
        with torch.no_grad():
            errors = activation(x).double() / activation(x.double()) - 1
        # Roundings go either way; their mean would be that of a wrong constant.
        assert errors.mean().abs() < 4 * errors.std() / len(x.unique()) ** 0.5
        assert errors.std() < 2**-8


@torch.no_grad()
def test_large_numbers_meet_weights_in_full_precision_in_the_gated_net_outside_of_training():
    # Like logits of black pixels. What is left are the roundings of activations of order 1.
    net, x = GatedConvNet(1, 16, 2, num_blocks=0), (40 + torch.randn(4, 1, 8, 8)).to(HALF).float()
    torch.nn.init.normal_(net.last.weight, std=0.1)
    net.first.weight -= net.first.weight.mean((2, 3), keepdim=True)
    errors = {}
    for training in (True, False):
        net.train(training)
        exact = net(x)
        with half():
            rounded = net(x)
        assert rounded.dtype == HALF
        # Without the edges, where the zeros around the image make activations large.
        errors[training] = (rounded - exact)[..., 2:-2, 2:-2].std()
    assert errors[False] < errors[True] / 3
    # What is less than a rounding of x away is the same to it: the rounding errors of an inverse.
    with half():
        assert torch.equal(net(x * (1 + 2**-12)), rounded)


# Speed ---------------------------------------------------------------------------------------------------------------

NETS = {
    "MLP": (lambda: MLP(4, 32, 4), (8, 4)),
    "ConvNet": (lambda: ConvNet(2, 16, 4), (2, 2, 8, 8)),
    "ActNormConvNet": (lambda: ActNormConvNet(2, 16, 4), (2, 2, 8, 8)),
    "ZeroConv": (lambda: ZeroConv(2, 4), (2, 2, 8, 8)),
    "PooledFeatures": (lambda: PooledFeatures(2, 4), (2, 2, 8, 8)),
    "GatedConvNet": (lambda: GatedConvNet(2, 16, 4), (2, 2, 8, 8)),
    "GatedAttentionNet": (lambda: GatedAttentionNet(2, 16, 4, num_blocks=1, dropout=0.2), (2, 2, 4, 4)),
    "ConvLSTM": (lambda: ConvLSTM(1, 8, 2), (2, 3, 1, 4, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_conditioners_multiply_in_half_precision_forward_and_backward(name):
    build, shape = NETS[name]
    net, x = build(), torch.randn(shape)
    # The first batch sets the ActNorms.
    net(x)
    with Work() as work:
        with half():
            y = net(x.requires_grad_())
        y.float().square().sum().backward()
    assert work.share(HALF) == 1


MODELS = {
    "multiscale": lambda: models.digits_multiscale(),
    "glow": lambda: models.digits_glow(),
    "mAR-SCF, affine": lambda: models.digits_mar_scf(coupling="affine"),
    "mAR-SCF, mixture": lambda: models.digits_mar_scf(),
    "residual flow": lambda: models.digits_residual_flow(num_blocks=(1, 1), num_end_blocks=0),
}


@pytest.mark.parametrize("name", MODELS)
def test_nearly_all_the_work_of_a_training_step_is_done_in_half_precision(name):
    flow, x = MODELS[name](), random_images(4, (1, 8, 8), 17)
    flow.bits_per_dim(x)
    with Work() as work:
        with half():
            loss = flow.bits_per_dim(x).mean()
        loss.backward()
    # The rest are 1x1 convolutions, which change coordinates.
    assert 0.9 < work.share(HALF) <= 1
    assert set(work.flops) <= {HALF, torch.float32}


# What it changes -----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # Every published model, in both precisions.
@pytest.mark.parametrize("name", pretrained.find_manifest().models)
def test_half_precision_changes_a_pretrained_model_by_a_thousandth_and_three_standard_errors_at_most(name):
    flow, task = load_pretrained(name), pretrained.describe(name).get("task")
    images, sources = cards.fixed_images(flow, task)
    if "residual" in name or "joint" in name:
        # No rounding at all, and minutes for many images.
        images = images[:2]
        assert metrics.precision_change(flow, images).largest == 0
        return
    if flow.shape == (1, 8, 8) and task is None:
        images = data.load("digits").test
    if name.startswith("portraits"):
        # Photographs are so strange to it that 16 of them have too large an error.
        images = portraits.draw(16, first=55_000)[0]
    change = metrics.precision_change(flow, images, sources)
    # These are no images of the kind that most models were trained on: docs/precision.md has those.
    assert change.standard_error < 0.0015
    assert abs(change.mean) < 0.001 + 3 * change.standard_error


def test_a_change_of_precision_is_measured_with_the_same_noise():
    flow, images = load_pretrained("digits-glow"), data.load("digits").test[:50]
    state = torch.get_rng_state()
    flow.train()
    change = metrics.precision_change(flow, images, chunk_size=20)
    assert flow.training and torch.equal(torch.get_rng_state(), state)
    exact, rounded = (metrics.evaluate(flow, images, chunk_size=20, precision=p) for p in metrics.PRECISIONS)
    assert change.mean == pytest.approx(rounded.mean - exact.mean, abs=1e-6) and change.mean != 0
    assert change.num_images == 50
    assert change.standard_error < exact.standard_error / 20
    assert abs(change.mean) < change.largest < 0.05
    assert str(metrics.PrecisionChange(-0.0001234, 0.00005, 50, 0.01)) == "-0.00012 ± 0.00005 bits/dim (50 images)"


def test_a_round_trip_counts_the_values_that_come_back_wrong(monkeypatch):
    flow, images = load_pretrained("digits-glow"), data.load("digits").test[:50]
    assert metrics.round_trip(flow, images, chunk_size=20) == metrics.RoundTrip(0, 50 * 64, 0)
    decode = flow.decode

    def decode_wrong(z, context):
        x = decode(z, context)
        x[0, 0, 0, :2] = torch.tensor([16, 3], dtype=torch.uint8) - x[0, 0, 0, :2]
        return x

    monkeypatch.setattr(flow, "decode", decode_wrong)
    trip = metrics.round_trip(flow, images, chunk_size=20)
    # Two values in each of three chunks; the first are black.
    assert trip == metrics.RoundTrip(6, 50 * 64, 16)
    assert str(trip) == "6 of 3200 values come back wrong, by 16 grey levels at most"


def test_the_source_of_a_round_trip_gets_the_same_noise_both_times():
    flow = random_caflow(dtype=torch.float32)
    targets, sources = random_images(6, flow.shape), random_images(6, flow.context_shape)
    assert metrics.round_trip(flow, targets, sources, chunk_size=4).wrong == 0
    relation = next(module for module in flow.modules() if isinstance(module, CoarseToFine))
    contexts = []
    relation.register_forward_hook(lambda module, args, output: contexts.append(args[1]))
    with torch.no_grad():
        flow.encode(targets, sources)
        flow.encode(targets, sources)
    assert not torch.equal(*contexts)


@pytest.mark.parametrize("name", ["digits-multiscale", "digits-marscf-mixlogcdf", "digits-caflow-super-resolution"])
def test_small_flows_return_nearly_all_pixels_in_half_precision(name):
    flow, task = load_pretrained(name), pretrained.describe(name).get("task")
    images, sources = cards.fixed_images(flow, task)
    trip = metrics.round_trip(flow, images, sources, precision="bf16-mixed")
    # Wrong ones appear where a rounding error of float32 crosses a rounding edge of bfloat16: about one in 10,000.
    assert trip.wrong <= 3 and trip.largest <= 1


def test_latents_decoded_in_the_other_precision_come_back_worse():
    flow = load_pretrained("mnist-multiscale")
    images, _ = cards.fixed_images(flow)
    same, other = (
        metrics.round_trip(flow, images, precision="bf16-mixed", decode_precision=p) for p in ("bf16-mixed", "32-true")
    )
    assert other.wrong > 2 * same.wrong and other.largest > same.largest


def _in_float64_but_for(net):
    """The network sees and computes what it would in a flow of float32."""

    def single(_, args, kwargs):
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.float, (args, kwargs))
        return args, kwargs

    net.float()
    net.register_forward_pre_hook(single, with_kwargs=True)
    net.register_forward_hook(lambda _, args, output: output.double())


@pytest.mark.parametrize("name", ["mnist-glow"])
def test_wrong_values_come_from_coordinates_in_float32_not_from_networks_in_half_precision(name):
    flow = load_pretrained(name)
    images, _ = cards.fixed_images(flow)
    # How many is a matter of the order in which a processor adds: we have seen 265 of 12,544 here.
    assert metrics.round_trip(flow, images, precision="bf16-mixed").wrong > 0
    nets = [module.net for module in flow.double().modules() if hasattr(module, "net")]
    for net in nets:
        _in_float64_but_for(net)
    with Work() as work:
        trip = metrics.round_trip(flow, images, precision="bf16-mixed")
    assert trip == metrics.RoundTrip(0, images.numel(), 0)
    # And they are in half precision; the rest are 1x1 convolutions and what gated networks keep in float32.
    assert work.share(HALF) > 0.9


def test_the_page_on_precision_has_all_pretrained_models_and_none_is_changed_by_a_thousandth():
    table = pages.read(precision.PAGE, precision.MARK)
    assert set(table) == set(pretrained.find_manifest().models)
    for row in table.values():
        mean, error = map(float, row[3].split(" ± "))
        assert abs(mean) + error < 0.001
