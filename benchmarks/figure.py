"""The figure: seconds of every task and memory of training, beside the original codes.

python -m benchmarks.figure build/bench.csv build/bench.png
"""

import sys
from pathlib import Path

from benchmarks.table import Row, read

ORIGINAL = {"marker": "D", "linestyle": "", "markerfacecolor": "none", "color": "black", "markersize": 6}


def draw(rows: list[Row]):
    """Dots, one line for each task: time with its spread, and beside it the peak memory of training."""
    from matplotlib import pyplot as plt

    from nbflows.plotting.page import use_style

    use_style()
    tasks = list(dict.fromkeys(row.task for row in rows))
    series = list(dict.fromkeys(_series(row) for row in rows))
    colours = dict(zip(series, 2 * plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
    figure, (time, memory) = plt.subplots(1, 2, figsize=(13, 2 + 0.3 * len(tasks)), width_ratios=[3, 2], sharey=True)
    for row in rows:
        colour = colours[_series(row)]
        # Offset vertically, so that no dot hides another.
        y = tasks.index(row.task) + 0.6 * ((series.index(_series(row)) + 0.5) / len(series) - 0.5)
        time.plot([row.fastest, row.slowest], [y, y], color=colour, linewidth=1.5)
        time.plot(row.seconds, y, "o", color=colour, markersize=5)
        if "train" in row.task:
            memory.plot(row.peak_mib / 1024, y, "o", color=colour, markersize=5)
    for y, task in enumerate(tasks):
        # The same in every row of a task.
        original = next(row for row in rows if row.task == task)
        if original.original_seconds:
            time.plot(original.original_seconds, y, **ORIGINAL)
        if original.original_mib:
            memory.plot(original.original_mib / 1024, y, **ORIGINAL)
    time.set(xscale="log", xlabel="seconds: median, fastest to slowest (log scale)", title="Time")
    memory.set(xlim=(0, None), xlabel="GiB at the peak, imports included", title="Memory of training")
    time.set_yticks(range(len(tasks)), tasks)
    time.set_ylim(len(tasks), -1)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colours[label], label=label) for label in series]
    handles.append(plt.Line2D([], [], label="original code", **ORIGINAL))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    figure.suptitle(f"Further left is better. {rows[0].machine}", fontsize=11)
    return figure


def _series(row: Row) -> str:
    return f"nbflows, {row.configuration}" if row.package == "nbflows" else row.package


def save(rows: list[Row], file: Path) -> None:
    """Draws the rows into a file, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    figure = draw(rows)
    figure.savefig(file, dpi=120)
    matplotlib.pyplot.close(figure)


if __name__ == "__main__":
    save(read(Path(sys.argv[1])), Path(sys.argv[2]))
