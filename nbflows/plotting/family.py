"""The place of flows among the deep generative models: what each computes, and what that allows."""

from itertools import pairwise
from typing import Literal

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from nbflows.plotting.diagrams import arrow, blank, box
from nbflows.plotting.page import entitle

__all__ = ["family_of_models"]

IMAGE, LATENT, NETWORK = "#a6d0ea", "#f7d08a", "#e4e4e4"
# How far a model has a property: fully, in part, not at all, and where neither more nor less is better.
GOOD, PART, NONE, PLAIN = "#d5efdb", "#fdf3cf", "#f6dcd6", "white"
COLUMNS = ["log p(x)", "size\nof z", "passes\nto sample", "from\nx to z", "lossless\ncoding"]
# Name, and for each column a text and how far the model has the property.
ROWS = [
    ("Flow", [("exact", GOOD), ("as x", PLAIN), ("1", GOOD), ("exact\ninverse", GOOD), ("bits back", GOOD)]),
    (
        "VAE",
        [
            ("a bound:\nELBO", PART),
            ("smaller", PLAIN),
            ("1", GOOD),
            ("a learned\nencoder", PART),
            ("bits back", GOOD),
        ],
    ),
    ("GAN", [("none", NONE), ("smaller", PLAIN), ("1", GOOD), ("none", NONE), ("none", NONE)]),
    (
        "Auto-\nregressive",
        [("exact", GOOD), ("no z", PLAIN), ("1 for each\npixel", NONE), ("no z", PLAIN), ("arithmetic\ncoding", GOOD)],
    ),
    (
        "Diffusion",
        [
            ("a bound:\nELBO", PART),
            ("as x", PLAIN),
            ("10 to\n1000", PART),
            ("by solving\nan ODE", PART),
            ("bits back", GOOD),
        ],
    ),
]


def family_of_models(title: str | None = None) -> Figure:
    """Draws flows, VAEs, GANs, autoregressive and diffusion models, a row for each, with their properties beside them.

    A flow is one with coupling layers; autoregressive flows take a pass for each value to sample or to score. The
    ELBO of a diffusion model is one of two ways to score it; the other solves an ODE. Kingma et al., "Variational
    diffusion models", 2021 (arXiv:2107.00630), code images with one by bits back.
    """
    figure, axes = plt.subplots(figsize=(10, 6.2))
    blank(axes, (-1.7, 18.8), (-11.6, 1.35))
    for column, text in enumerate(COLUMNS):
        axes.text(_centre(column), 0.75, text, ha="center", va="center", size=11, weight="bold")
    for row, (name, cells) in enumerate(ROWS):
        y = -1.15 - 2.3 * row
        axes.text(-1.6, y, name, ha="left", va="center", size=13, weight="bold")
        PICTURES[row](axes, y)
        for column, (text, colour) in enumerate(cells):
            box(axes, _centre(column), y, 2.1, 1.9, colour, text)
    for patch in axes.patches:
        patch.set_linewidth(0.8)
    entitle(figure, title)
    return figure


def _centre(column: int) -> float:
    return 9.0 + 2.15 * column


def _flow(axes: Axes, y: float) -> None:
    box(axes, 1.6, y, 0.7, 1.7, IMAGE, "x")
    box(axes, 4.2, y, 2.2, 1.7, NETWORK, "invertible")
    box(axes, 6.8, y, 0.7, 1.7, LATENT, "z")
    for start, end in ((1.95, 3.1), (5.3, 6.45)):
        arrow(axes, (start, y), (end, y), "<|-|>", head=11)


def _vae(axes: Axes, y: float) -> None:
    box(axes, 1.3, y, 0.6, 1.7, IMAGE, "x")
    _cone(axes, 2.7, y, "encoder", "narrows")
    box(axes, 4.2, y, 0.6, 0.8, LATENT, "z")
    _cone(axes, 5.7, y, "decoder", "widens")
    box(axes, 7.1, y, 0.6, 1.7, IMAGE, "x'")
    for start, end in ((1.6, 1.9), (3.5, 3.9), (4.5, 4.9), (6.5, 6.8)):
        arrow(axes, (start, y), (end, y), head=9)


def _gan(axes: Axes, y: float) -> None:
    box(axes, 1.3, y, 0.6, 0.8, LATENT, "z")
    _cone(axes, 2.8, y, "generator", "widens")
    box(axes, 4.3, y, 0.6, 1.7, IMAGE, "x'")
    _cone(axes, 5.8, y, "critic", "narrows")
    axes.text(7.0, y, "real?", ha="left", va="center", size=11)
    for start, end in ((1.6, 2.0), (3.6, 4.0), (4.6, 5.0), (6.6, 6.95)):
        arrow(axes, (start, y), (end, y), head=9)


def _autoregressive(axes: Axes, y: float) -> None:
    places = [1.6 + 1.7 * place for place in range(4)]
    for place, x in enumerate(places):
        box(axes, x, y - 0.35, 0.8, 0.8, IMAGE, f"x{'₁₂₃₄'[place]}")
        for before in places[:place]:
            # Each value is given by all those before it: arcs of growing height.
            axes.annotate(
                "",
                (x - 0.1, y + 0.05),
                (before + 0.1, y + 0.05),
                arrowprops={"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.35", "color": "#444444", "lw": 0.8},
            )
    axes.text(4.2, y - 1.02, "one pixel after the other", ha="center", va="center", size=10)


def _diffusion(axes: Axes, y: float) -> None:
    mixed = [IMAGE, "#c1d0cd", "#dcd0ac", LATENT]
    places = [1.6 + 1.73 * place for place in range(4)]
    for x, colour, text in zip(places, mixed, ("x", "", "", "z"), strict=True):
        box(axes, x, y + 0.1, 0.7, 1.4, colour, text)
    for left, right in pairwise(places):
        arrow(axes, (left + 0.35, y + 0.4), (right - 0.35, y + 0.4), head=9)
        arrow(axes, (right - 0.35, y - 0.2), (left + 0.35, y - 0.2), head=9)
    axes.text(4.2, y - 0.92, "add noise, and learn to remove it", ha="center", va="center", size=10)


def _cone(axes: Axes, x: float, y: float, text: str, way: Literal["narrows", "widens"]) -> None:
    left, right = (0.85, 0.45) if way == "narrows" else (0.45, 0.85)
    corners = [(x - 0.8, y - left), (x - 0.8, y + left), (x + 0.8, y + right), (x + 0.8, y - right)]
    axes.add_patch(Polygon(corners, facecolor=NETWORK, edgecolor="#444444"))
    axes.text(x, y, text, ha="center", va="center", size=9.5)


PICTURES = [_flow, _vae, _gan, _autoregressive, _diffusion]
