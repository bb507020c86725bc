"""What the tests of figures share."""


def texts(axes) -> list[str]:
    """What is written in a panel."""
    return [text.get_text() for text in axes.texts]


def inside(figure) -> None:
    """Fails if something sticks out of the page, or the page is too wide for a notebook."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    # The extents of texts are rounded to whole pixels, when the layout is made and when it is drawn.
    slack = 2 / figure.dpi
    assert box.x0 >= -slack and box.y0 >= -slack
    assert box.x1 <= figure.get_figwidth() + slack and box.y1 <= figure.get_figheight() + slack
    assert figure.get_figwidth() <= 8.2
