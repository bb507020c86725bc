"""Builders: sizes that they state, and arguments that they refuse."""

import pytest
import torch

from nbflows import models, recipes

SMALL = {"num_steps": 1, "hidden_channels": 8, "num_blocks": 1, "num_components": 2, "prior_channels": 4}


def _count(flow):
    return sum(parameter.numel() for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("cifar10-glow", (3, 32, 32), 44_152_176),
        ("cifar10-marscf-affine", (3, 32, 32), 45_630_990),
        ("mnist-residual", (1, 28, 28), 16_608_589),
        ("imagenet32-residual", (3, 32, 32), 47_099_089),
        ("imagenet64-residual", (3, 64, 64), 53_294_275),
    ],
)
def test_models_of_the_papers_sizes_have_the_parameters_that_their_builders_state(name, shape, count):
    recipe = recipes.get(name)
    with torch.device("meta"):
        assert _count(getattr(models, recipe.builder)(shape, **recipe.arguments)) == count


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.mar_scf(coupling="spline"), "coupling is 'affine' or 'mixlogcdf', got 'spline'"),
        (lambda: models.mar_scf(prior="flow", **SMALL), "prior is 'mar', 'glow' or 'none', got 'flow'"),
        (
            lambda: models.mar_scf((1, 28, 28), **SMALL),
            "even height and width, got 7x7; pad the images or use one level",
        ),
        (lambda: models.mar_scf(num_scales=0, **SMALL), "at least 1 level and 1 step, got 0 and 1"),
        (lambda: models.mar_scf(coupling="mixlogcdf", **{**SMALL, "hidden_channels": 10}), "the 4 heads, got 10"),
        (lambda: models.mar_scf(spacing=1 / 255, num_noise_couplings=2, **SMALL), "spacing is for uniform noise"),
        (lambda: models.glow(mixing="swap"), "mixing is 'conv1x1', 'shuffle' or 'flip', got 'swap'"),
        (lambda: models.glow(prior="mar"), "prior is 'learned' or 'standard', got 'mar'"),
    ],
)
def test_anything_else_is_an_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
