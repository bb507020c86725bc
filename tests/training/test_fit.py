"""Training: it learns, survives a kill, stops on what is not a number, and saves the averaged weights."""

import dataclasses
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch

from nbflows import (
    Flow,
    Sequential,
    data,
    hardware,
    load_flow,
    metrics,
    ranks,
    recipes,
    training,
)
from nbflows.data import ImageData
from nbflows.layers import AffineCoupling, Dequantize, checkerboard
from nbflows.nets import ConvNet
from nbflows.training import fit, launch, steps
from tests.interrupt import killed_after

RECIPE = recipes.Recipe(
    "a small one for tests", "digits", "digits_simple", batch_size=32, epochs=4, warmup_steps=5, validate_every=1
)


@pytest.fixture(scope="module")
def digits():
    """A few digits: enough to learn from, few enough for seconds."""
    full = data.load("digits")
    return ImageData("digits", "100 digits", full.train[:100], full.validation[:40], full.test[:40], 17)


def _flow():
    torch.manual_seed(0)
    couplings = [
        AffineCoupling(ConvNet(1, 8, 2), checkerboard(8, 8, invert=i % 2 == 1), shift_first=True) for i in range(2)
    ]
    return Flow(Sequential(Dequantize(17), *couplings), (1, 8, 8))


def _train(digits, out, recipe=RECIPE, **options):
    options = {"flow": _flow(), "precision": "32-true", "device": "cpu", "progress": False} | options
    return training.train(recipe, digits, out=out, **options)


def _weights(result):
    return torch.cat([parameter.flatten() for parameter in result.flow.parameters()])


def test_samples_that_overflow_cost_a_picture_and_not_the_training(digits, tmp_path, capsys, monkeypatch):
    def overflow(self, z, context=None):
        raise RuntimeError("64 of 64 images have pixels that are NaN or infinite")

    monkeypatch.setattr(Dequantize, "inverse", overflow)
    result = _train(digits, tmp_path, max_steps=3)
    assert "no samples at step 3: 64 of 64 images have pixels that are NaN or infinite" in capsys.readouterr().out
    assert result.test.mean > 0 and not list((tmp_path / "samples").glob("*.png"))


def test_training_lowers_bits_per_dim_and_leaves_all_its_files(digits, tmp_path):
    result = training.train(
        RECIPE, digits, out=tmp_path, max_steps=9, precision="32-true", device="cpu", progress=False
    )
    untrained = metrics.evaluate(RECIPE.build(digits), digits.test)
    assert result.test.mean < untrained.mean - 4 * untrained.standard_error
    for name in ("best.ckpt", "last.ckpt", "model.safetensors", "model.json", "training_curve.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert list((tmp_path / "samples").glob("*.png"))
    assert [row["step"] for row in result.history if "validation_bits_per_dim" in row] == [2, 5, 8]
    details = json.loads((tmp_path / "model.json").read_text())
    assert details["test_bits_per_dim"]["mean"] == result.test.mean
    assert details["steps"] == 9
    loaded = load_flow(tmp_path)
    assert metrics.evaluate(loaded, digits.test) == result.test


def test_the_saved_model_holds_the_averaged_weights_of_the_best_validation(digits, tmp_path):
    result = _train(digits, tmp_path)
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    name, parameter = next(iter(result.flow.named_parameters()))
    assert torch.equal(checkpoint["state_dict"][f"flow.{name}"], parameter)
    assert not torch.equal(checkpoint["current_model_state"][f"flow.{name}"], parameter)
    validated = [row["validation_bits_per_dim"] for row in result.history if "validation_bits_per_dim" in row]
    assert min(validated) == pytest.approx(metrics_of_validation(result.flow, digits), abs=1e-5)


def test_validation_is_logged_with_its_standard_error(digits, tmp_path):
    result = _train(digits, tmp_path, max_steps=3)
    (row,) = [row for row in result.history if "validation_bits_per_dim" in row]
    values = metrics_of_validation(result.flow, digits, per_image=True)
    expected = values.std() / len(values) ** 0.5
    assert row["validation_standard_error"] == pytest.approx(expected.item(), rel=1e-5)


def metrics_of_validation(flow, digits, per_image=False):
    """Validation as the training does it: batch by batch, each with its own seed."""
    values = []
    for i, batch in enumerate(digits.validation.split(128)):
        torch.manual_seed(i)
        values.append(flow.bits_per_dim(batch).detach())
    return torch.cat(values) if per_image else torch.cat(values).mean().item()


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(digits, tmp_path):
    whole = _train(digits, tmp_path / "whole")
    # In the middle of the second epoch, of three batches each.
    with killed_after(4):
        _train(digits, tmp_path / "parts", checkpoint_seconds=0)
    first_part = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    resumed = _train(digits, tmp_path / "parts", resume=True)
    torch.testing.assert_close(_weights(resumed), _weights(whole), atol=1e-6, rtol=0)
    final = [torch.load(tmp_path / part / "last.ckpt", weights_only=True) for part in ("whole", "parts")]
    for key, value in final[0]["current_model_state"].items():
        torch.testing.assert_close(value, final[1]["current_model_state"][key], atol=1e-6, rtol=0)
    assert final[0]["global_step"] == final[1]["global_step"] == 12
    assert final[1]["seconds"] > first_part["seconds"] > 0
    assert [row["step"] for row in training.read_log(tmp_path / "parts") if "bits_per_dim" in row][-1] == 11


def test_a_resumed_training_takes_the_learning_rate_that_it_is_given(digits, tmp_path):
    _train(digits, tmp_path / "run", max_steps=4)
    before = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["current_model_state"]
    # So low that no weight moves by more than 8 steps of it, which Adam bounds by a few learning rates each.
    _train(digits, tmp_path / "run", recipe=replace(RECIPE, learning_rate=1e-9), resume=True)
    after = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    torch.testing.assert_close(after["current_model_state"], before, atol=1e-7, rtol=1e-6)
    assert after["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-8


def test_a_run_is_never_overwritten_and_resuming_nothing_is_an_error(digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        _train(digits, tmp_path, resume=True)
    _train(digits, tmp_path, max_steps=3)
    with pytest.raises(FileExistsError, match="go on with --resume"):
        _train(digits, tmp_path)
    with pytest.raises(ValueError, match="at step 3 already"):
        _train(digits, tmp_path, resume=True, max_steps=3)


class _Exploding(ConvNet):
    """Returns infinity once its weights have moved."""

    def forward(self, x, context=None):
        y = super().forward(x, context)
        return y / 0 if self.layers[-1].bias.abs().max() > 0 else y


def test_a_loss_that_is_not_finite_stops_and_names_batch_layer_and_checkpoint(digits, tmp_path):
    flow = _flow()
    flow.bijection.layers[2].net = _Exploding(1, 8, 2)
    with pytest.raises(training.NonFiniteError) as error:
        _train(digits, tmp_path, flow=flow, checkpoint_seconds=0)
    message = str(error.value)
    assert "step 1 (epoch 0, batch 1)" in message
    assert "bijection.layers.2.net (_Exploding)" in message
    assert str(tmp_path / "last.ckpt") in message
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1
    # The seed of that step does not reach what is drawn afterwards.
    assert ranks.common_generator() is torch.default_generator


def test_weights_that_are_not_finite_are_named(digits):
    flow = _flow()
    torch.nn.init.constant_(flow.bijection[1].net.layers[2].weight, torch.nan)
    found = steps.first_non_finite(flow, digits.train[:4])
    assert found.startswith("bijection.layers.1.net.layers.2 (PointwiseConv; not finite in it: weight)")
    assert "no layer" in steps.first_non_finite(_flow(), digits.train[:4])


class _InfiniteSlope(torch.nn.Module):
    """sqrt(|x|) at 0: finite, with an infinite derivative."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, context=None):
        return torch.cat([x, x], dim=1) * self.weight.abs().sqrt()


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(digits, tmp_path):
    flow = _flow()
    flow.bijection.layers[2].net = _InfiniteSlope()
    with pytest.raises(training.NonFiniteError, match=r"gradients of bijection.layers.2.net.weight") as error:
        _train(digits, tmp_path, flow=flow)
    assert "no checkpoint yet" in str(error.value)
    assert all(parameter.isfinite().all() for parameter in flow.parameters())


def test_the_learning_rate_warms_up_and_decays_every_epoch():
    module = steps.FlowModule(_flow(), dataclasses.replace(RECIPE, decay_per_epoch=0.5), steps_per_epoch=10)
    factors = [module._learning_rate_factor(step) for step in range(30)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[9:11] == pytest.approx([1.0, 0.5])
    assert factors[29] == pytest.approx(0.25)


def test_a_time_limit_ends_with_a_validated_and_saved_model(digits, tmp_path):
    result = _train(digits, tmp_path, recipe=dataclasses.replace(RECIPE, epochs=10_000), max_minutes=1e-3)
    assert (tmp_path / "last.ckpt").exists()
    assert (tmp_path / "best.ckpt").exists()
    assert result.test.num_images == 40


def test_validation_neither_draws_from_nor_disturbs_the_training_noise(digits, tmp_path):
    often = _train(digits, tmp_path / "often")
    seldom = _train(digits, tmp_path / "seldom", recipe=dataclasses.replace(RECIPE, validate_every=4))
    steps = [
        {row["step"]: row["bits_per_dim"] for row in result.history if "bits_per_dim" in row}
        for result in (often, seldom)
    ]
    assert steps[0] == pytest.approx(steps[1], abs=1e-6)


def test_denormal_numbers_count_as_zero_while_training_only():
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    with hardware.denormals_as_zero():
        # False where the processor has no such switch.
        assert smallest / 2 == 0 or not torch.set_flush_denormal(True)
    assert smallest / 2 > 0


def test_training_works_without_the_packages_it_can_do_without(digits, tmp_path, monkeypatch, capsys):
    for module in (fit, launch):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    training.train(recipe, digits, out=tmp_path, precision="32-true", device="cpu", progress=False)
    printed = capsys.readouterr().out
    assert "matplotlib is not installed" in printed
    assert "safetensors is not installed" in printed
    assert isinstance(load_flow(tmp_path), Flow)


@pytest.mark.slow  # A fresh process, in which packages are missing.
def test_training_needs_no_more_than_torch_torchvision_lightning_and_numpy(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class Missing(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        # Not matplotlib: torchmetrics imports it wherever it is installed. The test above does without it.
        "        gone = 'seaborn tabulate sklearn skimage pooch safetensors IPython tensorboard'.split()\n"
        "        if name.split('.')[0] in gone:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "def guarded(name, package=None):\n"
        "    try:\n"
        "        return find_spec(name, package)\n"
        "    except ModuleNotFoundError:\n"
        "        return None\n"
        "importlib.util.find_spec = guarded\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import numpy as np\n"
        "np.save('images.npy', np.random.default_rng(0).integers(0, 17, (60, 8, 8), dtype=np.uint8))\n"
        "from nbflows.cli import main\n"
        "run = ['train', 'digits-simple', '--data', 'images.npy', '--max-steps', '2', '--batch-size', '16']\n"
        "assert main([*run, '--device', 'cpu', '--no-progress', '--out', 'run', '--traceback']) == 0\n"
        "assert main(['evaluate', 'run', '--data', 'images.npy']) == 0\n"
        "assert main(['sample', 'run', 'few.png']) == 0\n"
    )
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "few.png").exists()


def test_lightning_stays_quiet_and_other_warnings_do_not(digits, tmp_path, capsys):
    _train(digits, tmp_path, recipe=dataclasses.replace(RECIPE, epochs=1))
    assert "Tip" not in "".join(capsys.readouterr())
    with launch.quiet(), pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_training_uses_the_recipes_optimizer_and_moves_its_images(digits, tmp_path):
    seen = []
    recipe = replace(recipes.get("digits-simple"), optimizer="Adamax", augment="shift_and_flip", batch_size=16)
    module = steps.FlowModule(recipe.build(digits), recipe, 10)
    assert isinstance(module.configure_optimizers()["optimizer"], torch.optim.Adamax)
    module.log = lambda *_, **__: None
    module.flow.bits_per_dim = lambda images, **_: seen.append(images) or torch.zeros(len(images))
    module.training_step(digits.train[:16], 0)
    assert seen[0].shape == (16, 1, 8, 8) and not torch.equal(seen[0], digits.train[:16])
    with pytest.raises(ValueError, match="optimizer is 'Adam', 'AdamW' or 'Adamax', got 'SGD'"):
        replace(recipe, optimizer="SGD")


@pytest.mark.parametrize("memory", ["checkpoint", "invertible"])
def test_training_that_saves_memory_ends_with_the_same_weights(digits, tmp_path, memory):
    plain = _train(digits, tmp_path / "plain", max_steps=5)
    saving = _train(digits, tmp_path / "saving", max_steps=5, memory=memory)
    assert {getattr(part, "memory", None) for part in saving.flow.modules()} == {None, memory}
    # Adam divides by the root of squared gradients: near 0, rounding moves a weight by a part of a step.
    torch.testing.assert_close(_weights(saving), _weights(plain), atol=0.1 * RECIPE.learning_rate, rtol=1e-4)


def test_a_model_of_ones_own_keeps_its_memory_unless_told_otherwise(digits, tmp_path):
    flow = _flow()
    flow.bijection.memory = "checkpoint"
    result = _train(digits, tmp_path / "own", flow=flow, max_steps=1)
    assert result.flow.bijection.memory == "checkpoint"
    result = _train(digits, tmp_path / "told", flow=flow, max_steps=1, memory="plain")
    assert result.flow.bijection.memory == "plain"
