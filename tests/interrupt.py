"""A training that ends in the middle, as a kill would end it."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nbflows.training import callbacks, fit, runs


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
    environment = {**os.environ, "TMPDIR": str(temporary / "tmp"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])

    def start(out):
        resume = ["--resume"] if runs.checkpoint_to_resume(place / out) else []
        command = [sys.executable, "-m", "nbflows", *COMMAND, "--out", out, *resume]
        return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def end(out):
        last = torch.load(place / out / "last.ckpt", weights_only=True)
        tensors = {**last["state_dict"], **{f"current {k}": v for k, v in last["current_model_state"].items()}}
        numbers = {name: tensor.tolist() for name, tensor in tensors.items()}
        return last["global_step"], numbers, (place / out / "log" / "metrics.csv").read_text()

    unbroken = start("whole")
    _, errors = unbroken.communicate()
    assert unbroken.returncode == 0, errors
    whole = end("whole")
    # In training, apart from imports; a short one on a fast machine has more steps.
    seconds = torch.load(place / "whole" / "last.ckpt", weights_only=True)["seconds"]
    counts = {"chains": num_chains, "kills": 0, "dead ends": 0, "different": 0, "left in TMPDIR": 0}
    for chain in range(num_chains):
        for _ in range(3):
            process = start(f"run{chain}")
            # Most of the time goes into imports: from the moment on that it trains.
            log = place / f"run{chain}" / "log" / "metrics.csv"
            before = log.stat().st_mtime_ns if log.exists() else 0
            while process.poll() is None and not (log.exists() and log.stat().st_mtime_ns > before):
                time.sleep(0.01)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=chance.uniform(0, seconds))
            counts["kills"] += process.poll() is None
            process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            process.communicate()
        _, errors = (process := start(f"run{chain}")).communicate()
        finished = b"nothing to train" in errors
        counts["dead ends"] += process.returncode != 0 and not finished
        counts["different"] += end(f"run{chain}") != whole
    counts["left in TMPDIR"] = len(list((temporary / "tmp").iterdir()))
    return counts
