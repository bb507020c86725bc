"""What the tests of figures share."""


def texts(axes) -> list[str]:
    """What is written in a panel."""
    return [text.get_text() for text in axes.texts]


def inside(figure) -> None:
    """Fails if something sticks out of the page, or the page is too wide for a notebook."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01 and box.y0 >= -0.01
    assert box.x1 <= figure.get_figwidth() + 0.01 and box.y1 <= figure.get_figheight() + 0.01
    assert figure.get_figwidth() <= 8.2
