"""A run is never lost: kills at every step, chains of resumes, signals, damaged files, two trainings in one folder."""

import contextlib
import csv
import os
import pickle
import shutil
import signal
import tempfile
import zipfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from nbflows import Flow, Sequential, data, files, load_flow, recipes, training
from nbflows.data import ImageData
from nbflows.layers import ActNorm, AffineCoupling, Dequantize, checkerboard
from nbflows.nets import ConvNet
from nbflows.storage import weights
from nbflows.training import fit, runs, steps
from nbflows.training.callbacks import SIGNALS
from tests.interrupt import Killed, kill_chains

# Three batches an epoch, a validation after each second epoch.
RECIPE = recipes.Recipe(
    "a small one", "digits", "digits_simple", batch_size=8, epochs=4, warmup_steps=2, validate_every=2, seed=3
)
STEPS = 12


@pytest.fixture(scope="module")
def digits():
    full = data.load("digits")
    return ImageData("digits", "few digits", full.train[:26], full.validation[:10], full.test[:10], 17)


def _flow():
    torch.manual_seed(0)
    return Flow(Sequential(Dequantize(17), ActNorm(1), AffineCoupling(ConvNet(1, 4, 2), checkerboard(8, 8))), (1, 8, 8))


def _train(digits, out, **options):
    settings = {"precision": "32-true", "device": "cpu", "progress": False, "flow": _flow(), "checkpoint_seconds": 0}
    return training.train(options.pop("recipe", RECIPE), digits, out=out, **settings | options)


def _end(result, orders):
    last = torch.load(result.out / "last.ckpt", weights_only=True)
    averaged = {name: tensor.clone() for name, tensor in result.flow.state_dict().items()}
    return {
        "weights": last["current_model_state"],
        "best": averaged,
        "test": result.test,
        "log": (result.out / "log" / "metrics.csv").read_text(),
        "order": orders,
    }


def _watch(patch):
    """The images of each step, by its number: what the last attempt at it was trained on."""
    orders = {}
    step = steps.FlowModule.training_step

    def watched(module, batch, batch_index):
        orders[module.trainer.global_step] = batch.sum((1, 2, 3)).tolist()
        return step(module, batch, batch_index)

    patch.setattr(steps.FlowModule, "training_step", watched)
    return orders


@pytest.fixture
def seen(monkeypatch):
    return _watch(monkeypatch)


# The moments at which a process may end, by the function that it then is at the beginning or the end of.
MOMENTS = ("before the step", "after the step", "before it is saved", "while it is written", "between the two files")


@contextlib.contextmanager
def _kill(step, moment):
    with pytest.MonkeyPatch.context() as patch:

        def dies(module, name, before, at=lambda *_: True):
            original = getattr(module, name)

            def mortal(*arguments, **options):
                if before and at(*arguments):
                    raise Killed
                result = original(*arguments, **options)
                if not before and at(*arguments):
                    raise Killed
                return result

            patch.setattr(module, name, mortal)

        def at_step(module, *_):
            return module.trainer.global_step == step

        def of_checkpoint(checkpoint, *_):
            return checkpoint["global_step"] == step

        if moment == "before the step":
            dies(steps.FlowModule, "training_step", True, lambda module, *_: module.trainer.global_step == step - 1)
        elif moment == "after the step":
            dies(steps.FlowModule, "optimizer_step", False, at_step)
        elif moment == "before it is saved":
            dies(runs, "write_checkpoint", True, of_checkpoint)
        elif moment == "while it is written":
            save = torch.save

            def half(checkpoint, stream):
                save(checkpoint, stream)
                if checkpoint.get("global_step") == step:
                    stream.truncate(stream.tell() // 2)
                    raise Killed

            patch.setattr(torch, "save", half)
        else:
            dies(runs, "write_checkpoint", False, of_checkpoint)
        yield


def _chain(digits, out, kills, **options):
    """Trains, is killed at each of the steps, and goes on each time by the one command that the folder allows."""
    for step, moment in kills:
        with _kill(step, moment), contextlib.suppress(Killed):
            # A kill of a step that is behind it never comes.
            return _train(digits, out, resume=runs.checkpoint_to_resume(out) is not None, **options)
    return _train(digits, out, resume=runs.checkpoint_to_resume(out) is not None, **options)


def _assert_same(ours, whole):
    for part in ("weights", "best"):
        assert ours[part].keys() == whole[part].keys()
        for name, tensor in whole[part].items():
            assert torch.equal(ours[part][name], tensor), (part, name)
    assert ours["test"] == whole["test"] and ours["log"] == whole["log"] and ours["order"] == whole["order"]


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        orders = _watch(patch)
        return _end(_train(digits, tmp_path_factory.mktemp("whole") / "run"), orders)


def test_the_log_of_a_whole_run_has_each_row_once(whole):
    rows = list(csv.DictReader(whole["log"].splitlines()))
    # Steps count from 0; with 3 batches an epoch every third is logged.
    assert [int(row["step"]) for row in rows if row["bits_per_dim"]] == [2, 5, 8, 11]
    assert [int(row["step"]) for row in rows if row["validation_bits_per_dim"]] == [5, 11]
    assert [int(row["step"]) for row in rows if row["test_bits_per_dim"]] == [11]
    # Four epochs, each of 24 of the 26 images, in an order of its own.
    assert len({tuple(order) for order in whole["order"].values()}) == STEPS


# One epoch's middle and end, a validation, the last step; the second resume from an epoch's end was the one that lost
# its place.
SOME = [
    [(1, "after the step")],
    [(6, "between the two files"), (6, "while it is written")],
    [(3, "after the step"), (4, "before it is saved"), (9, "between the two files")],
    [(12, "between the two files")],
]


@pytest.mark.parametrize("kills", SOME, ids=str)
def test_a_killed_run_ends_as_one_that_was_not(digits, whole, seen, tmp_path, kills):
    _assert_same(_end(_chain(digits, tmp_path / "run", kills), seen), whole)


ALL = [[(step, moment)] for step in range(1, 7) for moment in MOMENTS]
ALL += [[(a, "between the two files"), (b, "while it is written")] for a, b in combinations(range(1, 7), 2)]
ALL += [
    [(a, MOMENTS[(a + b) % 5]), (b, MOMENTS[(b + c) % 5]), (c, MOMENTS[(a + c) % 5])]
    for a, b, c in combinations(range(1, 7), 3)
]


@pytest.mark.parametrize("augment", [None, "shift_and_flip"])
def test_steps_of_several_parts_and_random_changes_of_images_go_on_as_well(digits, tmp_path, seen, augment):
    """26 images make 6 parts of 4; a step of 4 parts crosses the end of an epoch."""
    recipe = replace(RECIPE, batch_size=16, accumulate=4, augment=augment, epochs=5, validate_every=2)
    unbroken = _end(_train(digits, tmp_path / "whole", recipe=recipe), dict(seen))
    assert len(unbroken["order"]) == 5
    seen.clear()
    kills = [(1, "between the two files"), (2, "after the step"), (3, "between the two files")]
    _assert_same(_end(_chain(digits, tmp_path / "run", kills, recipe=recipe), seen), unbroken)


# Every step of two epochs, at every moment, with up to three resumes: 65 chains of trainings. Every seventh of them has
# all moments, and one to three resumes.
@pytest.mark.parametrize(
    "stride", [pytest.param(7, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.full_size)]
)
def test_chains_of_kills_at_every_step_of_two_epochs(digits, whole, seen, tmp_path, stride):
    assert len(ALL) == 65 and {moment for chain in ALL[::7] for _, moment in chain} == set(MOMENTS)
    for i, kills in enumerate(ALL[::stride]):
        seen.clear()
        _assert_same(_end(_chain(digits, tmp_path / str(i), kills), seen), whole)


# --- asked to stop ----------------------------------------------------------------------------------------------------


def _asked(step, number, again_at=None):
    """Sends this process a signal during a step, as Ctrl-C and SLURM do."""
    train_step = steps.FlowModule.training_step

    def interrupted(module, batch, batch_index):
        if module.trainer.global_step in (step, again_at):
            signal.raise_signal(number)
        return train_step(module, batch, batch_index)

    return interrupted


@pytest.mark.parametrize("number", SIGNALS)
# The 6th step ends in a validation, which is done first.
@pytest.mark.parametrize("step", [1, 5])
def test_who_asks_a_training_to_stop_loses_nothing_and_is_told_how_to_go_on(
    digits, whole, seen, tmp_path, monkeypatch, capfd, number, step
):
    handlers = [signal.getsignal(n) for n in SIGNALS]
    with monkeypatch.context() as patch:
        patch.setattr(steps.FlowModule, "training_step", _asked(step, number))
        with pytest.raises(KeyboardInterrupt) as stopped:
            _train(digits, tmp_path / "run", checkpoint_seconds=1000)
    assert str(stopped.value) == f"stopped at step {step + 1}; go on from {tmp_path}/run/last.ckpt with --resume"
    assert "nbflows: stopping after this step" in capfd.readouterr().err
    assert [signal.getsignal(n) for n in SIGNALS] == handlers
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == step + 1
    _assert_same(_end(_train(digits, tmp_path / "run", resume=True, checkpoint_seconds=1000), seen), whole)


def test_who_asks_twice_does_not_wait_for_the_step(digits, tmp_path, monkeypatch):
    def both(module, batch, batch_index):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(steps.FlowModule, "training_step", both)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 0; start again: there is no checkpoint yet"):
            _train(digits, tmp_path / "run")
    # No dead end either.
    assert _train(digits, tmp_path / "run", max_steps=1).test.num_images == 10


def test_a_stop_before_the_first_step_is_one_too(digits, tmp_path, monkeypatch):
    def setup(module):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(steps.FlowModule, "configure_optimizers", setup)
        with pytest.raises(KeyboardInterrupt, match="there is no checkpoint yet"):
            _train(digits, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- the folder -------------------------------------------------------------------------------------------------------


def test_two_trainings_do_not_share_a_folder(digits, tmp_path, monkeypatch):
    refused = []
    step = steps.FlowModule.training_step

    def while_it_trains(module, batch, batch_index):
        if module.trainer.global_step == 1:
            for resume in (True, False):
                with pytest.raises(FileExistsError, match=r"another training is writing to .*run: wait for its end"):
                    _train(digits, tmp_path / "run", resume=resume)
                refused.append(resume)
        return step(module, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(steps.FlowModule, "training_step", while_it_trains)
        _train(digits, tmp_path / "run", max_steps=3)
    assert refused == [True, False]
    _train(digits, tmp_path / "run", max_steps=4, resume=True)


def test_a_full_disk_leaves_the_checkpoint_as_it_was(tmp_path):
    file = tmp_path / "last.ckpt"
    runs.write_checkpoint({"step": 1}, file)
    before = file.read_bytes()
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"last\.ckpt could not be written, and is as it was before \(.*too large"):
            runs.write_checkpoint({"weights": torch.zeros(10_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_a_folder_is_made_only_by_a_training_that_begins(digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        _train(digits, tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="batch_size 64 does not fit 26 images"):
        _train(digits, tmp_path / "run", recipe=replace(RECIPE, batch_size=64))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="file"):
        _train(digits, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"PK\x03\x04", "list", "dict", "foreign", "cut", "flipped", "pickle"]
)
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_damaged_checkpoint_is_named_with_a_way_out_that_works(digits, once_trained, tmp_path, name, content):
    out = shutil.copytree(once_trained, tmp_path / "run")
    file = out / name
    whole = file.read_bytes()
    if content in ("list", "dict", "foreign"):
        torch.save({"list": [1], "dict": {}, "foreign": dict.fromkeys(runs._KEYS, 1)}[content], file)
    elif content == "pickle":
        file.write_bytes(pickle.dumps({"os": os.system}))
    else:
        with zipfile.ZipFile(file) as archive:
            largest = max(archive.infolist(), key=lambda record: record.file_size)
        # Between tensors it has bytes that nobody reads.
        flipped = bytearray(whole)
        flipped[largest.header_offset + largest.file_size] ^= 255
        file.write_bytes({"cut": whole[: len(whole) // 2], "flipped": bytes(flipped)}.get(content, content))
    with pytest.raises(ValueError, match=rf"{name} is damaged \(.*\): delete it, and --resume goes on from ") as error:
        _train(digits, out, resume=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    file.unlink()
    assert _train(digits, out, resume=True).test.num_images == 10


@pytest.fixture(scope="module")
def once_trained(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("once") / "run"
    with _kill(8, "before the step"), contextlib.suppress(Killed):
        _train(digits, out)
    return out


def test_a_run_goes_on_without_its_best_model_and_keeps_the_best_of_what_follows(digits, once_trained, whole, tmp_path):
    out = shutil.copytree(once_trained, tmp_path / "run")
    (out / "best.ckpt").unlink()
    _train(digits, out, resume=True)
    assert torch.load(out / "best.ckpt", weights_only=True)["callbacks"]["Checkpoints"]["best_step"] == 12


def test_a_checkpoint_of_an_earlier_version_goes_on_and_says_so(digits, once_trained, tmp_path, capsys):
    out = shutil.copytree(once_trained, tmp_path / "run")
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(out / name, weights_only=True)
        best = checkpoint["callbacks"].pop("Checkpoints")["best"]
        checkpoint["callbacks"]["ModelCheckpoint{'monitor': 'x'}"] = {"best_model_score": torch.tensor(best / 100)}
        del checkpoint["run"], checkpoint["started_from"]
        old = {**checkpoint, "random_state": checkpoint["random_state"][0], "loops": {"fit_loop": {}}}
        runs.write_checkpoint(old, out / name)
    before = (out / "best.ckpt").read_bytes()
    _train(digits, out, resume=True)
    assert (
        "is of an earlier version: whether recipe and data are those of the run is not checked"
        in capsys.readouterr().out
    )
    # Its best score still counts.
    assert (out / "best.ckpt").read_bytes() == before


def test_a_run_that_was_killed_is_a_model_already(digits, tmp_path):
    with _kill(8, "after the step"), contextlib.suppress(Killed):
        _train(digits, tmp_path / "run", flow=None)
    best = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["state_dict"]
    for name, tensor in load_flow(tmp_path / "run").state_dict().items():
        assert torch.equal(best[f"flow.{name}"], tensor)
    started = _train(digits, tmp_path / "next", flow=None, start_from=tmp_path / "run", max_steps=1)
    assert weights.describe(started.out)["started_from"]["model"] == "run"


def test_weights_of_a_training_that_is_gone_do_not_get_the_description_of_a_new_one(digits, tmp_path):
    out = _train(digits, tmp_path / "run", flow=None, max_steps=1).out
    for name in ("last.ckpt", "best.ckpt"):
        (out / name).unlink()
    other = replace(RECIPE, seed=4, learning_rate=1e-2)
    with _kill(1, "before the step"), contextlib.suppress(Killed):
        _train(digits, out, flow=None, recipe=other)
    # There is a description, and nothing yet that it could be of.
    with pytest.raises(FileNotFoundError, match=r"best.ckpt does not exist"):
        load_flow(out)
    with _kill(8, "after the step"), contextlib.suppress(Killed):
        _train(digits, out, flow=None, recipe=other)
    best = torch.load(out / "best.ckpt", weights_only=True)["state_dict"]
    assert weights.describe(out)["recipe"]["seed"] == 4
    assert all(torch.equal(best[f"flow.{name}"], tensor) for name, tensor in load_flow(out).state_dict().items())


def test_a_kill_between_weights_and_description_is_found_and_mended_by_a_resume(digits, tmp_path):
    out = _train(digits, tmp_path / "run", flow=None, max_steps=1).out

    def write(file, content, original=files.write):
        if file.name == "model.json":
            raise Killed
        original(file, content)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(files, "write", write)
        _train(digits, out, flow=None, max_steps=8, resume=True)
    assert weights.describe(out)["steps"] == 1
    with pytest.raises(ValueError, match=r"model.json describes other weights .* continue it with --resume"):
        load_flow(out)
    _train(digits, out, flow=None, max_steps=8, resume=True)
    assert load_flow(out) and weights.describe(out)["steps"] == 8


def test_nothing_is_left_in_the_folder_for_temporary_files(digits, tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    for moment in MOMENTS:
        with _kill(6, moment), contextlib.suppress(Killed):
            _train(digits, tmp_path / moment)
        assert not list(temporary.iterdir())
        # Beside the checkpoint, and there one at most.
        assert len(list((tmp_path / moment).glob("*.tmp"))) <= 1
        _train(digits, tmp_path / moment, resume=True, max_steps=7)
        assert not list((tmp_path / moment).glob("*.tmp"))


# --- what comes after the last step -----------------------------------------------------------------------------------


def test_a_model_is_there_before_its_test_images_are_scored(tmp_path, monkeypatch, digits):
    def fails(*_, **__):
        raise MemoryError("too large")

    with monkeypatch.context() as patch:
        patch.setattr(fit.metrics, "evaluate", fails)
        with pytest.raises(MemoryError):
            _train(digits, tmp_path / "run", flow=None, max_steps=2)
    described = weights.describe(tmp_path / "run")
    assert described["steps"] == 2 and "test_bits_per_dim" not in described
    load_flow(tmp_path / "run")
    # What is missing is made up for, once.
    result = _train(digits, tmp_path / "run", flow=None, max_steps=2, resume=True)
    assert weights.describe(tmp_path / "run")["test_bits_per_dim"]["mean"] == result.test.mean
    with pytest.raises(ValueError, match="nothing to train"):
        _train(digits, tmp_path / "run", flow=None, max_steps=2, resume=True)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_forgets_a_training_that_was_given_up_before_its_first_checkpoint(digits, tmp_path, seen, whole):
    with _kill(5, "after the step"), contextlib.suppress(Killed):
        _train(digits, tmp_path / "run", checkpoint_seconds=1000, recipe=replace(RECIPE, seed=4))
    assert len(training.read_log(tmp_path / "run")) == 1
    _assert_same(_end(_train(digits, tmp_path / "run"), seen), whole)


def test_foreign_folders_and_half_lines_are_no_part_of_the_log(tmp_path):
    for name in ("version_x", "version_", "version_1_old", "other"):
        (tmp_path / "log" / name).mkdir(parents=True)
        (tmp_path / "log" / name / "metrics.csv").write_text("a,b\n1,2\n")
    assert training.read_log(tmp_path) == []
    log = runs.Log(tmp_path, ["loss"], 0)
    for step in range(3):
        log.write(step=step, loss=0.1 * step)
    with open(log.file, "a") as stream:
        stream.write("3,0.")
    assert training.read_log(tmp_path) == [{"step": s, "loss": 0.1 * s} for s in range(3)]
    runs.Log(tmp_path, ["more"], 2).write(step=2, more=1)
    assert log.file.read_text() == "step,more,loss\n0,,0\n1,,0.10000000000000001\n2,1,\n"


def test_logs_of_earlier_versions_count_each_step_once(tmp_path):
    # The first was given up at step 29 and started afresh; the third goes on from step 15 of the second.
    for version, logged in ((0, (9, 19, 29)), (1, (9, 19)), (10, (15, 25))):
        (tmp_path / "log" / f"version_{version}").mkdir(parents=True)
        rows = "".join(f"0,{version},{step}\n" for step in logged)
        (tmp_path / "log" / f"version_{version}" / "metrics.csv").write_text("epoch,bits_per_dim,step\n" + rows)
    assert [(row["step"], row["bits_per_dim"]) for row in training.read_log(tmp_path)] == [(9, 1), (15, 10), (25, 10)]


# --- real processes ---------------------------------------------------------------------------------------------------


# Processes that are really killed, on two file systems where the machine has them.
@pytest.mark.parametrize(
    "num_chains", [pytest.param(2, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.full_size)]
)
def test_chains_of_real_kills(tmp_path, num_chains):
    place = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        counts = kill_chains(Path(place), tmp_path, num_chains, seed=0)
    finally:
        shutil.rmtree(place)
    # How many come in time depends on the machine.
    assert counts["kills"] > 0 and counts["dead ends"] == 0 and counts["different"] == 0


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt", "model.json", "log/metrics.csv"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_place_of_a_file_is_one_clear_error(name, resume, digits, tmp_path):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"has folders where a training writes files: {name}; move them elsewhere"):
        _train(digits, tmp_path, resume=resume)
