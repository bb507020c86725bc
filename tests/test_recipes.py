"""Recipes: each builds its model for its data, as its authors trained it."""

import json

import pytest
import torch

from nbflows import JointFlow, data, recipes
from nbflows.data import Data, ImageData, toys
from nbflows.labelled import LabelledFlow


@pytest.mark.parametrize("data_name", ["mnist", "cifar10", "imagenet32", "imagenet64"])
@pytest.mark.parametrize(("coupling", "batch", "sizes"), [("affine", 128, (32, 512)), ("mixlogcdf", 64, (4, 96))])
def test_mar_scf_is_trained_as_its_authors_did(data_name, coupling, batch, sizes):
    recipe = recipes.get(f"{data_name}-marscf-{coupling}")
    assert (recipe.optimizer, recipe.learning_rate, recipe.decay_per_epoch) == ("Adamax", 8e-4, 1.0)
    assert recipe.batch_size == batch and recipe.warmup_steps == 10_000 // batch
    assert (recipe.arguments["num_steps"], recipe.arguments["hidden_channels"]) == sizes
    # 28x28 halves twice only.
    assert recipe.arguments["num_scales"] == {"mnist": 2, "imagenet64": 4}.get(data_name, 3)


@pytest.mark.slow  # Models of every size.
@pytest.mark.parametrize("name", [name for name, recipe in recipes.RECIPES.items() if recipe.objective.task is None])
def test_every_recipe_builds_its_model_for_its_data(name):
    recipe = recipes.get(name)
    assert recipe.data in data.names()
    known = {"digits": ((1, 8, 8), 17), "mnist": ((1, 28, 28), 256), "imagenet64": ((3, 64, 64), 256)}
    known |= {"celeba-hq-256-5bit": ((3, 256, 256), 32)} | dict.fromkeys(toys.names(), ((2,), None))
    shape, levels = known.get(recipe.data, ((3, 32, 32), 256))
    parts = [torch.zeros(1, *shape, dtype=torch.uint8 if levels else torch.float32)] * 3
    labels = {"labels": dict.fromkeys(data.SPLITS, torch.full((1,), 9))} if recipe.objective.labelled else {}
    if levels:
        examples = ImageData(recipe.data, "", *parts, num_grey_levels=levels, **labels)
    else:
        examples = Data(recipe.data, "", *parts)
    # Residual flows without values: power iteration on every weight would take minutes. One flow in the plane has some:
    # all are built alike.
    without = "residual_flow" in recipe.builder and name not in ("digits-residual", "moons-residual")
    with torch.device("meta" if without else "cpu"):
        flow = recipe.build(examples)
    assert flow.shape == shape
    assert flow.num_grey_levels == levels
    assert isinstance(flow, (JointFlow, LabelledFlow)) == recipe.objective.labelled
    json.dumps(recipe.model_arguments(examples))
