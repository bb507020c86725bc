"""Experiments on the ideas of the papers: every variant trains, and differences are paired by seed."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks import ideas
from nbflows import data
from nbflows.data import ImageData


def test_differences_are_paired_by_seed_with_the_error_of_their_mean():
    idea = ideas.Idea("a title", "none", {"without": ("simple", {}), "with": ("simple", {})})
    scores = {"without": (2.0, 2.4, 2.2), "with": (1.9, 2.1, 2.0)}
    results = {(v, seed): {"steps": 10, "test": bits} for v, row in scores.items() for seed, bits in enumerate(row)}
    first, second = ideas.compare(idea, results)
    assert first == ["without", 10, "2.200", ""]
    # -0.1, -0.3, -0.2: variance 0.01 over two degrees of freedom.
    assert second == ["with", 10, "2.000", f"-0.200 ± {math.sqrt(0.01 / 3):.3f}"]
    with_eyes = {key: {**result, "eyes": 0.1 * key[1]} for key, result in results.items()}
    assert [row[-1] for row in ideas.compare(replace(idea, task="super-resolution"), with_eyes)] == ["0.10", "0.10"]


@pytest.mark.slow  # Models for images of 28x28 pixels.
@pytest.mark.parametrize("name", ideas.IDEAS)
def test_every_variant_trains_and_scores(name, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shape = (1, 28, 28) if ideas.IDEAS[name].data == "mnist" else (3, 16, 16)
    images = torch.randint(0, 256, (64, *shape), generator=generator).to(torch.uint8)
    monkeypatch.setattr(data, "load", lambda _: ImageData("random", "", images, images[:10], images[:10]))
    for variant in ideas.IDEAS[name].variants:
        result = ideas.train(ideas.IDEAS[name], variant, 1e-3, seconds=1e-3, seed=0, num_test_images=4)
        assert result["steps"] >= 1 and math.isfinite(result["test"]) and result["standard_error"] > 0


@pytest.mark.parametrize("arguments, message", [(["no"], "no experiment named no"), (["--seeds", "1"], "two seeds")])
def test_a_command_that_cannot_run_says_why(arguments, message, capsys):
    with pytest.raises(SystemExit):
        ideas.main(arguments)
    assert message in capsys.readouterr().err
