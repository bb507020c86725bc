"""Learning per minute: one training serves every budget, and bounds never share a table with exact values."""

import math

import pytest
import torch
from torch import nn

from benchmarks import learning
from nbflows import data


class Mean(nn.Module):
    """Its bits/dim fall as its one parameter comes near 8."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def bits_per_dim(self, images):
        return (self.value - 8).square().expand(len(images))


def test_a_budget_goes_on_from_the_longer_one_before_its_rate_falls_to_zero(monkeypatch):
    clock, digits = iter(range(10**6)), data.load("digits")
    monkeypatch.setattr(data, "load", lambda name: digits)
    # Every look at the clock is a second later.
    monkeypatch.setattr(learning.time, "process_time", lambda: float(next(clock)))
    rates = []

    class Descent(torch.optim.SGD):
        def __init__(self, parameters, lr, betas):
            super().__init__(parameters, lr)

        def step(self):
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(torch.optim, "Descent", Descent, raising=False)
    learner = learning.Learner(Mean, learning_rate=1e-3, optimizer="Descent", precision="32-true", warmup_steps=5)
    short, long = learning.train(learner, [2, 4], num_test_images=10)
    torch.set_flush_denormal(False)
    # 120 and 240 seconds: a step takes one, the last look at each end another.
    assert short["steps"] == pytest.approx(120, abs=3) and long["steps"] == pytest.approx(240, abs=3)
    assert long["mean"] < short["mean"] < 64
    # The short budget's last quarter is trained apart: 90 + 30 steps, then 90 + 60 further ones.
    assert len(rates) == pytest.approx(270, abs=6)
    falling = [i for i in range(1, len(rates)) if rates[i] < rates[i - 1]]
    assert falling[0] == pytest.approx(90, abs=3) and math.isclose(max(rates), 1e-3)
    assert rates[-1] < 1e-4 and rates[:5] == sorted(rates[:5])


def test_bounds_and_exact_values_have_tables_of_their_own():
    rows = {("a", 2.0): {"mean": 1.5, "standard_error": 0.01}}
    bound, exact = (learning._table(kind, [2.0], rows) for kind in ("bound", "exact"))
    assert "a bound, M = 1" in bound and "original code" in bound and "1.500 ± 0.010" in bound
    assert "(exact)" in exact and "original" not in exact
