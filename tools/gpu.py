"""Everything that a GPU would do, within minutes and without a network: tests, a table of costs, training the queue.

    python -m tools.gpu [--minutes 9] [--out build/gpu]

The tests marked ``gpu`` run first, then each model of ``COSTS`` is timed, then the models of ``QUEUE`` are trained one
after the other until the time is up, each from its published weights where there are some; a training that is cut off
leaves its last checkpoint. All of it goes to one folder: ``results.json``, written again after each part, the
log of the tests, and the runs. Without a GPU the same parts run on the CPU for seconds, to show what they would do.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from nbflows import models, pretrained, set_memory
from nbflows.files import write
from nbflows.nets import update_norms
from nbflows.training import compiling, runs

ROOT = Path(__file__).parents[1]
# What a GPU is wanted for first, and for which share of the time that is left.
QUEUE = (
    ("mnist-marscf", 0.4),
    ("mnist-multiscale", 0.4),
    ("mnist-glow", 0.5),
    ("mnist-caflow-inpainting", 0.5),
    ("mnist-caflow-super-resolution", 1.0),
)
# Model, its arguments, the shape of a batch.
COSTS = {
    "tutorial's multi-scale flow": (models.multiscale, (128, 1, 28, 28)),
    "Glow, 3 levels of 32, 512 channels": (models.glow, (64, 3, 32, 32)),
    "mAR-SCF, affine, 3 levels of 32": (
        partial(models.mar_scf, coupling="affine", num_steps=32, hidden_channels=512),
        (64, 3, 32, 32),
    ),
    "Residual Flow, CIFAR-10": (models.residual_flow, (64, 3, 32, 32)),
}
STUB_COSTS = {"Glow, 8x8 digits": (partial(models.digits_glow, num_grey_levels=256), (16, 1, 8, 8))}
STUB_QUEUE = (("digits-glow", 1.0),)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0 if every part ran."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="in all (default: 9; without a GPU 0.5)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="folder of the results")
    options = parser.parse_args(arguments)
    here = torch.cuda.is_available()
    device = "cuda" if here else "cpu"
    end = time.monotonic() + 60 * (options.minutes or (9 if here else 0.5))
    options.out.mkdir(parents=True, exist_ok=True)
    if not here:
        print("no GPU is here: the same parts run on the CPU for seconds, on small models")
    results = {"device": torch.cuda.get_device_name() if here else "cpu", "torch": torch.__version__}
    parts: list[tuple[str, Callable]] = [
        ("tests", lambda: run_tests(options.out, end, here)),
        ("costs", lambda: costs(COSTS if here else STUB_COSTS, device, end)),
        ("trained", lambda: train_queue(QUEUE if here else STUB_QUEUE, options.out, device, end)),
    ]
    failed = []
    for name, part in parts:
        try:
            results[name] = part()
        # One part that fails must not take the time of the others.
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}
            failed.append(name)
        write(options.out / "results.json", json.dumps(results, indent=1).encode())
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    print(f"all of it is in {options.out}")
    statuses = [results["tests"]["status"]] if "tests" not in failed else []
    statuses += [run["status"] for run in results["trained"].values()] if "trained" not in failed else []
    return 1 if failed or any(statuses) else 0


def run_tests(out: Path, end: float, here: bool) -> dict:
    """Runs the tests marked ``gpu``, for a third of the time at most; their output is in ``tests.log``."""
    seconds = max(60.0, (end - time.monotonic()) / 3)
    environment = os.environ if here else {**os.environ, "NBFLOWS_GPU": "cpu", "OMP_NUM_THREADS": "1"}
    # The stub shows that the tests are found; they run in the test suite.
    options = [] if here else ["--collect-only"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        *options,
        "tests/test_gpu.py",
    ]
    with open(out / "tests.log", "w") as log:
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, env=environment, timeout=seconds)
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = "out of time"
    last = (out / "tests.log").read_text().strip().splitlines()[-1:]
    return {"status": status, "summary": last[0] if last else ""}


def costs(table: dict, device: str, end: float) -> dict:
    """Images per second and GiB at the peak, of training steps and of sampling, for a third of the time at most."""
    limit, measured = time.monotonic() + (end - time.monotonic()) / 3, {}
    for name, (build, shape) in table.items():
        for setting in ("float32", "bf16", "bf16, compiled", "bf16, invertible", "sampling"):
            if measured and time.monotonic() > limit:
                return {**measured, "cut": "out of time"}
            if setting == "bf16, compiled" and device == "cpu":
                continue
            try:
                measured[f"{name}, {setting}"] = _cost(build(), shape, setting, device)
            # A model without layers that compile, or too large for this GPU.
            except (ValueError, RuntimeError) as error:
                measured[f"{name}, {setting}"] = {"error": str(error)[:200]}
    return measured


def _cost(flow, shape: tuple[int, ...], setting: str, device: str, repeats: int = 5) -> dict:
    flow, images = flow.to(device).train(), torch.randint(256, shape, device=device).byte()
    half = torch.autocast(device, torch.bfloat16, enabled=setting != "float32")
    if "invertible" in setting:
        set_memory(flow, "invertible")
    with torch.no_grad():
        flow.bits_per_dim(images, chunk_size=len(images))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=True)
    compiled = compiling.CompiledLayers(flow) if "compiled" in setting else None

    def step() -> None:
        optimizer.zero_grad()
        with half:
            loss = flow.bits_per_dim(images, chunk_size=len(images)).mean()
        loss.backward()
        optimizer.step()
        update_norms(flow)

    def run() -> None:
        if setting == "sampling":
            flow.eval().sample(len(images), chunk_size=len(images))
        elif compiled:
            with compiled.active():
                step()
        else:
            step()

    for _ in range(2):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / repeats
    memory = {"GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if device == "cuda" else {}
    return {"images per second": round(len(images) / seconds, 1), **memory}


def train_queue(queue: tuple[tuple[str, float], ...], out: Path, device: str, end: float) -> dict:
    """Trains one recipe after the other, each for its share of the time that is left; returns their test scores."""
    trained, known = {}, pretrained.list_pretrained()
    for name, share in queue:
        # What a training needs besides: imports, data, the test score.
        minutes = max(0.05, ((end - time.monotonic()) * share - 20) / 60)
        if minutes < 0.5 and device == "cuda":
            trained[name] = {"status": 0, "says": "no time was left"}
            continue
        folder = out / name
        command = [sys.executable, "-m", "nbflows", "train", name, "--device", device, "--out", str(folder)]
        before = 0.0
        if saved := runs.checkpoint_to_resume(folder):
            # Minutes count in all, earlier parts included.
            before = runs.read_checkpoint(saved)["seconds"] / 60
            command += ["--resume"]
        elif name in known and known[name]["status"] == "here" and device == "cuda":
            command += ["--start-from", name]
        command += ["--max-minutes", f"{before + minutes:.2f}", "--no-progress"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        scores = [line for line in lines if line.startswith("test:")] or lines[-1:]
        trained[name] = {"minutes": round(minutes, 2), "status": done.returncode, "says": " ".join(scores)}
    return trained


if __name__ == "__main__":
    sys.exit(main())
