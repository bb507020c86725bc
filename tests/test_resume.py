"""A run is never lost: kills at every step, chains of resumes, signals, damaged files, two trainings in one folder."""

import contextlib
import csv
from itertools import combinations

import pytest
import torch

from nbflows import Flow, Sequential, data, recipes, runs, training
from nbflows.data import ImageData
from nbflows.layers import ActNorm, AffineCoupling, Dequantize, checkerboard
from nbflows.nets import ConvNet
from tests.interrupt import Killed

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
    step = training.FlowModule.training_step

    def watched(module, batch, batch_index):
        orders[module.trainer.global_step] = batch.sum((1, 2, 3)).tolist()
        return step(module, batch, batch_index)

    patch.setattr(training.FlowModule, "training_step", watched)
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
            dies(training.FlowModule, "training_step", True, lambda module, *_: module.trainer.global_step == step - 1)
        elif moment == "after the step":
            dies(training.FlowModule, "optimizer_step", False, at_step)
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


@pytest.mark.slow  # Every step of two epochs, at every moment, with up to three resumes: 65 chains of trainings.
def test_chains_of_kills_at_every_step_of_two_epochs(digits, whole, seen, tmp_path):
    for i, kills in enumerate(ALL):
        seen.clear()
        _assert_same(_end(_chain(digits, tmp_path / str(i), kills), seen), whole)
    assert len(ALL) == 65
