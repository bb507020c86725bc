"""Draws the pictures of the README from published models.

    python -m tools.pictures

Samples are those of fixed seeds; the halves are of the first packaged 0, 3, 4 and 8.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nbflows import data, load_pretrained, tasks

DOCS = Path(__file__).parents[1] / "docs"


def sheet(rows: list[Tensor], file: Path, scale: int) -> None:
    """Writes uint8 images ``(N, C, H, W)``, a tensor for each row, as one picture with white lines between them."""
    from PIL import Image

    height, width = rows[0].shape[2] + 2, rows[0].shape[3] + 2
    whole = np.full((height * len(rows) - 2, width * len(rows[0]) - 2, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
            whole[i * height : (i + 1) * height - 2, j * width : (j + 1) * width - 2] = image
    Image.fromarray(whole).resize((whole.shape[1] * scale, whole.shape[0] * scale), Image.Resampling.NEAREST).save(file)


def seeded(seed: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def digits(file: Path) -> None:
    """Draws the digits 0 to 9 by ``mnist-tarflow``, which is given the class; a row for each seed."""
    flow, classes = load_pretrained("mnist-tarflow"), torch.arange(10)
    sheet([flow.sample(10, temperature=0.9, context=classes, generator=seeded(i)) for i in (1, 2, 3)], file, 3)


def completions(file: Path) -> None:
    """Draws halves of test digits, ten completions of each by ``mnist-caflow-inpainting``, and the whole digits."""
    flow, task = load_pretrained("mnist-caflow-inpainting"), tasks.Inpainting("half")
    images, labels = data.mnist_samples()
    chosen = images[[int((labels == label).nonzero()[0]) for label in (0, 3, 4, 8)]]
    sources, targets = task.pair(chosen)
    found = flow.translate(sources, num_samples=10, temperature=0.8, generator=seeded(0)).images
    rows = [
        torch.cat([source[None], task.paste(answers, source.expand_as(answers)), target[None]])
        for source, answers, target in zip(sources, found, targets, strict=True)
    ]
    sheet(rows, file, 3)


def faces(file: Path) -> None:
    """Draws faces of ``portraits-glow``."""
    flow = load_pretrained("portraits-glow")
    sheet(list(flow.sample(36, temperature=0.9, generator=seeded(0)).split(12)), file, 3)


if __name__ == "__main__":
    digits(DOCS / "digits.png")
    completions(DOCS / "completions.png")
    faces(DOCS / "faces.png")
