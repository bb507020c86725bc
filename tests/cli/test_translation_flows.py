"""The command line on models from image to image: train, evaluate, and what is refused."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

from nbflows import data, quality, recipes, tasks
from nbflows.cli import main, train
from nbflows.data import PairData
from nbflows.storage import weights
from tests.flows import random_caflow, random_images
from tests.reference_data import reference

SHORT = ["--max-steps", "2", "--batch-size", "16", "--device", "cpu", "--no-progress", "--precision", "32-true"]
FEW = ["--num-samples", "3", "--temperature", "0.7", "--quality-images", "5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", "digits-dual-glow-super-resolution", "--out", str(folder), *SHORT]) == 0
    return folder


def test_a_run_is_evaluated_with_a_table_of_pictures_beside_the_baseline(run, capsys):
    assert json.loads((run / "model.json").read_text())["task"] == {"name": "super-resolution", "factor": 2}
    assert main(["evaluate", str(run), "--limit", "12", *FEW]) == 0
    out = capsys.readouterr().out
    assert "super-resolution x2 by bicubic interpolation; the first 12 test images: " in out
    assert "3 samples at temperature 0.7 for 5 test images:" in out
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(("baseline", "sample", "best", "mean"))]
    assert rows == ["baseline", "sample", "best", "mean"]


def test_what_is_measured_is_recorded_beside_the_model(run):
    assert main(["evaluate", str(run), "--record", *FEW]) == 0
    recorded = weights.describe(run)
    assert recorded["test_bits_per_dim"]["num_images"] == 180
    table = recorded["quality"]
    assert (table["num_samples"], table["temperature"]) == (3, 0.7)
    images = data.load("digits").test[:5]
    bicubic = quality.psnr(tasks.SuperResolution(2).pair(images, 17)[0], images, 17)
    assert table["baseline"]["psnr"]["mean"] == pytest.approx(bicubic.mean().item())
    assert table["sample"]["psnr"]["num_images"] == 5


def test_samples_in_several_passes_are_the_same_pictures_and_show_a_bar(run, tmp_path, capsys):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "in.png")
    pictures = []
    for chunk_size in (256, 2):
        out = tmp_path / f"{chunk_size}" / "out.png"
        arguments = [str(tmp_path / "in.png"), str(out), "--model", str(run), "--num-samples", "5"]
        assert main(["translate", *arguments, "--chunk-size", str(chunk_size)]) == 0
        assert ("sampling" in capsys.readouterr().out) == (chunk_size == 2)
        pictures.append([file.read_bytes() for file in sorted(out.parent.iterdir())])
    assert len(pictures[0]) == 6 and pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "RUN", "--png", "x.png"], "nbflows translate draws this one's pictures"),
        (["evaluate", "RUN", "--task", "inpainting"], "this model's task is super-resolution"),
        (["sample", "RUN"], "needs a source image: use nbflows translate"),
        (["train", "edges2shoes-caflow"], "edges2shoes-caflow is trained on images of your own"),
        (["train", "digits-caflow-super-resolution", "--sources", "x"], "the targets' folder as --data"),
        (["train", "digits-simple", "--sources", "x", "--data", "y"], "--sources is for recipes of a task"),
        (["evaluate", "RUN", "--sources", "x"], "the targets' folder as --data"),
    ],
)
def test_what_does_not_go_is_explained(run, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(run) if word == "RUN" else word for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_pairs_in_two_folders_are_trained_on_and_evaluated(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for folder in ("sources", "targets"):
        (tmp_path / folder).mkdir()
        for i in range(40):
            image = Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8))
            image.save(tmp_path / folder / f"{i}.png")
    folders = ["--data", str(tmp_path / "targets"), "--sources", str(tmp_path / "sources")]
    out = tmp_path / "run"
    assert main(["train", "mnist-dual-glow-inpainting", "--out", str(out), *folders, *SHORT]) == 0
    assert weights.describe(out)["task"] == {"name": "side-by-side"}
    capsys.readouterr()
    assert main(["evaluate", str(out), *folders, *FEW]) == 0
    assert "pairs of folders sources and targets, 8x8, 33/3/4 images; test images: " in capsys.readouterr().out
    # Its own data, not the recipe's.
    assert main(["evaluate", str(out), *FEW]) == 0
    assert "pairs of folders sources and targets, 8x8, 33/3/4 images; test images: " in capsys.readouterr().out


def test_images_side_by_side_are_resized_to_twice_the_width(tmp_path):
    for i in range(20):
        left, right = np.full((16, 16), 255, np.uint8), np.full((16, 16), i, np.uint8)
        Image.fromarray(np.hstack([left, right])).save(tmp_path / f"{i}.png")
    options = argparse.Namespace(
        recipe="edges2shoes-caflow", data=str(tmp_path), sources=None, image_size=8, num_bits=8
    )
    recipe = recipes.get("edges2shoes-caflow")
    pairs = recipe.objective.prepare(train._training_data(options, recipe))
    assert isinstance(pairs, PairData) and pairs.shape == (1, 8, 8)
    assert (pairs.sources["train"] == 255).all() and (pairs.train < 20).all()


def test_the_authors_checkpoint_is_evaluated_for_a_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arrays = reference("caflow_full_3scales_shared.npz")
    state = {key[6:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("state/")}
    torch.save({"state_dict": state}, "last.ckpt")
    np.savez(
        "grey.npz",
        train=np.zeros((2, 16, 16), np.uint8),
        test=np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8),
        validation=np.zeros((2, 16, 16), np.uint8),
    )
    command = ["evaluate", "--upstream", "last.ckpt", "--data", "grey.npz"]
    assert main([*command, "--task", "inpainting", *FEW]) == 0
    out = capsys.readouterr().out
    assert "psnr_pasted" in out and "ssim" in out
    assert main(command) == 2
    assert "say how with --task" in capsys.readouterr().err


def test_the_rows_of_the_quality_table_are_what_they_say():
    flow = random_caflow((1, 16, 16), dtype=torch.float32)
    images = random_images(6, flow.shape)
    task = tasks.Inpainting()
    pairs = PairData(
        "noise", "noise", images, images, images,
        sources=dict.fromkeys(("train", "validation", "test"), task.pair(images)[0]),
        known=task.known(16, 16), task=task.describe(),
    )  # fmt: skip
    before = torch.get_rng_state()
    table = quality.translations(flow, pairs, num_samples=4, temperature=0.5, num_images=5, chunk_size=5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    answers = flow.translate(pairs.sources["test"][:5], 4, 0.5)
    expected = {
        "baseline": task.baseline(pairs.sources["test"][:5], 1),
        "sample": answers.images[:, 0],
        "best": answers.best(),
        "mean": answers.images.float().mean(1).round().byte(),
    }
    for name, pictures in expected.items():
        pasted = task.paste(pictures, pairs.sources["test"][:5])
        assert table[name]["rmse"].mean == pytest.approx(quality.rmse(pictures, images[:5]).mean().item())
        assert table[name]["rmse_pasted"].mean == pytest.approx(quality.rmse(pasted, images[:5]).mean().item())
    assert table["sample"]["diversity"].mean == pytest.approx(quality.diversity(answers.images).mean().item())
