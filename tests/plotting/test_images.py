"""The figures of images and training, and how a notebook shows them."""

import pytest
import torch
from matplotlib.figure import Figure

from nbflows import plotting


def images(n=6, channels=1, size=4, num_grey_levels=17):
    return torch.randint(num_grey_levels, (n, channels, size, size), dtype=torch.uint8)


def title_of(figure):
    return figure.get_suptitle()


def test_image_grid_puts_every_image_in_its_place():
    x = images(5)
    figure = plotting.image_grid(x, num_grey_levels=17, columns=3, title="five images")
    (axes,) = figure.axes
    picture = torch.from_numpy(axes.get_images()[0].get_array().data)
    assert isinstance(figure, Figure) and title_of(figure) == "five images"
    # Two rows of three, 4 pixels each with a gap of 1; the place of the sixth stays white.
    assert picture.shape == (9, 14, 3)
    for i, image in enumerate(x):
        top, left = i // 3 * 5, i % 3 * 5
        torch.testing.assert_close(picture[top : top + 4, left : left + 4, 1], image[0].double() / 16)
    assert (picture[5:, 10:] == 1).all()


def test_image_grid_draws_colour():
    x = images(2, channels=3, num_grey_levels=256)
    figure = plotting.image_grid(x, columns=2)
    picture = torch.from_numpy(figure.axes[0].get_images()[0].get_array().data)
    torch.testing.assert_close(picture[:, :4], x[0].permute(1, 2, 0).double() / 255)


def test_image_grid_names_rows_and_columns():
    figure = plotting.image_grid(images(4), columns=2, row_labels=["a", "b"], column_titles=["c", "d"])
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["c", "d"]


def test_a_long_title_and_long_labels_stay_inside_the_figure():
    rows = {"a label of many words": images(2), "b": images(2)}
    figure = plotting.image_rows(rows, title="A title that is a good deal wider than the two images below it")
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def test_image_rows_draws_one_labelled_row_each():
    figure = plotting.image_rows({"first": images(3), "second": images(3)}, num_grey_levels=17)
    (axes,) = figure.axes
    assert axes.get_images()[0].get_array().shape == (9, 14, 3)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["first", "second"]


def test_side_by_side_draws_one_axes_per_panel_all_at_one_scale():
    panels = {"left": {"1": images(3), "2": images(3)}, "right": {"1": images(2), "2": images(2)}}
    figure = plotting.side_by_side(panels, num_grey_levels=17, title="both")
    left, right = figure.axes
    assert title_of(figure) == "both" and [left.get_title(), right.get_title()] == ["left", "right"]
    pixel = [axes.get_position().width / axes.get_images()[0].get_array().shape[1] for axes in (left, right)]
    assert pixel[0] == pytest.approx(pixel[1])
    assert left.get_position().y0 == pytest.approx(right.get_position().y0)


def test_reconstruction_counts_and_marks_what_differs():
    x = images(3, num_grey_levels=256)
    decoded = x.clone()
    decoded[1, 0, 2, 3] ^= 1
    figure = plotting.reconstruction(x, decoded)
    assert title_of(figure).startswith("1 of 48 pixel values differ, in 3 images")
    picture = figure.axes[0].get_images()[0].get_array()
    # The third row: its second image is white in the one place.
    assert picture[10:, 5:9].sum() == 3 and picture[12, 8].sum() == 3
    assert title_of(plotting.reconstruction(x, x)).startswith("0 of 48")


def test_latent_levels_draws_the_images_and_one_panel_per_kept_level():
    draws = {"fine": images(6).unflatten(0, (2, 3)), "coarse": images(6).unflatten(0, (2, 3))}
    figure = plotting.latent_levels(images(2), draws, num_grey_levels=17, title="levels")
    assert [axes.get_title() for axes in figure.axes] == ["image", "fine", "coarse"]
    assert [axes.get_images()[0].get_array().shape[1] for axes in figure.axes] == [4, 14, 14]


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plotting.image_grid(torch.zeros(2, 4, 4)), "N, C, H, W"),
        (lambda: plotting.image_grid(images(2, channels=2)), "1 or 3 channels"),
        (lambda: plotting.image_grid(images(4), columns=2, row_labels=["a"]), "1 row labels for 2 rows"),
        (lambda: plotting.image_rows({"a": images(2), "b": images(3)}), "same number of images"),
        (lambda: plotting.side_by_side({"a": {"1": images()}, "b": {"2": images()}}), "same row labels"),
    ],
)
def test_bad_input_is_an_explained_error(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
