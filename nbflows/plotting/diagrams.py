"""Parts of diagrams: boxes, arrows, shapes in words."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

LINE = "#444444"


def blank(axes: Axes, across: tuple[float, float], down: tuple[float, float]) -> None:
    """Makes axes a sheet to draw on: no frame, one unit as long across as down."""
    axes.set(xlim=across, ylim=down, aspect="equal")
    axes.axis("off")


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, text: str = "") -> None:
    """Draws a box around (x, y) with a text in it."""
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, facecolor=colour, edgecolor=LINE))
    axes.text(x, y, text, ha="center", va="center", size=11)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-|>", head: float = 15
) -> None:
    """Draws an arrow; ``head`` is the length of its head in points."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=head, color=LINE, shrinkA=0, shrinkB=0))


def times(shape: Sequence[int]) -> str:
    """Writes a shape as a product: 3×32×32."""
    return "×".join(map(str, shape))
