"""Training in constant memory: the same gradients as with all that autograd keeps."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from nbflows import Bijection, Flow, Multiscale, Sequential, WithContext, load_pretrained, models, ranks, set_memory
from nbflows.layers import (
    ActNorm,
    AffineCoupling,
    AffineInjector,
    Conv1x1,
    Flip,
    GaussianPrior,
    MixtureCoupling,
    ResidualBlock,
    RussianRoulette,
    SeriesLogDet,
    SigmoidScale,
)
from nbflows.nets import ActNormConvNet, ConvNet, GatedAttentionNet, LipschitzConvNet, update_norms
from nbflows.recompute import MEMORY, CheapInverse
from tests.cases import CASES, make
from tools.cards import fixed_images

SAVING = [memory for memory in MEMORY if memory != "plain"]


def gradients(bijection, x, context=None, seed=0, autocast=False):
    """Of a function of z and log_det, which weighs every element differently; and z and log_det."""
    torch.manual_seed(seed)
    inputs = [tensor.detach().requires_grad_() for tensor in (x, context) if tensor is not None]
    bijection.zero_grad()
    # Backward is outside of autocast, as in training.
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z, log_det = bijection(*inputs)
    weights = torch.linspace(0.5, 1.5, z.numel(), dtype=z.dtype).view(z.shape)
    ((weights * z).square().sum() + (log_det * weights.flatten(1)[:, 0]).sum()).backward()
    wanted = {f"input {i}": tensor.grad for i, tensor in enumerate(inputs)}
    wanted |= {name: parameter.grad for name, parameter in bijection.named_parameters()}
    return z.detach(), log_det.detach(), wanted


def assert_equal_gradients(bijection, x, context=None, memory="invertible", tolerance=1e-8):
    set_memory(bijection, "plain")
    plain = gradients(bijection, x, context)
    set_memory(bijection, memory)
    saving = gradients(bijection, x, context)
    torch.testing.assert_close(saving[:2], plain[:2], atol=tolerance, rtol=0)
    for name, gradient in plain[2].items():
        largest = 0.0 if gradient is None else gradient.abs().max().item()
        if saving[2][name] is None or gradient is None:
            assert saving[2][name] is None or saving[2][name].abs().max() == 0, name
            assert gradient is None, name
            continue
        torch.testing.assert_close(
            saving[2][name], gradient, atol=tolerance * max(1.0, largest), rtol=0, msg=partial("{}: {}".format, name)
        )


@pytest.mark.parametrize("memory", SAVING)
@pytest.mark.parametrize("name", CASES)
def test_every_bijection_has_the_same_gradients(name, memory):
    bijection, x, context = make(name, torch.float64)
    assert_equal_gradients(Sequential(bijection), x, context, memory)


@pytest.mark.parametrize("name", [name for name in CASES if isinstance(make(name)[0], CheapInverse)])
def test_recompute_finds_the_input_and_repeats_the_output(name):
    bijection, x, context = make(name, torch.float64)
    with torch.no_grad():
        z, log_det = bijection(x, context)
    found, leaf, z_again, log_det_again = bijection.recompute(z, context)
    torch.testing.assert_close(found, x, atol=1e-8, rtol=0)
    torch.testing.assert_close(z_again, z, atol=1e-8, rtol=0)
    torch.testing.assert_close(log_det_again, log_det, atol=1e-8, rtol=0)
    assert not found.requires_grad or found.is_leaf
    assert leaf.is_leaf
    assert leaf.requires_grad


def steps(num_steps, channels=4, hidden=8, bound=None):
    """As in Glow, with weights that are not those of the start."""
    torch.manual_seed(1)
    layers = []
    for _ in range(num_steps):
        net = ActNormConvNet(channels // 2, hidden, channels)
        layers += [ActNorm(channels), Conv1x1(channels), AffineCoupling(net, bound=bound or SigmoidScale(lowest=0.5))]
    return scrambled(Sequential(*layers), torch.randn(4, channels, 4, 4))


def scrambled(bijection, *batch):
    bijection(*batch)
    for parameter in bijection.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    update_norms(bijection)
    return bijection


@pytest.mark.parametrize("memory", SAVING)
def test_many_steps_have_the_same_gradients(memory):
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    assert_equal_gradients(steps(24).double(), x, memory=memory)


@pytest.mark.slow  # Every model in every mode.
@pytest.mark.parametrize("memory", SAVING)
@pytest.mark.parametrize(
    ("build", "num_images"),
    [
        (models.digits_multiscale, 1),
        (models.digits_variational, 1),
        (models.digits_glow, 1),
        (partial(models.digits_mar_scf, coupling="affine"), 1),
        (partial(models.digits_mar_scf, coupling="mixlogcdf"), 1),
        (models.digits_residual_flow, 1),
        (models.digits_caflow, 2),
        (partial(models.digits_caflow, relation="shared", num_scales=3), 2),
    ],
)
def test_whole_models_have_the_same_gradients(build, num_images, memory):
    torch.manual_seed(2)
    flow = build().double()
    images = torch.randint(17, (num_images, 4, 1, 8, 8)).byte()
    flow.log_prob(*images)
    for parameter in flow.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    update_norms(flow)
    losses = {}
    for setting in ("plain", memory):
        set_memory(flow, setting)
        torch.manual_seed(3)
        flow.zero_grad()
        loss = flow.bits_per_dim(*images, chunk_size=4) @ torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
        loss.backward()
        # Drawn after the step: whether noise and dropout have taken as many numbers, forwards and backwards.
        losses[setting] = [loss.detach(), torch.rand(1), *(parameter.grad for parameter in flow.parameters())]
    torch.testing.assert_close(losses[memory], losses["plain"], atol=1e-8, rtol=0)


def test_a_joint_flow_has_the_same_gradients():
    torch.manual_seed(4)
    flow = models.digits_joint_residual_flow().double()
    images = torch.randint(17, (4, 1, 8, 8)).byte()
    flow.log_prob(images)
    found = []
    for memory in MEMORY:
        set_memory(flow, memory)
        torch.manual_seed(5)
        flow.zero_grad()
        log_prob, logits = flow.log_prob_and_logits(images)
        (log_prob.mean() + logits.square().mean()).backward()
        found.append([parameter.grad for parameter in flow.parameters()])
    torch.testing.assert_close(found[1], found[0], atol=1e-8, rtol=0)
    torch.testing.assert_close(found[2], found[0], atol=1e-8, rtol=0)


@pytest.mark.parametrize("memory", SAVING)
def test_a_parameter_of_two_layers_gets_the_sum_of_its_gradients(memory):
    norm = ActNorm(4)
    bijection = Sequential(norm, Flip(), AffineCoupling(ConvNet(2, 4, 4)), norm)
    scrambled(bijection, torch.randn(4, 4, 2, 2))
    assert_equal_gradients(bijection.double(), torch.randn(3, 4, 2, 2, dtype=torch.float64), memory=memory)


@pytest.mark.parametrize("memory", SAVING)
def test_parameters_that_are_frozen_stay_so(memory):
    bijection = steps(2).double()
    frozen = bijection[0].bias.requires_grad_(False)
    assert_equal_gradients(bijection, torch.randn(3, 4, 4, 4, dtype=torch.float64), memory=memory)
    assert frozen.grad is None


@pytest.mark.parametrize("memory", SAVING)
def test_dropout_is_the_same_backwards_and_other_draws_go_on_untouched(memory):
    torch.manual_seed(6)
    couplings = [
        MixtureCoupling(
            GatedAttentionNet(2, 8, 2 * (2 + 3 * 3), num_blocks=1, dropout=0.5), num_components=3, keep=keep
        )
        for keep in ("first", "second")
    ]
    noisy = AffineCoupling(nn.Sequential(ConvNet(2, 8, 4), nn.Dropout(0.5)))
    torch.nn.init.normal_(noisy.net[0].layers[-1].weight)
    noisy.net.forward = lambda x, context=None: noisy.net[1](noisy.net[0](x))
    bijection = Sequential(couplings[0], noisy, couplings[1]).double()
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    first, second = gradients(bijection, x, seed=0)[0], gradients(bijection, x, seed=1)[0]
    assert not torch.allclose(first, second)
    assert_equal_gradients(bijection, x, memory=memory)
    after = []
    for setting in ("plain", memory):
        set_memory(bijection, setting)
        gradients(bijection, x)
        after.append(torch.rand(1))
    assert torch.equal(*after)


@pytest.mark.parametrize("memory", SAVING)
def test_random_terms_and_probes_are_the_same_backwards(memory):
    torch.manual_seed(7)
    blocks = [
        ResidualBlock(LipschitzConvNet((2, 4, 4), 8), SeriesLogDet(RussianRoulette(), gradient, in_forward))
        for gradient, in_forward in itertools.product(("basic", "neumann"), (True, False))
    ]
    bijection = Sequential(*blocks).double()
    update_norms(bijection)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    assert_equal_gradients(bijection, x, memory=memory)
    # As in training, where the numbers of terms come from a generator of their own; enough steps for them to differ.
    try:
        for seed in range(5):
            found = []
            for setting in ("plain", memory):
                set_memory(bijection, setting)
                ranks.draw_alike(seed)
                found.append(gradients(bijection, x)[2])
            torch.testing.assert_close(found[1], found[0], atol=1e-8, rtol=1e-8)
    finally:
        ranks.draw_alike(None)


@pytest.mark.parametrize("memory", SAVING)
def test_networks_are_recomputed_in_the_precision_that_they_had(memory):
    bijection = steps(3)
    seen = []
    for module in bijection.modules():
        if isinstance(module, nn.Conv2d | ActNormConvNet):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    set_memory(bijection, memory)
    x = torch.randn(3, 4, 4, 4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = bijection(x)
    forwards = list(seen)
    (z.square().sum() + log_det.sum()).backward()
    assert torch.bfloat16 in forwards
    assert seen[len(forwards) :].count(torch.bfloat16) == forwards.count(torch.bfloat16)
    assert len(seen) == 2 * len(forwards)
    assert z.dtype == log_det.dtype == torch.float32


def test_gradients_under_autocast_are_those_of_the_plain_mode():
    bijection = steps(6)
    x = torch.randn(3, 4, 4, 4)
    found = []
    for memory in MEMORY:
        set_memory(bijection, memory)
        of_parameters = gradients(bijection, x, autocast=True)[2].values()
        found.append(torch.cat([gradient.flatten() for gradient in of_parameters]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
    # Where an input is found again with another last bit, its rounding to bfloat16 may differ: 2^-9 of single values.
    assert (found[2] - found[0]).norm() < 2**-9 * found[0].norm()


@pytest.mark.parametrize("memory", SAVING)
def test_what_is_computed_in_float32_under_autocast_is_differentiated_in_float32(memory):
    bijection = Sequential(Conv1x1(12))
    x = torch.randn(3, 12, 4, 4)
    set_memory(bijection, "plain")
    plain = gradients(bijection, x, autocast=True)[2]
    set_memory(bijection, memory)
    # In bfloat16 gradients of this size would be off by 1e-2.
    torch.testing.assert_close(gradients(bijection, x, autocast=True)[2], plain, rtol=0, atol=1e-4)


def test_a_trained_flow_has_the_gradients_of_the_plain_mode_in_half_precision_too():
    """Roundings that fall on the other side carry on from layer to layer: less than those of half precision itself."""
    flow = load_pretrained("mnist-glow").train()
    images, _ = fixed_images(flow)
    found = {}
    for memory, autocast in (("plain", False), ("plain", True), ("invertible", True)):
        set_memory(flow, memory)
        flow.zero_grad()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = flow.bits_per_dim(images).mean()
        loss.backward()
        found[memory, autocast] = torch.cat([parameter.grad.flatten() for parameter in flow.parameters()])
    half = found["plain", True]
    assert (found["invertible", True] - half).norm() < (half - found["plain", False]).norm()


@pytest.mark.parametrize("memory", SAVING)
def test_the_first_batch_sets_actnorm_as_ever(memory):
    x = 3 + 2 * torch.randn(8, 4, 4, 4)
    states = []
    for setting in ("plain", memory):
        torch.manual_seed(8)
        bijection = Sequential(
            ActNorm(4), Conv1x1(4), AffineCoupling(ActNormConvNet(2, 4, 4)), ActNorm(4), memory=setting
        )
        bijection(x)[0].sum().backward()
        states.append(bijection.state_dict())
    assert states[0]["layers.0.initialized"]
    torch.testing.assert_close(states[1], states[0])


def saved_bytes(bijection, x, context=None) -> int:
    """What the graph of a forward pass holds on to: tensors of autograd, without those of the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in bijection.parameters()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Kept until all are counted: a freed address may be given again.
        graph = bijection(x, context)
    del graph
    return sum(storages.values())


def test_memory_does_not_grow_with_the_number_of_steps():
    x = torch.randn(8, 4, 8, 8)
    kept = {}
    for memory, num_steps in itertools.product(MEMORY, (4, 8, 16)):
        bijection = steps(num_steps)
        set_memory(bijection, memory)
        kept[memory, num_steps] = saved_bytes(bijection, x)
    assert kept["plain", 16] > 1.9 * kept["plain", 8] > 1.9**2 * kept["plain", 4]
    assert kept["checkpoint", 16] > 1.9 * kept["checkpoint", 8]
    assert kept["checkpoint", 16] < kept["plain", 16] / 2
    # The latent, and 64 values of each of the 8 examples; whatever the networks keep is not there.
    assert kept["invertible", 4] == kept["invertible", 16] == 4 * (x.numel() + 8 * 64)


def test_layers_without_a_cheap_inverse_keep_their_inputs_and_no_more():
    x = torch.randn(2, 4, 8, 8)

    class Doubled(Bijection):
        """Of a user, who knows nothing of memory."""

        def forward(self, x, context=None):
            return 2 * x.sinh(), x.cosh().log().flatten(1).sum(1)

        def inverse(self, z, context=None):
            raise RuntimeError("has none")

    bijection = Sequential(Doubled(), Flip(), Doubled(), memory="invertible")
    # Two inputs, the latent, and 64 values of each example of the input of Flip.
    assert saved_bytes(bijection, x.requires_grad_()) == 4 * (3 * x.numel() + 2 * 64)
    assert_equal_gradients(bijection.double(), x.double() / 8)


def test_priors_of_a_multiscale_are_recomputed_too():
    injector = WithContext(Sequential(AffineInjector(ConvNet(1, 64, 2))), ConvNet(2, 4, 1))
    bijection = Multiscale([Flip(), Flip()], (2, 8, 8), [GaussianPrior(ConvNet(1, 64, 2)), injector]).double()
    x, context = torch.randn(2, 2, 2, 8, 8, dtype=torch.float64)
    plain = saved_bytes(bijection, x, context)
    set_memory(bijection, "checkpoint")
    assert saved_bytes(bijection, x, context) < plain / 5
    assert_equal_gradients(bijection, x, context, "checkpoint")


class ShiftFar(nn.Module):
    """A network that makes a coupling forget its input to rounding: z = x exp(-9) + 10,000."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.tensor([1e4, -9.0]))

    def forward(self, x, context=None):
        return self.values.repeat_interleave(x.shape[1])[:, None, None].expand(len(x), -1, *x.shape[2:])


def test_an_input_that_is_not_found_again_is_an_error_and_not_a_wrong_gradient():
    bijection = Sequential(Flip(), AffineCoupling(ShiftFar(), bound=nn.Identity()))
    x = torch.randn(3, 4, 4, 4)
    assert_equal_gradients(bijection, x, memory="checkpoint", tolerance=1e-5)
    set_memory(bijection, "invertible")
    with pytest.raises(
        RuntimeError,
        match=r"recover the input of a Flip through the inverses: the error is .*, the tolerance .*checkpoint",
    ):
        gradients(bijection, x)
    # In float64 there are digits enough.
    assert_equal_gradients(bijection.double(), x.double())


def test_memory_is_kept_for_training_alone():
    bijection = steps(2)
    x = torch.randn(3, 4, 4, 4)
    plain = bijection(x)
    set_memory(bijection, "invertible")
    with torch.inference_mode():
        torch.testing.assert_close(bijection(x), plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(bijection.inverse(plain[0]), x, atol=1e-5, rtol=0)


def test_set_memory_reaches_every_part_and_a_slice_keeps_it():
    flow = models.digits_glow()
    assert {part.memory for part in flow.modules() if isinstance(part, Sequential | Multiscale)} == {"plain"}
    set_memory(flow, "invertible")
    assert {part.memory for part in flow.modules() if isinstance(part, Sequential | Multiscale)} == {"invertible"}
    assert flow.bijection[1:].memory == "invertible"
    assert [type(layer) for layer in flow.bijection[1:].layers] == [Multiscale]


@pytest.mark.parametrize(
    "make_it",
    [
        lambda: Sequential(Flip(), memory="little"),
        lambda: set_memory(Flow(Sequential(Flip()), (2,)), "little"),
        lambda: Multiscale([Flip()], (2, 2, 2), memory="little"),
    ],
)
def test_an_unknown_setting_is_an_error(make_it):
    with pytest.raises(ValueError, match="memory is one of plain, checkpoint, invertible, got 'little'"):
        make_it()
