"""The figure that places flows among the generative models."""

import pytest
from matplotlib import pyplot as plt

from nbflows import plotting
from nbflows.plotting import family


@pytest.fixture
def drawn():
    with plt.rc_context():
        # As in a lesson: sizes of texts are those of the style.
        plotting.use_style()
        figure = plotting.family_of_models("Flows go both ways")
        figure.canvas.draw()
        yield figure
    plt.close(figure)


def test_every_model_has_a_cell_for_each_property(drawn):
    texts = [text.get_text() for text in drawn.axes[0].texts]
    for name, cells in family.ROWS:
        assert name in texts and len(cells) == len(family.COLUMNS)
        assert all(text in texts for text, _ in cells)
    assert drawn.get_suptitle() == "Flows go both ways" and len(family.PICTURES) == len(family.ROWS)


def test_texts_fit_into_their_boxes(drawn):
    axes, renderer = drawn.axes[0], drawn.canvas.get_renderer()
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches]
    inside = {text for _, cells in family.ROWS for text, _ in cells}
    for text in axes.texts:
        if text.get_text() in inside:
            extent = text.get_window_extent(renderer)
            assert any(b.x0 <= extent.x0 and extent.x1 <= b.x1 and b.y0 <= extent.y0 for b in boxes), text
