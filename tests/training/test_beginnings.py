"""Trainings that start from a published model."""

from dataclasses import replace

import pytest
import torch

from nbflows import load_pretrained, models, recipes, save_flow
from nbflows.training import fit
from tests.training.small import small_digits, train


@pytest.fixture(scope="module")
def digits():
    return small_digits()


def test_a_training_starts_from_a_published_model_and_says_so(digits, tmp_path):
    published = load_pretrained("digits-simple")
    recipe = replace(recipes.get("digits-simple"), learning_rate=0.0, batch_size=50)
    result = train(digits, tmp_path / "run", recipe=recipe, max_steps=2, flow=None, start_from="digits-simple")
    for name, tensor in result.flow.state_dict().items():
        torch.testing.assert_close(tensor, published.state_dict()[name], atol=1e-7, rtol=0)
    from_run = train(digits, tmp_path / "next", recipe=recipe, max_steps=1, flow=None, start_from=tmp_path / "run")
    details = fit.weights.describe(from_run.out)
    assert details["steps"] == 1
    assert details["started_from"]["model"] == "run" and details["started_from"]["steps"] == 2
    assert details["started_from"]["started_from"]["model"] == "digits-simple"
    assert details["started_from"]["started_from"]["steps"] == 3000


def test_a_resumed_training_still_knows_what_it_started_from(digits, tmp_path):
    recipe = replace(recipes.get("digits-simple"), batch_size=50)
    train(digits, tmp_path, recipe=recipe, max_steps=1, flow=None, start_from="digits-simple")
    train(digits, tmp_path, recipe=recipe, max_steps=2, flow=None, resume=True)
    assert fit.weights.describe(tmp_path)["started_from"]["model"] == "digits-simple"


def test_weights_that_do_not_fit_are_named_and_leave_no_run(digits, tmp_path):
    with pytest.raises(ValueError, match=r"weights of digits-glow do not fit .* tensors differ") as error:
        train(digits, tmp_path / "run", flow=None, start_from="digits-glow")
    assert "missing" in str(error.value) and "same recipe and size" in str(error.value)
    assert not (tmp_path / "run").exists()
    narrow = models.simple((1, 8, 8), 17, num_couplings=8, hidden_channels=8, num_blocks=1)
    file = save_flow(narrow, tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"\[8, .*\] against \[\d+, "):
        train(digits, tmp_path / "run", flow=None, start_from=file)
    with pytest.raises(ValueError, match="no pretrained model named 'digits-simpel'; did you mean 'digits-simple'"):
        train(digits, tmp_path / "run", flow=None, start_from="digits-simpel")
    train(digits, tmp_path / "run", max_steps=1)
    with pytest.raises(ValueError, match="leave start_from"):
        train(digits, tmp_path / "run", flow=None, start_from="digits-simple", resume=True)
