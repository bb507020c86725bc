"""Scores: standard errors, an unchanged random state, half precision."""

import pytest
import torch

from nbflows import (
    data,
    load_pretrained,
    metrics,
    models,
)


def test_a_mean_carries_its_standard_error_number_of_draws_and_of_images():
    bits = metrics.summarize(torch.tensor([1.0, 2.0, 3.0, 4.0]), num_draws=8)
    assert bits.mean == 2.5
    assert bits.standard_error == pytest.approx(1.2909944 / 2)
    assert str(bits) == "2.5000 ± 0.6455 bits/dim (M = 8, 4 images)"


def test_evaluating_leaves_mode_and_random_state_alone():
    flow, images = models.digits_simple().train(), torch.randint(17, (10, 1, 8, 8)).byte()
    state = torch.get_rng_state()
    first = metrics.evaluate(flow, images, num_draws=2, chunk_size=3)
    assert flow.training
    assert torch.equal(state, torch.get_rng_state())
    assert first == metrics.evaluate(flow, images, num_draws=2, chunk_size=3)
    assert first != metrics.evaluate(flow, images, num_draws=2, chunk_size=3, seed=1)


def test_scores_with_networks_in_bfloat16_are_those_in_float32():
    flow, images = load_pretrained("digits-multiscale"), data.load("digits").test
    exact, rounded = (metrics.evaluate(flow, images, precision=p) for p in ("32-true", "bf16-mixed"))
    # A twentieth of the standard error over these images.
    assert 0 < abs(rounded.mean - exact.mean) < 0.001 < exact.standard_error
    with pytest.raises(ValueError, match="'32-true' or 'bf16-mixed', got 'bf16'"):
        metrics.evaluate(flow, images, precision="bf16")
