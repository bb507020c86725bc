"""Integers to noise by conditional distribution functions: probabilities that sum to 1, and images bit for bit."""

import pytest
import torch

from nbflows.flow import log_standard_normal
from nbflows.layers import SubsetAutoregressive
from nbflows.layers.subset import FLOOR
from nbflows.nets import CausalImageNet


def _layer(shape, num_grey_levels, std=0.5, dtype=torch.float64):
    torch.manual_seed(0)
    net = CausalImageNet(
        shape, num_grey_levels, piece=2, width=8, num_layers=1, num_heads=2, reach=1, hidden=8, num_blocks=1
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return SubsetAutoregressive(net).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_probabilities_of_all_256_small_images_sum_to_1(dtype):
    layer = _layer((1, 2, 2), 4, dtype=dtype)
    images = torch.cartesian_prod(*[torch.arange(4)] * 4).view(-1, 1, 2, 2).byte()
    probabilities = layer.log_prob(images).exp()
    assert abs(probabilities.sum().item() - 1) < 1e-6
    assert probabilities.max() > 2 / 256


def test_every_draw_of_the_position_gives_the_same_probability():
    layer = _layer((3, 4, 4), 256)
    x = torch.randint(256, (4, 3, 4, 4)).byte()
    draws = []
    for _ in range(5):
        z, log_det = layer(x)
        draws.append(log_standard_normal(z, torch.float64) + log_det)
        assert torch.equal(layer.inverse(z), x)
    # Sums of 48 numbers of the size of 10, each exact to some units of 1e-15.
    torch.testing.assert_close(torch.stack(draws), layer.log_prob(x).expand(5, 4), atol=1e-9, rtol=0)


@pytest.mark.parametrize("std", [0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 6, 4), (3, 4, 4)])
def test_integers_come_back_bit_for_bit_through_latents_in_float32(shape, std):
    layer = _layer(shape, 256, std, torch.float32)
    # Images of the model, and images that it finds next to impossible.
    likely = layer.generate(torch.randn(16, *shape))
    for x in (likely, torch.randint(256, (16, *shape)).byte()):
        z, _ = layer.double()(x)
        assert torch.equal(layer.inverse(z.float()), x)


def test_latents_of_the_models_own_images_are_standard_normal():
    layer = _layer((1, 4, 4), 8)
    z, _ = layer(layer.generate(torch.randn(2000, 1, 4, 4)))
    # Means and variances of 32,000 numbers, within 4 standard errors.
    assert z.mean().abs() < 4 / 32_000**0.5 and (z.var() - 1).abs() < 4 * (2 / 32_000) ** 0.5


def test_the_log_det_is_that_of_the_map_from_positions_to_noise(monkeypatch):
    layer = _layer((2, 2, 2), 4)
    x = torch.randint(4, (3, 2, 2, 2)).byte()
    u = (0.1 + 0.8 * torch.rand(x.shape, dtype=torch.float64)).requires_grad_()
    monkeypatch.setattr(torch, "rand", lambda *_, **__: u)
    z, log_det = layer(x)
    rows = [torch.autograd.grad(column.sum(), u, retain_graph=True)[0].flatten(1) for column in z.flatten(1).T]
    jacobian = torch.stack(rows, 1)
    assert torch.equal(jacobian, jacobian.tril())
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det, atol=1e-9, rtol=0)


def test_no_image_is_impossible_and_no_latent_overflows():
    layer = _layer((1, 2, 2), 256, std=30.0, dtype=torch.float32)
    x = torch.randint(256, (8, 1, 2, 2)).byte()
    assert (layer.log_prob(x) >= 4 * torch.tensor(FLOOR).log() - 1e-3).all()
    z, log_det = layer(x)
    assert z.isfinite().all() and log_det.isfinite().all()
    assert layer.inverse(torch.tensor([-40.0, 40.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)).shape == (2, 1, 2, 2)


def test_low_temperature_takes_the_most_probable_level():
    layer = _layer((1, 4, 4), 8)
    images = [layer.generate(torch.randn(2, 1, 4, 4), temperature=0.0) for _ in range(2)]
    assert torch.equal(images[0], images[1]) and torch.equal(images[0][0], images[0][1])
    own = layer.net(images[0]).argmax(-1)
    assert torch.equal(own, images[0].long())


def test_bad_input_is_a_clear_error():
    layer = _layer((1, 2, 2), 4)
    with pytest.raises(ValueError, match=r"takes integers 0\.\.3, got torch\.float32"):
        layer(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"4 grey levels, 0\.\.3, got values in 0\.\.9"):
        layer(torch.tensor([0, 1, 2, 9]).view(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"images of \(1, 2, 2\), got \(1, 4, 4\)"):
        layer.output_shape((1, 4, 4))
