"""The pictures of the README: every image is where it should be."""

import numpy as np
import torch
from PIL import Image

from tools import pictures


def test_a_sheet_has_every_image_in_its_place(tmp_path):
    rows = [torch.full((3, 1, 4, 5), value, dtype=torch.uint8) for value in (10, 20)]
    pictures.sheet(rows, tmp_path / "a.png", 2)
    found = np.asarray(Image.open(tmp_path / "a.png"))
    assert found.shape == (2 * (2 * 6 - 2), 2 * (3 * 7 - 2), 3)
    assert (found[:8, :10] == 10).all() and (found[-8:, -10:] == 20).all() and (found[8:12] == 255).all()
