"""What is published is complete, comes back the same, and is still made of the same bytes by today's code."""

import json
import math
import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from nbflows import attributes, data, load_pretrained, metrics, models, pretrained, recipes, save_flow, tasks
from nbflows.cli import main
from nbflows.data import portraits, reading
from nbflows.models import simple
from nbflows.storage import weights
from nbflows.storage.manifest import Manifest, sha256
from tests.reference_data import DATA, mnist
from tools import cards, publish

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads((ROOT / "saved_models" / "manifest.json").read_text())["models"]


def small_flow(seed=0):
    """As small as an image flow can be; its weights matter, where those of an untrained one multiply zeros."""
    torch.manual_seed(seed)
    flow = simple((1, 8, 8), 17, num_couplings=2, hidden_channels=4, num_blocks=1).eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return flow


DETAILS = {
    "recipe": {"description": "a test", "data": "digits", "builder": "simple", "arguments": {}},
    "data": "digits, 8x8",
    "steps": 3,
    "seconds": 4,
    "hardware": "1 CPU core",
    "precision": "32-true",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with an empty saved_models/ and a trained model, run/model; an empty cache, no address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NBFLOWS_PRETRAINED_URL", raising=False)
    (tmp_path / ".git").mkdir()
    (tmp_path / "saved_models").mkdir()
    Manifest({}).write(tmp_path / "saved_models" / "manifest.json")
    save_flow(small_flow(), tmp_path / "run" / "model", **DETAILS)
    return tmp_path


def files(folder):
    """Everything below a folder, hidden files too."""
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def known():
    return Manifest.read(Path("saved_models/manifest.json")).models


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_published_model_has_a_complete_entry_and_comes_back(place):
    entry = publish.publish("run", "tiny", "a test")
    content = (place / "saved_models" / "tiny.safetensors").read_bytes()
    assert files(place / "saved_models") == ["manifest.json", "tiny.safetensors"]
    assert known() == {"tiny": json.loads(json.dumps(entry))}
    assert entry["sha256"] == sha256(content) and entry["bytes"] == len(content)
    assert entry["parameters"] == sum(parameter.numel() for parameter in small_flow().parameters())
    assert entry["purpose"] == "a test" and entry["licence"] == "MIT" and entry["builder"] == "simple"
    assert all(entry[key] == value for key, value in DETAILS.items())
    assert entry.get("weights", "float32") == "float32"
    flow = load_pretrained("tiny")
    for ours, theirs in zip(flow.state_dict().values(), small_flow().state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    digits = data.load("digits")
    for key, images in {
        "test_bits_per_dim": digits.test,
        "subset": digits.test[:: entry["subset"]["every"]],
        "check": digits.test[:16],
    }.items():
        score = metrics.evaluate(flow, images)
        assert (entry[key]["mean"], entry[key]["standard_error"]) == (score.mean, score.standard_error)
        assert (entry[key]["num_draws"], entry[key]["num_images"]) == (1, len(images))


def test_what_the_run_says_of_itself_does_not_replace_what_is_measured(place):
    lies = {"sha256": "0" * 64, "bytes": 1, "purpose": "another", "licence": "none", "parameters": 3}
    scores = {key: {"mean": 0.0} for key in ("test_bits_per_dim", "subset", "check")}
    weights.update_description("run", **lies, **scores)
    publish.publish("run", "tiny", "a test", licence="CC0")
    entry = known()["tiny"]
    assert entry["purpose"] == "a test" and entry["licence"] == "CC0"
    assert not any(entry[key] == value for key, value in {**lies, **scores}.items())
    assert "weights_sha256" not in entry
    assert load_pretrained("tiny").shape == (1, 8, 8)


def test_half_is_smaller_and_measured_as_it_is_stored(place):
    full, half = publish.publish("run", "full", "a test"), publish.publish("run", "half", "a test", half=True)
    assert half["bytes"] < 0.7 * full["bytes"] and half["weights"] == "float16"
    assert half["test_bits_per_dim"]["mean"] != full["test_bits_per_dim"]["mean"]
    score = metrics.evaluate(load_pretrained("half"), data.load("digits").test)
    assert half["test_bits_per_dim"]["mean"] == score.mean


def test_rounding_that_changes_bits_per_dim_is_refused(place, monkeypatch):
    monkeypatch.setattr(publish, "MOST_CHANGE", 0.0)
    before = files(place)
    with pytest.raises(ValueError, match=r"rounding the weights changes bits/dim by -?0\.\d{4}: publish"):
        publish.publish("run", "tiny", "a test", half=True)
    assert files(place) == before


def test_a_model_of_images_of_ones_own_has_no_test_set_to_be_scored_on(place):
    save_flow(small_flow(), place / "run" / "model", recipe={"data": None})
    with pytest.raises(ValueError, match="was not trained on a named data set, but on None"):
        publish.publish("run", "tiny", "a test")
    assert known() == {}


def test_another_model_under_the_name_replaces_it_and_leaves_the_others(place):
    publish.publish("run", "tiny", "a test")
    publish.publish("run", "other", "another test")
    before = known()["other"]
    save_flow(small_flow(seed=1), place / "run" / "model", **DETAILS)
    publish.publish("run", "tiny", "a better test")
    assert known()["tiny"]["purpose"] == "a better test" and known()["other"] == before
    assert torch.equal(next(load_pretrained("tiny").parameters()), next(small_flow(seed=1).parameters()))


def test_eight_megabytes_are_too_much(place, monkeypatch):
    assert publish.MOST_BYTES == 8_000_000
    size = len(weights.to_bytes(small_flow()))
    monkeypatch.setattr(publish, "MOST_BYTES", size)
    with pytest.raises(ValueError, match=rf"tiny would have {size} bytes, but .* less than {size}: .*--half"):
        publish.publish("run", "tiny", "a test")
    assert files(place / "saved_models") == ["manifest.json"] and known() == {}
    publish.publish("run", "tiny", "a test", half=True)
    monkeypatch.setattr(publish, "MOST_BYTES", size + 1)
    publish.publish("run", "tiny", "a test")


@pytest.mark.parametrize(
    "name", ["../tiny", "a/b", "Tiny", "tiny.safetensors", "", "upstream/tiny", "/tmp/tiny", "a b"]
)
def test_a_name_that_is_none_is_refused_before_anything_is_written(place, name):
    before = files(place)
    with pytest.raises(ValueError, match="is not a name of a model"):
        publish.publish("run", name, "a test")
    assert files(place) == before and known() == {}


def test_into_a_folder_that_is_not_there_yet(place, monkeypatch):
    monkeypatch.setattr(pretrained, "saved_models", lambda: place / "new")
    publish.publish("run", "tiny", "a test")
    assert files(place / "new") == ["manifest.json", "tiny.safetensors"]
    assert load_pretrained("tiny").shape == (1, 8, 8)


def test_what_the_manifest_says_besides_is_kept(place):
    file = place / "saved_models" / "manifest.json"
    content = {"format": 1, "base_url": "https://example.org", "news": 3, "models": {}}
    file.write_text(json.dumps(content))
    publish.publish("run", "tiny", "a test")
    written = json.loads(file.read_text())
    assert written.pop("models").keys() == {"tiny"} and content.pop("models") == {}
    assert written == content


@pytest.mark.parametrize(
    ("shape", "levels", "task", "context"),
    [
        ((1, 8, 8), 17, None, None),
        ((1, 28, 28), 256, None, None),
        ((3, 32, 32), 256, None, None),
        ((1, 8, 8), 17, {"name": "super-resolution", "factor": 2}, (1, 8, 8)),
        ((3, 32, 32), 256, {"name": "colorization"}, (1, 32, 32)),
        ((3, 32, 32), 256, {"name": "inpainting"}, (3, 32, 32)),
    ],
)
def test_sixteen_images_need_no_download_and_are_different_and_the_same_each_time(shape, levels, task, context):
    flow = simple((1, 8, 8), 17, num_couplings=1, hidden_channels=4, num_blocks=1)
    flow.shape = shape
    images, sources = cards.fixed_images(flow, task)
    assert images.shape == (16, *shape) and images.dtype == torch.uint8
    assert levels // 2 < images.max().item() < levels
    # Two patches of photographs are black, or nearly.
    assert len(images.flatten(1).unique(dim=0)) >= 15
    assert (sources is None) == (task is None)
    if task is not None:
        assert sources.shape == (16, *context) and sources.dtype == torch.uint8
    again, _ = cards.fixed_images(flow, task)
    assert torch.equal(images, again)


def test_images_of_another_size_have_no_check():
    flow = simple((1, 16, 16), 256, num_couplings=1, hidden_channels=4, num_blocks=1)
    with pytest.raises(ValueError, match=r"no images of shape \(1, 16, 16\) that need no download"):
        cards.fixed_images(flow)


# --- on the command line ----------------------------------------------------------------------------------------------


def test_publish_list_and_evaluate_work_together(place, capsys):
    words = ["--purpose", "lesson 99: a test", "--licence", "CC0", "--published", "1.020 (M = 8)"]
    assert publish.main(["run", "tiny", *words]) == 0
    entry = known()["tiny"]
    assert entry["published"] == "1.020 (M = 8)"
    mean, error, size = entry["test_bits_per_dim"]["mean"], entry["test_bits_per_dim"]["standard_error"], entry["bytes"]
    shown = capsys.readouterr().out
    assert f"tiny: {mean:.4f} ± {error:.4f} bits/dim (M = 1, 180 images), {size} bytes" in shown
    assert entry["licence"] == "CC0"
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"tiny +here +lesson 99: a test", shown)
    assert "upstream/uva-mnist-simple" in shown
    assert main(["list", "tiny"]) == 0
    assert f"{mean:.3f} ± {error:.3f} (M = 1)" in capsys.readouterr().out
    assert main(["evaluate", "tiny"]) == 0
    assert f"test images: {mean:.4f} ± {error:.4f} bits/dim (M = 1, 180 images)" in capsys.readouterr().out
    assert known() == {"tiny": entry}
    assert main(["evaluate", "tiny", "--record", "--num-draws", "3"]) == 0
    assert "recorded as test_bits_per_dim_3_draws" in capsys.readouterr().out
    recorded = known()["tiny"].pop("test_bits_per_dim_3_draws")
    assert (recorded["num_draws"], recorded["num_images"]) == (3, 180) and recorded["mean"] < mean
    assert {key: known()["tiny"][key] for key in entry} == entry
    assert not (place / "saved_models" / "tiny.json").exists()


def test_evaluate_records_anew_what_is_recorded_already(place, capsys):
    publish.publish("run", "tiny", "a test")
    manifest = Manifest.read(Path("saved_models/manifest.json"))
    right = dict(manifest.models["tiny"]["test_bits_per_dim"])
    manifest.models["tiny"]["test_bits_per_dim"]["mean"] = 7.0
    manifest.write(Path("saved_models/manifest.json"))
    assert main(["evaluate", "tiny", "--record"]) == 0
    assert known()["tiny"]["test_bits_per_dim"] == right


def test_half_is_an_option_of_the_command_line(place):
    assert publish.main(["run/model.safetensors", "tiny", "--purpose", "a test", "--half"]) == 0
    assert known()["tiny"]["weights"] == "float16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "../tiny", "--purpose", "a test"], "is not a name of a model"),
        (["nowhere", "tiny", "--purpose", "a test"], "nowhere.safetensors does not exist"),
    ],
)
def test_what_cannot_be_published_is_explained(place, capsys, arguments, message):
    assert publish.main([*arguments]) == 2
    assert message in capsys.readouterr().err
    assert known() == {}


def test_publish_says_where_it_writes_and_writes_only_into_a_clone(place, capsys, monkeypatch):
    folder = place / "saved_models"
    before = (folder / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert publish.main(["run", "tiny", "--purpose", "a test"]) == 2
    assert f"{folder} cannot be written to" in capsys.readouterr().err
    (place / ".git").rmdir()
    for arguments in (["run", "tiny", "--purpose", "a test"], ["--cards"]):
        assert publish.main(arguments) == 2
        assert f"{folder} is not in a git checkout; run the command in a clone" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before
    # A worktree has a file of this name.
    (place / ".git").write_text("gitdir: elsewhere")
    assert publish.main(["--cards"]) == 0
    assert capsys.readouterr().out.startswith("writing into saved_models\n")


def test_without_a_purpose_nothing_is_published(place, capsys):
    with pytest.raises(SystemExit):
        publish.main(["run", "tiny"])
    assert "--purpose" in capsys.readouterr().err
    assert known() == {}


# --- every published model --------------------------------------------------------------------------------------------

# The check's 16 images and their noise are the same everywhere, only the rounding of the networks is not: with other
# kernels (oneDNN off), with two threads and in float64, the means of all models here moved by at most 8e-7 (float64:
# 5e-7; November 2026). Ten times that: another machine's kernels pass, a changed constant in a layer does not.
ROUNDING = 1e-5


@pytest.fixture
def at_home(monkeypatch):
    """In the repository, without an address: what is not in saved_models/ is not found."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("NBFLOWS_PRETRAINED_URL", raising=False)


@cache
def loaded(name):
    """Once for both tests of a model."""
    return load_pretrained(name)


def test_all_files_together_are_small_enough_to_clone():
    sizes = {file.name: file.stat().st_size for file in (ROOT / "saved_models").rglob("*") if file.is_file()}
    assert sum(sizes.values()) < 80_000_000
    assert max(sizes.values()) < 8_000_000


def test_every_file_has_an_entry():
    # A model without one is never compared with its hash, and no name loads it. That of attributes is not a flow.
    found = {file.name for file in (ROOT / "saved_models").glob("*.safetensors")}
    assert found == {f"{name}.safetensors" for name in PUBLISHED} | {attributes.FILE}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_there_with_its_bytes(name):
    content = (ROOT / "saved_models" / f"{name}.safetensors").read_bytes()
    entry = PUBLISHED[name]
    assert len(content) == entry["bytes"] < publish.MOST_BYTES
    assert sha256(content) == entry["sha256"]


def is_score(score, num_draws=1, largest=8):
    """Says a score of M draws all that is needed to compare it?"""
    return (
        0 < score["mean"] < largest
        and 0 < score["standard_error"] < largest / 16
        and score["num_draws"] == num_draws
        and score["num_images"] > 1
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_says_what_it_is(name):
    entry = PUBLISHED[name]
    for key in ("purpose", "licence", "version", "data", "hardware", "precision"):
        assert isinstance(entry[key], str) and entry[key].strip(), key
    assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
    assert entry["seconds"] > 0 and entry["steps"] > 0 and entry["parameters"] > 0
    assert entry["builder"] in models.__all__ and entry["arguments"]
    # The name is that of a recipe: "nbflows train NAME" is one of the ways out where it cannot be had.
    recipe = recipes.get(name)
    assert entry["recipe"]["data"] == recipe.data in data.names()
    assert entry["recipe"]["builder"] == recipe.builder == entry["builder"]
    assert entry.get("task") == (recipe.objective.task and recipe.objective.task.describe())
    assert re.search(r"\d+/\d+/\d+ images", entry["data"])
    # Exact scores have no draws.
    num_draws = None if "pixelflow" in entry["builder"] else 1
    assert is_score(entry["test_bits_per_dim"], num_draws)
    assert is_score(entry["subset"], num_draws) and entry["check"]["num_images"] == 16
    # The 16 images are photographs, which are strange to a model of portraits.
    assert is_score(entry["check"], num_draws, largest=16 if recipe.data == "portraits" else 8)
    for key in entry:
        if draws := re.fullmatch(r"test_bits_per_dim_(\d+)_draws", key):
            assert is_score(entry[key], int(draws[1]))
            assert entry[key]["mean"] < entry["test_bits_per_dim"]["mean"]
            # An estimated log-determinant's own noise makes a mean of exponentials larger.
            assert "residual" not in entry["builder"]
    # The subset is a fair one: by chance, in four standard errors all but one in 16,000 are.
    deviation = abs(entry["subset"]["mean"] - entry["test_bits_per_dim"]["mean"])
    assert deviation < 4 * math.hypot(entry["subset"]["standard_error"], entry["test_bits_per_dim"]["standard_error"])


# Models of digits tell within a second what a change of the layers does; the larger ones are for `make test`.
@pytest.mark.parametrize(
    "name", [name if name.startswith("digits") else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
def test_a_published_model_is_still_the_same(name, at_home):
    flow, entry = loaded(name), PUBLISHED[name]
    assert sum(parameter.numel() for parameter in flow.parameters()) == entry["parameters"]
    score = metrics.evaluate(flow, *cards.fixed_images(flow, entry.get("task")))
    assert abs(score.mean - entry["check"]["mean"]) < ROUNDING
    assert abs(score.standard_error - entry["check"]["standard_error"]) < ROUNDING


def subset_of(name, step, folder):
    """Every ``step``-th test image of a data set; skips the test where it is not at hand."""
    if name == "mnist":
        images = mnist()
    elif name == "tiny-imagenet-32":
        images = few_of_tiny_imagenet(step, folder)
        step = 1
    elif name == "portraits":
        # The test images alone: drawing all takes ten times as long.
        drawn = portraits.draw(5000, first=55_000)[0]
        images = data.ImageData("portraits", "test images", drawn, drawn, drawn)
    else:
        images = data.load(name)
    labels = images.labels and {split: values[::step] for split, values in images.labels.items()}
    return replace(images, labels=labels, **{split: getattr(images, split)[::step] for split in data.SPLITS})


def few_of_tiny_imagenet(step, folder):
    """All of it takes minutes to decode: a folder of a few training images, and of every ``step``-th to test on."""
    whole = DATA / "tiny-imagenet-64"
    if not whole.is_dir():
        pytest.skip("Tiny ImageNet is not in data/: see data/README.md")
    for split, rows in (("train", slice(20)), ("val", slice(None, None, step))):
        for file in list(reading.find(whole / split)[0])[rows]:
            link = folder / file.relative_to(whole)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return data.load(folder, 32, root=folder.parent)


@cache
def test_data(name, step, folder):
    """Decoded once for all models."""
    return subset_of(name, step, folder)


test_data.__test__ = False


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "few"


@pytest.mark.slow  # Scores every published model.
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_reaches_what_the_manifest_says(name, at_home, few):
    flow, entry = loaded(name), PUBLISHED[name]
    images = test_data(entry["recipe"]["data"], entry["subset"]["every"], few)
    if "task" in entry:
        images = tasks.apply(tasks.get(**entry["task"]), images)
    assert len(images.test) == entry["subset"]["num_images"]
    score = metrics.evaluate(flow, *publish.subset(flow, images, 1))
    assert abs(score.mean - entry["subset"]["mean"]) < 2 * entry["subset"]["standard_error"]
    # The same images and noise: closer than that, unless an image file is decoded in another way.
    assert abs(score.mean - entry["subset"]["mean"]) < 0.01
