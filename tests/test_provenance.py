"""A score is of the data that it says: runs know their data, and what uses them compares."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nbflows import data, pretrained, provenance, recipes, tasks, training
from nbflows.cli import main
from nbflows.data import SPLITS, ImageData
from nbflows.storage import weights
from nbflows.training import runs
from tools import publish

QUICK = ["--device", "cpu", "--precision", "32-true", "--no-progress", "--batch-size", "8", "--max-steps", "2"]


def _pictures(folder, seed, count=40, size=8, levels=256):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, levels, (count, size, size), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of digits-simple, trained on a folder of 40 pictures."""
    place = tmp_path_factory.mktemp("trained")
    _pictures(place / "mine", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "digits-simple", "--data", "mine", "--out", "run", *QUICK]) == 0
    return place


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A copy of it to work in, as if the folder had always been there."""
    shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    details = weights.describe("run")
    details["trained_on"]["origin"]["name"] = str(tmp_path / "place" / "mine")
    (tmp_path / "place" / "run" / "model.json").write_text(json.dumps(details))
    return tmp_path / "place"


def _images(seed=0, count=6, **changes):
    generator = torch.Generator().manual_seed(seed)
    parts = {s: torch.randint(17, (count, 1, 4, 4), generator=generator, dtype=torch.uint8) for s in SPLITS}
    return ImageData("some", "some images", **parts, num_grey_levels=17, **changes)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(SPLITS)), st.integers(0, 5), st.integers(0, 15), st.integers(1, 16), st.booleans())
def test_one_changed_value_anywhere_changes_the_fingerprint_and_nothing_else_does(split, image, place, by, swap):
    images = _images()
    before = provenance.fingerprint(images)
    changed = {s: getattr(images, s).clone() for s in SPLITS}
    if swap and image:
        # Another order of the same images is another training.
        changed[split][[0, image]] = changed[split][[image, 0]]
        different = not torch.equal(changed[split], getattr(images, split))
    else:
        flat = changed[split].view(6, -1)
        flat[image, place] = (flat[image, place] + by) % 17
        different = by % 17 != 0
    after = provenance.fingerprint(replace(images, **changed))
    assert provenance.same(before, after) is not different
    renamed = replace(images, name="other", variant="other", train=images.train.clone(), origin={"name": "x"})
    assert provenance.same(before, provenance.fingerprint(renamed))


def test_a_fingerprint_tells_form_labels_and_sources_apart():
    images, plain = _images(), provenance.fingerprint(_images())
    assert not provenance.same(plain, provenance.fingerprint(replace(images, num_grey_levels=256)))
    reshaped = {split: getattr(images, split).view(6, 1, 2, 8) for split in SPLITS}
    assert not provenance.same(plain, provenance.fingerprint(replace(images, **reshaped)))
    moved = {"train": images.train[:5], "validation": torch.cat([images.train[5:], images.validation])}
    assert not provenance.same(plain, provenance.fingerprint(replace(images, **moved)))
    # A view, and a copy of what it shows.
    every = replace(images, **{split: getattr(images, split)[::2] for split in SPLITS})
    copied = replace(images, **{split: getattr(images, split)[::2].clone() for split in SPLITS})
    assert provenance.fingerprint(every) == provenance.fingerprint(copied)
    pairs = [tasks.apply(tasks.get("inpainting", mask=mask), images) for mask in ("half", "square")]
    assert not provenance.same(*map(provenance.fingerprint, pairs))
    labels = [{split: torch.full((6,), n) for split in SPLITS} for n in (0, 1)]
    labelled = [provenance.fingerprint(replace(images, labels=each), labelled=True) for each in labels]
    assert not provenance.same(*labelled) and not provenance.same(labelled[0], plain)
    assert not provenance.same(labelled[0], provenance.like(labelled[0], images))
    assert provenance.same(
        plain, provenance.like(plain, replace(images, labels={s: torch.ones(6).long() for s in SPLITS}))
    )


@pytest.mark.parametrize("name", ["digits", "moons"])
def test_what_a_fingerprint_names_is_loaded_again(name):
    known = provenance.fingerprint(data.load(name))
    known = json.loads(json.dumps(known))
    assert provenance.same(known, provenance.fingerprint(provenance.load(known, "a model")))


def test_points_that_are_no_longer_those_of_their_name_are_other_points():
    moons = data.load("moons")
    known = provenance.fingerprint(moons)
    # As another processor rounds them.
    nearly = {split: getattr(moons, split) * (1 + 2**-22) for split in SPLITS}
    assert provenance.same(known, provenance.fingerprint(replace(moons, **nearly)))
    one = moons.test.clone()
    one[77, 1] += 1e-3
    others = [
        replace(moons, train=moons.train * 3 + 5),
        replace(moons, train=moons.train.flip(0)),
        replace(moons, validation=moons.validation[:-1]),
        replace(moons, test=one),
        replace(moons, **{split: getattr(moons, split).double() for split in SPLITS}),
        replace(data.load("circles"), origin=moons.origin),
        replace(moons, train=moons.test, origin={}),
    ]
    found = [provenance.fingerprint(each) for each in others]
    assert not any(provenance.same(known, each) for each in found)
    assert len({each["content"] for each in found}) == len(found)
    assert provenance.fingerprint(others[0]) == found[0]


def test_pairs_reduced_images_and_resized_folders_are_loaded_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _pictures(tmp_path / "a", 1, size=12)
    _pictures(tmp_path / "b", 2, size=12)
    for found in (
        data.load("a", 8, num_bits=5),
        data.load("a", (8, 6)),
        tasks.load_pairs("a", "b", 8),
        tasks.apply(tasks.get("inpainting"), data.load("a", 8)),
    ):
        known = json.loads(json.dumps(provenance.fingerprint(found)))
        monkeypatch.chdir("/")
        details = {"trained_on": known, **({"task": found.task} if hasattr(found, "task") else {})}
        assert provenance.same(known, provenance.fingerprint(provenance.training_data(details, "a model")))
        monkeypatch.chdir(tmp_path)


def test_a_run_is_scored_on_its_own_data(place, capsys):
    assert main(["evaluate", "run"]) == 0
    score = weights.describe("run")["test_bits_per_dim"]["mean"]
    assert weights.describe("run")["recipe"]["data"] is None
    printed = capsys.readouterr().out
    assert "images of folder mine, 8x8, 33/3/4 images; test images: " in printed and f"{score:.4f}" in printed
    assert main(["evaluate", "run", "--record"]) == 0
    assert weights.describe("run")["test_bits_per_dim"]["mean"] == pytest.approx(score, abs=1e-6)


def test_the_score_of_other_data_is_named_and_never_recorded(place, capsys):
    _pictures(place / "theirs", 5)
    before = (place / "run" / "model.json").read_text()
    assert main(["evaluate", "run", "--data", "theirs"]) == 0
    printed = capsys.readouterr().out
    assert "other data than the model was trained on: images of folder mine, 8x8" in printed
    assert main(["evaluate", "run", "--data", "theirs", "--record"]) == 2
    assert (
        "images of folder mine, 8x8, 33/3/4 images (256 grey levels), against images of folder theirs"
        in capsys.readouterr().err
    )
    # Another picture under the same name.
    shutil.copy(place / "theirs" / "007.png", place / "mine" / "007.png")
    for record in ([], ["--record"]):
        assert main(["evaluate", "run", *record]) == 2
        assert "run was trained on other data than are there now: images of folder mine" in capsys.readouterr().err
    shutil.rmtree(place / "mine")
    assert main(["evaluate", "run", "--record"]) == 2
    assert "is no longer there: give its place with --data" in capsys.readouterr().err
    assert (place / "run" / "model.json").read_text() == before


@pytest.mark.parametrize("there", ["others", "none"])
def test_other_labels_are_other_data(place, capsys, there):
    images = data.load("mine")
    rows = {split: len(getattr(images, split)) for split in SPLITS}
    labels = {split: np.arange(count) % 3 for split, count in rows.items()}

    def write(labels):
        arrays = {split: getattr(images, split).numpy()[:, 0] for split in SPLITS}
        np.savez("mine.npz", **arrays, **{f"{split}_labels": part for split, part in labels.items()})

    write(labels)
    details = weights.describe("run")
    details["trained_on"] = provenance.fingerprint(data.load("mine.npz"), labelled=True)
    (place / "run" / "model.json").write_text(json.dumps(details))
    assert main(["evaluate", "run", "--data", "mine.npz", "--record"]) == main(["evaluate", "run"]) == 0
    assert "other data" not in capsys.readouterr().out
    before = (place / "run" / "model.json").read_text()
    labels["test"] = labels["test"][::-1]
    write(labels if there == "others" else {})
    assert main(["evaluate", "run"]) == 2
    assert "the same images with other labels" in capsys.readouterr().err
    assert main(["evaluate", "run", "--data", "mine.npz"]) == 0
    assert "the same images with other labels" in capsys.readouterr().out
    assert main(["evaluate", "run", "--data", "mine.npz", "--record"]) == 2
    assert (place / "run" / "model.json").read_text() == before


def test_data_that_moved_are_the_same_data(place, capsys):
    (place / "mine").rename(place / "moved")
    assert main(["evaluate", "run", "--data", "moved", "--record"]) == 0
    printed = capsys.readouterr().out
    assert "recorded as test_bits_per_dim" in printed and "other data" not in printed
    more = [*QUICK[:-1], "4", "--out", "run", "--resume", "--data", "moved"]
    assert main(["train", "digits-simple", *more]) == 0
    assert weights.describe("run")["trained_on"]["origin"]["name"] == str(place / "moved")


def test_a_resumed_run_takes_its_own_data_and_refuses_others(place, capsys):
    resume = ["train", "digits-simple", *QUICK[:-4], "--max-steps", "4", "--out", "run", "--resume"]
    # The checkpoint was written where the folder was first.
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    checkpoint["run"]["data"]["origin"]["name"] = str(place / "mine")
    for name in ("last.ckpt", "best.ckpt"):
        runs.write_checkpoint(checkpoint, place / "run" / name)
    untouched = {file.name: file.read_bytes() for file in (place / "run").glob("*.*")}
    _pictures(place / "theirs", 5)
    np.save("five.npy", np.zeros((40, 8, 8), np.uint8))
    for others in ("theirs", "digits", "five.npy"):
        assert main([*resume, "--data", others]) == 2
        error = capsys.readouterr().err
        assert "the run in run is of other data: images of folder mine, 8x8, 33/3/4 images" in error
        assert data.load(others).variant in error and "--start-from run" in error
    assert {file.name: file.read_bytes() for file in (place / "run").glob("*.*")} == untouched
    # The batch size too is the run's, where it is not given.
    assert main(resume) == 0
    assert "data: images of folder mine, 8x8, 33/3/4 images" in capsys.readouterr().out
    details = weights.describe("run")
    assert details["steps"] == 4 and details["recipe"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "5"], "seed is 42 there and 5 here"),
        (["--batch-size", "16"], "batch_size is 8 there and 16 here"),
    ],
)
def test_a_run_is_not_resumed_with_what_would_change_its_meaning(place, capsys, options, message):
    resume = ["train", "digits-simple", *QUICK[:-4], "--max-steps", "4", "--out", "run", "--resume", "--data", "mine"]
    assert main([*resume, *options]) == 2
    assert message in capsys.readouterr().err
    assert main(["train", "digits-variational", *resume[2:]]) == 2
    error = capsys.readouterr().err
    assert (
        "the run in run is of another recipe: builder is 'digits_simple' there and 'digits_variational' here" in error
    )
    assert len(error) < 500


def test_a_resume_does_not_pass_over_a_size_or_depth_of_its_data(place, capsys):
    start = ["train", "digits-simple", *QUICK, "--out", "small"]
    resume = ["train", "digits-simple", *QUICK[:-1], "3", "--resume", "--out"]
    assert main([*start, "--data", "mine", "--image-size", "6", "--num-bits", "5"]) == 0
    for run, options, said in (
        ("small", ["--image-size", "16"], "the run in small keeps its data, whose --image-size is 6x6"),
        ("small", ["--num-bits", "8"], "whose --num-bits is 5: leave it away"),
        ("small", ["--image-size", "6", "--num-bits", "4"], "whose --num-bits is 5"),
        ("run", ["--image-size", "8"], "whose --image-size is as its files are"),
        ("run", ["--num-bits", "5"], "whose --num-bits is 8"),
    ):
        # The checkpoint was written where the folder was first.
        checkpoint = torch.load(f"{run}/last.ckpt", weights_only=True)
        checkpoint["run"]["data"]["origin"]["name"] = str(place / "mine")
        runs.write_checkpoint(checkpoint, place / run / "last.ckpt")
        assert main([*resume, run, *options]) == 2
        assert said in capsys.readouterr().err
    assert main(["evaluate", "small", "--num-bits", "8"]) == 2
    assert "give --data too" in capsys.readouterr().err
    # The first command with --resume in it.
    assert main([*resume, "small", "--image-size", "6", "--num-bits", "5"]) == 0
    assert weights.describe("small")["steps"] == 3


def test_no_picture_of_a_run_becomes_its_data(place):
    run = shutil.copytree(place / "run", place / "mine" / "run")
    assert (run / "training_curve.png").exists() and list(run.glob("samples/*.png"))
    with pytest.warns(UserWarning, match=r"training_curve.png: a sheet of pictures that nbflows drew"):
        found = data.load("mine")
    assert sum(len(getattr(found, split)) for split in SPLITS) == 40


def test_what_may_change_is_said(place, capsys):
    resume = ["train", "digits-simple", *QUICK[:-4], "--out", "run", "--resume", "--data", "mine"]
    assert main([*resume, "--lr", "0.0005", "--precision", "bf16-mixed", "--max-steps", "3"]) == 0
    printed = capsys.readouterr().out
    assert "resuming with learning_rate 0.0005 (before: 0.001), precision 'bf16-mixed' (before: '32-true')" in printed


def test_starting_from_a_model_of_other_data_says_so_and_keeps_it(place, capsys):
    start = ["train", "digits-simple", *QUICK, "--start-from", "run", "--out"]
    assert main([*start, "same", "--data", "mine"]) == 0
    assert "of other data" not in capsys.readouterr().out
    _pictures(place / "theirs", 5)
    assert main([*start, "other", "--data", "theirs"]) == 0
    said = "run was trained on images of folder mine, 8x8, 33/3/4 images, this training is on images of folder theirs"
    assert said in capsys.readouterr().out
    assert weights.describe("other")["started_from"]["data"].startswith("images of folder mine")
    # The shapes of all weights fit; what they say of a pixel does not.
    assert main([*start, "levels", "--data", "digits"]) == 2
    assert "for images of 256 grey levels, these have 17" in capsys.readouterr().err
    assert not (place / "levels").exists()


def test_training_says_first_what_it_loaded_and_what_it_passed_over(place, capsys):
    for name in ("a.heic", "b.heic", "notes.xyz"):
        (place / "mine" / name).write_bytes(b"x")
    assert main(["train", "digits-simple", *QUICK, "--data", "mine", "--out", "new"]) == 0
    # After the bar of reading.
    first, second, *_ = capsys.readouterr().out.partition("data: ")[2].splitlines()
    assert first == "images of folder mine, 8x8, 33/3/4 images"
    assert ".heic" in second and "3 files" in second


def test_a_run_of_ones_own_data_is_not_published_as_one_of_the_recipes(place, capsys):
    (place / ".git").mkdir()
    assert publish.main(["run", "mine", "--purpose", "a test"]) == 2
    assert "was not trained on a named data set, but on '" in capsys.readouterr().err
    assert not (place / "saved_models").exists()


def test_a_run_of_an_earlier_version_is_not_scored_on_the_recipes_data(place, capsys):
    details = weights.describe("run")
    del details["trained_on"]
    details["recipe"]["data"] = "digits"
    (place / "run" / "model.json").write_text(json.dumps(details))
    assert main(["evaluate", "run"]) == 2
    assert "run was trained on images of folder mine, 8x8, 33/3/4 images, not on digits" in capsys.readouterr().err
    assert publish.main(["run", "mine", "--purpose", "a test"]) == 2
    assert "not on digits" in capsys.readouterr().err
    assert main(["evaluate", "run", "--data", "mine"]) == 0


@pytest.mark.parametrize(
    "damage",
    [
        {"trained_on": 5},
        {"trained_on": {}, "recipe": 5},
        {"trained_on": {}, "recipe": {"data": [1]}},
        {"trained_on": {}, "recipe": None},
        {"trained_on": {"origin": {}}},
        {"trained_on": {"origin": []}},
        {"trained_on": {"origin": {"name": 5}, "variant": "v", "shape": [1], "num_levels": 2, "content": ""}},
        {"trained_on": {"origin": {"sources": 1}, "variant": "v", "shape": [1], "num_levels": 2, "content": ""}},
        {"trained_on": {"origin": {"name": "digits", "num_bits": "x"}, "variant": "v", "shape": [], "num_levels": 2}},
        {"task": 5},
        {"task": {"mask": "half"}},
        {"task": {"name": []}},
    ],
    ids=str,
)
def test_damaged_descriptions_are_explained(place, capsys, damage):
    (place / "run" / "model.json").write_text(json.dumps({**weights.describe("run"), **damage}))
    assert main(["evaluate", "run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nbflows: ") and error.count("\n") == 1


def test_models_and_data_of_another_kind_are_refused_before_anything_is_written(tmp_path):
    options = {"progress": False, "device": "cpu", "max_steps": 1, "precision": "32-true"}
    for name, other in (("moons-residual", "digits"), ("digits-simple", "moons")):
        with pytest.raises(ValueError, match=r"is not for (points|images) such as"):
            training.train(replace(recipes.get(name), batch_size=8), data.load(other), tmp_path / "run", **options)
    with pytest.raises(ValueError, match=r"expected a batch of \(1, 8, 8\), the examples of some are \(1, 4, 4\)"):
        flow = pretrained.load("digits-simple")
        recipe = replace(recipes.get("digits-simple"), batch_size=2)
        training.train(recipe, _images(), tmp_path / "run", flow=flow, **options)
    for recipe, images in (("digits-simple", None), (recipes.get("digits-simple"), torch.zeros(40, 1, 8, 8))):
        with pytest.raises(TypeError, match=r"as (recipes.get|data.load)"):
            training.train(recipe, images, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
