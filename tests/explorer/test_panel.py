"""The panel in a notebook: sliders and buttons move the picture, and a stored output has a figure with its text."""

import io
import itertools
import os
import socket
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from nbflows import data, explore, guidance, load, models
from nbflows.explorer import film, knots


def _pixels(panel):
    return np.array(Image.open(io.BytesIO(panel.picture.value)))


def test_sliders_and_buttons_move_the_picture():
    panel = explore(load("digits-multiscale"))
    seen = [_pixels(panel)]
    panel.temperatures[1].value = 0.2
    seen.append(_pixels(panel))
    panel.shifts[0].value = 1.5
    seen.append(_pixels(panel))
    panel.buttons[1].click()
    seen.append(_pixels(panel))
    assert len({picture.tobytes() for picture in seen}) == 4
    assert "bits/dim" in panel.score.value


def test_a_panel_begins_with_the_image_that_it_is_given():
    image = data.load("digits").test[3]
    panel = explore(load("digits-glow"), image)
    side = _pixels(panel).shape[0]
    shown = torch.from_numpy(_pixels(panel)[:: side // 8, : side : side // 8, 0])
    assert torch.equal(shown, image[0].double().mul(255 / 16).round().byte())


@pytest.mark.parametrize(
    ("name", "context"), [("digits-marscf-mixlogcdf", False), ("digits-dual-glow-super-resolution", True)]
)
def test_any_flow_of_images_has_a_panel(name, context):
    flow = load(name)
    source = torch.zeros(1, *flow.context_shape, dtype=torch.uint8) if context else None
    pixels = _pixels(explore(flow, context=source))
    assert pixels.any() and pixels.shape[1] < 8 * pixels.shape[0]


@pytest.fixture
def tarflow():
    torch.manual_seed(0)
    sizes = {"patch_size": 2, "width": 16, "num_blocks": 2, "num_layers": 1, "num_heads": 2}
    flow = models.tarflow(
        (1, 4, 4), 17, **sizes, noise_sigma=0.2, num_classes=10, label_channels=8, label_dropout=0.1
    ).eval()
    for layer in flow.bijection[2:]:
        torch.nn.init.normal_(layer.net.out.weight, std=0.3)
    return flow


def test_class_and_guidance_have_sliders_and_the_picture_has_no_noise(tarflow):
    panel = explore(tarflow, context=torch.tensor([3]))
    for label, strength in ((3, 0.0), (5, 0.0), (5, 2.0)):
        panel.classes.value, panel.strength.value = label, strength
        generator = torch.Generator().manual_seed(0)
        with guidance.guided(tarflow, strength):
            picture = guidance.sample(tarflow, 1, torch.tensor([label]), generator=generator)[0, 0]
        assert np.array_equal(_pixels(panel)[::64, :256:64, 0], picture.double().mul(255 / 16).round().byte().numpy())


def test_latents_of_patches_are_shown_where_their_pixels_are(tarflow):
    panel = explore(tarflow, context=torch.tensor([3]))
    panel.noise = [torch.zeros(1, 4, 4)]
    panel.noise[0][0, 1, 2] = 2.5  # of the upper right patch the lower left pixel
    panel.temperatures[0].value = 0.95
    latents = _pixels(panel)[32::64, 256 + 12 + 32 :: 64, 0]
    assert (latents == latents[0, 0]).sum() == 15 and latents[1, 2] != latents[0, 0]


def test_a_stored_output_keeps_the_figure_with_its_text():
    stored, metadata = DisplayFormatter().format(explore(load("digits-multiscale")))
    assert stored["image/png"] and "application/vnd.jupyter.widget-view+json" in stored
    assert metadata["image/png"]["alt"].startswith("A picture of")


def test_knots_stay_in_order_and_move_the_density():
    panel = knots(lambda x: (x - 10) / 4, 2, 18, count=5)
    before = _pixels(panel)
    panel.sliders[1].value = 1.2
    heights = torch.tensor([slider.value for slider in panel.sliders])
    assert heights[1] == 1.2 and (heights.diff() > 0.09).all()
    assert not np.array_equal(before, _pixels(panel))
    # As far as a slider goes there is still a curve.
    for i, height in ((3, -3.0), (0, 3.0), (4, -3.0)):
        panel.sliders[i].value = height
        assert all(a.value < b.value for a, b in itertools.pairwise(panel.sliders))
    stored, metadata = DisplayFormatter().format(panel)
    assert stored["image/png"] and metadata["image/png"]["alt"].startswith("An increasing curve through 5 knots")


def test_a_film_shows_its_stages():
    points = torch.randn(50, 2)
    shown = film({"before": points, "between": 0.5 * points, "after": 0 * points}, points)
    last = _pixels(shown)
    shown.slider.value = 0
    assert not np.array_equal(last, _pixels(shown))
    metadata = DisplayFormatter().format(shown)[1]["image/png"]
    assert metadata["width"] == 800 and metadata["alt"].endswith("a round cloud before, on the data after.")


def test_latents_too_far_from_data_are_explained_and_points_are_refused():
    panel = explore(load("digits-glow"))
    panel.noise = [level + 1e30 for level in panel.noise]
    panel.temperatures[0].value = 0.9
    assert "too far" in panel.score.value
    with pytest.raises(ValueError, match="shows flows of images"):
        explore(models.realnvp_2d())


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab with a notebook that shows a panel."""
    code = "import nbflows\nnbflows.explore(nbflows.load('digits-multiscale'))"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(metadata=kernel, cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "panel.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=", "--expose-app-in-browser"]
    home = {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        cwd=tmp_path,
        env={**os.environ, **home},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/panel.ipynb"
    finally:
        server.terminate()
        server.wait(30)


# Half a minute: only JupyterLab itself shows that a widget reaches its kernel.
@pytest.mark.slow
def test_a_slider_in_jupyterlab_moves_the_picture(lab, page):
    page.set_viewport_size({"width": 1280, "height": 900})
    page.set_default_timeout(90_000)
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    # A kernel that still starts runs nothing.
    page.get_by_text("| Idle").wait_for()
    page.click(".jp-CodeCell .jp-InputArea-editor")
    page.keyboard.press("Shift+Enter")
    picture = page.locator("img.widget-image").first
    picture.wait_for()
    before = picture.get_attribute("src")
    page.locator(".widget-slider .noUi-handle").first.focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("(before) => document.querySelector('img.widget-image').src !== before", arg=before)
