"""Does the idea of a paper pay? Models with and without it, trained for equal CPU seconds, three seeds, paired.

    python -m benchmarks.ideas [NAME ...] [--seconds 90] [--seeds 3] [--test-images 1000] [--out build/ideas]

All variants of an experiment have the same data, dequantization, optimizer and schedule, and as many CPU seconds of one
thread, so that a busy machine changes little. The learning rate of each variant is the best of its ``rates`` on
validation images, in runs with a seed of their own. A score is an upper bound on bits/dim (M = 1) of test images that
all share. A difference is the mean over seeds, with the standard error of that mean over the seeds: it contains the
randomness of the training, and the images cancel. Answers to 1,000 sources say how often both eyes have one colour.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

RATES = (1e-3, 3e-3)


@dataclass(frozen=True)
class Idea:
    """An experiment: variants of one model that differ in one idea.

    Attributes:
        title: what is compared, on which data.
        data: name of the data set.
        variants: builder in ``nbflows.models`` and its arguments, for each variant; the first is without the idea.
        task: the task, for translations.
        batch_size: images in a batch.
        rates: learning rates to choose from.
    """

    title: str
    data: str
    variants: dict[str, tuple[str, dict[str, Any]]]
    task: str | None = None
    batch_size: int = 16
    rates: tuple[float, ...] = RATES


_FLOW = {"num_scales": 2, "num_steps": 4, "hidden_channels": 64, "prior_channels": 16, "prior_layers": 1}
_MIXTURES = {"coupling": "mixlogcdf", "hidden_channels": 32, "num_blocks": 1, "num_components": 4, "dropout": 0.0}
_TRANSLATION = {
    "num_scales": 2,
    "num_steps": 4,
    "num_relation_steps": 2,
    "hidden_channels": 48,
    "relation_channels": 16,
}
IDEAS = {
    "prior": Idea(
        "the prior of mAR-SCF, portraits 16x16",
        "portraits-16",
        {
            "N(0, I)": ("mar_scf", {**_FLOW, "prior": "none"}),
            "Glow's prior": ("mar_scf", {**_FLOW, "prior": "glow"}),
            "mAR prior": ("mar_scf", {**_FLOW, "prior": "mar"}),
        },
    ),
    "mixtures": Idea(
        "mixture couplings, portraits 16x16",
        "portraits-16",
        {
            "affine couplings": ("mar_scf", {**_FLOW, "prior": "glow"}),
            "mixture couplings": ("mar_scf", {**_FLOW, "prior": "glow", **_MIXTURES}),
        },
    ),
    "noise": Idea(
        "learned noise, the same logit, 8x8 digits",
        "digits",
        {"uniform noise": ("digits_simple", {}), "learned noise": ("digits_variational", {})},
        batch_size=64,
    ),
    "links": Idea(
        "links between latents, super-resolution of portraits from 4x4 to 16x16",
        "portraits-16",
        {
            "Dual-Glow": ("caflow", {**_TRANSLATION, "relation": "gaussian"}),
            "a flow per level": ("caflow", {**_TRANSLATION, "relation": "per-level"}),
            "CAFLOW": ("caflow", {**_TRANSLATION, "relation": "unshared"}),
        },
        task="super-resolution",
    ),
    "residual": Idea(
        "residual blocks, the same logit, 8x8 digits",
        "digits",
        {
            "8 couplings": ("simple", {"num_couplings": 8, "hidden_channels": 16, "num_blocks": 1}),
            "6 residual blocks": (
                "digits_residual_flow",
                {"num_blocks": (1, 1), "hidden_channels": 16, "num_end_blocks": 4, "end_features": 64},
            ),
            "10 residual blocks": ("digits_residual_flow", {"end_features": 80}),
        },
        batch_size=64,
        rates=(1e-2, 3e-2),
    ),
}


def train(idea: Idea, variant: str, learning_rate: float, seconds: float, seed: int, num_test_images: int) -> dict:
    """Trains one variant for seconds of this process's CPU time; returns the score of each test image.

    Validation images, for the choice of a learning rate, are as many as test images.
    """
    import torch
    from torch.nn.utils import clip_grad_norm_

    from nbflows import data, models, nets, tasks
    from nbflows.data import Batches, portraits
    from nbflows.training.schedule import Budget, warmup_stable_decay

    images = data.load(idea.data)
    if idea.task:
        images = tasks.apply(tasks.get(idea.task), images)
    paired = images.sources or {}
    builder, arguments = idea.variants[variant]
    torch.manual_seed(seed)
    flow = getattr(models, builder)(images.shape, images.num_grey_levels, **arguments)
    batches = Batches(images.train, idea.batch_size, shuffle=True, seed=seed, paired=paired.get("train"))

    def bits(batch) -> torch.Tensor:
        batch = batch if isinstance(batch, (tuple, list)) else (batch,)
        return -flow.log_prob(*batch) / (math.log(2) * batch[0][0].numel())

    stream = _endless(batches)
    # The first batch initialises ActNorm: a part of building.
    with torch.no_grad():
        bits(next(stream))
    optimizer = torch.optim.Adam(flow.parameters(), lr=learning_rate)
    averages = [parameter.detach().clone() for parameter in flow.parameters()]
    step, start, budget = 0, time.process_time(), Budget(10**9, seconds, whole_recipe=False)
    while (done := budget.done(step, time.process_time() - start)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warmup_stable_decay(step, done, 50)
        optimizer.zero_grad()
        bits(next(stream)).mean().backward()
        clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        nets.update_norms(flow)
        step += 1
        decay = min(0.98, step / (10 + step))
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in flow.parameters()], 1 - decay)
    scores = {}
    with torch.no_grad():
        for parameter, average in zip(flow.parameters(), averages, strict=True):
            parameter.copy_(average)
        nets.update_norms(flow)
        flow.eval()
        for split in ("validation", "test"):
            torch.manual_seed(1)
            chosen = [getattr(images, split)[:num_test_images]]
            chosen += [paired[split][:num_test_images]] if paired else []
            scores[split] = torch.cat([bits(part) for part in zip(*(x.split(100) for x in chosen), strict=True)])
    result = {
        "steps": step,
        "validation": scores["validation"].mean().item(),
        "test": scores["test"].mean().item(),
        "standard_error": scores["test"].std().item() / math.sqrt(num_test_images),
    }
    if idea.task:
        # The sources say little about the eyes: a model has to draw both in one colour by itself.
        drawn = flow.translate(paired["test"][: min(1000, num_test_images)], scored=False).images[:, 0]
        result["eyes"] = portraits.agreement(drawn, "eyes")
    return result


def _endless(batches) -> Iterator:
    while True:
        yield from batches


def compare(idea: Idea, results: dict[tuple[str, int], dict]) -> list[list]:
    """Rows of the table: variant, steps, bits/dim, difference to the first variant over the seeds; for tasks, eyes."""
    seeds = sorted({seed for _, seed in results})
    first, rows = next(iter(idea.variants)), []
    for variant in idea.variants:
        own = [results[variant, seed]["test"] for seed in seeds]
        differences = [value - results[first, seed]["test"] for value, seed in zip(own, seeds, strict=True)]
        mean = sum(differences) / len(seeds)
        spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / max(len(seeds) - 1, 1) / len(seeds))
        rows.append(
            [
                variant,
                round(sum(results[variant, seed]["steps"] for seed in seeds) / len(seeds)),
                f"{sum(own) / len(own):.3f}",
                "" if variant == first else f"{mean:+.3f} ± {spread:.3f}",
            ]
        )
        if idea.task:
            rows[-1].append(f"{sum(results[variant, seed]['eyes'] for seed in seeds) / len(seeds):.2f}")
    return rows


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ideas", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments: {', '.join(IDEAS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=90, metavar="S", help="CPU seconds of each training")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds (default: 3)")
    parser.add_argument("--test-images", type=int, default=1000, metavar="N", help="scored (default: 1000)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="models trained at a time (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("build/ideas"), help="OUT.csv is written")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        import torch

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        print(json.dumps(train(IDEAS[options.names[0]], **json.loads(options.one))))
        return
    unknown = set(options.names) - set(IDEAS)
    if unknown:
        parser.error(f"no experiment named {', '.join(sorted(unknown))}; known: {', '.join(IDEAS)}")
    if options.seeds < 2:
        parser.error("a standard error needs two seeds or more")
    from tabulate import tabulate

    rows = []
    for name in options.names or IDEAS:
        idea = IDEAS[name]
        run = {"seconds": options.seconds, "num_test_images": options.test_images}
        # Rates are chosen with a seed that is not compared.
        trials = [
            (v, {**run, "variant": v, "learning_rate": r, "seed": -1}) for v, r in product(idea.variants, idea.rates)
        ]
        rates: dict[str, tuple[float, float]] = {}
        for (variant, trial), result in zip(trials, _all(name, trials, options.jobs), strict=True):
            choice = (result["validation"], trial["learning_rate"])
            rates[variant] = min(rates.get(variant, choice), choice)
        seeds = [
            (v, {**run, "variant": v, "learning_rate": rates[v][1], "seed": seed})
            # Runs that are compared follow each other, on a machine as busy.
            for seed, v in product(range(options.seeds), idea.variants)
        ]
        found = _all(name, seeds, options.jobs)
        results = {(v, settings["seed"]): result for (v, settings), result in zip(seeds, found, strict=True)}
        rows += [{"idea": name, **settings, **result} for (_, settings), result in zip(seeds, found, strict=True)]
        headers = [f"{idea.title}, {options.seconds:g} s", "steps", "bits/dim (bound, M = 1)", "difference"]
        headers += ["eyes of one colour"] * bool(idea.task)
        print(
            tabulate(compare(idea, results), headers, tablefmt="github", disable_numparse=True), end="\n\n", flush=True
        )
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with open(options.out.with_suffix(".csv"), "w", newline="") as stream:
            writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)


def _all(name: str, runs: list[tuple[str, dict]], jobs: int) -> list[dict]:
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda run: _in_a_process(name, run[1]), runs))


def _in_a_process(name: str, settings: dict) -> dict:
    command = [sys.executable, "-m", "benchmarks.ideas", name, "--one", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{name}, {settings['variant']}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
