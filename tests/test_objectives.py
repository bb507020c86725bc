"""What is minimised: likelihoods, and labels beside them."""

import json
import math
from dataclasses import replace

import pytest
import torch

from nbflows import JointFlow, metrics, models
from nbflows.cli import main
from nbflows.objectives import Density, WithClassifier
from nbflows.training import steps
from tests.training.small_residual import DIGITS, JOINT, checkerboard_points, labelled_digits, train


@pytest.fixture(scope="module")
def digits():
    return labelled_digits()


@pytest.fixture(scope="module")
def points():
    return checkerboard_points()


def test_the_log_of_training_is_a_true_log_likelihood_also_with_the_neumann_gradient(digits):
    torch.manual_seed(0)
    flow = models.digits_residual_flow(**DIGITS.arguments, gradient="neumann")
    flow.log_prob(digits.train[:64])
    images = digits.train[:1].expand(400, 1, 8, 8)
    module = steps.FlowModule(flow, DIGITS, 1)
    estimates = module.measure(images)["bits_per_dim"].detach()
    flow.eval()
    with torch.no_grad():
        exact = flow.bits_per_dim(images)
    # Two samples of other terms and noise: N is shared by a batch, so that its spread counts too.
    many = torch.stack([module.measure(images[:40])["bits_per_dim"].mean().detach() for _ in range(40)])
    error = math.hypot(many.std().item() / 40**0.5, exact.std().item() / 20)
    assert estimates.isfinite().all()
    assert abs(many.mean() - exact.mean()) < 4 * error


def test_weight_decay_is_applied_and_not_part_of_the_gradient(digits):
    recipe = replace(DIGITS, optimizer="AdamW", weight_decay=0.1, betas=(0.9, 0.99), learning_rate=0.5, warmup_steps=0)
    module = steps.FlowModule(recipe.build(digits), recipe, 10)
    optimizer = module.configure_optimizers()["optimizer"]
    assert optimizer.defaults["betas"] == (0.9, 0.99)
    before = [parameter.detach().clone() for parameter in module.flow.parameters()]
    for parameter in module.flow.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(module.flow.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), (1 - 0.5 * 0.1) * old)
    with pytest.raises(ValueError, match=r"only AdamW has a weight_decay \(0\.1\), the optimizer is Adam"):
        replace(DIGITS, weight_decay=0.1)


def test_joint_training_minimises_lambda_times_the_density_and_the_labels(digits):
    torch.manual_seed(0)
    flow = JOINT.build(digits)
    images, labels = digits.train[:32], digits.labels["train"][:32]
    flow.log_prob_and_logits(images)
    for weight in (0.0, 1 / 64, 1.0):
        module = steps.FlowModule(flow, replace(JOINT, objective=WithClassifier(weight)), 1)
        torch.manual_seed(1)
        measured = module.measure(images, labels)
        torch.manual_seed(1)
        log_prob, logits = flow.log_prob_and_logits(images)
        bits = -log_prob / math.log(2)
        label_bits = -logits.log_softmax(1)[torch.arange(32), labels] / math.log(2)
        torch.testing.assert_close(measured["loss"], weight * bits + label_bits)
        torch.testing.assert_close(measured["bits_per_dim"], bits / 64)
        assert torch.equal(measured["accuracy"], (logits.argmax(1) == labels).float())


@pytest.mark.slow  # Training until something is learned.
def test_joint_training_learns_classes_and_keeps_its_accuracy(digits, tmp_path, monkeypatch, capsys):
    result = train(JOINT, digits, tmp_path / "run", max_steps=60)
    assert isinstance(result.flow, JointFlow)
    # Chance is 0.1, with a standard error of 0.05 on 40 images.
    assert result.accuracy.mean > 0.1 + 4 * 0.05
    assert result.accuracy == metrics.accuracy(result.flow, digits.test, digits.labels["test"])
    details = json.loads((tmp_path / "run" / "model.json").read_text())
    assert details["test_accuracy"]["mean"] == result.accuracy.mean
    assert details["validation_loss"] == pytest.approx(
        min(row["validation_loss"] for row in result.history if "validation_loss" in row), rel=1e-6
    )
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "run", "--data", "digits", "--limit", "40"]) == 0
    assert "right (40 images)" in capsys.readouterr().out


def test_a_classifier_needs_labels_and_its_own_recipe(digits, points, tmp_path):
    with pytest.raises(ValueError, match="trains a classifier too, and digits has no labels"):
        train(JOINT, replace(digits, labels=None), tmp_path / "a")
    with pytest.raises(ValueError, match="the objective Density trains a Flow, the model is a JointFlow"):
        train(replace(JOINT, objective=Density()), digits, tmp_path / "b")
    with pytest.raises(ValueError, match="the objective WithClassifier trains a JointFlow, the model is a Flow"):
        train(replace(DIGITS, objective=WithClassifier(1.0)), digits, tmp_path / "c")
    with pytest.raises(ValueError, match="joint_residual_flow has no factor_out"):
        models.joint_residual_flow(factor_out=True)
    flow = models.digits_residual_flow(**DIGITS.arguments).bijection
    with pytest.raises(ValueError, match=r"heads read layers 0..\d, got \[99\]"):
        JointFlow(flow, (1, 8, 8), {99: torch.nn.Identity()}, 1, 10)
