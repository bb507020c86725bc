"""The learning rate over a budget: the recipe's where it is trained in full, else one that has fallen at the end."""

import csv
from dataclasses import replace

import pytest
import torch

from nbflows import load_pretrained, recipes
from nbflows.training import fit, steps
from nbflows.training.schedule import Budget, learning_rate_factor
from tests.interrupt import killed_after
from tests.training.small import RECIPE, small_digits, train

STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def digits():
    return small_digits()


def _factors(recipe, budget, steps, seconds_a_step=0.0):
    return [learning_rate_factor(recipe, budget, STEPS_PER_EPOCH, step, step * seconds_a_step) for step in range(steps)]


def test_the_whole_recipe_keeps_the_schedule_of_its_authors():
    recipe = replace(RECIPE, decay_per_epoch=0.5, drop_at_step=9)
    budget = Budget.of(recipe, STEPS_PER_EPOCH, None, None)
    assert budget == Budget.of(recipe, STEPS_PER_EPOCH, max_steps=24, max_minutes=None)
    factors = _factors(recipe, budget, 24)
    assert factors[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 0.5])
    assert factors[8:10] == pytest.approx([0.25, 0.0125])


def test_a_limit_of_steps_warms_up_stays_and_falls_to_zero_in_the_last_quarter():
    recipe = replace(RECIPE, decay_per_epoch=0.5, epochs=1000)
    factors = _factors(recipe, Budget.of(recipe, STEPS_PER_EPOCH, 400, None), 400)
    assert factors[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])
    assert set(factors[3:301]) == {1.0}
    assert factors[300:] == pytest.approx([1 - n / 100 for n in range(100)])


def test_a_limit_of_minutes_does_the_same_in_time():
    recipe = replace(RECIPE, epochs=1000)
    factors = _factors(recipe, Budget.of(recipe, STEPS_PER_EPOCH, None, 1), 60, seconds_a_step=1)
    assert set(factors[4:46]) == {1.0}
    assert factors[45:] == pytest.approx([1 - n / 15 for n in range(15)])


def test_the_first_limit_that_is_reached_decides():
    recipe = replace(RECIPE, epochs=1000)
    both = Budget.of(recipe, STEPS_PER_EPOCH, max_steps=100, max_minutes=1)
    assert both.done(50, 10) == 0.5 and both.done(10, 30) == 0.5 and both.done(200, 90) == 1
    # The recipe's own end is a limit too.
    short = Budget.of(RECIPE, STEPS_PER_EPOCH, max_steps=None, max_minutes=1000)
    assert _factors(RECIPE, short, 24)[-1] == pytest.approx(4 / 24)


def test_a_warm_up_longer_than_the_budget_is_cut_to_a_tenth_of_it():
    recipe = replace(RECIPE, warmup_steps=10_000, epochs=1000)
    factors = _factors(recipe, Budget.of(recipe, STEPS_PER_EPOCH, 100, None), 100)
    assert factors[:12] == pytest.approx([1e-4] + [n / 10 for n in range(1, 11)] + [1.0])


def test_the_steps_of_a_limit_of_minutes_are_estimated_from_the_pace():
    budget = Budget(steps=1000, seconds=60)
    assert budget.expected_steps(0, 0) == 1000
    assert budget.expected_steps(10, 6) == 100
    assert budget.expected_steps(900, 1) == 1000
    assert budget.expected_steps(70, 90) == 70


def _learning_rates(out):
    """Those of the optimizer by step, as ``logged_rates`` wrote them."""
    with open(out / "rates.csv", newline="") as stream:
        return {int(step): float(rate) for step, rate in csv.reader(stream)}


@pytest.fixture
def logged_rates(monkeypatch):
    """Has each training write the learning rate of each step into rates.csv of its folder."""
    step = steps.FlowModule.optimizer_step

    def logged(module, epoch, batch_index, optimizer, *args, **kwargs):
        with open(module.trainer.default_root_dir + "/rates.csv", "a", newline="") as stream:
            csv.writer(stream).writerow([module.trainer.global_step, optimizer.param_groups[0]["lr"]])
        step(module, epoch, batch_index, optimizer, *args, **kwargs)

    monkeypatch.setattr(steps.FlowModule, "optimizer_step", logged)


@pytest.mark.parametrize("killed_at", [4, 15])
def test_two_parts_follow_the_same_schedule_as_one(digits, tmp_path, logged_rates, killed_at):
    whole = train(digits, tmp_path / "whole", max_steps=16)
    with killed_after(killed_at):
        train(digits, tmp_path / "parts", max_steps=16, checkpoint_seconds=0)
    parts = train(digits, tmp_path / "parts", max_steps=16, resume=True)
    rates = _learning_rates(tmp_path / "parts")
    assert rates == _learning_rates(tmp_path / "whole") and list(rates) == list(range(16))
    assert rates[12] == pytest.approx(RECIPE.learning_rate) and rates[15] == pytest.approx(RECIPE.learning_rate / 4)
    for ours, theirs in zip(parts.flow.parameters(), whole.flow.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_minutes_count_in_all_and_are_spent_once(digits, tmp_path, monkeypatch, logged_rates):
    clock = iter(range(0, 10**6))
    monkeypatch.setattr(steps.time, "monotonic", lambda: float(next(clock)))
    recipe = replace(RECIPE, epochs=1000)
    with killed_after(20):
        train(digits, tmp_path, recipe=recipe, max_minutes=4, checkpoint_seconds=0)
    half = torch.load(tmp_path / "last.ckpt", weights_only=True)["seconds"]
    assert 20 < half < 200
    result = train(digits, tmp_path, recipe=recipe, max_minutes=4, resume=True)
    rates = list(_learning_rates(tmp_path).values())
    assert rates[4] == rates[20] == pytest.approx(RECIPE.learning_rate)
    # Three quarters of the steps are over when the first part's seconds count too.
    falling = [rate for rate in rates if rate < RECIPE.learning_rate][3:]
    assert 0.15 < len(falling) / len(rates) < 0.35
    # The clock is read after each step, so that the last learning rate is that of two steps before the end.
    assert rates[-1] < 3 / (len(rates) / 4) * RECIPE.learning_rate
    assert falling == sorted(falling, reverse=True)
    assert len(rates) == max(row["step"] for row in result.history) + 1
    with pytest.raises(ValueError, match=r"trained for [\d.]+ minutes already, and it was asked to end after 4;"):
        train(digits, tmp_path, recipe=recipe, max_minutes=4, resume=True)


def test_the_bar_counts_to_the_end_of_the_budget(digits, tmp_path, capsys):
    recipe = replace(RECIPE, epochs=1000)
    train(digits, tmp_path / "steps", recipe=recipe, max_steps=5, progress=True)
    assert "5/5" in capsys.readouterr().out
    train(digits, tmp_path / "minutes", recipe=recipe, max_minutes=1 / 60, progress=True)
    last = capsys.readouterr().out.split("training:")[-1]
    steps = torch.load(tmp_path / "minutes" / "last.ckpt", weights_only=True)["global_step"]
    assert f"| {steps}/{steps} [" in last


def test_a_training_that_makes_its_start_worse_ends_with_the_weights_it_started_from(digits, tmp_path, capsys):
    recipe = replace(recipes.get("digits-simple"), learning_rate=0.1, warmup_steps=0, ema_decay=0.0, batch_size=50)
    result = train(digits, tmp_path, recipe=recipe, max_steps=2, flow=None, start_from="digits-simple")
    start = load_pretrained("digits-simple").state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in result.flow.state_dict().items())
    name = "validation_bits_per_dim"
    validated = {row["step"]: row[name] for row in result.history if name in row}
    # Step -1 is before the first one.
    assert list(validated) == [-1, 1] and validated[-1] < validated[1]
    details = fit.weights.describe(tmp_path)
    assert details["validation_bits_per_dim"] == validated[-1] == details["started_from"]["validation_bits_per_dim"]
    printed = capsys.readouterr().out
    assert f"the weights to start from have the validation loss {validated[-1]:.3f}" in printed
    assert "no validation was better than that of the weights to start from" in printed
