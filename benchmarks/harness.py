"""Times tasks, each in a fresh process, and prints them beside the figures of the original code."""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

PRECISIONS = ("32-true", "bf16-mixed")


class Task(NamedTuple):
    """One row of the table.

    Attributes:
        prepare: builds what is needed, in the fresh process, and returns the function that is timed.
        seconds: of the original code.
        gib: its peak memory, if it is known; shown with training.
        precisions: of the networks, as ``nbflows train --precision`` names them.
    """

    prepare: Callable[[], Callable[[], object]]
    seconds: float
    gib: float | None = None
    precisions: tuple[str, ...] = PRECISIONS


def training_step(flow, loss: Callable[[], object]) -> Callable[[], None]:
    """One step of Adam with clipping, and of the norms if there are any; ``loss`` computes what is minimised."""
    import torch

    from nbflows.nets import update_norms

    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        update_norms(flow)

    return step


def main(
    description: str,
    tasks: dict[str, Task],
    further: dict[str, Task] | None = None,
    report: Callable[[Callable[[str, str], dict]], None] | None = None,
) -> None:
    """The command line of a benchmark.

    Args:
        description: of the script.
        tasks: by name, "model, task".
        further: tasks outside of the table, for ``report``.
        report: prints what the table has no place for. Gets a function from a task's name and a precision to what was
            measured of it: "seconds" of each repetition, "gib" of peak memory, of them "imports".
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="only tasks whose name contains this")
    parser.add_argument("--csv", help="write the rows there too")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, precision = options.measure
        print(json.dumps(_measure((tasks | (further or {}))[name], precision, options.repeats, options.threads)))
        return

    from tabulate import tabulate

    def measure(name: str, precision: str) -> dict:
        command = [sys.executable, sys.argv[0], "--measure", name, precision]
        command += ["--repeats", str(options.repeats), "--threads", str(options.threads)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        return json.loads(output.splitlines()[-1])

    rows = []
    for name, task in tasks.items():
        for precision in task.precisions if options.only in name else ():
            result = measure(name, precision)
            median = statistics.median(result["seconds"])
            rows.append(
                {
                    "task": name,
                    "precision": precision,
                    "seconds": round(median, 3),
                    "fastest..slowest": f"{min(result['seconds']):.3f}..{max(result['seconds']):.3f}",
                    "original s": task.seconds,
                    "speedup": round(task.seconds / median, 1),
                    "peak GiB": round(result["gib"], 2),
                    "of it imports": round(result["imports"], 2),
                    "original GiB": task.gib or "",
                }
            )
            print(f"{name}, {precision}: {median:.3f} s", file=sys.stderr)
    if not rows:
        raise SystemExit(f"no task's name contains {options.only!r}: {', '.join(tasks)}")
    print(f"\n{options.threads} threads, {options.repeats} repetitions, networks in the precision named; ", end="")
    print(f"nbflows train would choose {result['faster']}\n")
    print(tabulate(rows, headers="keys"))
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    if report and not options.only:
        report(measure)


def _measure(task: Task, precision: str, repeats: int, threads: int) -> dict[str, object]:
    """In this process: seconds of each repetition after two to warm up, and the peak memory."""
    import torch

    from nbflows import hardware

    torch.set_num_threads(threads)
    hardware.keep_freed_memory()
    torch.manual_seed(0)
    # What torch and nbflows take before any model exists: `import nbflows` loads all of it.
    imports = _peak_gib()
    run = task.prepare()
    seconds = []
    # What Lightning does for the same precision.
    bfloat16 = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with bfloat16, hardware.denormals_as_zero():
        for _ in range(repeats + 2):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    gib = _peak_gib()
    faster = hardware.faster_precision("cpu")
    return {"seconds": seconds[2:], "gib": gib, "imports": imports, "faster": faster}


def _peak_gib() -> float:
    # Kilobytes on Linux, bytes on a Mac.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
