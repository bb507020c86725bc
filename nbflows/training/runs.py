"""The folder of a training: who may write to it, its checkpoints, and its log."""

import contextlib
import csv
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from nbflows import ranks
from nbflows.files import replacing, write
from nbflows.storage import unpickle

LAST, BEST = "last.ckpt", "best.ckpt"
# What a checkpoint needs for training to go on; Lightning's own are among them.
_KEYS = {"state_dict", "current_model_state", "averaging_state", "global_step", "optimizer_states", "lr_schedulers"}
_KEYS |= {"callbacks", "random_state", "seconds"}


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder; it is made if it does not exist, and removed if nothing came into it.

    The system releases the lock of a process that ends, however it ends. Of several ranks, the first one holds it.

    Raises:
        FileExistsError: another training has it.
    """
    if not ranks.is_first():
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    file = out / ".lock"
    try:
        with FileLock(file, timeout=0):
            yield
            return
    except Timeout:
        raise FileExistsError(
            f"another training is writing to {out}: wait for its end, or choose another folder with --out"
        ) from None
    finally:
        if {path.name for path in out.iterdir()} <= {file.name}:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
                out.rmdir()


def checkpoint_to_resume(out: Path) -> Path | None:
    """The file to go on from: last.ckpt, or best.ckpt where that is all there is; None if there is no run."""
    return next((out / name for name in (LAST, BEST) if (out / name).exists()), None)


def begin(out: Path, resume: bool) -> dict:
    """The checkpoint that a training in a folder goes on from, empty for a new one.

    Raises:
        FileExistsError: a new one, and there is a run already.
        FileNotFoundError: there is nothing to resume.
        ValueError: its checkpoint is damaged.
    """
    found = checkpoint_to_resume(out)
    if not resume:
        if found:
            raise FileExistsError(
                f"{out} holds a run already: go on with --resume, or choose another folder with --out"
            )
        return {}
    if found is None:
        raise FileNotFoundError(f"nothing to resume: {out / LAST} does not exist; start without --resume")
    checkpoint = read_checkpoint(found)
    kept = checkpoint["callbacks"]["Checkpoints"]
    gone = not (out / BEST).exists()
    if gone:
        kept.update(best=math.inf, best_step=None)
    # A kill between the two files leaves the new last.ckpt and the old best.ckpt.
    # The other ranks would meet a file that is being replaced.
    if ranks.is_first():
        if gone or (found.name == LAST and kept["best_step"] == checkpoint["global_step"]):
            keep_as_best(out)
        # Damage to it is found before training, not after.
        read_checkpoint(out / BEST)
    return checkpoint


def read_checkpoint(file: Path) -> dict:
    """A checkpoint of a training, nothing in it executed.

    Raises:
        ValueError: the file is damaged, or something else; with the way out.
    """
    try:
        checkpoint = unpickle.read_checkpoint(file)
        if not set(checkpoint) >= _KEYS:
            raise ValueError("it is no checkpoint of a training")
        return _upgraded(checkpoint)
    except (OSError, MemoryError):
        raise
    # A foreign file with the right keys may have anything in its values.
    except Exception as error:
        reason = (str(error) or type(error).__name__).removeprefix(f"{file} ").splitlines()[0]
        raise ValueError(f"{file} is damaged ({reason:.200}): {_way_out(file)}") from error


def _way_out(file: Path) -> str:
    if file.name == LAST and file.with_name(BEST).exists():
        return f"delete it, and --resume goes on from {BEST} beside it"
    if file.name == BEST and file.with_name(LAST).exists():
        return f"delete it, and --resume goes on from {LAST} and keeps the best of what follows"
    return f"delete {file.parent}, or begin a new training with another --out"


def _upgraded(checkpoint: dict) -> dict:
    """A checkpoint of an earlier version as one of this: those had one random state, and Lightning's best score."""
    # Lightning's own account of where it was: it resumes from the middle of a step, and not always rightly.
    checkpoint.pop("loops", None)
    if not isinstance(checkpoint["random_state"], list):
        checkpoint["random_state"] = [checkpoint["random_state"]]
    callbacks = checkpoint["callbacks"]
    scores = [
        callbacks.pop(name).get("best_model_score") for name in [*callbacks] if name.startswith("ModelCheckpoint")
    ]
    known = [{"best": float(score), "best_step": -1} for score in scores if score is not None]
    callbacks.setdefault("Checkpoints", known[0] if known else {"best": math.inf, "best_step": None})
    return {"run": {}, "started_from": {}, **checkpoint}


def averaged_weights(checkpoint: dict) -> dict[str, Tensor]:
    """The weights of a checkpoint that are validated, by their names in the flow."""
    return {name.removeprefix("flow."): tensor for name, tensor in checkpoint["state_dict"].items()}


def write_checkpoint(checkpoint: dict, file: Path) -> None:
    """Writes a checkpoint at once or not at all, whatever the file system.

    Raises:
        OSError: there is no room, or no right to write; the file is as it was.
    """
    with replacing(file) as stream:
        torch.save(checkpoint, stream)


def keep_as_best(out: Path) -> None:
    """Makes last.ckpt the best one. A copy, not a link: damage to one of them must not be damage to both."""
    with open(out / LAST, "rb") as source, replacing(out / BEST) as target:
        shutil.copyfileobj(source, target, 2**22)


class Log:
    """``log/metrics.csv`` of a run: each row is in the file as soon as it is known.

    Args:
        out: folder of the run.
        columns: all that may come.
        step: rows of this step and later ones are dropped: what a kill left of steps that are taken again.
    """

    def __init__(self, out: Path, columns: list[str], step: int):
        self.file = out / "log" / "metrics.csv"
        rows = [row for row in read_log(out) if row["step"] < step]
        self.columns = [*dict.fromkeys(["step", *columns, *(name for row in rows for name in row)])]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write(self.file, (",".join(self.columns) + "\n" + "".join(map(self._line, rows))).encode())

    def _line(self, row: dict[str, float]) -> str:
        return ",".join(f"{row[name]:.17g}" if name in row else "" for name in self.columns) + "\n"

    def write(self, **row: float) -> None:
        with open(self.file, "a", newline="") as stream:
            stream.write(self._line(row))


def read_log(out: str | Path) -> list[dict[str, float]]:
    """All logged steps of a run, resumed parts included, in order, each of them once."""
    folder = Path(out) / "log"
    files = [folder / "metrics.csv"] if (folder / "metrics.csv").is_file() else _parts_of_earlier_versions(folder)
    rows: list[dict[str, float]] = []
    for file in files:
        part = _rows(file)
        # A part begins where the one before it was last saved, not where it was killed.
        rows = [row for row in rows if not part or row["step"] < part[0]["step"]] + part
    return rows


def _parts_of_earlier_versions(folder: Path) -> list[Path]:
    files = {file.parent.name.removeprefix("version_"): file for file in folder.glob("version_*/metrics.csv")}
    return [files[number] for number in sorted(filter(str.isdecimal, files), key=int)]


def _rows(file: Path) -> list[dict[str, float]]:
    # Without the line that a failing machine was writing.
    lines = [line for line in file.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]
    try:
        rows = [{key: float(value) for key, value in row.items() if key and value} for row in csv.DictReader(lines)]
    except (ValueError, TypeError, csv.Error):
        raise ValueError(f"{file} is no log of a training: move it elsewhere") from None
    return [row for row in rows if math.isfinite(row.get("step", math.nan))]
