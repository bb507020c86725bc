"""The builders of Glow and mAR-SCF: their sizes, their errors, and that they fit every kind of image."""

import pytest
import torch

from nbflows import models, recipes

SMALL = {"num_steps": 1, "hidden_channels": 8, "num_blocks": 1, "num_components": 2, "prior_channels": 4}


def _count(flow):
    return sum(parameter.numel() for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("arguments", "original"),
    [
        # Of the authors' code: so many parameters, of which 41,636 are never used, 1,152 are second biases of gates,
        # and each mixture coupling has half its channels of numbers that are a product of two.
        ({"num_steps": 4}, 7_043_522),
        ({"num_steps": 1, "hidden_channels": 8}, 1_540_742),
        ({"num_steps": 1, "hidden_channels": 8, "coupling": "mixlogcdf"}, 1_894_874),
        ({"num_steps": 4, "hidden_channels": 96, "coupling": "mixlogcdf"}, 46_011_410),
    ],
)
def test_mar_scf_has_the_published_sizes(arguments, original):
    products = arguments["num_steps"] * (6 + 12 + 24) if "coupling" in arguments else 0
    flow = models.mar_scf(**arguments)
    assert _count(flow) == original - 41_636 - 1_152 - products


@pytest.mark.parametrize("prior", ["mar", "glow", "none"])
@pytest.mark.parametrize("coupling", ["affine", "mixlogcdf"])
@pytest.mark.parametrize(
    ("shape", "num_scales"),
    [((1, 8, 8), 2), ((1, 28, 28), 2), ((1, 32, 32), 3), ((3, 32, 32), 3), ((3, 64, 64), 4), ((1, 8, 16), 3)],
)
def test_mar_scf_fits_its_images(shape, num_scales, coupling, prior):
    torch.manual_seed(0)
    flow = models.mar_scf(shape, coupling=coupling, num_scales=num_scales, prior=prior, **SMALL).double()
    images = torch.randint(256, (3, *shape)).byte()
    assert flow.bits_per_dim(images).isfinite().all()
    flow.eval()
    with torch.no_grad():
        z, _ = flow.encode(images)
        assert torch.equal(flow.decode(z), images)
        levels = flow.unpack(z)
        assert len(levels) == num_scales
        # Sequential steps of the prior: O(N) channels, not O(N^2) pixels.
        assert sum(level.shape[1] for level in levels) == shape[0] * (3 * 2**num_scales - 2)
        assert flow.sample(2, temperature=[0.5] * num_scales).shape == (2, *shape)


@pytest.mark.parametrize("mixing", ["conv1x1", "shuffle", "flip"])
@pytest.mark.parametrize("actnorm", [True, False])
@pytest.mark.parametrize("prior", ["learned", "standard"])
def test_glow_and_its_weaker_forms_return_the_images(mixing, actnorm, prior):
    torch.manual_seed(0)
    flow = models.digits_glow(num_steps=2, mixing=mixing, actnorm=actnorm, prior=prior).double()
    images = torch.randint(17, (4, 1, 8, 8)).byte()
    flow.log_prob(images)
    flow.eval()
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.encode(images)[0]), images)


@pytest.mark.parametrize("actnorm", [True, False])
def test_sampling_before_any_data_is_an_error_and_sets_nothing(actnorm):
    # The networks have ActNorms of their own, also where the steps have none.
    flow = models.digits_glow(num_steps=1, actnorm=actnorm)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    with pytest.raises(RuntimeError, match="has not seen data yet"):
        flow.sample(4)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_learned_noise_in_front_of_mar_scf_keeps_the_images():
    torch.manual_seed(0)
    flow = models.digits_mar_scf(num_noise_couplings=2).double()
    images = torch.randint(17, (4, 1, 8, 8)).byte()
    flow.log_prob(images)
    flow.eval()
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.encode(images)[0]), images)


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
