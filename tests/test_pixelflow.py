"""A flow with exact probabilities: scores that say so, samples, and images completed from their upper rows."""

import pytest
import torch

from nbflows import metrics, models


def _flow(shape=(1, 4, 4), num_grey_levels=3):
    torch.manual_seed(0)
    flow = models.pixelflow(
        shape, num_grey_levels, piece=2, width=8, num_layers=1, num_heads=2, reach=1, hidden=8, num_blocks=1
    )
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return flow.eval()


def test_a_score_is_exact_and_says_so():
    flow = _flow()
    x = torch.randint(3, (6, 1, 4, 4)).byte()
    assert torch.equal(flow.bits_per_dim(x, num_draws=8), flow.bits_per_dim(x))
    score = metrics.evaluate(flow, x, num_draws=8)
    assert score.num_draws is None and str(score).endswith("bits/dim (exact, 6 images)")
    assert metrics.evaluate(models.digits_simple(), torch.zeros(2, 1, 8, 8).byte()).kind == "M = 1"


def test_images_come_back_through_their_latents():
    x = torch.randint(3, (6, 1, 4, 4)).byte()
    assert metrics.round_trip(_flow(), x).wrong == 0


def test_samples_follow_the_probabilities():
    flow = _flow((1, 2, 2), 2)
    images = torch.cartesian_prod(*[torch.arange(2)] * 4).view(-1, 1, 2, 2).byte()
    expected = flow.log_prob(images).exp()
    samples = flow.sample((4, 5000), generator=torch.Generator().manual_seed(0))
    assert samples.shape == (4, 5000, 1, 2, 2)
    numbers = (samples.view(-1, 4).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    counts = torch.bincount(numbers, minlength=16)
    # Pearson's statistic with 15 degrees of freedom: above 37.7 once in a thousand draws.
    assert ((counts - 20_000 * expected).square() / (20_000 * expected)).sum() < 37.7


def test_completions_keep_the_known_rows_and_follow_the_conditional_distribution():
    flow = _flow((1, 2, 2), 2)
    known = torch.tensor([[0, 1], [1, 1]]).view(2, 1, 1, 2).byte()
    completed = flow.complete(known, 10_000, generator=torch.Generator().manual_seed(0), chunk_size=7000)
    assert completed.shape == (2, 10_000, 1, 2, 2)
    assert torch.equal(completed[:, :, :, :1], known[:, None].expand(2, 10_000, 1, 1, 2))
    below = torch.cartesian_prod(*[torch.arange(2)] * 2).view(-1, 1, 1, 2).byte()
    for part, samples in zip(known, completed, strict=True):
        images = torch.cat([part.expand(4, 1, 1, 2), below], 2)
        expected = 10_000 * flow.log_prob(images).softmax(0)
        counts = torch.bincount((samples[:, 0, 1].long() * torch.tensor([2, 1])).sum(1), minlength=4)
        # 3 degrees of freedom: above 16.3 once in a thousand draws.
        assert ((counts - expected).square() / expected).sum() < 16.3


def test_bad_arguments_are_clear_errors():
    with pytest.raises(ValueError, match=r"known rows are \(N, 1, rows, 4\), got \(1, 1, 2, 5\)"):
        _flow().complete(torch.zeros(1, 1, 2, 5).byte())
    with pytest.raises(ValueError, match="temperature"):
        _flow().sample(1, temperature=-1.0)
