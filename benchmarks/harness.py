"""Measures tasks, each in a fresh process: seconds of every repetition, and the peak memory."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path

from benchmarks.configuration import Configuration
from benchmarks.revisions import ROOT

FLOAT32, BFLOAT16 = Configuration(), Configuration(precision="bf16-mixed")
CONFIGURATIONS = FLOAT32, BFLOAT16
TRAINING_CONFIGURATIONS = (*CONFIGURATIONS, replace(FLOAT32, memory="invertible"))


@dataclass(frozen=True)
class Task:
    """A task to measure, and the figures of the original code.

    Attributes:
        prepare: builds the ``Workload``, in the fresh process.
        seconds, gib: time and peak memory, with imports, of the original code; None if not measured.
        configurations: the configurations in the table.
        peers: the same as ``prepare`` for other packages with the same layer, by name.
    """

    prepare: Callable
    seconds: float | None = None
    gib: float | None = None
    configurations: tuple[Configuration, ...] = CONFIGURATIONS
    peers: dict[str, Callable] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """A task that is ready to run.

    Attributes:
        run: the timed function.
        flow: the flow that it uses, for memory modes and compilation; None if it uses none.
    """

    run: Callable[[], object]
    flow: object = None


@dataclass(frozen=True)
class Measurement:
    """The measurements of the fresh process.

    Attributes:
        first: seconds of the first call, including compilation.
        seconds: seconds of every repetition after the warm-up.
        peak_mib: peak memory of the process, with imports.
        imports_mib: peak memory after the imports.
    """

    first: float
    seconds: list[float]
    peak_mib: float
    imports_mib: float

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def own_mib(self) -> float:
        """Peak memory beyond the imports."""
        return self.peak_mib - self.imports_mib


class TaskError(RuntimeError):
    """A task that did not run; the message says which, how and why."""


def measure(module: str, name: str, configuration: Configuration, repeats: int, source: Path = ROOT) -> Measurement:
    """Runs a task in a fresh process.

    Args:
        module: module with the task in ``TASKS`` or ``FURTHER``.
        name: name of the task.
        configuration: settings of the run; ``source`` is its revision.
        repeats: number of timed repetitions.
        source: folder of the ``nbflows`` that runs.

    Raises:
        TaskError: it did not run.
    """
    request = {"module": module, "name": name, "configuration": asdict(configuration), "repeats": repeats}
    # Python looks for nbflows first in the folder where it starts. torch allocates memory for each thread.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(configuration.threads)}
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(request)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=source, env=environment)
    if result.returncode:
        why = result.stderr.strip().splitlines() or [f"it ended with code {result.returncode}"]
        raise TaskError(f"{name!r} does not run with {configuration}: {why[-1]}")
    sys.stderr.write(result.stderr)
    return Measurement(**json.loads(result.stdout.splitlines()[-1]))


def tasks_of(module: str) -> dict[str, Task]:
    """All tasks of a benchmark by name, including those that are not in the table."""
    system = import_module(module)
    return {**system.TASKS, **getattr(system, "FURTHER", {})}
