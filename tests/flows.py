"""Small flows from image to image with random weights, and images for them."""

import torch

from nbflows import models
from nbflows.translation import TranslationFlow

TINY = {"num_steps": 1, "num_relation_steps": 1, "hidden_channels": 4, "relation_channels": 4}


def random_images(count: int, shape: tuple[int, int, int], num_grey_levels: int = 256) -> torch.Tensor:
    """Uint8 noise."""
    return torch.randint(num_grey_levels, (count, *shape)).byte()


def random_caflow(
    shape: tuple[int, int, int] = (1, 8, 8),
    relation: str = "unshared",
    num_scales: int = 2,
    dtype: torch.dtype = torch.float64,
    num_grey_levels: int = 256,
    **changes,
) -> TranslationFlow:
    """In eval mode. Has seen data, and is away from its start: networks that begin at zero more than the rest."""
    torch.manual_seed(0)
    flow = models.caflow(shape, num_grey_levels, relation=relation, num_scales=num_scales, **{**TINY, **changes}).to(
        dtype
    )
    flow.train().log_probs(
        random_images(64, flow.shape, num_grey_levels), random_images(64, flow.context_shape, num_grey_levels)
    )
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            parameter.add_((0.1 if "net.layers.4" in name else 0.02) * torch.randn_like(parameter))
    return flow.eval()
