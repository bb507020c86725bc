"""A training that ends in the middle, as a kill would end it."""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nbflows.training import callbacks, fit, runs
from tests.ranks import forkserver


class Killed(BaseException):
    """Nothing of a training catches it, and nothing is saved upon it."""


@contextlib.contextmanager
def killed_after(step: int):
    """Trainings started within end right after a step, once it is saved (``checkpoint_seconds=0`` saves each)."""

    class SaveThenDie(callbacks.Checkpoints):
        def _save(self, trainer, best=False):
            super()._save(trainer, best)
            if trainer.global_step == step:
                raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "Checkpoints", SaveThenDie)
        yield


# --- real processes ---------------------------------------------------------------------------------------------------

COMMAND = ["train", "digits-simple", "--device", "cpu", "--precision", "32-true", "--no-progress", "--batch-size", "20"]
COMMAND += ["--max-steps", "8", "--checkpoint-seconds", "0", "--data", "images.npy"]


def _command(arguments, place, temporary):
    """What ``python -m nbflows`` does, in a process that has imported it already."""
    from nbflows import cli

    errors = os.open(temporary / "errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    os.chdir(place)
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary / "tmp"), None
    torch.set_num_threads(1)
    sys.exit(cli.main(arguments))


def kill_chains(place: Path, temporary: Path, num_chains: int, seed: int) -> dict[str, int]:
    """Trains by the command line and ends it at random times, up to three times a run; says how the runs ended.

    By SIGKILL, or by SIGTERM upon which it saves.

    Three batches an epoch. Each run goes on by --resume if its folder has a checkpoint, else by the same command, and
    is compared with an unbroken one: weights, averaged weights, log.
    """
    chance = random.Random(seed)
    pixels = np.random.default_rng(0).integers(0, 17, (76, 8, 8), dtype=np.uint8)
    np.save(place / "images.npy", pixels)
    (temporary / "tmp").mkdir()

    def start(out):
        resume = ["--resume"] if runs.checkpoint_to_resume(place / out) else []
        arguments = [*COMMAND, "--out", out, *resume]
        process = forkserver().Process(target=_command, args=(arguments, place, temporary), daemon=True)
        process.start()
        return process

    def end(out):
        last = torch.load(place / out / "last.ckpt", weights_only=True)
        tensors = {**last["state_dict"], **{f"current {k}": v for k, v in last["current_model_state"].items()}}
        numbers = {name: tensor.tolist() for name, tensor in tensors.items()}
        return last["global_step"], numbers, (place / out / "log" / "metrics.csv").read_text()

    unbroken = start("whole")
    unbroken.join()
    assert unbroken.exitcode == 0, (temporary / "errors").read_text()
    whole = end("whole")
    # In training, apart from imports; a short one on a fast machine has more steps.
    seconds = torch.load(place / "whole" / "last.ckpt", weights_only=True)["seconds"]
    counts = {"chains": num_chains, "kills": 0, "dead ends": 0, "different": 0, "left in TMPDIR": 0}
    for chain in range(num_chains):
        for _ in range(3):
            process = start(f"run{chain}")
            # From the moment on that it trains.
            log = place / f"run{chain}" / "log" / "metrics.csv"
            before = log.stat().st_mtime_ns if log.exists() else 0
            while process.is_alive() and not (log.exists() and log.stat().st_mtime_ns > before):
                time.sleep(0.01)
            process.join(chance.uniform(0, seconds))
            number = chance.choice([signal.SIGKILL, signal.SIGTERM])
            if process.is_alive():
                counts["kills"] += 1
                os.kill(process.pid, number)
            process.join()
        process = start(f"run{chain}")
        process.join()
        finished = "nothing to train" in (temporary / "errors").read_text()
        counts["dead ends"] += process.exitcode != 0 and not finished
        counts["different"] += end(f"run{chain}") != whole
    counts["left in TMPDIR"] = len(list((temporary / "tmp").iterdir()))
    return counts
