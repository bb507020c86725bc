"""Writes ``saved_models/README.md``: one model card a row, with a picture each."""

import io
import re
from pathlib import Path

import torch
from torch import Tensor

from nbflows import files, models, tasks, upstream
from nbflows.data import reading
from nbflows.seeded import seeded
from nbflows.storage import weights
from nbflows.storage.manifest import Manifest, sha256
from nbflows.translation import TranslationFlow
from nbflows.upstream import Published
from tools import publish

# A PNG says under this name of which weights it is, by their SHA-256: the picture of an earlier model is noticed.
STAMP = "weights"
NUM_SAMPLES, NUM_SOURCES, SAMPLES_OF_A_SOURCE = 8, 4, 2
# Of p(x) what the model has learned, all of it; of p(target | source) what its quality is measured at.
TEMPERATURE, TRANSLATION_TEMPERATURE = 1.0, 0.8
# Smaller images are enlarged to about so many pixels.
_CELL = 64
# Between images, and twice that between groups of them: white would not frame a sky.
_GAP, _GREY = 2, 200
# In pixels. A table that is too wide shrinks its pictures first, down to nothing: spaces that do not break prevent it.
_SHOWN_WIDTH = 300
_WIDE = "&nbsp;" * 58

_LIPPE = (
    "[Lippe 2021]"
    "(https://uvadlc-notebooks.readthedocs.io/en/latest/tutorial_notebooks/tutorial11/NF_image_modeling.html)"
)
_CHEN = "[Chen et al. 2019](https://arxiv.org/abs/1906.02735)"
# Where a figure was published: by the file of nbflows/models with the builder, or an upstream name's first word.
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

Flows that are trained already. One line loads one of them, in eval mode:

```python
flow = nbflows.load_pretrained("{example}")
```

Its file, `NAME.safetensors`, is looked for in `saved_models/`, here or beside the package, and then in the user's
cache: the folder in `NBFLOWS_CACHE`, or where the system keeps caches. If it is in neither, it is downloaded into the
cache from the address in `NBFLOWS_PRETRAINED_URL`, or else from that in `manifest.json` ({address}).
Wherever it was, its SHA-256 is compared with the manifest's before it is opened; it holds numbers and their shapes,
nothing that could run.

```bash
nbflows list                     # these models, and the recipes
nbflows evaluate {example}    # bits/dim on the test images, measured again
python -m tools.publish --cards          # this page, and pictures that are missing or old
python -m tools.publish runs/MY_RUN my-model --purpose "what it is for"
```

The last line adds a model of yours: its file (below 8 MB; `--half` stores float16), its entry in `manifest.json`, its
card. This page is generated from the manifest by the last two commands: what is changed in it by hand is lost. How each
model was trained, and what a longer run would need, stands in [queue.md](queue.md).

## How to read the tables

- **Bits/dim**: the mean over all test images ± its standard error; lower is better. It is an upper bound of the
  model's own figure, tighter with more draws M of the dequantization noise: only figures of the same M compare.
- **Estimate**: a Residual Flow's log-determinants are unbiased estimates, and its M = 1 is an estimate of that bound.
  More draws would not give a bound, and are not given.
- **Published**: what the authors report of the model at its full length of training; empty, or without a column, where
  nothing is published of this size on these data. Ours had the budget that is named, for most of them that of a
  demonstration: two rows of ours differ in their budgets, too, not in their ideas alone.
- **Pictures**: nothing is chosen. They show the first {num_samples} samples of seed 0 at temperature {temperature:g}.
- **Built by**: a function of `nbflows.models`. Below it the size of the file, in float32 where float16 is not named.
- **Data**: the numbers of images are those for training, validation and test.
"""

_TRANSLATIONS = """
They make pictures of pictures, p(target | source); bits/dim are of the target given the source. A picture shows
{num_sources} times: the source, {num_samples} samples of seed 0 at temperature {temperature:g}, the truth. The images \
are those with the most contrast among the 16 that every installation has.

PSNR (in dB) and SSIM compare samples for test sources with the truth, ± standard errors; higher is closer. "Best" is
the sample of the highest likelihood. The baseline needs no model: bicubic interpolation, the smoothest surface over the
hole, the grey picture itself. Squared error rewards the mean of all answers, so that the baseline often comes closer
than any one sample. In inpainting the known pixels are pasted back, in pictures and figures.
"""

_UPSTREAM = """## The authors' own weights

They are loaded in the same way, `nbflows.load_pretrained("upstream/...")`. The first time they are fetched from their
authors' addresses, read without running anything that is in them, and converted into our format; from then on they are
in the cache. A file put into `data/upstream/` by hand is taken instead of a download. "Checked by" says what the file
is compared with before it is read; where no hash is known, only the shapes of its weights must fit. The published
figures are upper bounds, those of Residual Flows estimates of one.
"""


def write_cards(folder: str | Path) -> list[Path]:
    """Writes README.md into a folder of published models, and the pictures that are missing or of other weights.

    Args:
        folder: with manifest.json, and the weights of the models that are to be drawn.

    Returns:
        The files that were written, README.md first.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as in ``draw_sample``; README.md is written then, too.
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

    Of p(x) 8 samples in a row; of p(target | source) four times the source, two samples and the truth.

    Args:
        folder: with manifest.json and ``NAME.safetensors``.

    Raises:
        FileNotFoundError: the weights are not in the folder.
        ValueError: no such model, its weights are not those of the manifest, or it translates images of a size that
            needs a download.
        RuntimeError: its samples are not numbers.
    """
    from PIL import Image

    folder = Path(folder)
    entry = Manifest.read(folder / "manifest.json").entry(name)
    file = folder / f"{name}.safetensors"
    content = file.read_bytes()
    if sha256(content) != entry["sha256"]:
        raise ValueError(
            f"{file} is not the published {name}: bring it back with git checkout, or publish it anew"
            " with python -m tools.publish"
        )
    with seeded(0):
        flow = weights.rebuild(weights.parse(content, file), entry, name)
    with seeded(0):
        groups = _translated(flow, entry["task"]) if "task" in entry else [flow.sample(NUM_SAMPLES, None, TEMPERATURE)]
    levels = flow.bijection[0].num_levels
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
    """Where the picture of a model is."""
    return Path(folder) / "samples" / f"{name}.png"


def is_drawn(name: str, known: Manifest, folder: str | Path) -> bool:
    """Whether the picture of a model is there, and of the weights that the manifest names."""
    from PIL import Image

    file = picture(name, folder)
    if not file.exists():
        return False
    with Image.open(file) as image:
        return image.info.get(STAMP) == known.entry(name)["sha256"]


def page(known: Manifest) -> str:
    """The text of README.md, from the manifest alone."""
    example = "mnist-marscf" if "mnist-marscf" in known.models else min(known.models, default="NAME")
    parts = [
        _INTRODUCTION.format(
            example=example,
            address=known.base_url or "which names none so far",
            num_samples=NUM_SAMPLES,
            temperature=TEMPERATURE,
        )
    ]
    groups: dict[str, list[str]] = {
        "Digits": [],
        "MNIST": [],
        "Colour photographs": [],
        "Translations": [],
        "Others": [],
    }
    for name in sorted(known.models, key=lambda name: _order(name, known.models[name])):
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
    """Source, samples and truth ``(4, C, H, W)`` of each of a few images that need no download."""
    targets, sources = publish.fixed_images(flow, task)
    # Many of the photo patches are empty sky: those are taken on which there is most to see.
    chosen = targets.float().std((2, 3)).mean(1).topk(NUM_SOURCES).indices.sort().values
    targets, sources = targets[chosen], sources[chosen]
    samples = flow.translate(sources, SAMPLES_OF_A_SOURCE, TRANSLATION_TEMPERATURE, scored=False).images
    given = tasks.with_channels(sources, targets.shape[1])
    rule = tasks.get(**task)
    if isinstance(rule, tasks.Inpainting):
        samples = rule.paste(samples, given)
    return list(torch.cat([given[:, None], samples, targets[:, None]], dim=1))


def _arrange(groups: list[Tensor]) -> Tensor:
    """Images of 256 grey levels, 8 in a line, as the pixels of one picture: ``(H, W)`` or ``(H, W, 3)``."""
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
        return "Colour photographs"
    return {(1, 8, 8): "Digits", (1, 28, 28): "MNIST"}.get(shape, "Others")


def _order(name: str, entry: dict) -> tuple:
    """Sorts models by lesson; models that no lesson uses come last, by task."""
    lessons = re.match(r"lessons? ([\d and]+):", entry["purpose"])
    last = int(lessons[1].split()[-1]) if lessons else 100
    return last, entry.get("task", {}).get("name", ""), name


def _row(name: str, known: Manifest) -> dict[str, str]:
    """A model card."""
    entry = known.models[name]
    bound = "bits/dim of the target" if "task" in entry else "bits/dim"
    module = getattr(getattr(models, entry["builder"], None), "__module__", "").rsplit(".", 1)[-1]
    published = f"{entry['published']} {_SOURCES.get(module, '')}".strip() if "published" in entry else ""
    quality = {"samples and the truth": _quality(entry.get("quality", {}))} if "task" in entry else {}
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
    checked = "SHA-256" if published.sha256 else "git's SHA-1" if published.git_blob else "shapes alone"
    return {
        "model": f"**`{name}`**<br>{published.purpose}",
        "data": published.data,
        "published bits/dim": f"{published.published} {source}" if published.published else "",
        "file": f"[of its authors]({published.address})",
        "checked by": checked,
        "licence": published.licence,
    }


def _model(name: str, known: Manifest) -> str:
    """Its name, its picture, what it is for."""
    entry = known.models[name]
    shows = f"{NUM_SAMPLES} samples at temperature {TEMPERATURE:g}"
    if "task" in entry:
        samples = f"{SAMPLES_OF_A_SOURCE} samples at temperature {TRANSLATION_TEMPERATURE:g}"
        shows = f"{NUM_SOURCES} times source, {samples}, truth"
    image = f'<img src="{picture(name, "").as_posix()}" width="{_SHOWN_WIDTH}" alt="{name}: {shows}">'
    twins = [f"`{other}`" for other, its in known.models.items() if its["sha256"] == entry["sha256"] and other != name]
    same = f" (the same weights as {', '.join(twins)})" if twins else ""
    return f"**`{name}`**<br>{image}<br>{entry['purpose']}{same}"


def _built(entry: dict) -> str:
    """The builder, parameters, size of the file."""
    parameters = [f"{entry['parameters']:,} parameters"] if "parameters" in entry else []
    size = f"{entry['bytes'] / 1e6:.1f} MB{', ' + entry['weights'] if 'weights' in entry else ''}"
    return "<br>".join([f"`{entry['builder']}`", *parameters, size])


def _training(entry: dict) -> str:
    """The data; the budget: steps, time, hardware, and that of the models whose weights it began with."""
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
    # Their log-determinants are power series, cut off at random.
    if score and "residual" in entry["builder"]:
        score += "<br>(estimate)"
    if "test_accuracy" in entry:
        right = entry["test_accuracy"]
        score += f"<br>{100 * right['mean']:.1f} ± {100 * right['standard_error']:.1f} % of classes right"
    return score


def _quality(quality: dict) -> str:
    """PSNR and SSIM of the translations of test sources, a line each."""
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
    """Markdown; columns without anything in them are left out."""
    columns = [title for title in rows[0] if any(row[title] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[title].replace("|", "\\|") for title in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
