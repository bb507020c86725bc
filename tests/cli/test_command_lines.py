"""Command lines by the hundred, right and wrong: none ends in a traceback, and what is wrong is said in one line."""

import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nbflows import models, pretrained, save_flow
from nbflows.cli import main
from tools import publish

NUMBERS = ["0", "-1", "nan", "inf", "-inf", "1e400", "99999999999999999999", "2.5", "", "x", "1", "2", "1,5", "0x1"]
OPTIONS = {
    "train": [
        *("--image-size", "--num-bits", "--max-minutes", "--max-steps", "--epochs", "--batch-size", "--lr", "--seed"),
        *("--devices", "--num-nodes", "--checkpoint-seconds"),
    ],
    "evaluate": [
        *("--image-size", "--num-bits", "--num-draws", "--limit", "--seed", "--num-samples", "--temperature"),
        "--quality-images",
    ],
    "sample": ["--image-size", "--num-samples", "--temperature", "--chunk-size", "--seed"],
    "translate": ["--num-samples", "--temperature", "--chunk-size", "--seed"],
}
# Enough to make a command complete.
BEGINNINGS = {
    "train": ["train", "digits-simple", "--no-progress"],
    "evaluate": ["evaluate", "good"],
    "sample": ["sample", "good", "out.png"],
    "translate": ["translate", "photo.png", "out.png", "--model", "good"],
}
# Zero is a time, a seed and a temperature.
ZERO_IS_FINE = {"--checkpoint-seconds", "--seed", "--temperature"}


def outcome(arguments, capsys):
    """Exit status and what stands on stderr; any exception but that of argparse fails the test."""
    capsys.readouterr()
    try:
        command, *rest = arguments or [""]
        status = publish.main(rest) if command == "publish" else main(arguments)
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a model, data, and files that are none."""
    published = pretrained.saved_models().resolve()
    monkeypatch.chdir(tmp_path)
    # What is published goes here, not into the package's.
    Path("saved_models").mkdir()
    for name in ("manifest.json", "digits-simple.safetensors", "digits-glow.safetensors"):
        shutil.copy(published / name, "saved_models")
    torch.manual_seed(0)
    save_flow(models.simple((1, 8, 8), 17, 2, 4, 1), "good/model", recipe={"data": "digits"})
    np.save("good.npy", np.random.default_rng(0).integers(0, 17, (40, 8, 8)).astype(np.uint8))
    from PIL import Image

    Image.fromarray(np.zeros((8, 8), np.uint8)).save("photo.png")
    for name, content in {"zero": b"", "text": b"hello", "cut": Path("good.npy").read_bytes()[:200]}.items():
        for suffix in ("npy", "npz", "pt", "png"):
            Path(f"{name}.{suffix}").write_bytes(content)
        for kind in ("json", "safetensors", "ckpt"):
            folder = Path(f"{name}-{kind}")
            save_flow(models.simple((1, 8, 8), 17, 2, 4, 1), folder / "model", recipe={"data": "digits"})
            if kind == "ckpt":
                (folder / "model.safetensors").unlink()
                (folder / "best.ckpt").write_bytes(content)
                (folder / "last.ckpt").write_bytes(content)
            else:
                (folder / f"model.{kind}").write_bytes(content)
    Path("empty").mkdir()
    for name, change in {
        "huge": {"num_couplings": 10**9},
        "wide": {"hidden_channels": 10**5},
        "odd": {"a": []},
    }.items():
        file = save_flow(models.simple((1, 8, 8), 17, 2, 4, 1), f"{name}/model").with_suffix(".json")
        known = json.loads(file.read_text())
        file.write_text(json.dumps({**known, "arguments": {**known["arguments"], **change}}))
    for name, known in {"no-task": {"task": {"name": "x"}}, "no-data": {"recipe": {"data": "x"}}, "null": {}}.items():
        save_flow(models.simple((1, 8, 8), 17, 2, 4, 1), f"{name}/model", **known)
    with zipfile.ZipFile("bomb.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}(X\x01\x00\x00\x00k" + b"N)" + b"2\x86" * 60 + b"u.")
    Path("header.safetensors").write_bytes(struct.pack("<Q", 2**40))
    return tmp_path


@pytest.mark.parametrize(("command", "option"), [(command, o) for command, all_of in OPTIONS.items() for o in all_of])
def test_every_numeric_option_has_a_range_that_is_checked_at_once(place, capsys, command, option):
    for number in NUMBERS:
        wrong = number not in ("1", "2", "2.5") and not (number == "0" and option in ZERO_IS_FINE)
        if wrong:
            status, error = outcome([*BEGINNINGS[command], option, number], capsys)
            assert status == 2, (option, number)
            assert error.strip().splitlines()[-1].startswith(f"nbflows {command}: error: argument {option}: ")
    assert not list(place.glob("runs")) and not list(place.glob("out.png"))


def _any_line(draw: random.Random) -> list[str]:
    """A command with some of everything, often wrong; what it could compute is kept small."""
    folders = [f"{name}-{kind}" for name in ("zero", "text", "cut") for kind in ("json", "safetensors", "ckpt")]
    strange = ["", ".", "/", "nope", "~nobody/x", "good/best.ckpt", "good/model.json", "a\0b", "x" * 300, "empty"]
    files = ["header.safetensors", "bomb.pt", "zero.pt", "text.pt", "photo.png", "upstream/nope"]
    own = ["huge", "wide", "odd", "no-task", "no-data", "null"]
    model = draw.choice(["good"] * 20 + [*folders, *strange, *files, *own])
    data = ["digits", "moons", "nowhere", "good.npy", "zero.npy", "zero.npz", "text.npy", "text.npz", "cut.npz"]
    data = draw.choice(["digits", "good.npy"] * 6 + [*data, "photo.png", "empty", "cut.npy", *strange])
    out = draw.choice(
        ["out.png"] * 4 + ["out.jpg", "out", "out.txt", "empty", "", "deep/er/out.png", "photo.png/x.png"]
    )
    command = draw.choice(
        ["train", "evaluate", "evaluate", "sample", "sample", "translate", "publish", "list", "lessons"]
    )
    line = {
        "train": [draw.choice(["digits-simple", "digits-simple", "nope", "moons-residual", "digits-joint", ""])],
        "evaluate": [model],
        "sample": [model, out],
        "translate": [draw.choice(["photo.png", "empty", *strange]), out, "--model", model],
        "publish": [model, draw.choice(["a-name", "A name", "../x", ""]), "--purpose", draw.choice(["p", ""])],
        "list": [draw.choice(["digits-glow", "digits-simple", "nope", "", "upstream/nope"])],
        "lessons": [draw.choice(["photo.png/x", "photo.png", "a\0b", "good.npy"])],
    }[command]
    line = [command, *line]
    if command == "train":
        # Never a whole training.
        line += ["--no-progress", "--max-steps", "1", "--out", draw.choice(["run", "run", "photo.png", *folders, ""])]
        line += draw.choice([[], [], ["--resume"], ["--start-from", model]])
    if command in ("train", "evaluate"):
        line += draw.choice([[], ["--data", data], ["--data", data], ["--sources", "empty"]])
    if command in ("evaluate", "sample"):
        line += draw.choice([[]] * 5 + [["--upstream"]])
    if command == "evaluate":
        line += ["--limit", "2", *draw.choice([[], ["--png", out], ["--task", "nope"], ["--record"]])]
    if command in ("evaluate", "sample", "translate", "train"):
        line += draw.choice([[]] * 9 + [["--device", draw.choice(["cpu", "cuda", "mps", "cuda:7", "x", ""])]])
    if command == "sample":
        line += ["--num-samples", "2"]
    for option in draw.sample(OPTIONS.get(command, []), k=draw.randrange(4) // 2 if command in OPTIONS else 0):
        if option not in line:
            line += [option, draw.choice(NUMBERS)]
    return line + draw.choice([[]] * 9 + [["--nonsense"]])


def _try(seeds, capsys):
    statuses = []
    for seed in seeds:
        line = _any_line(random.Random(seed))
        try:
            status, error = outcome(line, capsys)
        except BaseException as unexpected:
            raise AssertionError(f"seed {seed}: nbflows {' '.join(line)!r} ends in {unexpected!r}") from unexpected
        last = error.strip().splitlines()[-1:] or [""]
        assert status in (0, 2), (seed, line, status)
        assert "Traceback" not in error, (seed, line)
        if status == 2:
            assert last[0].startswith(("nbflows", "python -m tools.publish: ")) and 20 < len(last[0]) <= 2100, (
                seed,
                line,
                error,
            )
            explained = [row for row in error.splitlines() if row.startswith("nbflows: ")]
            assert len(explained) == 1 or ": error: " in last[0], (seed, line, error)
        statuses.append(status)
    return statuses


def test_a_sample_of_command_lines(place, capsys):
    statuses = _try(range(30), capsys)
    assert statuses.count(2) > 15 and 0 in statuses


@pytest.mark.parametrize(
    "line", ["train digits-simple --data", "evaluate good --data", "train digits-simple --out", "lessons", "evaluate"]
)
def test_an_empty_text_is_not_the_default(place, capsys, line):
    # What a shell makes of a variable that is not set.
    with pytest.raises(SystemExit) as stop:
        main([*line.split(), ""])
    assert stop.value.code == 2 and "it is empty" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow  # 400 commands take minutes.
def test_many_command_lines(place, capsys):
    _try(range(1000, 1400), capsys)


@pytest.fixture
def output(monkeypatch):
    """Makes a file the standard output, as a shell would; gives it back."""

    def set_to(file):
        monkeypatch.setattr(sys, "stdout", file)
        return file

    return set_to


# A bar of tqdm 4.66 whose first line fails is deleted with an error.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("command", [["list"], ["evaluate", "good", "--limit", "2"], ["--help"]])
def test_a_reader_that_stops_reading_is_no_error(place, output, capfd, command):
    reader, writer = os.pipe()
    os.close(reader)
    with output(open(writer, "w", encoding="utf-8")):
        try:
            status = main(command)
        except SystemExit as stop:
            status = stop.code
    assert status in (0, 141) and "nbflows:" not in capfd.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
@pytest.mark.parametrize("command", [["list"], ["list", "digits-glow"]])
def test_a_full_disk_under_the_output_is_one_line(place, output, capfd, command):
    with output(open("/dev/full", "w")):
        assert main(command) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and error.startswith("nbflows: [Errno 28]")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize(
    "command", [["list"], ["evaluate", "good", "--limit", "2"], ["evaluate", "nöpe…"], ["list", "\udcff"]]
)
def test_a_terminal_without_our_characters_gets_others(place, output, monkeypatch, encoding, command):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stderr", streams[1])
    status = main(command) if output(streams[0]) else None
    assert status == (0 if command[-1] in ("list", "2") else 2)
    assert b"Traceback" not in streams[1].buffer.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="bash and pipes")
@pytest.mark.slow  # A fresh process.
def test_a_shell_sees_no_error_of_a_reader_that_stops():
    command = f"{sys.executable} -m nbflows list | head -n 2; echo ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120)
    assert run.stderr == b"" and run.stdout.splitlines()[-1] in (b"0", b"141")
