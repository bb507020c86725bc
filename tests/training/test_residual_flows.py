"""Training of Residual Flows: norms that are kept, terms that ranks share, labels, points and large batches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

from nbflows import load_flow, metrics, models
from nbflows.cli import main
from nbflows.data import pictures
from nbflows.nets import OperatorNorm, update_norms
from nbflows.objectives import WithClassifier
from nbflows.training import steps
from tests.training.small_residual import DIGITS, JOINT, POINTS, checkerboard_points, labelled_digits, train


@pytest.fixture(scope="module")
def digits():
    return labelled_digits()


@pytest.fixture(scope="module")
def points():
    return checkerboard_points()


def _norms(flow):
    """Every norm with its weight."""
    for module in flow.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], OperatorNorm):
            yield module[0], module.original.detach()


def _is_converged(flow):
    """Whether one more step of power iteration would raise no norm by more than its tolerance."""
    with torch.no_grad():
        return all(norm.step(weight) <= norm.tolerance for norm, weight in _norms(flow))


def test_norms_are_those_of_the_weights_after_every_step_and_of_the_averages_at_validation(
    digits, tmp_path, monkeypatch
):
    seen = []
    validation_step, training_step = steps.FlowModule.validation_step, steps.FlowModule.training_step
    monkeypatch.setattr(
        steps.FlowModule,
        "validation_step",
        lambda self, *a: seen.append(("validation", _is_converged(self.flow))) or validation_step(self, *a),
    )
    monkeypatch.setattr(
        steps.FlowModule,
        "training_step",
        lambda self, *a: seen.append(("training", _is_converged(self.flow))) or training_step(self, *a),
    )
    train(DIGITS, digits, tmp_path)
    assert {name for name, _ in seen} == {"validation", "training"}
    assert all(converged for _, converged in seen)


def test_a_checkpoint_and_an_exported_model_hold_the_norms_of_their_weights(digits, tmp_path):
    result = train(DIGITS, digits, tmp_path)
    flow = load_flow(tmp_path)
    assert _is_converged(flow)
    for (ours, weight), (theirs, _) in zip(_norms(flow), _norms(result.flow), strict=True):
        # _is_converged took a step with the one, not yet with the other.
        torch.testing.assert_close(ours.sigma(weight), theirs.sigma(weight), rtol=2 * ours.tolerance, atol=0)
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    other = DIGITS.build(digits)
    other.load_state_dict({key.removeprefix("flow."): value for key, value in state.items() if key[:5] == "flow."})
    assert _is_converged(other)
    images = digits.test[:8]
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.encode(images)[0]), images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augment": "rotate"}, "'shift_and_flip', 'mirror' or None, got 'rotate'"),
        ({"accumulate": 3}, "a batch of 32 does not divide into 3 equal parts"),
    ],
)
def test_a_recipe_refuses_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        replace(DIGITS, **change)


def test_an_objective_refuses_a_weight_that_cannot_be_and_a_recipe_something_else():
    with pytest.raises(ValueError, match=r"the weight of the density is 0 or more, not -1\.0"):
        WithClassifier(-1.0)
    with pytest.raises(
        TypeError, match="objective is a Density, GivenLabels, WithClassifier or Translation, got 'density'"
    ):
        replace(DIGITS, objective="density")


def test_images_are_mirrored_where_the_recipe_says_so(digits):
    seen, images = [], digits.train[:16]
    recipe = replace(DIGITS, augment="mirror")
    module = steps.FlowModule(recipe.build(digits), recipe, 10)
    module.log = lambda *_, **__: None
    module.flow.bits_per_dim = lambda images, **_: seen.append(images) or torch.zeros(len(images))
    module.training_step(images, 0)
    mirrored = (seen[0] == images.flip(3)).flatten(1).all(1)
    kept = (seen[0] == images).flatten(1).all(1)
    assert (mirrored | kept).all() and mirrored.any() and kept.any()


def test_a_batch_in_parts_trains_like_the_whole_batch(points, tmp_path):
    # Exact log-determinants and no noise: the same gradient, up to the order of its sums.
    recipe = replace(POINTS, arguments={**POINTS.arguments, "log_det": "exact"}, epochs=1)
    whole = train(recipe, points, tmp_path / "whole", max_steps=3)
    parts = train(replace(recipe, accumulate=4), points, tmp_path / "parts", max_steps=3)
    for a, b in zip(whole.flow.parameters(), parts.flow.parameters(), strict=True):
        # Adam's first steps have length lr whatever the gradient: rounding shows where a gradient is near its epsilon.
        torch.testing.assert_close(a, b, atol=0.05 * 3 * recipe.learning_rate, rtol=0)
    steps = [row["step"] for row in parts.history if "validation_bits_per_dim" in row]
    assert steps == [2]


def test_points_are_trained_sampled_and_evaluated(points, tmp_path, monkeypatch, capsys):
    result = train(replace(POINTS, epochs=1), points, tmp_path / "run")
    assert result.accuracy is None and math.isfinite(result.test.mean)
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "run", "points.png", "--num-samples", "200"]) == 0
    assert main(["evaluate", "run", "--limit", "30", "--data", "checkerboard"]) == 0
    assert "bits/dim (M = 1, 30 images)" in capsys.readouterr().out
    assert main(["evaluate", "run", "--limit", "30", "--data", "digits"]) == 2
    assert "None grey levels, digits has 17" in capsys.readouterr().err


def test_a_model_of_8_bits_is_not_scored_on_fewer(digits, tmp_path, capsys):
    eight = replace(digits, num_grey_levels=256, labels=None)
    recipe = replace(DIGITS, epochs=1)
    train(recipe, eight, tmp_path / "run", max_steps=1)
    np.save(tmp_path / "images.npy", np.zeros((40, 8, 8), dtype=np.uint8))
    run = ["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "images.npy")]
    assert main([*run, "--num-bits", "5"]) == 2
    assert "the model is for 256 grey levels, images has 32" in capsys.readouterr().err
    assert main(run) == 0


def test_a_picture_of_points_shows_them_where_they_are(tmp_path):
    from PIL import Image

    # Right above: x > 0 and y > 0.
    pictures.save_samples(torch.tensor([[2.0, 2.0], [2.01, 2.01], [-9.0, 0.0]]), tmp_path / "points.png", None)
    picture = np.asarray(Image.open(tmp_path / "points.png").convert("L"))
    rows, columns = picture.nonzero()
    height, width = picture.shape
    assert len(rows) and (rows < height / 2).all() and (columns > width / 2).all()


def test_an_accuracy_carries_its_standard_error(digits):
    flow = JOINT.build(digits).train()
    flow.log_prob_and_logits(digits.train[:64])
    state = torch.get_rng_state()
    score = metrics.accuracy(flow, digits.test, digits.labels["test"], chunk_size=7)
    assert flow.training and torch.equal(state, torch.get_rng_state())
    flow.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        right = torch.cat([flow.classify(part).argmax(1) for part in digits.test.split(7)]) == digits.labels["test"]
    share = right.double().mean().item()
    # The unbiased variance of 40 zeros and ones.
    assert score == metrics.Accuracy(share, pytest.approx(math.sqrt(share * (1 - share) / 39), rel=1e-12), 40)
    assert str(metrics.Accuracy(0.975, 0.01, 40)) == "97.50% ± 1.00% right (40 images)"


def test_norms_are_found_in_full_precision_wherever_they_are_refreshed(digits):
    flow = DIGITS.build(digits)
    with torch.no_grad():
        for _, weight in _norms(flow):
            weight.add_(0.3 * torch.randn_like(weight))
    with torch.autocast("cpu", torch.bfloat16):
        update_norms(flow)
    assert _is_converged(flow)


def test_update_norms_is_free_for_models_without_norms(digits):
    update_norms(models.digits_simple())
