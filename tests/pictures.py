"""Pictures of noise on the disk, one or a folder of them."""

import numpy as np
from PIL import Image


def save_picture(file, size=(8, 8), mode="RGB", seed=0):
    """Saves noise as a picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(file)


def save_folder(path, count=30, **options):
    """Saves so many different pictures into a folder."""
    for i in range(count):
        save_picture(path / f"{i:03d}.png", seed=i, **options)
    return path
