"""Guidance and denoising of transformer flows: what is known about both without training."""

import pytest
import torch

from nbflows import guidance
from nbflows.layers import PatchAutoregressive
from nbflows.models import digits_simple, tarflow

SMALL = {"shape": (1, 4, 4), "num_grey_levels": 17, "patch_size": 2, "width": 16, "num_blocks": 2, "num_layers": 1}


def _flow(**options):
    torch.manual_seed(0)
    flow = tarflow(**SMALL, num_heads=2, **options).double().eval()
    for layer in flow.bijection:
        if isinstance(layer, PatchAutoregressive):
            torch.nn.init.normal_(layer.net.out.weight, std=0.2)
    return flow


def _reals(flow, labels):
    """Samples before they become integers, the same noise at each call."""
    z = flow.draw_noise(5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return flow.bijection[1:].inverse(z, None if labels is None else flow.encode_context(labels))


@pytest.mark.parametrize("with_labels", [True, False])
def test_without_strength_samples_stay_and_with_it_every_solver_finds_the_same(with_labels):
    flow = _flow(**({"num_classes": 10, "label_channels": 8, "label_dropout": 0.1} if with_labels else {}))
    labels = torch.arange(5) if with_labels else None
    plain = _reals(flow, labels)
    with guidance.guided(flow, 0.0, attention_temperature=2.0):
        assert torch.equal(_reals(flow, labels), plain)
    with guidance.guided(flow, 1.5, attention_temperature=1.0 if with_labels else 2.0):
        first = _reals(flow, labels)
        for solver in ("jacobi", "gauss-seidel"):
            for block in flow.bijection[2:]:
                block.solver, block.tolerance = solver, 1e-10
            torch.testing.assert_close(_reals(flow, labels), first)
    assert not torch.allclose(first, plain)
    torch.testing.assert_close(_reals(flow, labels), plain)


def test_a_guided_block_takes_the_papers_shift_and_scale():
    flow = _flow(num_classes=10, label_channels=8, label_dropout=0.1)
    block = flow.bijection[2]
    context, z = flow.encode_context(torch.arange(5)), torch.randn(5, 4, 4, dtype=torch.float64)
    with torch.no_grad(), guidance.guided(flow, 0.7):
        x = block.inverse(z, context)
        (a, b), (weak_a, weak_b) = (
            block._scale_and_shift(block.net(x, given), x)
            for given in (context, flow.encode_context(torch.full((5,), -1)))
        )
    torch.testing.assert_close(x, z * (a + 0.7 * (a - weak_a)).exp() + b + 0.7 * (b - weak_b))


def test_denoising_finds_the_mean_of_what_a_gaussian_flow_may_have_seen():
    # With outputs at 0 every block is the identity: p(x) = N(0, 1), so images without noise are N(0, 1 - sigma^2).
    torch.manual_seed(0)
    flow = tarflow(**SMALL, num_heads=2, noise_sigma=0.6).double().eval()
    clean = 0.8 * torch.randn(500, 1, 4, 4, dtype=torch.float64)
    noisy = clean + 0.6 * torch.randn_like(clean)
    found = guidance.denoise(flow, noisy)
    torch.testing.assert_close(found, 0.64 * noisy)
    torch.testing.assert_close(guidance.denoise(flow, noisy, sigma=0.0), noisy)
    assert (found - clean).square().mean() < 0.7 * (noisy - clean).square().mean()
    torch.testing.assert_close(
        guidance.sample(flow, 3, generator=torch.Generator().manual_seed(0)),
        flow.bijection[0].inverse(
            0.64 * flow.bijection[1].inverse(flow.draw_noise(3, generator=torch.Generator().manual_seed(0)))
        ),
    )


def test_what_cannot_be_guided_or_denoised_says_so():
    with pytest.raises(ValueError, match="with PatchAutoregressive layers"), guidance.guided(digits_simple(), 1.0):
        pass
    with pytest.raises(ValueError, match="trained with label_dropout"), guidance.guided(_flow(), 1.0):
        pass
    with pytest.raises(ValueError, match="begins with GaussianNoise"):
        guidance.sample(_flow(), 1)
    labelled = _flow(num_classes=10, label_dropout=0.1, noise_sigma=0.1).train()
    with pytest.raises(ValueError, match=r"call flow.eval\(\)"):
        guidance.sample(labelled, 1, torch.zeros(1, dtype=torch.long))
