"""The cards of the published models: of each a row and a picture, and both those of the manifest as it is."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from nbflows import files, models, pretrained, upstream
from nbflows.storage import weights
from nbflows.storage.manifest import Manifest, sha256
from tools import cards, publish

SAVED = Path(__file__).parents[2] / "saved_models"
KNOWN = Manifest.read(SAVED / "manifest.json")
COMMAND = "write them anew: python -m tools.publish --cards"
TASK = {"name": "super-resolution", "factor": 2}


def _entry(flow, content: bytes, **details) -> dict:
    builder, arguments = flow.built_by
    known = {"sha256": sha256(content), "bytes": len(content), "builder": builder, "arguments": arguments}
    return {**known, "purpose": "to be tested", "licence": "MIT", **details}


@pytest.fixture
def folder(tmp_path):
    """A folder of two small models, without cards."""
    torch.manual_seed(1)
    flows = {"tiny": models.digits_simple(), "tiny-translation": models.digits_caflow(relation="gaussian")}
    known = Manifest({})
    for name, flow in flows.items():
        if flow.context_shape is not None:
            _initialise(flow)
        content = weights.to_bytes(flow)
        files.write(tmp_path / f"{name}.safetensors", content)
        known.models[name] = _entry(flow, content, **({"task": TASK} if flow.context_shape else {}))
    known.write(tmp_path / "manifest.json")
    return tmp_path


def _initialise(flow) -> None:
    flow.log_probs(*(torch.randint(17, (32, *shape)).byte() for shape in (flow.shape, flow.context_shape)))


def _rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their edges."""
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]


def test_the_page_is_what_the_manifest_says():
    assert (SAVED / "README.md").read_text() == cards.page(KNOWN), COMMAND


def test_the_page_links_to_files_that_exist():
    text = (SAVED / "README.md").read_text()
    files = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert len(files) > len(KNOWN.models)
    assert not [file for file in files if not file.startswith("https://") and not (SAVED / file).exists()], COMMAND


def test_there_is_one_picture_for_each_model_and_no_other():
    assert {file.stem for file in (SAVED / "samples").iterdir()} == set(KNOWN.models), COMMAND


@pytest.mark.parametrize("name", KNOWN.models)
def test_a_picture_is_of_the_published_weights_and_of_the_right_kind(name):
    entry, file = KNOWN.models[name], cards.picture(name, SAVED)
    assert cards.is_drawn(name, KNOWN, SAVED), COMMAND
    assert file.stat().st_size < 60_000
    with Image.open(file) as image:
        assert image.mode == ("RGB" if entry["arguments"]["shape"][0] == 3 else "L")
        assert 400 < image.width < 600
        # A translation has two lines: sources, samples and truths of four images.
        assert (image.height > image.width / 5) == ("task" in entry)


def test_every_model_has_a_row_and_every_table_its_columns():
    text = cards.page(KNOWN)
    rows = _rows(text)
    for name in [*KNOWN.models, *upstream.PUBLISHED]:
        assert sum(row[0].startswith(f" **`{name}`**<br>") for row in rows) == 1
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(row) for row in _rows(table)}) == 1


def test_a_row_says_what_a_residual_flow_does_not_bound_and_which_figure_is_published():
    score = {"mean": 1.2, "standard_error": 0.01, "num_draws": 1, "num_images": 100}
    residual = _entry(models.digits_residual_flow(), b"", test_bits_per_dim=score, seconds=9000, steps=1200)
    simple = _entry(models.digits_simple(), b" ", test_bits_per_dim=score, published="1.1 (M = 8)", seconds=90)
    rows = _rows(cards.page(Manifest({"b": residual, "a": simple})))
    first, second = ("|".join(row) for row in rows if "<img" in row[0])
    assert "1.200 ± 0.010<br>(estimate)" in second and "1,200 steps, 2.5 hours" in second
    assert "| 1.200 ± 0.010 |" in first and "1.5 minutes" in first and "1.1 (M = 8) [Lippe 2021](https://" in first


def test_a_row_stays_one_row_whatever_is_known():
    entry = _entry(models.realnvp_2d(), b"", purpose="p(a|b)", unknown={"x": 1})
    page = cards.page(Manifest({"some": entry}))
    assert "## Others" in page and "p(a\\|b)" in page
    empty = cards.page(Manifest({}, base_url="https://example.org/models"))
    assert "(https://example.org/models)" in empty and "## Digits" not in empty


def test_models_are_listed_by_name():
    flow = models.digits_simple()
    entries = {name: _entry(flow, name.encode(), purpose="x") for name in "cab"}
    assert re.findall(r"\*\*`(\w)`", cards.page(Manifest(entries))) == ["a", "b", "c"]


def test_equal_weights_are_named():
    entry = _entry(models.digits_simple(), b"")
    assert "(the same weights as `b`)" in cards.page(Manifest({"a": entry, "b": entry}))


def test_pictures_are_drawn_where_missing_or_old_and_always_alike(folder):
    state = torch.get_rng_state()
    assert [file.name for file in cards.write_cards(folder)] == ["README.md", "tiny.png", "tiny-translation.png"]
    assert torch.equal(torch.get_rng_state(), state)
    first = cards.picture("tiny", folder).read_bytes()
    assert [file.name for file in cards.write_cards(folder)] == ["README.md"]
    cards.picture("tiny", folder).unlink()
    assert [file.name for file in cards.write_cards(folder)] == ["README.md", "tiny.png"]
    assert cards.picture("tiny", folder).read_bytes() == first
    # Another model under an old name.
    content = weights.to_bytes(models.digits_simple())
    files.write(folder / "tiny.safetensors", content)
    with pytest.raises(ValueError, match="is not the published tiny"):
        cards.draw_sample("tiny", folder)
    known = Manifest.read(folder / "manifest.json")
    known.models["tiny"]["sha256"] = sha256(content)
    known.write(folder / "manifest.json")
    assert not cards.is_drawn("tiny", known, folder) and cards.is_drawn("tiny-translation", known, folder)
    assert [file.name for file in cards.write_cards(folder)] == ["README.md", "tiny.png"]
    assert cards.picture("tiny", folder).read_bytes() != first


def test_in_inpainting_the_known_pixels_are_pasted_back():
    flow = models.digits_caflow(relation="gaussian")
    _initialise(flow)
    groups = cards._translated(flow.eval(), {"name": "inpainting", "mask": "half"})
    assert [tuple(group.shape) for group in groups] == [(4, 1, 8, 8)] * 4
    for source, *samples, truth in groups:
        for picture in (source, *samples):
            assert torch.equal(picture[..., :4], truth[..., :4])
        assert (source[..., 4:] == 0).all()


def test_the_cards_are_written_from_the_command_line(folder, monkeypatch, capsys):
    (folder / "here").mkdir()
    folder.rename(folder.parent / "saved_models")
    monkeypatch.chdir(folder.parent)
    (folder.parent / ".git").mkdir()
    assert publish.main(["--cards"]) == 0
    assert "saved_models/README.md" in capsys.readouterr().out
    assert Path("saved_models/README.md").read_text() == cards.page(Manifest.read(Path("saved_models/manifest.json")))


def test_publishing_a_model_writes_its_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    files.write(_made(tmp_path / "saved_models") / "manifest.json", b'{"format": 1, "models": {}}')
    weights.save_flow(models.digits_simple(), "mine", recipe={"data": "digits"}, data="8x8 digits")
    assert publish.main(["mine.safetensors", "my-model", "--purpose", "a first one"]) == 0
    assert "my-model: " in capsys.readouterr().out
    assert "<br>a first one |" in Path("saved_models/README.md").read_text()
    assert cards.picture("my-model", "saved_models").exists()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], 'give MODEL, NAME and --purpose "what it is for"; or --cards alone'),
        (["model", "name"], "give MODEL, NAME and --purpose"),
        (["model", "--purpose", "x"], "give MODEL, NAME and --purpose"),
        (["--cards", "model"], "--cards takes no other options"),
        (["--cards", "--half"], "--cards takes no other options"),
    ],
)
def test_publish_says_what_it_needs(arguments, message, capsys):
    with pytest.raises(SystemExit):
        publish.main([*arguments])
    assert message in capsys.readouterr().err


def test_a_budget_says_what_a_training_started_from():
    before = {"model": "tiny", "steps": 1000, "seconds": 600, "started_from": {"model": "first", "steps": 20}}
    entry = {"data": "MNIST", "steps": 2000, "seconds": 90, "hardware": "1 CPU core", "started_from": before}
    assert cards._training(entry).split("<br>") == [
        "MNIST",
        "2,000 steps, 1.5 minutes, 1 CPU core",
        "started from `tiny` after 1,000 steps, 10 minutes",
        "started from `first` after 20 steps",
    ]
    assert pretrained._budget(entry) == "2,000 steps, 2 minutes, 1 CPU core, started from tiny after 1,000 steps"
