"""Measures what a pretrained model costs: seconds an image and memory, to evaluate and to sample, on one thread.

    python -m benchmarks.pretrained [NAME ...] [--repeats 5] [--record]

Each figure comes from a process of its own: batches of 16 images (translations: one sample for each of 16 sources), the
median of the repetitions after one to warm up, in float32. Seconds are the processor's: on one thread the same as by
the clock, without what other programs take of the core. Memory is the process's peak beyond what ``import nbflows``
takes, the model's weights included. With --record the figures go into the manifest, under "cost".
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.revisions import ROOT
from benchmarks.worker import peak_mib

BATCH = 16
TASKS = ("evaluate", "sample")
UNITS = ("seconds", "mib")


def prepare(name: str, task: str) -> Callable[[], object]:
    """Returns the timed function of a model. Evaluating is one draw of log-likelihood, M = 1."""
    import torch

    from nbflows import LabelledFlow, TranslationFlow, load_pretrained

    flow = load_pretrained(name)
    # Random images cost the same as real ones, and loading real ones takes memory.
    levels = flow.num_grey_levels
    context = None if flow.context_shape is None else torch.randint(levels, (BATCH, *flow.context_shape)).byte()
    if isinstance(flow, LabelledFlow):
        context = flow.counted_labels(BATCH)
    if task == "evaluate":
        images = torch.randint(levels, (BATCH, *flow.shape)).byte()
        return torch.no_grad()(lambda: flow.log_prob(images, context))
    if isinstance(flow, TranslationFlow):
        return lambda: flow.translate(context, scored=False)
    return lambda: flow.sample(BATCH, context)


def measure(name: str, task: str, repeats: int) -> dict[str, float]:
    """Measures, in this process, the median seconds per image and the peak memory in MiB beyond the imports."""
    import torch

    import nbflows  # noqa: F401 -- its imports belong to the memory that is left out

    torch.set_num_threads(1)
    torch.manual_seed(0)
    imports = peak_mib()
    run = prepare(name, task)
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return {"seconds": statistics.median(seconds[1:]) / BATCH, "mib": peak_mib() - imports}


def measure_apart(name: str, repeats: int) -> dict:
    """Both tasks, each in a fresh process, as the manifest keeps them."""
    cost: dict = {"batch": BATCH, "threads": 1, "hardware": "1 CPU core"}
    for task in TASKS:
        command = [sys.executable, "-m", "benchmarks.pretrained"]
        command += ["--measure", name, task, "--repeats", str(repeats)]
        # Set before torch starts, which allocates memory for each thread.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=ROOT)
        result = json.loads(done.stdout.splitlines()[-1])
        cost[f"{task}_seconds"] = float(f"{result['seconds']:.3g}")
        cost[f"{task}_mib"] = round(result["mib"], 1)
    return cost


def record(name: str, cost: dict) -> None:
    """Writes the cost into the manifest, which is read again because another process may have changed it."""
    from nbflows import pretrained

    known = pretrained.find_manifest()
    known.entry(name)["cost"] = cost
    known.write(pretrained.saved_models() / "manifest.json")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of nbflows list (default: all in the manifest)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="the median of these (default: 5)")
    parser.add_argument("--record", action="store_true", help="write the figures into the manifest")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats is at least 1, got {options.repeats}")
    if options.measure:
        print(json.dumps(measure(*options.measure, options.repeats)))
        return

    from tabulate import tabulate

    from nbflows import pretrained

    known = pretrained.find_manifest()
    try:
        entries = {name: known.entry(name) for name in options.names or known.models}
    except ValueError as error:
        parser.error(str(error))
    rows, failed = [], []
    for name, entry in entries.items():
        try:
            cost = measure_apart(name, options.repeats)
        except subprocess.CalledProcessError:
            # The process has printed why; the other models are still measured.
            failed.append(name)
            continue
        rows.append((name, entry.get("parameters"), *(cost[f"{task}_{unit}"] for unit in UNITS for task in TASKS)))
        if options.record:
            record(name, cost)
        print(f"{name}: {cost['evaluate_seconds']} s, {cost['sample_seconds']} s", file=sys.stderr)
    print(f"\nbatches of {BATCH}, 1 thread, float32, the median of {options.repeats}; seconds an image, MiB in all\n")
    titles = ["model", "parameters", "evaluate, s", "sample, s", "evaluate, MiB", "sample, MiB"]
    print(tabulate(rows, titles, intfmt=",", floatfmt=("", "", ".2g", ".2g", ".0f", ".0f")))
    if failed:
        raise SystemExit(f"\nnot measured, for the errors above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
