"""The table: one row for every task and configuration, in print and as CSV."""

import csv
import platform
import subprocess
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import get_args, get_type_hints

from benchmarks.configuration import Configuration
from benchmarks.harness import Measurement, Task


@dataclass(frozen=True)
class Row:
    """The measurements of a task in one configuration, and the figures of the other code.

    Attributes:
        task, package, precision, memory, compile, threads: what ran, and how; see ``Configuration``.
        seconds, fastest, slowest: median and spread of the seconds.
        peak_mib, own_mib: peak memory in total and beyond the imports.
        original_seconds, original_mib: time and memory of the original code; None if not measured.
        speedup: the other code's seconds divided by those of nbflows. In the row of another package, that package's.
        torch, processor: version of torch and name of the processor.
    """

    task: str
    package: str
    precision: str
    memory: str
    compile: str
    threads: int
    seconds: float
    fastest: float
    slowest: float
    peak_mib: float
    own_mib: float
    original_seconds: float | None
    original_mib: float | None
    speedup: float | None
    torch: str
    processor: str

    @property
    def configuration(self) -> str:
        """The configuration in words."""
        changes = [self.memory] if self.memory != "plain" else []
        return ", ".join([self.precision, *changes, *(["compiled"] if self.compile == "on" else [])])

    @property
    def machine(self) -> str:
        """Returns the machine, for a heading."""
        return machine(self.threads, self.processor, self.torch)


def row(name: str, task: Task, configuration: Configuration, measured: Measurement, ours: float | None = None) -> Row:
    """The row of a measurement; ``ours``: seconds of nbflows, in the row of another package."""
    is_ours = configuration.package == "nbflows"
    # The original codes ran with the default number of threads; only those times are comparable.
    original = task.seconds if configuration.threads == Configuration().threads else None
    other, own = (original, measured.median) if is_ours else (measured.median, ours)
    return Row(
        task=name,
        package=configuration.package if is_ours else f"{configuration.package} {version(configuration.package)}",
        precision=configuration.precision,
        memory=configuration.memory,
        compile=configuration.compile,
        threads=configuration.threads,
        seconds=round(measured.median, 5),
        fastest=round(min(measured.seconds), 5),
        slowest=round(max(measured.seconds), 5),
        peak_mib=round(measured.peak_mib, 1),
        own_mib=round(measured.own_mib, 1),
        original_seconds=original if is_ours else None,
        original_mib=1024 * task.gib if is_ours and task.gib else None,
        speedup=round(other / own, 2) if other and own else None,
        torch=version("torch"),
        processor=processor(),
    )


def machine(threads: int | str, processor: str, torch: str) -> str:
    """A heading for the table."""
    return f"threads: {threads}, processor: {processor}, torch {torch}"


def processor() -> str:
    """Returns the name of the processor."""
    if platform.system() == "Darwin":
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        ).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write(rows: list[Row], file: Path) -> None:
    """Writes rows as CSV, with empty fields for missing figures."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read(file: Path) -> list[Row]:
    """The rows that ``write`` wrote."""
    with open(file, newline="") as stream:
        return [Row(**{name: _value(name, text) for name, text in line.items()}) for line in csv.DictReader(stream)]


def _value(name: str, text: str) -> str | int | float | None:
    kind = get_type_hints(Row)[name]
    if get_args(kind):
        return float(text) if text else None
    return kind(text)


def text(rows: list[Row]) -> str:
    """The table in print."""
    from tabulate import tabulate

    columns = {
        "task": [row.task for row in rows],
        "code": [row.package for row in rows],
        "configuration": [row.configuration for row in rows],
        "seconds": [_rounded(row.seconds) for row in rows],
        "fastest..slowest": [f"{_rounded(row.fastest)}..{_rounded(row.slowest)}" for row in rows],
        "original, s": [row.original_seconds for row in rows],
        "faster by": [row.speedup for row in rows],
        "peak MiB": [round(row.peak_mib) for row in rows],
        "beyond imports": [round(row.own_mib) for row in rows],
        "original, peak MiB": [row.original_mib and round(row.original_mib) for row in rows],
    }
    return tabulate(columns, headers="keys", disable_numparse=[1, 3, 4], colalign=["left"] * 3 + ["right"] * 7)


def _rounded(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 1 else f"{seconds:.2f}"
