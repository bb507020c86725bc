"""Writes ``saved_models/README.md``: a table of model cards with pictures."""

import io
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nbflows import data, files, models, tasks, upstream
from nbflows.data import reading
from nbflows.flow import Flow
from nbflows.labelled import LabelledFlow
from nbflows.seeded import seeded
from nbflows.storage import weights
from nbflows.storage.manifest import Manifest, sha256
from nbflows.translation import TranslationFlow
from nbflows.upstream import Published

# The PNG's entry with the SHA-256 of the weights that drew it, so that an outdated picture is noticed.
STAMP = "weights"
NUM_SAMPLES, NUM_SOURCES, SAMPLES_OF_A_SOURCE = 8, 4, 2
# Models of p(x) show their full variety, translations the temperature at which their quality is measured.
TEMPERATURE, TRANSLATION_TEMPERATURE = 1.0, 0.8
# Smaller images are enlarged to about this number of pixels.
_CELL = 64
# The gap between images, doubled between groups. It is grey because white would not frame a sky.
_GAP, _GREY = 2, 200
# In pixels. Non-breaking spaces in the heading keep a wide table from shrinking its pictures.
_SHOWN_WIDTH = 300
_WIDE = "&nbsp;" * 58

_LIPPE = (
    "[Lippe 2021]"
    "(https://uvadlc-notebooks.readthedocs.io/en/latest/tutorial_notebooks/tutorial11/NF_image_modeling.html)"
)
_CHEN = "[Chen et al. 2019](https://arxiv.org/abs/1906.02735)"
# Sources of the published scores, by the builder's file in nbflows/models or the first word of an upstream name.
_SOURCES = {
    "tutorial": _LIPPE,
    "glow": "[Kingma and Dhariwal 2018](https://arxiv.org/abs/1807.03039)",
    "mar_scf": "[Bhattacharyya et al. 2020](https://arxiv.org/abs/2004.03891)",
    "residual_flow": _CHEN,
    "caflow": "[Batzolis et al. 2021](https://arxiv.org/abs/2106.02531)",
    "uva": _LIPPE,
    "marscf": "[the authors' README](https://github.com/visinf/mar-scf)",
    "resflow": _CHEN,
}

_INTRODUCTION = """# Pretrained models

These flows are trained and ready to use. One line loads a model in eval mode:

```python
flow = nbflows.load_pretrained("{example}")
```

The file `NAME.safetensors` is looked for in `saved_models/`, in the current folder or next to the package, and then in
the cache: the folder `NBFLOWS_CACHE`, or the system's folder for caches. If it is in neither, it is downloaded into the
cache from the address in `NBFLOWS_PRETRAINED_URL`, or else from the one in `manifest.json` ({address}).
Its SHA-256 is always compared with the manifest's before it is opened. It contains numbers and their shapes, but no
code.

```bash
nbflows list                     # these models, and the recipes
nbflows evaluate {example}    # measure bits/dim on the test images again
python -m tools.publish --cards          # write this page, and pictures that are missing or out of date
python -m tools.publish runs/MY_RUN my-model --purpose "what it is for"
```

The last line publishes a model of yours: it writes its file (below 8 MB; `--half` stores float16), its entry in
`manifest.json` and its card. The last two commands generate this page from the manifest, so do not edit it by hand.
[queue.md](queue.md) lists how each model was trained, and what a longer run would need.

## How to read the tables

- **Bits/dim** is the mean over all test images ± its standard error; lower is better. It is an upper bound of the
  model's exact score, and more draws M of dequantization noise tighten it: scores with different M are not comparable.
- **Estimate**: the log-determinants of a Residual Flow are unbiased estimates, so its M = 1 is an estimate of that
  bound. With more draws it would not be a bound, so those scores are not given.
- **Published** is the score that the authors report for the model after their full training. It is empty where nothing
  is published for this size and these data. Our models have the listed budgets, mostly those of a demonstration, so two
  rows of ours differ in their budgets as well as in their ideas.
- **Pictures** are not selected: they show the first {num_samples} samples of seed 0 at temperature {temperature:g}.
- **Built by** names a function of `nbflows.models`, and the size of the file, in float32 unless it says float16.
- **Data** lists the numbers of images for training, validation and test.
"""

_TRANSLATIONS = """
These models translate images, p(target | source); bits/dim are those of the target given the source. A picture shows
{num_sources} times: source, {num_samples} samples of seed 0 at temperature {temperature:g}, target. The images are
those with the highest contrast among the 16 that every installation has.

PSNR (in dB) and SSIM compare samples for test sources with the targets, ± standard errors; higher is closer. "Best" is
the sample with the highest likelihood. The baseline needs no model: it is bicubic interpolation, the smoothest surface
over the hole, or the grey image itself. Squared error rewards the mean of all answers, so the baseline is often closer
than any single sample. In inpainting, known pixels are pasted back, for pictures and scores.
"""

_UPSTREAM = """## The authors' own weights

They load in the same way, with `nbflows.load_pretrained("upstream/...")`. The first call downloads them from their
authors' addresses, reads them without running any code in them, converts them into our format and stores them in the
cache. A file that you put into `data/upstream/` is used instead of a download. "Checked by" says what is compared
before the file is read; where no hash is known, only the shapes of the weights must fit. The published scores are
upper bounds, except that those of Residual Flows are estimates of one.
"""


def write_cards(folder: str | Path) -> list[Path]:
    """Writes README.md into a folder of published models, and the pictures that are missing or out of date.

    Args:
        folder: contains manifest.json, and the weights of the models to draw.

    Returns:
        The files that were written, README.md first.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as in ``draw_sample``; README.md is written before.
    """
    folder = Path(folder)
    known = Manifest.read(folder / "manifest.json")
    files.write(folder / "README.md", page(known).encode())
    return [
        folder / "README.md",
        *(draw_sample(name, folder) for name in known.models if not is_drawn(name, known, folder)),
    ]


def draw_sample(name: str, folder: str | Path) -> Path:
    """Draws the picture of a model, ``folder/samples/NAME.png``, always with the same noise; returns the file.

    A model of p(x) shows 8 samples in a row, with the labels of test images if it takes labels. One of
    p(target | source) shows four times the source, two samples, the target.

    Args:
        name: name of the model.
        folder: contains manifest.json and ``NAME.safetensors``.

    Raises:
        FileNotFoundError: the weights are not in the folder.
        ValueError: the model is unknown, its weights differ from the manifest's, or it translates images of a size that
            needs a download.
        RuntimeError: its samples are not finite.
    """
    from PIL import Image

    folder = Path(folder)
    entry = Manifest.read(folder / "manifest.json").entry(name)
    file = folder / f"{name}.safetensors"
    content = file.read_bytes()
    if sha256(content) != entry["sha256"]:
        raise ValueError(
            f"{file} is not the published {name}: restore it with git checkout, or publish it again with"
            " python -m tools.publish"
        )
    with seeded(0):
        flow = weights.rebuild(weights.parse(content, file), entry, name)
    with seeded(0):
        if "task" in entry:
            groups = _translated(flow, entry["task"])
        else:
            examples = torch.tensor(entry["labels"]["examples"][:NUM_SAMPLES]) if "labels" in entry else None
            groups = [flow.sample(NUM_SAMPLES, examples, TEMPERATURE)]
    levels = flow.num_grey_levels
    pixels = _arrange([(group.float() * 255 / (levels - 1)).round().byte() for group in groups])
    drawn = picture(name, folder)
    drawn.parent.mkdir(exist_ok=True)
    png = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(
        png, "PNG", optimize=True, **reading.mark(reading.SHEET, **{STAMP: entry["sha256"]})
    )
    files.write(drawn, png.getvalue())
    return drawn


def picture(name: str, folder: str | Path) -> Path:
    """Returns the path of the picture of a model."""
    return Path(folder) / "samples" / f"{name}.png"


def is_drawn(name: str, known: Manifest, folder: str | Path) -> bool:
    """Tells whether the picture of a model exists and was drawn with the manifest's weights."""
    from PIL import Image

    file = picture(name, folder)
    if not file.exists():
        return False
    with Image.open(file) as image:
        return image.info.get(STAMP) == known.entry(name)["sha256"]


def page(known: Manifest) -> str:
    """Returns the text of README.md; it depends on the manifest alone."""
    example = "mnist-marscf" if "mnist-marscf" in known.models else min(known.models, default="NAME")
    parts = [
        _INTRODUCTION.format(
            example=example,
            address=known.base_url or "which has none so far",
            num_samples=NUM_SAMPLES,
            temperature=TEMPERATURE,
        )
    ]
    groups: dict[str, list[str]] = {
        "Digits": [],
        "MNIST": [],
        "Colour images": [],
        "Translations": [],
        "Others": [],
    }
    for name in sorted(known.models, key=lambda name: (known.models[name].get("task", {}).get("name", ""), name)):
        groups[_group(known.models[name])].append(name)
    for title, names in groups.items():
        if names:
            parts.append(f"## {title}")
            if title == "Translations":
                text = _TRANSLATIONS.format(
                    num_sources=NUM_SOURCES, num_samples=SAMPLES_OF_A_SOURCE, temperature=TRANSLATION_TEMPERATURE
                )
                parts.append(text.strip())
            parts.append(_table([_row(name, known) for name in names]))
    parts += [_UPSTREAM.strip(), _table([_row_upstream(*item) for item in upstream.PUBLISHED.items()])]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _translated(flow: TranslationFlow, task: dict) -> list[Tensor]:
    """Returns source, samples and target ``(4, C, H, W)`` for a few images that need no download."""
    targets, sources = fixed_images(flow, task)
    # Many photo patches are empty sky, so those with the highest contrast are used.
    chosen = targets.float().std((2, 3)).mean(1).topk(NUM_SOURCES).indices.sort().values
    targets, sources = targets[chosen], sources[chosen]
    samples = flow.translate(sources, SAMPLES_OF_A_SOURCE, TRANSLATION_TEMPERATURE, scored=False).images
    given = tasks.with_channels(sources, targets.shape[1])
    rule = tasks.get(**task)
    if isinstance(rule, tasks.Inpainting):
        samples = rule.paste(samples, given)
    return list(torch.cat([given[:, None], samples, targets[:, None]], dim=1))


def _arrange(groups: list[Tensor]) -> Tensor:
    """Arranges images of 256 grey levels, 8 in a line, as one picture: ``(H, W)`` or ``(H, W, 3)``."""
    from torchvision.utils import make_grid

    count, channels, _, width = groups[0].shape
    scale = max(1, _CELL // width)
    strips = [
        make_grid(group.repeat_interleave(scale, 2).repeat_interleave(scale, 3), count, _GAP, pad_value=_GREY)
        for group in groups
    ]
    pixels = make_grid(torch.stack(strips), NUM_SAMPLES // count, 2 * _GAP, pad_value=_GREY)
    return pixels[0] if channels == 1 else pixels.permute(1, 2, 0).contiguous()


def _group(entry: dict) -> str:
    if "task" in entry:
        return "Translations"
    shape = tuple(entry["arguments"].get("shape", ()))
    if len(shape) == 3 and shape[0] == 3:
        return "Colour images"
    return {(1, 8, 8): "Digits", (1, 28, 28): "MNIST"}.get(shape, "Others")


def _row(name: str, known: Manifest) -> dict[str, str]:
    """Returns the cells of a model card."""
    entry = known.models[name]
    bound = "bits/dim of the target" if "task" in entry else "bits/dim"
    module = getattr(getattr(models, entry["builder"], None), "__module__", "").rsplit(".", 1)[-1]
    published = f"{entry['published']} {_SOURCES.get(module, '')}".strip() if "published" in entry else ""
    quality = {"samples and target": _quality(entry.get("quality", {}))} if "task" in entry else {}
    return {
        f"model{_WIDE}": _model(name, known),
        "built by": _built(entry),
        "data and training": _training(entry),
        f"{bound}, M = 1": _bits_per_dim(entry),
        f"{bound}, M = 8": _score(entry.get("test_bits_per_dim_8_draws")),
        **quality,
        "published": published,
        "licence": entry["licence"],
    }


def _row_upstream(name: str, published: Published) -> dict[str, str]:
    source = _SOURCES[name.removeprefix("upstream/").split("-")[0]]
    checked = "SHA-256" if published.sha256 else "git's SHA-1" if published.git_blob else "shapes only"
    return {
        "model": f"**`{name}`**<br>{published.purpose}",
        "data": published.data,
        "published bits/dim": f"{published.published} {source}" if published.published else "",
        "file": f"[the authors' file]({published.address})",
        "checked by": checked,
        "licence": published.licence,
    }


def _model(name: str, known: Manifest) -> str:
    """Returns the name of a model, its picture and its purpose."""
    entry = known.models[name]
    shows = f"{NUM_SAMPLES} samples at temperature {TEMPERATURE:g}"
    if "task" in entry:
        samples = f"{SAMPLES_OF_A_SOURCE} samples at temperature {TRANSLATION_TEMPERATURE:g}"
        shows = f"{NUM_SOURCES} times source, {samples}, target"
    image = f'<img src="{picture(name, "").as_posix()}" width="{_SHOWN_WIDTH}" alt="{name}: {shows}">'
    twins = [f"`{other}`" for other, its in known.models.items() if its["sha256"] == entry["sha256"] and other != name]
    same = f" (the same weights as {', '.join(twins)})" if twins else ""
    return f"**`{name}`**<br>{image}<br>{entry['purpose']}{same}"


def _built(entry: dict) -> str:
    """Returns the builder, the number of parameters and the size of the file."""
    parameters = [f"{entry['parameters']:,} parameters"] if "parameters" in entry else []
    size = f"{entry['bytes'] / 1e6:.1f} MB{', ' + entry['weights'] if 'weights' in entry else ''}"
    return "<br>".join([f"`{entry['builder']}`", *parameters, size])


def _training(entry: dict) -> str:
    """Returns the data and the budget: steps, time, hardware, and the same for the models that it started from."""
    batch = entry.get("recipe", {}).get("batch_size")
    parts = _steps_and_time(entry, f" of {batch} images" if batch else "")
    budget = [", ".join([*parts, *([entry["hardware"]] if "hardware" in entry else [])])]
    data, before = entry.get("data"), entry.get("started_from")
    while before:
        budget.append(f"started from `{before['model']}` after {', '.join(_steps_and_time(before))}")
        before = before.get("started_from")
    return "<br>".join(part for part in (data, *budget) if part)


def _steps_and_time(entry: dict, of: str = "") -> list[str]:
    parts = [f"{entry['steps']:,} steps{of}"] if "steps" in entry else []
    if "seconds" in entry:
        minutes = entry["seconds"] / 60
        hours = f"{minutes / 60:.1f} hours"
        parts.append(hours if minutes >= 120 else f"{minutes:.{0 if minutes >= 10 else 1}f} minutes")
    return parts


def _bits_per_dim(entry: dict) -> str:
    score = _score(entry.get("test_bits_per_dim"))
    # Their log-determinants are power series, truncated at random.
    if score and "residual" in entry["builder"]:
        score += "<br>(estimate)"
    if "test_accuracy" in entry:
        right = entry["test_accuracy"]
        score += f"<br>{100 * right['mean']:.1f} ± {100 * right['standard_error']:.1f} % of classes correct"
    return score


def _quality(quality: dict) -> str:
    """Returns lines with PSNR and SSIM of the translations of test sources."""
    if not quality:
        return ""
    count = quality["num_samples"]
    labels = {"sample": "sample", "best": f"best of {count}", "mean": f"mean of {count}", "baseline": "baseline"}
    lines = [f"temperature {quality['temperature']:g}, {quality['sample']['psnr']['num_images']:,} sources"]
    for measure, rows, digits in (("psnr", labels, 1), ("ssim", ["sample"], 2)):
        for row in rows:
            score = quality[row].get(f"{measure}_pasted", quality[row].get(measure))
            if score:
                lines.append(f"{measure.upper()} {_score(score, digits)} ({labels[row]})")
    return "<br>".join(lines).replace(" ", "&nbsp;")


def _score(score: dict | None, digits: int = 3) -> str:
    return f"{score['mean']:.{digits}f} ± {score['standard_error']:.{digits}f}" if score else ""


def _table(rows: list[dict[str, str]]) -> str:
    """Returns a table in Markdown without its empty columns."""
    columns = [title for title in rows[0] if any(row[title] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[title].replace("|", "\\|") for title in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fixed_images(flow: Flow, task: dict | None = None) -> tuple[Tensor, Tensor | None]:
    """Returns 16 images that need no download and have the flow's size, and their sources or labels if it takes them.

    They are digits for 8x8, the same enlarged three times with a black margin for 28x28, and photo patches for 32x32.

    Raises:
        ValueError: no such images have this size.
    """
    if flow.shape == (3, 32, 32):
        images = data.load("photo-patches").test[::20][:16]
    elif flow.shape in ((1, 8, 8), (1, 28, 28)):
        images = data.load("digits").test[:16]
        if flow.shape == (1, 28, 28):
            images = F.pad(images.repeat_interleave(3, 2).repeat_interleave(3, 3), (2, 2, 2, 2)) * 15
    else:
        raise ValueError(f"there are no images of shape {flow.shape} that need no download")
    if task is None:
        return images, flow.counted_labels(16) if isinstance(flow, LabelledFlow) else None
    splits = {"train": images, "validation": images, "test": images}
    levels = 17 if flow.shape == (1, 8, 8) else 256
    pairs = tasks.apply(tasks.get(**task), data.ImageData("fixed", "fixed images", **splits, num_grey_levels=levels))
    return pairs.test, pairs.sources["test"]
