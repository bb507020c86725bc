"""What all figures share: style, alt text, files."""

import base64
import html
import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
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

    raw, png = io.BytesIO(), io.BytesIO()
    # Twice the pixels, shown at the same size: text stays sharp.
    figure.savefig(raw, format="png", dpi=2 * figure.dpi)
    # 256 colours look the same and take a third of the bytes.
    picture = Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(png, format="png", optimize=True)
    width = round(figure.get_figwidth() * figure.dpi)
    close(figure)
    # As HTML: JupyterLab and nbconvert drop the alt text of an image/png output. On a narrow screen the figure shrinks
    # only as far as its text stays readable, and scrolls.
    source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    style = f"width: {width}px; max-width: 100%; min-width: {round(0.65 * width)}px"
    tag = f'<div style="overflow-x: auto"><img src="{source}" alt="{html.escape(alt)}" style="{style}"></div>'
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


def as_array(values: Tensor) -> np.ndarray:
    """What matplotlib takes, from a tensor anywhere."""
    return values.detach().cpu().double().numpy()
