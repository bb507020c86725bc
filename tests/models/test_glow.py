"""Glow: its weaker forms, and what it needs before it samples."""

import pytest
import torch

from nbflows import models


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
