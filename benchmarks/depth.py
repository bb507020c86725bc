"""Memory and time of a training step as a flow grows deeper, in every memory mode: a table, CSV and a figure.

    python -m benchmarks.depth [--repeats 3] [--threads 2] [--out build/depth]

Glow on 32x32 colour images, batches of 16: three levels of K = 4, 8, 16, 32 steps, 96 channels. Memory is the process's
peak beyond the imports. It includes weights, their gradients and Adam's averages, which grow with depth in any mode;
the table also lists these separately.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from benchmarks import harness, table
from benchmarks.actions import density_training
from benchmarks.configuration import MEMORY_MODES, Configuration
from benchmarks.glow import build
from benchmarks.harness import Task

STEPS = (4, 8, 16, 32)
MARKERS = {"plain": "o", "checkpoint": "s", "invertible": "^"}


def prepare(num_steps: int):
    """One step of training."""
    return density_training(*build(num_steps))


def name_of(num_steps: int) -> str:
    """The task's name."""
    return f"Glow of {num_steps} steps a level, train"


def weights_mib(num_steps: int) -> float:
    """The weights, a gradient and Adam's two averages of each, in float32."""
    flow, _ = build(num_steps)
    return 4 * 4 * sum(p.numel() for p in flow.parameters()) / 2**20


def draw(rows: list[table.Row], weights: list[float]):
    """Memory and time against K, a line for each memory mode, and the weights' share of the memory."""
    from matplotlib import pyplot as plt

    from nbflows.plotting.page import use_style

    use_style()
    figure, (memory, time) = plt.subplots(1, 2, figsize=(11, 4))
    for mode in MEMORY_MODES:
        of_mode = [row for row in rows if row.memory == mode]
        memory.plot(STEPS, [row.own_mib for row in of_mode], f"{MARKERS[mode]}-", label=f'memory="{mode}"')
        time.plot(STEPS, [row.seconds for row in of_mode], f"{MARKERS[mode]}-")
        time.fill_between(STEPS, [row.fastest for row in of_mode], [row.slowest for row in of_mode], alpha=0.2)
    memory.plot(STEPS, weights, color="grey", linestyle="--", label="weights, gradients, averages")
    deepest = {row.memory: row for row in rows if row.task == name_of(STEPS[-1])}
    plain, invertible = deepest["plain"], deepest["invertible"]
    saved, longer = 1 - invertible.own_mib / plain.own_mib, invertible.seconds / plain.seconds - 1
    memory.set(title=f"K = {STEPS[-1]}: {saved:.0%} less memory", ylabel="MiB beyond the imports", ylim=(0, None))
    time.set(
        title=f"K = {STEPS[-1]}: {longer:.0%} more time", ylabel="seconds: median, fastest to slowest", ylim=(0, None)
    )
    for axes in (memory, time):
        axes.set(xlabel="K, steps in each of three levels", xticks=STEPS, xlim=(0, None))
    memory.legend()
    figure.suptitle("A training step of Glow, by what it keeps for backward")
    return figure


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="in each process (default: 3)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of the processor (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("build/depth"), help="OUT.csv and OUT.png are written")
    options = parser.parse_args(arguments)
    rows = []
    for num_steps in STEPS:
        for mode in MEMORY_MODES:
            configuration = Configuration(memory=mode, threads=options.threads)
            measured = harness.measure("benchmarks.depth", name_of(num_steps), configuration, options.repeats)
            rows.append(table.row(name_of(num_steps), TASKS[name_of(num_steps)], configuration, measured))
            print(f"K = {num_steps}, {mode}: {measured.median:.2f} s, {measured.own_mib:.0f} MiB", file=sys.stderr)
    save(rows, options.out)


def save(rows: list[table.Row], out: Path) -> None:
    """Prints the table, and writes it and the figure."""
    import matplotlib
    from tabulate import tabulate

    matplotlib.use("Agg")
    weights = [weights_mib(num_steps) for num_steps in STEPS]
    lines = []
    for num_steps, share in zip(STEPS, weights, strict=True):
        of_depth = {row.memory: row for row in rows if row.task == name_of(num_steps)}
        figures = [f"{of_depth[mode].own_mib:.0f} MiB, {of_depth[mode].seconds:.2f} s" for mode in MEMORY_MODES]
        lines.append((num_steps, *figures, f"{share:.0f} MiB"))
    print(f"\n{rows[0].machine}, float32\n")
    print(tabulate(lines, ["K", *MEMORY_MODES, "of it weights, gradients, averages"]))
    table.write(rows, out.with_suffix(".csv"))
    figure = draw(rows, weights)
    figure.savefig(out.with_suffix(".png"), dpi=120)
    matplotlib.pyplot.close(figure)
    print(f"\nwritten: {out.with_suffix('.csv')}, {out.with_suffix('.png')}")


TASKS = {name_of(num_steps): Task(partial(prepare, num_steps)) for num_steps in STEPS}

if __name__ == "__main__":
    main()
