"""Compiled training: the same numbers, as few compilations as there are kinds of layers, nothing else changed."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from nbflows import Flow, Sequential, data, load_flow, models, recipes, set_memory, training
from nbflows.cli import main
from nbflows.data import ImageData
from nbflows.layers import AffineCoupling, Dequantize, checkerboard
from nbflows.nets import ConvNet, GatedAttentionNet
from nbflows.training import compiling
from tests.interrupt import killed_after

# Torch looks at the gradients of all that goes into a graph, and hides its own warning only where it is shown.
# Slow, since torch traces every model anew.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")]

# By name: the model, and how many graphs its kinds of layers make.
MODELS = {
    "simple": (models.digits_simple, 2),
    "variational": (models.digits_variational, 3),
    "multiscale": (models.digits_multiscale, 7),
    "glow": (models.digits_glow, 3),
    "affine": (partial(models.digits_mar_scf, coupling="affine"), 2),
    "mixture": (partial(models.digits_mar_scf, num_steps=1, dropout=0.0), 2),
    "caflow": (models.digits_caflow, 8),
}
SMALL_GLOW = partial(models.digits_glow, num_steps=2, hidden_channels=8)
RECIPE = recipes.Recipe(
    "a small one for tests",
    "digits",
    "digits_glow",
    {"num_steps": 2, "hidden_channels": 8},
    batch_size=32,
    epochs=4,
    warmup_steps=5,
    validate_every=1,
)


def _has_compiler() -> bool:
    try:
        compiling.require_compiler(torch.device("cpu"))
    except RuntimeError:
        return False
    return True


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def digits():
    full = data.load("digits")
    return ImageData("digits", "100 digits", full.train[:100], full.validation[:40], full.test[:40], 17)


@pytest.fixture
def quick(monkeypatch):
    """Training with graphs that run as they are, without a C++ compiler."""
    monkeypatch.setattr(compiling, "CompiledLayers", partial(compiling.CompiledLayers, backend="eager"))
    monkeypatch.setattr(compiling, "require_compiler", lambda device: None)


def _away_from_its_start(build, dtype=torch.float64) -> Flow:
    """Has seen data, and its networks do not return zeros."""
    torch.manual_seed(0)
    flow = build().to(dtype).train()
    with torch.no_grad():
        flow.log_prob(*_inputs(flow))
        for parameter in flow.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return flow


def _inputs(flow, batch=16):
    generator = torch.Generator().manual_seed(3)
    shapes = [flow.shape] if flow.context_shape is None else [flow.shape, flow.context_shape]
    return [torch.randint(17, (batch, *shape), generator=generator).byte() for shape in shapes]


def _step(flow, batch=16) -> list[torch.Tensor]:
    """log p, then its gradient for every parameter, with the same noise at every call."""
    torch.manual_seed(1)
    flow.zero_grad()
    log_prob = flow.log_prob(*_inputs(flow, batch))
    log_prob.mean().backward()
    return [log_prob.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)]


# Two for fast feedback, all kinds of layers in `make test`.
@pytest.mark.parametrize(
    "name",
    ["simple", "glow", *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n not in ("simple", "glow"))],
)
def test_a_compiled_step_has_the_same_numbers_in_as_many_graphs_as_there_are_kinds_of_layers(name):
    build, graphs = MODELS[name]
    flow = _away_from_its_start(build)
    names = list(flow.state_dict())
    plain = _step(flow)
    # Traced for autograd too, as the real compiler would; tracing is what takes the time here.
    layers = compiling.CompiledLayers(flow, backend="aot_eager" if name in ("simple", "affine") else "eager")
    with layers.active():
        for _ in range(3):
            compiled = _step(flow)
            assert compiling.num_graphs() == graphs
        assert list(flow.state_dict()) == names
    assert not torch._dynamo.utils.counters["graph_break"]
    # Sums in another order: some rounding errors, of numbers up to the largest of each gradient.
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, a.abs().max().item()))


def _counting(runs: list):
    """A compiler that changes nothing, and notes every run of a graph."""

    def backend(graph, inputs):
        def run(*arguments):
            runs.append(graph)
            return graph(*arguments)

        return run

    return backend


def test_more_kinds_of_layers_than_torch_allows_recompilations_are_compiled_all_the_same():
    flow = _away_from_its_start(partial(models.digits_caflow, num_steps=1, num_relation_steps=1))
    limits = torch._dynamo.config.patch(cache_size_limit=1, accumulated_cache_size_limit=1)
    with limits, compiling.CompiledLayers(flow, "eager").active():
        _step(flow)
    assert compiling.num_graphs() == 8


def test_layers_run_compiled_where_they_are_active_and_nowhere_else():
    runs = []
    flow = _away_from_its_start(SMALL_GLOW)
    layers = compiling.CompiledLayers(flow, _counting(runs))
    _step(flow)
    assert runs == []
    with layers.active():
        _step(flow)
        # One run for each coupling, of two levels with two each, and one for the prior of the split.
        assert len(runs) == len(layers.layers) == 5
        with compiling.uncompiled(flow):
            _step(flow)
        assert len(runs) == 5
    with pytest.raises(KeyError), layers.active():
        raise KeyError
    flow.sample(2)
    _step(flow)
    assert len(runs) == 5


@pytest.mark.parametrize("memory", ["checkpoint", "invertible"])
def test_compiled_layers_are_recomputed_to_the_same_gradients(memory):
    flow = _away_from_its_start(SMALL_GLOW)
    plain = _step(flow)
    set_memory(flow, memory)
    runs = []
    with compiling.CompiledLayers(flow, _counting(runs)).active():
        first = _step(flow)
        # Four couplings and the prior of the split, in forward and in backward.
        assert len(runs) == 10
        graphs = compiling.num_graphs()
        second = _step(flow)
        assert compiling.num_graphs() == graphs > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    for a, b, c in zip(plain, first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * max(1.0, a.abs().max().item()))
        assert torch.equal(b, c)


def test_networks_in_half_precision_compile_too():
    flow = _away_from_its_start(models.digits_simple, torch.float32)
    exact = _step(flow)
    with torch.autocast("cpu", torch.bfloat16):
        half = _step(flow)
        with compiling.CompiledLayers(flow, "eager").active():
            compiled = _step(flow)
    assert not torch._dynamo.utils.counters["graph_break"]
    # As far from float32 as without compiling, and not as float32 itself.
    error, compiled_error = ((exact[0] - log_prob[0]).norm().item() for log_prob in (half, compiled))
    assert 0.3 * error < compiled_error < 3 * error


@pytest.mark.slow  # A whole training, compiled.
def test_the_number_of_graphs_is_that_of_the_first_steps_through_validation_and_samples(digits, tmp_path, quick):
    def graphs_of(steps):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        _train(digits, tmp_path / str(steps), max_steps=steps, compile=True)
        return compiling.num_graphs()

    # Three batches an epoch, and a validation with samples after each, whose batches are of another size.
    assert graphs_of(2) == graphs_of(9) == 3


def test_a_compiled_training_ends_with_the_weights_of_an_uncompiled_one(digits, tmp_path, quick):
    plain = _train(digits, tmp_path / "plain", max_steps=6)
    compiled = _train(digits, tmp_path / "compiled", max_steps=6, compile=True)
    assert compiling.num_graphs() == 3
    for (name, a), (same, b) in zip(*(r.flow.state_dict().items() for r in (plain, compiled)), strict=True):
        assert name == same
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert compiled.test.mean == pytest.approx(plain.test.mean, abs=1e-4)
    # What is returned and saved is not compiled.
    assert all(module._compiled_call_impl is None for module in compiled.flow.modules())
    torch._dynamo.utils.counters.clear()
    assert load_flow(tmp_path / "compiled").sample(2).shape == (2, 1, 8, 8)
    assert compiling.num_graphs() == 0


@pytest.mark.slow  # Two trainings, one of them compiled.
@pytest.mark.parametrize("compiled_first", [True, False])
def test_checkpoints_of_compiled_and_uncompiled_runs_are_interchangeable(digits, tmp_path, quick, compiled_first):
    whole = _train(digits, tmp_path / "whole", max_steps=6)
    with killed_after(4):
        _train(digits, tmp_path / "parts", max_steps=6, compile=compiled_first, checkpoint_seconds=0)
    resumed = _train(digits, tmp_path / "parts", max_steps=6, compile=not compiled_first, resume=True)
    assert compiling.num_graphs() == 3
    for a, b in zip(whole.flow.parameters(), resumed.flow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_training_says_what_it_compiled_and_how_long_that_took(digits, tmp_path, quick, capsys):
    _train(digits, tmp_path, max_steps=4, compile=True)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compiled")]
    assert line.startswith("compiled 5 layers as 3 graphs in ")
    seconds = [float(word) for word in line.replace(",", "").split() if "." in word]
    compiling_time, first, second = seconds
    assert compiling_time == pytest.approx(first - second, abs=0.1) and first > second > 0


def test_a_loss_that_is_not_finite_is_explained_without_compiling_anything(digits, tmp_path, quick):
    _train(digits, tmp_path, max_steps=4, compile=True)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.endswith("first.conv.weight"))
    for state in ("state_dict", "current_model_state"):
        checkpoint[state][name][0, 0, 0, 0] = torch.nan
    torch.save(checkpoint, tmp_path / "last.ckpt")
    torch._dynamo.utils.counters.clear()
    with pytest.raises(training.NonFiniteError, match=r"First in forward order: .*\.net\.first"):
        _train(digits, tmp_path, compile=True, resume=True)
    # Those of the forward pass alone, and none with the hooks that look for it.
    assert compiling.num_graphs() <= 3


@pytest.mark.parametrize("build", [models.digits_residual_flow, models.digits_joint_residual_flow])
def test_residual_flows_say_that_there_is_nothing_to_compile(build):
    with pytest.raises(ValueError, match=r"nothing to compile: .* the layers that are compiled"):
        compiling.CompiledLayers(build())


def test_training_a_residual_flow_compiled_is_an_error_before_it_begins(digits, tmp_path):
    recipe = replace(RECIPE, builder="digits_residual_flow", arguments={})
    with pytest.raises(ValueError, match="nothing to compile"):
        _train(digits, tmp_path / "run", recipe, compile=True)
    assert not (tmp_path / "run").exists()


def test_the_command_line_has_the_option_and_explains_the_error(tmp_path, capsys):
    assert main(["train", "digits-residual", "--compile", "--max-steps", "1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("nbflows: nothing to compile: ")


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_without_a_compiler_the_way_out_is_in_the_message(monkeypatch, device, variable):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=f"variable {variable}, or train without --compile"):
        compiling.require_compiler(torch.device(device))


def test_training_looks_for_the_compiler_before_it_begins(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="there is no no-such-compiler: install"):
        _train(digits, tmp_path, max_steps=2, compile=True)
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.skipif(not _has_compiler(), reason="there is no C++ compiler here")
def test_compiled_networks_drop_the_same_channels():
    def build():
        net = GatedAttentionNet(1, 8, 2, num_blocks=1, num_heads=0, dropout=0.5)
        return Flow(Sequential(Dequantize(17), AffineCoupling(net, checkerboard(8, 8))), (1, 8, 8))

    flow = _away_from_its_start(build)
    plain = _step(flow)
    with compiling.CompiledLayers(flow).active():
        compiled = _step(flow)
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * max(1.0, a.abs().max().item()))


@pytest.mark.slow
@pytest.mark.skipif(not _has_compiler(), reason="there is no C++ compiler here")
def test_code_of_the_real_compiler_is_as_exact_as_torchs_own():
    flow = _away_from_its_start(SMALL_GLOW).float()
    plain = _step(flow)
    with compiling.CompiledLayers(flow).active():
        compiled = _step(flow)
    assert compiling.num_graphs() == 3
    # Some hundred roundings, of numbers up to the largest of each gradient.
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=300 * torch.finfo(a.dtype).eps * max(1.0, a.abs().max().item()))


def _train(digits, out, recipe=RECIPE, **options):
    return training.train(recipe, digits, out=out, precision="32-true", device="cpu", progress=False, **options)


@pytest.mark.slow  # More compilations than torch allows for one function.
def test_many_models_in_one_process_are_all_compiled():
    x = torch.randn(2, 4, 4, 4)
    for hidden in range(4, 20):
        coupling = AffineCoupling(ConvNet(2, hidden, 4))
        before = compiling.num_graphs()
        with compiling.CompiledLayers(coupling, backend="eager").active():
            coupling(x)
        assert compiling.num_graphs() > before, hidden
