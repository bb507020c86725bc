"""Learning per minute: test bits/dim on MNIST after equal CPU minutes on one thread, ours beside counting and others.

    python -m benchmarks.learning [NAME ...] [--minutes 2 5 10] [--test-images 2000] [--out build/learning]

Each model is trained in a process of its own, on one thread: a budget is CPU seconds of that process, so that a busy
machine changes little. All have the same loop: the learning rate warms up, stays, and falls to zero in the last quarter
of the budget, as in ``training.schedule``; averaged weights are scored, with one draw of noise (M = 1), on the first
test images. ``LEARNERS`` has what differs: batch size, learning rate, optimizer, precision. They are not the settings
of the recipes, which are made for hours.

The original's figures are those of its published code, trained once with its own schedule and scored on the way.
"""

import argparse
import ast
import copy
import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain, repeat
from pathlib import Path
from typing import Any

# The original tutorial's multi-scale flow: batch 128, one thread without AMX, 2,000 test images, M = 1.
ORIGINAL = {2: 1.765, 5: 1.445, 10: 1.355}


@dataclass(frozen=True)
class Learner:
    """A model and how it is trained.

    Attributes:
        build: returns a module with ``bits_per_dim(images)``, one value per image, differentiable.
        batch_size, learning_rate, optimizer, betas, ema_decay, warmup_steps: settings of the training.
        precision: precision of the networks, "32-true" or "bf16-mixed".
        package: package that must be installed, if it is not ours.
        kind: whether its bits/dim are "exact", a "bound", or an "estimate" of a bound.
    """

    build: Callable
    batch_size: int = 32
    learning_rate: float = 2e-3
    optimizer: str = "Adam"
    betas: tuple[float, float] = (0.9, 0.999)
    ema_decay: float = 0.995
    warmup_steps: int = 100
    precision: str = "bf16-mixed"
    package: str = "nbflows"
    kind: str = "bound"

    def autocast(self):
        """The networks' precision, for a ``with``."""
        import torch

        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16-mixed")


def _recipe(name: str, **arguments):
    from nbflows import data, objectives, recipes

    recipe = recipes.get(name)
    # None of the models is given labels.
    recipe = replace(recipe, arguments={**recipe.arguments, **arguments}, objective=objectives.Density())
    return recipe.build(data.load("mnist"))


def _normflows_glow(num_levels: int = 2, num_steps: int = 8, hidden_channels: int = 64):
    """The multi-scale Glow of normflows' examples, with uniform noise."""
    import normflows
    import torch
    from torch import nn

    class Glow(nn.Module):
        def __init__(self):
            super().__init__()
            base, merges, flows = [], [], []
            for i in range(num_levels):
                channels = 2 ** (num_levels + 1 - i)
                flows.append(
                    [
                        normflows.flows.GlowBlock(channels, hidden_channels, split_mode="channel", scale=True)
                        for _ in range(num_steps)
                    ]
                    + [normflows.flows.Squeeze()]
                )
                side = 28 // 2 ** (num_levels - i)
                if i:
                    merges.append(normflows.flows.Merge())
                    latent = (2 ** (num_levels - i), side, side)
                else:
                    latent = (2 ** (num_levels + 1), side, side)
                base.append(normflows.distributions.DiagGaussian(latent))
            self.flow = normflows.MultiscaleFlow(base, flows, merges)

        def bits_per_dim(self, images):
            points = (images.float() + torch.rand(images.shape)) / 256
            return 8 - self.flow.log_prob(points) / math.log(2) / 784

    return Glow()


def _zuko(kind: str, **settings):
    """A flow of zuko on all pixels as one vector, with uniform noise and a logit in front."""
    import torch
    import zuko
    from torch import nn

    class OnPixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = getattr(zuko.flows, kind)(784, **settings)

        def bits_per_dim(self, images):
            points = (images.flatten(1).float() + torch.rand(len(images), 784)) / 256
            points = 0.5e-5 + (1 - 1e-5) * points
            # log |d logit / dx| of each pixel, after the shrink.
            log_det = (math.log(1 - 1e-5) - points.log() - (1 - points).log()).sum(1)
            log_prob = self.flow().log_prob(torch.logit(points)) + log_det
            return 8 - log_prob / math.log(2) / 784

    return OnPixels()


LEARNERS: dict[str, Learner] = {
    "simple": Learner(partial(_recipe, "mnist-simple")),
    "variational": Learner(partial(_recipe, "mnist-variational")),
    "multiscale": Learner(partial(_recipe, "mnist-multiscale")),
    "glow": Learner(partial(_recipe, "mnist-glow")),
    "marscf": Learner(partial(_recipe, "mnist-marscf")),
    "marscf-mixtures": Learner(partial(_recipe, "mnist-marscf-mixlogcdf-small")),
    "residual": Learner(partial(_recipe, "mnist-residual-small"), precision="32-true", kind="estimate"),
    "tarflow": Learner(
        partial(_recipe, "mnist-tarflow", label_dropout=0.0), learning_rate=3e-3, optimizer="AdamW", betas=(0.9, 0.95)
    ),
    "pixelflow": Learner(
        partial(_recipe, "mnist-pixelflow"), learning_rate=4e-3, optimizer="AdamW", betas=(0.9, 0.95), kind="exact"
    ),
    "normflows-glow": Learner(
        _normflows_glow, batch_size=64, learning_rate=1e-3, optimizer="Adamax", precision="32-true", package="normflows"
    ),
    "zuko-maf": Learner(
        partial(_zuko, "MAF", transforms=3, hidden_features=(512, 512)),
        learning_rate=1e-3,
        precision="32-true",
        package="zuko",
    ),
    "zuko-nsf": Learner(
        partial(_zuko, "NSF", transforms=2, hidden_features=(256, 256)),
        learning_rate=1e-3,
        precision="32-true",
        package="zuko",
    ),
}


@dataclass
class Run:
    """A training on MNIST as far as it has come.

    Attributes:
        model: the model, the optimizer, and the average of each parameter.
        position, seconds: batches seen, and CPU seconds of this process used.
    """

    model: Any
    optimizer: Any
    averages: list
    position: int = 0
    seconds: float = 0.0

    def train(self, learner: Learner, batches, end: float, rate: Callable[[int, float], float]) -> None:
        """Trains until ``end`` seconds are used, at the learner's rate times ``rate(step, seconds)``."""
        import torch
        from torch.nn.utils import clip_grad_norm_

        from nbflows.nets import update_norms

        start, batches.position = time.process_time() - self.seconds, self.position
        self.model.train()
        for images in chain.from_iterable(repeat(batches)):
            self.seconds = time.process_time() - start
            if self.seconds >= end:
                return
            for group in self.optimizer.param_groups:
                group["lr"] = learner.learning_rate * rate(self.position, self.seconds)
            self.optimizer.zero_grad()
            with learner.autocast():
                loss = self.model.bits_per_dim(images).mean()
            loss.backward()
            clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            update_norms(self.model)
            decay = min(learner.ema_decay, (1 + self.position) / (10 + self.position))
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.model.parameters()], 1 - decay)
            self.position += 1

    def score(self, images) -> dict:
        """Bits/dim of the averaged weights, which take the place of the last ones."""
        import torch

        from nbflows import metrics
        from nbflows.nets import update_norms

        with torch.no_grad():
            for parameter, average in zip(self.model.parameters(), self.averages, strict=True):
                parameter.copy_(average)
            update_norms(self.model)
            self.model.eval()
            torch.manual_seed(1)
            scores = torch.cat([self.model.bits_per_dim(part) for part in images.split(100)])
        result = metrics.summarize(scores, num_draws=1)
        return {"mean": result.mean, "standard_error": result.standard_error, "steps": self.position}


def train(learner: Learner, minutes: list[float], num_test_images: int, seed: int = 0) -> list[dict]:
    """Trains one model on MNIST for several budgets in minutes of this process's CPU time; returns its test scores.

    Until its last quarter a budget is trained as every longer one is. So this is done once; the state is copied
    where the rate of a budget begins to fall, and the copy goes on to its end.
    """
    import torch

    from nbflows import data
    from nbflows.data import Batches
    from nbflows.training.schedule import DECAY, WARMUP

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    mnist = data.load("mnist")
    torch.manual_seed(seed)
    model = learner.build()
    # Whatever a first batch initialises is not charged: it is a part of building.
    with torch.no_grad(), learner.autocast():
        model.train().bits_per_dim(mnist.train[: learner.batch_size])
    optimizer = getattr(torch.optim, learner.optimizer)(
        model.parameters(), lr=learner.learning_rate, betas=learner.betas
    )
    trunk = Run(model, optimizer, [parameter.detach().clone() for parameter in model.parameters()])
    batches = Batches(mnist.train, learner.batch_size, shuffle=True, seed=seed)

    def warm_up(step: int, seconds: float) -> float:
        return min(1.0, max((step + 1) / learner.warmup_steps, seconds / (WARMUP * 60 * min(minutes))))

    def fall(step: int, seconds: float) -> float:
        return max(0.0, (end - seconds) / (DECAY * end))

    rows = []
    for end in (60 * budget for budget in sorted(minutes)):
        trunk.train(learner, batches, (1 - DECAY) * end, warm_up)
        branch = copy.deepcopy(trunk)
        branch.train(learner, batches, end, fall)
        rows.append(branch.score(mnist.test[:num_test_images]))
    return rows


def count(num_test_images: int) -> dict:
    """Counts neighbours on MNIST: exact bits/dim of the test images, and the minutes of CPU that it took."""
    from nbflows import data, metrics
    from nbflows.counting import CountingModel

    mnist, start = data.load("mnist"), time.process_time()
    scores = CountingModel(mnist.train).bits_per_dim(mnist.test[:num_test_images])
    result = metrics.summarize(scores, num_draws=1)
    return {
        "mean": result.mean,
        "standard_error": result.standard_error,
        "minutes": (time.process_time() - start) / 60,
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"models: {', '.join(LEARNERS)} (default: all)")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5, 10], metavar="M", help="budgets")
    parser.add_argument("--test-images", type=int, default=2000, metavar="N", help="scored (default: 2000)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="models trained at a time (default: 1)")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change settings of the learners")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("build/learning"), help="OUT.csv is written")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(LEARNERS)
    if unknown:
        parser.error(f"no model named {', '.join(sorted(unknown))}; known: {', '.join(LEARNERS)}")
    changes = {key: _value(value) for key, _, value in (change.partition("=") for change in options.set)}
    if options.one:
        learner = replace(LEARNERS[options.names[0]], **changes)
        print(json.dumps(train(learner, options.minutes, options.test_images, options.seed)))
        return
    missing = [name for name in options.names or LEARNERS if not find_spec(LEARNERS[name].package)]
    if missing and options.names:
        parser.error(f"not installed: {', '.join(sorted({LEARNERS[name].package for name in missing}))}")
    if missing:
        print(f"left out, as their packages are not installed: {', '.join(missing)}")
    names = [name for name in options.names or LEARNERS if name not in missing]
    minutes = sorted(options.minutes)
    rest = [
        "--minutes",
        *map(str, minutes),
        "--test-images",
        str(options.test_images),
        "--seed",
        str(options.seed),
        *(["--set", *options.set] if options.set else []),
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda name: _in_a_process(name, rest), names)
        rows = [
            {"model": name, "kind": LEARNERS[name].kind, "minutes": budget, **score}
            for name, scores in zip(names, results, strict=True)
            for budget, score in zip(minutes, scores, strict=True)
        ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out.with_suffix(".csv"), "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for kind in sorted({row["kind"] for row in rows}):
        print(_table(kind, minutes, {(row["model"], row["minutes"]): row for row in rows if row["kind"] == kind}))
    counted = count(options.test_images)
    print(
        f"counting neighbours, no network, {counted['minutes']:.1f} minutes: "
        f"{counted['mean']:.3f} ± {counted['standard_error']:.3f} bits/dim, exact"
    )


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _in_a_process(name: str, rest: list[str]) -> list[dict]:
    command = [sys.executable, "-m", "benchmarks.learning", name, "--one", *rest]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{name}: {(done.stderr.strip() or f'status {done.returncode}').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _table(kind: str, minutes: list[float], rows: dict) -> str:
    from tabulate import tabulate

    lines = [
        [name, *(f"{rows[name, m]['mean']:.3f} ± {rows[name, m]['standard_error']:.3f}" for m in minutes)]
        for name in dict.fromkeys(name for name, _ in rows)
    ]
    if kind == "bound":
        lines.append(["original code, multi-scale, float32, its own schedule", *(ORIGINAL.get(m, "") for m in minutes)])
    heading = {"bound": "a bound, M = 1", "exact": "exact", "estimate": "an estimate of a bound, M = 1"}[kind]
    return tabulate(lines, [f"bits/dim ({heading})", *(f"{m:g} min" for m in minutes)]) + "\n"


if __name__ == "__main__":
    main()
