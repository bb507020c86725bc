"""Images in rows and grids: samples, reconstructions, interpolations, latent levels."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from torch import Tensor

__all__ = ["image_grid", "image_rows", "latent_levels", "reconstruction", "side_by_side"]


def image_grid(
    images: Tensor,
    num_grey_levels: int = 256,
    columns: int = 8,
    title: str | None = None,
    row_labels: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    image_inches: float = 0.75,
) -> Figure:
    """Images in rows, first row first.

    Args:
        images: uint8 ``(N, C, H, W)``, grey (C = 1) or colour (C = 3).
        num_grey_levels: grey levels; num_grey_levels - 1 is white.
        columns: images in a row.
        title: the finding.
        row_labels, column_titles: one per row, one per column.
        image_inches: width of one image.
    """
    return _panels([("", images, columns, column_titles)], num_grey_levels, title, row_labels, image_inches)


def image_rows(
    rows: dict[str, Tensor],
    num_grey_levels: int = 256,
    title: str | None = None,
    column_titles: Sequence[str] | None = None,
    image_inches: float = 0.75,
) -> Figure:
    """One labelled row of images each: interpolations, one model against another.

    Args:
        rows: label -> uint8 ``(N, C, H, W)``, the same N in all.
        num_grey_levels, title, column_titles, image_inches: as in ``image_grid``.
    """
    images, columns = _stack(rows)
    return image_grid(images, num_grey_levels, columns, title, list(rows), column_titles, image_inches)


def side_by_side(
    panels: dict[str, dict[str, Tensor]],
    num_grey_levels: int = 256,
    title: str | None = None,
    image_inches: float = 0.5,
) -> Figure:
    """Panels of ``image_rows`` side by side: models at the same temperatures, or pairs interpolated in the same ways.

    Args:
        panels: name above the panel -> row label -> uint8 ``(N, C, H, W)``; all panels with the same row labels.
        num_grey_levels, title, image_inches: as in ``image_grid``.
    """
    all_labels = {tuple(rows) for rows in panels.values()}
    if len(all_labels) != 1:
        raise ValueError(f"all panels need the same row labels, got {sorted(all_labels)}")
    grids = [(name, *_stack(rows), None) for name, rows in panels.items()]
    return _panels(grids, num_grey_levels, title, all_labels.pop(), image_inches)


def reconstruction(
    images: Tensor, reconstructed: Tensor, num_grey_levels: int = 256, columns: int = 10, image_inches: float = 0.75
) -> Figure:
    """Images, their reconstructions, and the pixels that differ, in white; the title counts them over all images.

    Args:
        images, reconstructed: uint8 ``(N, C, H, W)``; the first ``columns`` are drawn.
        num_grey_levels, columns, image_inches: as in ``image_grid``.
    """
    wrong = images != reconstructed
    # White for every difference: one grey level of 256 would be invisible.
    rows = {"original": images, "decoded": reconstructed, "different": wrong.to(torch.uint8) * (num_grey_levels - 1)}
    return image_rows(
        {label: row[:columns] for label, row in rows.items()},
        num_grey_levels,
        f"{int(wrong.sum()):,} of {images.numel():,} pixel values differ, in {len(images):,} images",
        image_inches=image_inches,
    )


def latent_levels(
    images: Tensor,
    resampled: dict[str, Tensor],
    num_grey_levels: int = 256,
    title: str | None = None,
    image_inches: float = 0.55,
) -> Figure:
    """Images, and what remains of each if only some latent levels are kept.

    Args:
        images: uint8 ``(N, C, H, W)``, one row each.
        resampled: which levels were kept -> uint8 ``(N, R, C, H, W)``, R draws of the other levels.
        num_grey_levels, title, image_inches: as in ``image_grid``.
    """
    panels = [("image", images, 1, None)]
    panels += [(label, draws.flatten(0, 1), draws.shape[1], None) for label, draws in resampled.items()]
    return _panels(panels, num_grey_levels, title, None, image_inches)


def _stack(rows: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Returns rows of images as one tensor, and the number of images in a row."""
    lengths = {len(row) for row in rows.values()}
    if len(lengths) != 1:
        raise ValueError(f"every row needs the same number of images, got {sorted(lengths)}")
    return torch.cat(list(rows.values())), lengths.pop()


def _text_inches(text: str, size: float) -> float:
    return TextPath((0, 0), text, size=size).get_extents().width / 72 if text.strip() else 0.0


def _panels(
    panels: Sequence[tuple[str, Tensor, int, Sequence[str] | None]],
    num_grey_levels: int,
    title: str | None,
    row_labels: Sequence[str] | None,
    image_inches: float,
) -> Figure:
    """Draws grids of images side by side, given as (name, images, columns, column titles); row labels at the left.

    The grids are placed in inches, not by matplotlib's layout, so that images have the same size in all panels.
    """
    shapes = [_grid_shape(images, columns) for _, images, columns, _ in panels]
    inches = image_inches / panels[0][1].shape[-1]
    height, space = inches * max(h for h, _ in shapes), 0.5 * image_inches
    width = inches * sum(w for _, w in shapes) + space * (len(panels) - 1)
    left = max(map(_text_inches, row_labels, [11] * len(row_labels))) + 0.15 if row_labels else 0.05
    named, headed = any(name for name, *_ in panels), any(titles for *_, titles in panels)
    above = 0.36 * bool(title) + 0.27 * named + 0.25 * headed + 0.03
    # A title wider than the images widens the figure, evenly on both sides.
    wide = max(left + width + 0.05, _text_inches(title or "", 13) + 0.1)
    left += (wide - left - width - 0.05) / 2
    figure = plt.figure(figsize=(wide, height + above + 0.05), layout="none")
    for i, ((name, images, columns, titles), (h, w)) in enumerate(zip(panels, shapes, strict=True)):
        size = inches * w / wide, inches * h / figure.get_figheight()
        axes = figure.add_axes((left / wide, 1 - above / figure.get_figheight() - size[1], *size))
        _draw_grid(axes, images, num_grey_levels, columns, row_labels if i == 0 else None, titles)
        if name:
            axes.set_title(name, size=12, pad=6)
        left += inches * w + space
    if title:
        figure.suptitle(title, size=13, y=1 - 0.08 / figure.get_figheight(), va="top")
    return figure


def _grid_shape(images: Tensor, columns: int) -> tuple[int, int]:
    """Returns height and width of a grid in pixels, including gaps."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images are (N, C, H, W) with 1 or 3 channels, got {tuple(images.shape)}")
    n, _, h, w = images.shape
    return -(-n // columns) * (h + _gap(images)) - _gap(images), columns * (w + _gap(images)) - _gap(images)


def _gap(images: Tensor) -> int:
    return max(1, images.shape[-1] // 12)


def _draw_grid(
    axes: Axes,
    images: Tensor,
    num_grey_levels: int,
    columns: int,
    row_labels: Sequence[str] | None,
    column_titles: Sequence[str] | None,
) -> None:
    """Draws all images as one picture with white gaps, which is much faster than axes for each image."""
    n, _, h, w = images.shape
    gap, rows = _gap(images), -(-n // columns)
    for labels, count, what in ((row_labels, rows, "row"), (column_titles, columns, "column")):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{len(labels)} {what} labels for {count} {what}s")
    picture = np.ones((*_grid_shape(images, columns), 3))
    pixels = images.detach().cpu().double().div(num_grey_levels - 1).permute(0, 2, 3, 1).expand(n, h, w, 3).numpy()
    for i, image in enumerate(pixels):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        picture[top : top + h, left : left + w] = image
    axes.imshow(picture, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=11)
    row_ticks = [] if row_labels is None else [i * (h + gap) + (h - 1) / 2 for i in range(rows)]
    column_ticks = [] if column_titles is None else [i * (w + gap) + (w - 1) / 2 for i in range(columns)]
    axes.set_yticks(row_ticks, row_labels)
    axes.set_xticks(column_ticks, column_titles)
