"""mAR-SCF: the published sizes, and every kind of image."""

import pytest
import torch

from nbflows import models

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


def test_learned_noise_in_front_of_mar_scf_keeps_the_images():
    torch.manual_seed(0)
    flow = models.digits_mar_scf(num_noise_couplings=2).double()
    images = torch.randint(17, (4, 1, 8, 8)).byte()
    flow.log_prob(images)
    flow.eval()
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.encode(images)[0]), images)
