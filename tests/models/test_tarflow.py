"""TarFlow: its size, its labels, and samples that are the same by every solver."""

import pytest
import torch

from nbflows import models
from nbflows.layers import PatchAutoregressive
from nbflows.models import tarflow

SMALL = {"shape": (1, 8, 8), "num_grey_levels": 17, "patch_size": 2, "width": 16, "num_blocks": 2, "num_layers": 1}


def test_the_papers_size_is_built_without_memory():
    with torch.device("meta"):
        flow = models.tarflow()
    blocks = [layer for layer in flow.bijection if isinstance(layer, PatchAutoregressive)]
    assert len(blocks) == 8 and [block.reverse for block in blocks] == [False, True] * 4
    width, length, numbers = 768, 32**2, 12
    # Weights, biases and norms of a layer; then positions, embedding, norm and output of a block.
    layer = 12 * width**2 + (3 + 1 + 4 + 1) * width + 2 * 2 * width
    block = 8 * layer + length * width + (numbers + 1) * width + 2 * width + (width + 1) * 2 * numbers
    assert sum(parameter.numel() for parameter in flow.parameters()) == 8 * block == 460_155_072


@pytest.mark.parametrize("num_classes", [0, 10, (3, 4)])
def test_images_come_back_and_labels_matter(num_classes):
    torch.manual_seed(0)
    flow = tarflow(**SMALL, num_heads=2, num_classes=num_classes, label_channels=8).double().eval()
    for layer in flow.bijection:
        if isinstance(layer, PatchAutoregressive):
            torch.nn.init.normal_(layer.net.out.weight, std=0.1)
    x = torch.randint(0, 17, (3, 1, 8, 8), dtype=torch.uint8)
    labels = None if num_classes == 0 else torch.tensor([0, 1, 2]) if num_classes == 10 else torch.tensor([[0, 1]] * 3)
    torch.manual_seed(1)
    z, _ = flow.encode(x, labels)
    assert torch.equal(flow.decode(z, labels), x)
    if labels is not None:
        torch.manual_seed(1)
        other, _ = flow.encode(x, labels.flip(0) if num_classes == 10 else labels.flip(1))
        assert not torch.allclose(other, z)


def test_every_solver_draws_the_same_samples():
    torch.manual_seed(0)
    flow = tarflow(**SMALL, num_heads=2).double().eval()
    blocks = [layer for layer in flow.bijection if isinstance(layer, PatchAutoregressive)]
    for block in blocks:
        torch.nn.init.normal_(block.net.out.weight, std=0.1)
    samples = flow.sample(4, generator=torch.Generator().manual_seed(1))
    for solver in ("jacobi", "gauss-seidel"):
        for block in blocks:
            block.solver, block.tolerance = solver, 1e-9
        assert torch.equal(flow.sample(4, generator=torch.Generator().manual_seed(1)), samples)
