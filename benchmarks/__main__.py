"""Measures every model: training step, likelihood, sampling and peak memory, in a table with the original codes.

    python -m benchmarks [SYSTEM ...] [--only TEXT] [--repeats 5] [--threads 2] [--out build/bench] [--more]
    python -m benchmarks --compare A B [--only TEXT] [--rounds 5]

Every figure comes from a fresh process: the median of the repetitions after two to warm up, and their spread. Memory is
the process's peak. The first form writes the table as CSV and a figure too; --more adds what a system reports besides.

The second form runs configurations A and B in turn, A B A B ..., and prints the ratios of the pairs. A configuration
is "default" or settings such as precision=bf16-mixed,threads=1: precision (32-true, bf16-mixed), compile (on, off),
memory (plain, checkpoint, invertible), threads, package (nbflows, normflows, nflows, zuko) and rev, a revision of git
whose nbflows runs in the same benchmarks; "." is the working tree. For example

    python -m benchmarks --compare precision=32-true precision=bf16-mixed --only "multiscale, train"
    python -m benchmarks --compare rev=HEAD~5 rev=. --only CAFLOW
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

from benchmarks import compare, figure, harness, peers, table
from benchmarks.configuration import Configuration, UsageError, parse
from benchmarks.harness import Measurement, Task, TaskError
from benchmarks.revisions import checked_out

SYSTEMS = ("tutorial", "glow", "mar_scf", "residual", "caflow", "peers")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"from {', '.join(SYSTEMS)} (default: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tasks whose name contains this")
    parser.add_argument("--repeats", type=_count, default=5, metavar="N", help="repetitions per process (default: 5)")
    parser.add_argument("--threads", type=_count, default=2, metavar="N", help="threads of the processor (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="OUT.csv and OUT.png are written")
    parser.add_argument("--more", action="store_true", help="also print further reports of the systems")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two configurations, in turn")
    parser.add_argument("--rounds", type=_count, default=5, metavar="N", help="pairs to compare (default: 5)")
    options = parser.parse_args(arguments)
    try:
        tasks = select(options.systems, options.only)
        if options.compare:
            base = Configuration(threads=options.threads)
            a, b = (parse(text, base) for text in options.compare)
            failed = run_comparison(tasks, a, b, options.rounds, options.repeats)
        else:
            failed = run_table(tasks, options.threads, options.repeats, options.out)
            if options.more:
                run_reports(options.systems or SYSTEMS, options.threads, options.repeats)
    except UsageError as error:
        parser.error(str(error))
    if failed:
        raise SystemExit("\nnot measured:\n" + "\n".join(failed))


def select(systems: list[str], only: str) -> dict[str, tuple[str, Task]]:
    """Maps names to module and task, for these systems (default: all) and tasks with this text in the name."""
    for system in systems:
        if system not in SYSTEMS:
            raise UsageError(f"no system is named {system!r}: {', '.join(SYSTEMS)}")
    modules = [f"benchmarks.{system}" for system in systems or SYSTEMS]
    tasks = {name: (module, task) for module in modules for name, task in import_module(module).TASKS.items()}
    selected = {name: found for name, found in tasks.items() if only in name}
    if not selected:
        raise UsageError(f"no task's name contains {only!r}: {'; '.join(tasks)}")
    return selected


def run_table(tasks: dict[str, tuple[str, Task]], threads: int, repeats: int, out: Path) -> list[str]:
    """Measures, prints, writes; returns what went wrong."""
    present, rows, failed = peers.installed(), [], []
    for name, (module, task) in tasks.items():
        others = [Configuration(package=package) for package in task.peers if package in present]
        if task.peers and not others:
            continue
        ours = None
        for configuration in (*task.configurations, *others):
            configuration = replace(configuration, threads=threads)
            with _collecting(failed):
                measured = harness.measure(module, name, configuration, repeats)
                if configuration == replace(harness.FLOAT32, threads=threads):
                    ours = measured.median
                rows.append(table.row(name, task, configuration, measured, ours))
                # Each row at once, because the whole table takes minutes.
                table.write(rows, out.with_suffix(".csv"))
                print(f"{name}, {configuration}: {measured.median:.4f} s", file=sys.stderr, flush=True)
    if rows:
        print(f"\n{rows[0].machine}; medians of {repeats} repetitions\n\n{table.text(rows)}\n")
        print("The original codes: in float32 on 2 cores, measured once, on another day.")
        figure.save(rows, out.with_suffix(".png"))
        print(f"written: {out.with_suffix('.csv')}, {out.with_suffix('.png')}")
    missing = [package for package in peers.PACKAGES[1:] if package not in present]
    if missing:
        print(f"not installed, and so not in the table: {', '.join(missing)}; `make bench-peers` adds their rows")
    return failed


def run_comparison(
    tasks: dict[str, tuple[str, Task]], a: Configuration, b: Configuration, rounds: int, repeats: int
) -> list[str]:
    """Measures in turn and prints; returns what went wrong."""
    if a == b:
        raise UsageError(f"A and B are both {a}: there is nothing to compare")
    tasks = {name: found for name, found in tasks.items() if {a.package, b.package} <= {"nbflows", *found[1].peers}}
    if not tasks:
        raise UsageError(f"no task that was chosen has both {a.package} and {b.package}")
    comparisons, failed = {}, []
    with checked_out(a.rev) as source_a, checked_out(b.rev) as source_b:
        for name, (module, _) in tasks.items():
            measure_a, measure_b = (
                partial(harness.measure, module, name, configuration, repeats, source)
                for configuration, source in ((a, source_a), (b, source_b))
            )
            with _collecting(failed):
                comparisons[name] = compare.in_turn(measure_a, measure_b, rounds)
                ratios = ", ".join(f"{ratio:.2f}" for ratio in comparisons[name].ratios)
                print(f"{name}: {ratios}", file=sys.stderr, flush=True)
    if comparisons:
        threads = a.threads if a.threads == b.threads else f"{a.threads} and {b.threads}"
        print(f"\n{table.machine(threads, table.processor(), table.version('torch'))}")
        print(f"{rounds} pairs in turn, each of medians of {repeats} repetitions\nA: {a}\nB: {b}\n")
        print(compare.text(comparisons))
    return failed


def run_reports(systems: list[str], threads: int, repeats: int) -> None:
    """Prints the additional reports of the systems."""
    for system in systems:
        module = import_module(f"benchmarks.{system}")
        if hasattr(module, "report"):
            module.report(_measuring(module.__name__, Configuration(threads=threads), repeats))


def _measuring(module: str, configuration: Configuration, repeats: int) -> Callable[[str], Measurement]:
    return lambda name: harness.measure(module, name, configuration, repeats)


@contextlib.contextmanager
def _collecting(failed: list[str]) -> Iterator[None]:
    """Reports a task that does not run and continues with the others."""
    try:
        yield
    except TaskError as error:
        failed.append(str(error))
        print(error, file=sys.stderr, flush=True)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {number}")
    return number


if __name__ == "__main__":
    main()
