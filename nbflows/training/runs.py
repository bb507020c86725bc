"""The folder of a training: its lock, its checkpoints and its log."""

import contextlib
import csv
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from nbflows import ranks, recipes
from nbflows.files import replacing, write
from nbflows.storage import unpickle

LAST, BEST = "last.ckpt", "best.ckpt"
_OTHER_FILES = ("model.safetensors", "model.json", "training_curve.png", "log/metrics.csv")
# Keys of a checkpoint that resuming needs, Lightning's own among them.
_KEYS = {"state_dict", "current_model_state", "averaging_state", "global_step", "optimizer_states", "lr_schedulers"}
_KEYS |= {"callbacks", "random_state", "seconds"}


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder; makes the folder, and removes it again if it stays empty.

    The system releases the lock when the process ends, however it ends. Only the first of several ranks holds it.

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
    """The file to resume from: last.ckpt, or best.ckpt if that is the only one; None if there is no run.

    Raises:
        ValueError: a folder has the name of one of the files that a training writes.
    """
    folders = [name for name in (LAST, BEST, *_OTHER_FILES) if (out / name).is_dir()]
    if folders:
        raise ValueError(
            f"{out} has folders where a training writes files: {', '.join(folders)}; move them elsewhere, or choose "
            "another folder with --out"
        )
    return next((out / name for name in (LAST, BEST) if (out / name).exists()), None)


def begin(out: Path, resume: bool) -> dict:
    """The checkpoint that a training resumes from; empty for a new training.

    Raises:
        FileExistsError: the training is new, and the folder holds a run already.
        FileNotFoundError: there is nothing to resume.
        ValueError: the checkpoint is damaged, or a folder has the name of a file.
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
    # A kill between the two files leaves the new last.ckpt and the old best.ckpt. Only the first rank repairs that:
    # others could read a file that is being replaced.
    if ranks.is_first():
        if gone or (found.name == LAST and kept["best_step"] == checkpoint["global_step"]):
            keep_as_best(out)
        # Damage to best.ckpt is found before training, not after.
        read_checkpoint(out / BEST)
    return checkpoint


def read_checkpoint(file: Path) -> dict:
    """Reads the checkpoint of a training without executing anything in it.

    Raises:
        ValueError: the file is damaged or is something else; the message says what to do.
    """
    try:
        checkpoint = unpickle.read_checkpoint(file)
        if not set(checkpoint) >= _KEYS:
            raise ValueError("it is not a checkpoint of a training")
        return _upgraded(checkpoint)
    except (OSError, MemoryError):
        raise
    # A foreign file with the right keys may hold any values.
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
    """Turns a checkpoint of an earlier version into one of this version.

    Earlier ones had one random state, Lightning's best score, and recipes without default arguments of their task.
    """
    # Lightning's own state of its loops: it may resume in the middle of a step, and not always correctly.
    checkpoint.pop("loops", None)
    if not isinstance(checkpoint["random_state"], list):
        checkpoint["random_state"] = [checkpoint["random_state"]]
    callbacks = checkpoint["callbacks"]
    scores = [
        callbacks.pop(name).get("best_model_score") for name in [*callbacks] if name.startswith("ModelCheckpoint")
    ]
    known = [{"best": float(score), "best_step": -1} for score in scores if score is not None]
    callbacks.setdefault("Checkpoints", known[0] if known else {"best": math.inf, "best_step": None})
    if run := checkpoint.get("run"):
        run["recipe"] = recipes.upgraded(run["recipe"])
    return {"run": {}, "started_from": {}, **checkpoint}


def averaged_weights(checkpoint: dict) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint by their names in the flow."""
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
        columns: names of all values that may be written.
        step: rows of this step and later ones are dropped, because these steps are taken again after a kill.
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
    """All logged steps of a run in order, each of them once, including resumed parts."""
    folder = Path(out) / "log"
    files = [folder / "metrics.csv"] if (folder / "metrics.csv").is_file() else _parts_of_earlier_versions(folder)
    rows: list[dict[str, float]] = []
    for file in files:
        part = _rows(file)
        # A part begins where the previous one was last saved, not where it was killed.
        rows = [row for row in rows if not part or row["step"] < part[0]["step"]] + part
    return rows


def _parts_of_earlier_versions(folder: Path) -> list[Path]:
    files = {file.parent.name.removeprefix("version_"): file for file in folder.glob("version_*/metrics.csv")}
    return [files[number] for number in sorted(filter(str.isdecimal, files), key=int)]


def _rows(file: Path) -> list[dict[str, float]]:
    # An incomplete last line is left out: the machine failed while it was written.
    lines = [line for line in file.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]
    try:
        rows = [{key: float(value) for key, value in row.items() if key and value} for row in csv.DictReader(lines)]
    except (ValueError, TypeError, csv.Error):
        raise ValueError(f"{file} is not a log of a training: move it elsewhere") from None
    return [row for row in rows if math.isfinite(row.get("step", math.nan))]
