"""The figures of the lessons, in one style: functions that take data, draw it and return the figure."""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from torch import Tensor


def use_style() -> None:
    """One look for all figures: colour-blind safe, light grid, readable at the width of a notebook."""
    import seaborn as sns

    sns.set_theme(style="whitegrid", palette="colorblind", context="notebook")
    plt.rcParams.update({"figure.dpi": 100, "figure.constrained_layout.use": True, "image.interpolation": "nearest"})


def show(figure: Figure, alt: str) -> None:
    """Shows a figure in a notebook as a PNG with a text for those who cannot see it, and frees it.

    Args:
        figure: from any function here.
        alt: what there is to see, in a sentence or two.
    """
    from IPython.display import display

    png = io.BytesIO()
    # Twice the pixels, shown at the same size: text stays sharp. No version of matplotlib in it: the file repeats.
    figure.savefig(png, format="png", dpi=2 * figure.dpi, metadata={"Software": None})
    width = round(figure.get_figwidth() * figure.dpi)
    close(figure)
    # As HTML: JupyterLab and nbconvert drop the alt text of an image/png output.
    source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    tag = f'<img src="{source}" width="{width}" alt="{html.escape(alt)}" style="max-width: 100%">'
    display({"text/html": tag, "text/plain": alt}, raw=True)


def save_figures(notebook: str | Path, folder: str | Path) -> list[Path]:
    """Writes every figure that ``show`` left in an executed notebook as a PNG, numbered and named after its text.

    Args:
        notebook: the .ipynb file.
        folder: where to; made if it is not there.
    """
    folder, files = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        tag = "".join(output.get("data", {}).get("text/html", ""))
        for source, alt in re.findall(r'<img src="data:image/png;base64,([^"]+)".*?alt="([^"]*)"', tag):
            words = re.findall(r"[a-z0-9]+", html.unescape(alt).lower())[:5]
            files.append(folder / f"{len(files) + 1:02d}_{'_'.join(words)}.png")
            files[-1].write_bytes(base64.b64decode(source))
    return files


def close(figure: Figure) -> None:
    """Frees a figure that was saved and will not be shown."""
    plt.close(figure)


def training_curve(history: list[dict[str, float]], title: str | None = None) -> Figure:
    """Bits/dim of training batches and of the validation images over the steps.

    Args:
        history: rows of the training log, ``TrainingResult.history``.
        title: the finding.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, label, style in (
        ("bits_per_dim", "training batch", {"alpha": 0.5}),
        ("validation_bits_per_dim", "validation, averaged weights", {"marker": "o"}),
    ):
        points = [(row["step"], row[key]) for row in history if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    values = sorted(row["bits_per_dim"] for row in history if "bits_per_dim" in row)
    if values:
        # The first steps are far above all others and would flatten the rest.
        axes.set_ylim(values[0] - 0.05, values[int(0.95 * (len(values) - 1))] + 0.1)
    axes.set(xlabel="training step", ylabel="bits/dim (one draw of noise)")
    if title:
        axes.set_title(title)
    axes.legend()
    return figure


def image_grid(
    images: Tensor,
    num_levels: int = 256,
    columns: int = 8,
    title: str | None = None,
    row_labels: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    image_inches: float = 0.75,
) -> Figure:
    """Images in rows, first row first.

    Args:
        images: uint8 ``(N, C, H, W)``, grey (C = 1) or colour (C = 3).
        num_levels: grey levels; num_levels - 1 is white.
        columns: images in a row.
        title: the finding.
        row_labels, column_titles: one per row, one per column.
        image_inches: width of one image.
    """
    return _panels([("", images, columns, column_titles)], num_levels, title, row_labels, image_inches)


def image_rows(
    rows: dict[str, Tensor],
    num_levels: int = 256,
    title: str | None = None,
    column_titles: Sequence[str] | None = None,
    image_inches: float = 0.75,
) -> Figure:
    """One labelled row of images each: interpolations, one model against another.

    Args:
        rows: label -> uint8 ``(N, C, H, W)``, the same N in all.
        num_levels, title, column_titles, image_inches: as in ``image_grid``.
    """
    images, columns = _stack(rows)
    return image_grid(images, num_levels, columns, title, list(rows), column_titles, image_inches)


def side_by_side(
    panels: dict[str, dict[str, Tensor]], num_levels: int = 256, title: str | None = None, image_inches: float = 0.5
) -> Figure:
    """``image_rows`` next to each other: models at the same temperatures, or pairs of images joined in the same ways.

    Args:
        panels: name above the panel -> row label -> uint8 ``(N, C, H, W)``; all panels with the same row labels.
        num_levels, title, image_inches: as in ``image_grid``.
    """
    all_labels = {tuple(rows) for rows in panels.values()}
    if len(all_labels) != 1:
        raise ValueError(f"all panels need the same row labels, got {sorted(all_labels)}")
    grids = [(name, *_stack(rows), None) for name, rows in panels.items()]
    return _panels(grids, num_levels, title, all_labels.pop(), image_inches)


def reconstruction(
    images: Tensor, reconstructed: Tensor, num_levels: int = 256, columns: int = 10, image_inches: float = 0.75
) -> Figure:
    """Images, their reconstructions, and white where the two differ; the title counts this in all images given.

    Args:
        images, reconstructed: uint8 ``(N, C, H, W)``; the first ``columns`` are drawn.
        num_levels, columns, image_inches: as in ``image_grid``.
    """
    wrong = images != reconstructed
    # White however small the difference is: one grey level of 256 would be invisible.
    rows = {"original": images, "decoded": reconstructed, "different": wrong.to(torch.uint8) * (num_levels - 1)}
    return image_rows(
        {label: row[:columns] for label, row in rows.items()},
        num_levels,
        f"{int(wrong.sum()):,} of {images.numel():,} pixel values differ, in {len(images):,} images",
        image_inches=image_inches,
    )


def latent_levels(
    images: Tensor,
    resampled: dict[str, Tensor],
    num_levels: int = 256,
    title: str | None = None,
    image_inches: float = 0.55,
) -> Figure:
    """What each latent level holds: images, and beside them what remains of each when only some levels are kept.

    Args:
        images: uint8 ``(N, C, H, W)``, one row each.
        resampled: which levels were kept -> uint8 ``(N, R, C, H, W)``, R draws of the other levels.
        num_levels, title, image_inches: as in ``image_grid``.
    """
    panels = [("image", images, 1, None)]
    panels += [(label, draws.flatten(0, 1), draws.shape[1], None) for label, draws in resampled.items()]
    return _panels(panels, num_levels, title, None, image_inches)


def noise_histogram(
    images: Tensor, noise: Tensor, levels: Sequence[int], title: str | None = None, bins: int = 40
) -> Figure:
    """How dequantization noise is spread over its bin, for some grey levels, against the uniform density.

    Args:
        images: integers of any shape.
        noise: u in [0, 1] for each of them, the same shape.
        levels: the grey levels to draw, one panel each.
        title: the finding.
        bins: of the histogram.
    """
    figure, all_axes = plt.subplots(
        1, len(levels), figsize=(3 * len(levels), 3.2), sharex=True, sharey=True, squeeze=False
    )
    for axes, level in zip(all_axes[0], levels, strict=True):
        values = noise[images == level].detach().cpu().numpy()
        axes.hist(values, bins=bins, range=(0, 1), density=len(values) > 0, color="C0", label="learned")
        axes.axhline(1, color="C1", linestyle="--", linewidth=2, label="uniform")
        axes.set(title=f"grey level {level} ({len(values):,} draws)", xlabel="noise u")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.title.set_size("medium")
    all_axes[0, 0].set_ylabel("density")
    all_axes[0, 0].legend()
    if title:
        figure.suptitle(title)
    return figure


def _stack(rows: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Rows of images as one tensor, and how many stand in a row."""
    lengths = {len(row) for row in rows.values()}
    if len(lengths) != 1:
        raise ValueError(f"every row needs the same number of images, got {sorted(lengths)}")
    return torch.cat(list(rows.values())), lengths.pop()


def _text_inches(text: str, size: float) -> float:
    return TextPath((0, 0), text, size=size).get_extents().width / 72 if text.strip() else 0.0


def _panels(
    panels: list[tuple[str, Tensor, int, Sequence[str] | None]],
    num_levels: int,
    title: str | None,
    row_labels: Sequence[str] | None,
    image_inches: float,
) -> Figure:
    """Grids of images side by side, given as (name, images, columns, column titles); row labels at the left.

    Placed in inches, not by matplotlib's layout: images have the same size and stand level in all panels.
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
        _draw_grid(axes, images, num_levels, columns, row_labels if i == 0 else None, titles)
        if name:
            axes.set_title(name, size=12, pad=6)
        left += inches * w + space
    if title:
        figure.suptitle(title, size=13, y=1 - 0.08 / figure.get_figheight(), va="top")
    return figure


def _grid_shape(images: Tensor, columns: int) -> tuple[int, int]:
    """Height and width of a grid in pixels, gaps included."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images are (N, C, H, W) with 1 or 3 channels, got {tuple(images.shape)}")
    n, _, h, w = images.shape
    return -(-n // columns) * (h + _gap(images)) - _gap(images), columns * (w + _gap(images)) - _gap(images)


def _gap(images: Tensor) -> int:
    return max(1, images.shape[-1] // 12)


def _draw_grid(
    axes: Axes,
    images: Tensor,
    num_levels: int,
    columns: int,
    row_labels: Sequence[str] | None,
    column_titles: Sequence[str] | None,
) -> None:
    """All images as one picture with white gaps: one axes draws much faster than one per image."""
    n, _, h, w = images.shape
    gap, rows = _gap(images), -(-n // columns)
    for labels, count, what in ((row_labels, rows, "row"), (column_titles, columns, "column")):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{len(labels)} {what} labels for {count} {what}s")
    picture = np.ones((*_grid_shape(images, columns), 3))
    pixels = images.detach().cpu().double().div(num_levels - 1).permute(0, 2, 3, 1).expand(n, h, w, 3).numpy()
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
