"""``make gpu`` where there is no GPU: every part runs, small, and all results are in one file."""

import json

import pytest
import torch

from nbflows.training import runs
from tools import gpu


@pytest.mark.slow  # Trains for some seconds, in a process of its own.
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: make gpu does it all")
def test_without_a_gpu_every_part_runs_small(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path), "--minutes", "0.4"]) == 0
    first = runs.read_checkpoint(tmp_path / "digits-glow" / "last.ckpt")["global_step"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tests"]["status"] == 0
    assert results["costs"]["Glow, 8x8 digits, float32"]["images per second"] > 0
    trained = results["trained"]["digits-glow"]
    assert trained["status"] == 0 and trained["says"].startswith("test: ")
    assert (tmp_path / "digits-glow" / "model.safetensors").is_file()
    assert "no GPU is here" in capsys.readouterr().out
    # The next one continues: its minutes are more than those before.
    trained = gpu.train_queue((("digits-glow", 1.0),), tmp_path, "cpu", end=0.0)
    assert trained["digits-glow"]["status"] == 0
    assert runs.read_checkpoint(tmp_path / "digits-glow" / "last.ckpt")["global_step"] > first


def test_a_part_that_fails_leaves_the_others_their_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "run_tests", lambda *arguments: {"status": 0, "summary": "1 passed"})
    monkeypatch.setattr(gpu, "costs", lambda *arguments: 1 / 0)
    monkeypatch.setattr(gpu, "train_queue", lambda *arguments: {"a": {"status": 0}})
    assert gpu.main(["--out", str(tmp_path)]) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["costs"] == {"error": "ZeroDivisionError: division by zero"}
    assert results["trained"] == {"a": {"status": 0}}


def test_a_model_of_the_queue_is_cut_off_when_no_time_is_left(tmp_path):
    assert gpu.train_queue((("digits-glow", 1.0),), tmp_path, "cuda", end=0.0) == {
        "digits-glow": {"status": 0, "says": "no time was left"}
    }
