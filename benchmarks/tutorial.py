"""Times the tutorial's three models at the original's shapes, each measurement in a fresh process, and prints a table.

    python benchmarks/tutorial.py [--repeats 5] [--threads 2] [--csv FILE]

The original's figures are medians of its published code on 2 CPU cores (torch 2.15, float32, its quietest run). Memory
is the process's peak, imports included, as theirs is.
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import time

# Seconds per training step at batch 128, to sample 64, for the likelihood of 64; GiB at the peak of training.
ORIGINAL = {
    "simple": {"train": 3.51, "sample": 1.09, "likelihood": 1.00, "memory": 7.6},
    "variational": {"train": 4.55, "sample": 1.11, "likelihood": 1.15, "memory": 9.2},
    "multiscale": {"train": 2.50, "sample": 0.39, "likelihood": 0.56, "memory": 4.3},
}
TASKS = ("train", "likelihood", "sample")
PRECISIONS = ("32-true", "bf16-mixed")


def measure(model: str, task: str, precision: str, repeats: int, threads: int) -> dict[str, object]:
    """In this process: seconds of each repetition after two to warm up, and the peak memory."""
    import torch

    from nbflows import models, training

    torch.set_num_threads(threads)
    training.keep_freed_memory()
    torch.manual_seed(0)
    flow = getattr(models, model)()
    images = torch.randint(256, (128 if task == "train" else 64, 1, 28, 28)).byte()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4)

    def train():
        optimizer.zero_grad()
        flow.bits_per_dim(images).mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()

    @torch.no_grad()
    def likelihood():
        flow.log_prob(images)

    def sample():
        flow.sample(64)

    run = {"train": train, "likelihood": likelihood, "sample": sample}[task]
    seconds = []
    # What Lightning does for the same precision.
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        for _ in range(repeats + 2):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    # Kilobytes on Linux, bytes on a Mac.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"seconds": seconds[2:], "gib": gib, "faster": training.faster_precision("cpu")}


def in_fresh_process(*arguments: object) -> dict:
    """Runs ``measure`` there."""
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", help="write the rows there too")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        model, task, precision, repeats, threads = options.measure
        print(json.dumps(measure(model, task, precision, int(repeats), int(threads))))
        return

    from tabulate import tabulate

    rows = []
    for model, original in ORIGINAL.items():
        for task in TASKS:
            for precision in PRECISIONS:
                result = in_fresh_process(model, task, precision, options.repeats, options.threads)
                median = statistics.median(result["seconds"])
                rows.append(
                    {
                        "model": model,
                        "task": task,
                        "precision": precision,
                        "seconds": round(median, 3),
                        "fastest..slowest": f"{min(result['seconds']):.2f}..{max(result['seconds']):.2f}",
                        "original s": original[task],
                        "speedup": round(original[task] / median, 1),
                        "peak GiB": round(result["gib"], 2),
                        "original GiB": original["memory"] if task == "train" else "",
                    }
                )
                print(f"{model} {task} {precision}: {median:.3f} s", file=sys.stderr)
    print(
        f"\n{options.threads} threads, {options.repeats} repetitions; nbflows train would choose {result['faster']}\n"
    )
    print(tabulate(rows, headers="keys"))
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
