"""How a notebook shows a figure, with its alternative text, and where figures are saved."""

import base64
import io
import json

import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from nbflows import plotting
from nbflows.data import reading


def images(n=6, channels=1, size=4, num_grey_levels=17):
    return torch.randint(num_grey_levels, (n, channels, size, size), dtype=torch.uint8)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would store: the outputs that ``show`` displays."""
    display = pytest.importorskip("IPython.display")
    outputs = []
    monkeypatch.setattr(
        display, "display", lambda data, metadata, raw: outputs.append({"data": data, "metadata": metadata})
    )
    return outputs


def test_show_stores_a_png_with_alt_text_and_width_and_frees_the_figure(shown):
    figure = plotting.image_grid(images(2), num_grey_levels=17)
    width, dpi = figure.get_figwidth() * figure.dpi, figure.dpi
    plotting.show(figure, alt='two "images"')
    assert shown[0]["data"].keys() == {"image/png", "text/plain"}
    assert shown[0]["data"]["text/plain"] == 'two "images"'
    assert shown[0]["metadata"] == {"image/png": {"alt": 'two "images"', "width": round(width)}}
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["data"]["image/png"])))
    assert picture.format == "PNG" and abs(picture.width - 2 * width) <= 1
    # A PNG stores whole pixels per metre: rounding changes at most half a pixel per metre.
    assert picture.info["dpi"] == pytest.approx((2 * dpi, 2 * dpi), abs=0.0127)
    assert not plt.fignum_exists(figure.number)


def test_show_repeats_the_alt_text_for_tools_that_give_a_picture_none(shown):
    plotting.show(plotting.image_grid(images(2), num_grey_levels=17), alt='"a" < b')
    assert shown[1]["data"].keys() == {"text/html", "text/latex"} and not shown[1]["data"]["text/latex"]
    html = shown[1]["data"]["text/html"]
    assert html.endswith(">Figure: &quot;a&quot; &lt; b</div>") and "<img" not in html
    assert shown[1]["metadata"] == {"nbflows_alt": True} and len(shown) == 2


def test_save_figures_writes_what_show_left_in_a_notebook(shown, tmp_path):
    plotting.show(plotting.image_grid(images(2), num_grey_levels=17), alt='Two "images" & more')
    cells = [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": [{"output_type": "stream"}, *shown]}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    (file,) = plotting.save_figures(tmp_path / "a.ipynb", tmp_path / "figures")
    assert file.name == "01_two_images_more.png"
    assert file.read_bytes() == base64.b64decode(shown[0]["data"]["image/png"])
    with pytest.raises(ValueError, match="a sheet of pictures that nbflows drew"):
        reading.picture(file)
