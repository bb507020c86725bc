"""The command line: what a newcomer types, and what they read when it goes wrong."""

import re
import subprocess
import sys

import pytest
import torch

from nbflows import __version__, load_flow, models, pretrained, save_flow
from nbflows.cli import main
from nbflows.cli.options import print_table
from nbflows.storage import weights
from nbflows.storage.manifest import Manifest, sha256
from tests.reference_data import uva_checkpoint


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """The working directory, with a model of digits in its saved_models/."""
    monkeypatch.chdir(tmp_path)
    bits = {"mean": 3.0, "standard_error": 0.1, "num_draws": 1, "num_images": 180}
    details = {"recipe": {"data": "digits"}, "data": "digits, 8x8", "test_bits_per_dim": bits}
    file = save_flow(models.digits_simple(), "saved_models/tiny", **details)
    known = {"sha256": sha256(file.read_bytes()), "bytes": file.stat().st_size, "purpose": "a test", "licence": "MIT"}
    Manifest({"tiny": {**known, **weights.describe(file)}}).write(tmp_path / "saved_models" / "manifest.json")
    return tmp_path


def test_train_evaluate_sample_and_list_work_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--max-steps", "2", "--batch-size", "16", "--lr", "0.001", "--seed", "1", "--device", "cpu"]
    assert main(["train", "digits-simple", "--out", "run", "--no-progress", *options]) == 0
    assert re.search(r"test: \d\.\d{4} ± \d\.\d{4} bits/dim \(M = 1, 180 images\)", capsys.readouterr().out)
    assert main(["evaluate", "run", "--num-draws", "2", "--limit", "20"]) == 0
    assert re.search(r"the first 20 test images: .* \(M = 2, 20 images\)", capsys.readouterr().out)
    assert main(["sample", "run", "few.png", "--num-samples", "4", "--temperature", "0.7"]) == 0
    assert (tmp_path / "few.png").stat().st_size > 0
    assert main(["list"]) == 0
    assert "mnist-multiscale" in capsys.readouterr().out


def test_evaluate_records_a_score_beside_the_model(saved, capsys):
    assert main(["evaluate", "tiny", "--num-draws", "2", "--record"]) == 0
    assert "recorded as test_bits_per_dim_2_draws" in capsys.readouterr().out
    score = pretrained.describe("tiny")["test_bits_per_dim_2_draws"]
    assert score["num_images"] == 180 and score["num_draws"] == 2 and 0 < score["mean"] < 10
    assert pretrained.describe("tiny")["test_bits_per_dim"]["mean"] == 3.0


def test_saved_models_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.load_pretrained("digits-simple").shape == (1, 8, 8)


def test_samples_in_several_passes_are_the_same_picture_and_show_a_bar(saved, capsys):
    assert main(["sample", "tiny", "whole.png", "--num-samples", "9"]) == 0
    assert "sampling" not in capsys.readouterr().out
    assert main(["sample", "tiny", "parts.png", "--num-samples", "9", "--chunk-size", "4"]) == 0
    assert re.search(r"sampling: +100%.*3/3", capsys.readouterr().out)
    assert (saved / "parts.png").read_bytes() == (saved / "whole.png").read_bytes()


def test_list_of_a_name_shows_its_score_with_error_bars_and_draws(saved, capsys):
    assert main(["list", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^model +a test$", shown, re.M) and re.search(r"^data +digits, 8x8$", shown, re.M)
    assert re.search(r"^bits/dim +3.000 ± 0.100 \(M = 1\)$", shown, re.M)
    assert main(["evaluate", "tiny", "--num-draws", "2", "--record"]) == 0
    capsys.readouterr()
    main(["list", "tiny"])
    assert re.search(
        r"^bits/dim +3.000 ± 0.100 \(M = 1\), \d\.\d{3} ± \d\.\d{3} \(M = 2\)$", capsys.readouterr().out, re.M
    )


def test_list_of_a_name_shows_a_recipe_and_says_whether_its_model_is_published(saved, capsys):
    assert main(["list", "digits-simple"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^schedule +600 epochs, batches of 128, Adam at 0.001$", shown, re.M)
    assert re.search(r"^model +none is published; the recipe trains one$", shown, re.M)


def test_a_table_is_printed_without_tabulate_too(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tabulate", None)
    print_table([("a", "1.0"), ("b", "2.0")], ["picture", "psnr"])
    assert capsys.readouterr().out == "picture\tpsnr\na\t1.0\nb\t2.0\n"


def test_a_model_is_evaluated_on_other_data_of_the_same_shape(saved, capsys):
    import numpy as np

    np.save("mine.npy", np.zeros((40, 8, 8), np.uint8))
    assert main(["evaluate", "tiny", "--data", "mine.npy"]) == 0
    assert "arrays of mine.npy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nope"], "no recipe named 'nope'; known: digits-simple"),
        (["train", "digits-simple", "--data", "nowhere"], "known: cifar10"),
        (["train", "digits-simple", "--resume", "--out", "x"], "nothing to resume"),
        (["train", "digits-simple", "--batch-size", "5000"], "batch_size 5000 does not fit 1437"),
        (["evaluate", "nope"], "available: tiny"),
        (["list", "nope"], "no recipe and no model named 'nope'; nbflows list shows them all"),
        (["evaluate", "tiny", "--limit", "9", "--record"], "--record is for a model of ours on all test images"),
        (["evaluate", "tiny", "--data", "photo-patches"], "expected a batch of (1, 8, 8)"),
        (["sample", "tiny", "--temperature", "1", "2"], "has 1"),
        (["sample", "tiny", "--image-size", "16"], "whatever --image-size says"),
        (["evaluate", "tiny", "--temperature", "1"], "are for models that make images of images"),
        (["evaluate", "saved_models/tiny.ckpt"], "give the folder, saved_models"),
        (["evaluate", "saved_models/tinny"], "did you mean 'tiny'"),
        (["evaluate", "nope.ckpt", "--upstream"], "no checkpoint nope.ckpt"),
    ],
)
def test_what_goes_wrong_is_explained_without_a_stack_trace(saved, capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_an_unknown_option_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "digits-simple", "--epoch-count", "3"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "unknown: --epoch-count 3" in error
    assert "--max-minutes" in error


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["sample"], ["list"]])
def test_help_explains_every_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: nbflows" in capsys.readouterr().out


def test_it_runs_as_a_module():
    run = [sys.executable, "-m", "nbflows", "--version"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip() == f"nbflows {__version__}"


def test_the_tutorials_checkpoints_are_sampled_by_name(tmp_path):
    checkpoint = str(uva_checkpoint("MNISTFlow_simple.ckpt"))
    assert main(["sample", checkpoint, str(tmp_path / "a.png"), "--upstream", "--num-samples", "2"]) == 0
    assert (tmp_path / "a.png").exists()


def test_a_saved_flow_loads_with_the_same_weights(saved):
    flow = pretrained.load_pretrained("tiny")
    assert not flow.training
    again = load_flow(saved / "saved_models" / "tiny.safetensors")
    for a, b in zip(flow.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_files_that_do_not_belong_together_are_an_error(saved):
    file = saved / "saved_models" / "tiny.json"
    file.write_text(file.read_text().replace("digits_simple", "digits_variational"))
    with pytest.raises(ValueError, match="not those of its builder"):
        load_flow(file)
    file.write_text(file.read_text().replace("digits_variational", "os.system"))
    with pytest.raises(ValueError, match=r"unknown builder 'os.system'"):
        load_flow(file)
