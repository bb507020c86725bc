"""The parts that all figures share: style, titles, legends, alt text, files."""

import base64
import html
import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from nbflows import extras
from nbflows.data import reading

__all__ = ["close", "save_figures", "show", "use_style"]

# Marks, in the metadata, the output that repeats the alt text of the figure before it.
ALT_OUTPUT = "nbflows_alt"


def use_style() -> None:
    """Sets the style of all figures: colour-blind safe, light grid, readable at the width of a notebook."""
    with extras.explained():
        import seaborn as sns

    sns.set_theme(style="whitegrid", palette="colorblind", context="notebook")
    plt.rcParams.update({"figure.dpi": 100, "figure.constrained_layout.use": True, "image.interpolation": "nearest"})


# Takes no space on the page, but screen readers read it.
_HIDDEN = "position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden; white-space: nowrap"


def show(figure: Figure, alt: str) -> None:
    """Shows a figure in a notebook with a text for readers who cannot see it, and frees the figure.

    The notebook stores two outputs. The first is the figure as ``image/png``, so that every tool shows it. Its text is
    in ``metadata["image/png"]["alt"]``, where ``IPython.display.Image`` puts it, and in ``text/plain``. The second is a
    piece of ``text/html`` with the same text that only screen readers read: JupyterLab 4.6 and the default template of
    nbconvert 7.17 take the width of an image from the metadata, but not its alt text.

    Args:
        figure: the figure.
        alt: describes what the figure shows, in a sentence or two.
    """
    from IPython.display import display

    raw, png = io.BytesIO(), io.BytesIO()
    # Twice the pixels at the same size keep text sharp.
    dpi = 2 * figure.dpi
    figure.savefig(raw, format="png", dpi=dpi)
    # 256 colours look the same and take a third of the bytes.
    picture = Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(png, format="png", optimize=True, dpi=(dpi, dpi), **reading.mark(reading.SHEET))
    width = round(figure.get_figwidth() * figure.dpi)
    close(figure)
    for data, metadata in _outputs(png.getvalue(), alt, width):
        display(data, metadata=metadata, raw=True)


def _outputs(png: bytes, alt: str, width: int) -> list[tuple[dict, dict]]:
    """Returns data and metadata of the two outputs that ``show`` stores: the figure, and its text for screen readers.

    Args:
        png: the picture.
        alt: describes the picture.
        width: width of the picture as shown, in CSS pixels.
    """
    figure = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
    # A div, because the sanitizer of nbconvert prints the tags of a paragraph. LaTeX has no hidden text, and nbconvert
    # warns about an output that it cannot represent.
    text = {"text/html": f'<div style="{_HIDDEN}">Figure: {html.escape(alt)}</div>', "text/latex": ""}
    return [(figure, {"image/png": {"alt": alt, "width": width}}), (text, {ALT_OUTPUT: True})]


def save_figures(notebook: str | Path, folder: str | Path) -> list[Path]:
    """Writes the figures that ``show`` stored in an executed notebook as PNGs, numbered and named after their texts.

    Args:
        notebook: the .ipynb file.
        folder: where the files go; created if missing.
    """
    folder, files = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        # A notebook may store a long text as a list of lines.
        if source := "".join(output.get("data", {}).get("image/png", "")):
            words = re.findall(r"[a-z0-9]+", output["metadata"]["image/png"]["alt"].lower())[:5]
            files.append(folder / f"{len(files) + 1:02d}_{'_'.join(words)}.png")
            files[-1].write_bytes(base64.b64decode(source))
    return files


def entitle(figure: Figure, title: str | None) -> None:
    """Writes the title above all panels, if there is one."""
    if title:
        figure.suptitle(title, size=13)


def legend_below(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """Puts the legend of one panel below all panels; by default in one line."""
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or len(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=11)


def close(figure: Figure) -> None:
    """Frees a figure without showing it."""
    plt.close(figure)


def as_array(values: Tensor) -> np.ndarray:
    """Converts a tensor on any device to a float64 array for matplotlib."""
    return values.detach().cpu().double().numpy()
