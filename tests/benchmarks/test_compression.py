"""The table of compressed sizes: files of all images, and ours among them."""

import io

import numpy as np
from PIL import Image

from benchmarks import compression
from nbflows import data
from nbflows.storage.weights import save_flow
from tests.coding.test_exact import flow, images


def test_a_sheet_holds_every_image():
    x = images(130)
    picture = np.array(Image.open(io.BytesIO(compression.sheet(x, "PNG"))))
    assert picture.shape == (2 * 8, 100 * 8)
    assert np.array_equal(picture[8:16, 29 * 8 : 30 * 8], x[129, 0].numpy())


def test_the_table_has_a_row_for_each_format_and_for_a_model(tmp_path, monkeypatch, capsys):
    model = save_flow(flow(), tmp_path / "a.safetensors")
    monkeypatch.setattr(data, "load", lambda _: data.ImageData("digits", "", *[images(60)] * 3, num_grey_levels=17))
    compression.main(["--model", str(model), "--images", "50"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("PNG", "WebP", "xz", "nbflows", "images/s"))
