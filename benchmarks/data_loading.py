"""Measures the share of training time that goes into data: seconds a batch against seconds a step, for every recipe.

    python -m benchmarks.data_loading [RECIPE ...] [--threads 2] [--device cpu] [--images 8] [--write]

A batch is gathered from the whole training set in memory, as training does it; recipes whose data are not here are
skipped. A step is timed with --images images, with twice as many, and so on, up to the recipe's batch. If a smaller
step takes more than a second, the line through the last two gives that of the batch, marked "≈". Networks compute in
the precision that training chooses by itself. Among recipes that differ only in their data the first one is timed. With
--write the rows go into the table of docs/training_at_scale.md.
"""

import argparse
import time
from collections.abc import Callable

from benchmarks import pages
from nbflows.training import steps

PAGE, MARK = pages.DOCS / "training_at_scale.md", "data: python -m benchmarks.data_loading --write"
TITLES = ["recipe", "data", "batch", "ms a batch", "ms a step", "share"]
# The smallest number of batches, rounded up to whole epochs.
NUM_BATCHES = 200
# Seconds; larger steps than one that takes longer are extrapolated.
LONG_STEP = 1.0


def training_data(recipe, loaded: dict):
    """The recipe's data, None where they are not here; ``loaded`` keeps sets that the next recipe may share."""
    from nbflows import data

    if recipe.data not in loaded:
        try:
            loaded[recipe.data] = data.load(recipe.data) if recipe.data else None
        except FileNotFoundError:
            loaded[recipe.data] = None
    images = loaded[recipe.data]
    return None if images is None else recipe.objective.prepare(images)


def seconds_per_batch(recipe, images, device: str = "cpu") -> float:
    """The mean over whole epochs, because an epoch begins with drawing its order, which takes long."""
    from nbflows.data import Batches

    first, *paired = _tensors(recipe, images)
    batches = Batches(first, _batch(recipe), True, recipe.seed, paired=paired[0] if paired else None, device=device)
    count, start = 0, time.perf_counter()
    while count < NUM_BATCHES:
        for _ in batches:
            count += 1
    _wait_for(device)
    return (time.perf_counter() - start) / count


def seconds_per_step(recipe, images, num_images: int, device: str = "cpu") -> tuple[float, bool]:
    """Seconds of a step with the recipe's batch, and whether they are extrapolated from smaller steps."""
    step, batch = training_step(recipe, images, device), _batch(recipe)

    def timed(count: int) -> tuple[int, float]:
        return count, _seconds(step(count), device)

    few, more = None, timed(min(num_images, batch))
    while more[0] < batch and more[1] <= LONG_STEP:
        few, more = more, timed(min(2 * more[0], batch))
    if more[0] == batch:
        return more[1], False
    return on_the_line(few or timed(more[0] // 2), more, batch), True


def on_the_line(few: tuple[int, float], more: tuple[int, float], batch: int) -> float:
    """Seconds of a batch, extrapolated from two numbers of images and their seconds, but at least the larger's."""
    an_image = (more[1] - few[1]) / (more[0] - few[0])
    return more[1] + (batch - more[0]) * max(0.0, an_image)


def training_step(recipe, images, device: str = "cpu") -> Callable[[int], Callable[[], object]]:
    """A function from a number of images to a function that takes one training step with them."""
    import torch

    from benchmarks.actions import training as workload
    from nbflows import hardware

    module = steps.FlowModule(recipe.build(images).to(device).train(), recipe, steps_per_epoch=1)
    half = hardware.faster_precision(device) == "bf16-mixed"

    def prepare(count: int) -> Callable[[], object]:
        inputs = [tensor[:count].to(device) for tensor in _tensors(recipe, images)]

        def loss():
            with torch.autocast(device, torch.bfloat16, enabled=half):
                return module.measure(*module.augment(*inputs))[module.objective.minimised].mean()

        return workload(module.flow, loss).run

    return prepare


def _tensors(recipe, images) -> list:
    """The training images, and their sources or labels if the recipe uses them."""
    paired = recipe.objective.paired(images)
    return [images.train] if paired is None else [images.train, paired["train"]]


def _batch(recipe) -> int:
    return recipe.batch_size // recipe.accumulate


def _seconds(run: Callable[[], object], device: str) -> float:
    times = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        _wait_for(device)
        times.append(time.perf_counter() - start)
    # The first sets every ActNorm.
    return min(times[1:])


def _wait_for(device: str) -> None:
    import torch

    if device != "cpu":
        getattr(torch, device).synchronize()


def row(name: str, recipe, images, num_images: int, device: str) -> list[str]:
    """A row of the table."""
    batch = seconds_per_batch(recipe, images, device)
    step, estimated = seconds_per_step(recipe, images, num_images, device)
    share = batch / (batch + step)
    return [
        name,
        images.name,
        str(_batch(recipe)),
        f"{1000 * batch:.3f}",
        f"{'≈ ' if estimated else ''}{1000 * step:,.0f}",
        f"{share:.2%}" if share >= 1e-4 else "< 0.01%",
    ]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="RECIPE", help="default: all")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of the processor (default: 2)")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="default: cpu")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="images in the first step (default: 8)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.parent.name}/{PAGE.name}")
    options = parser.parse_args(arguments)
    if options.threads < 1 or options.images < 2:
        parser.error(f"at least 1 thread and 2 images, got {options.threads} and {options.images}")

    import torch
    from tabulate import tabulate

    from benchmarks import table
    from nbflows import hardware, recipes

    try:
        chosen = {name: recipes.get(name) for name in options.names or recipes.RECIPES}
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(options.threads)
    rows, loaded, timed = [], {}, set()
    for name, recipe in chosen.items():
        images = training_data(recipe, loaded)
        if images is None:
            print(f"{name}: skipped, its data are not here", flush=True)
            continue
        key = recipe.builder, repr(recipe.model_arguments(images)), recipe.batch_size, recipe.objective.task
        if key in timed:
            continue
        timed.add(key)
        with hardware.denormals_as_zero():
            rows.append(row(name, recipe, images, options.images, options.device))
        print(*rows[-1], flush=True)
    print(f"\n{table.machine(options.threads, table.processor(), torch.__version__)}; device: {options.device}\n")
    print(tabulate(rows, TITLES, disable_numparse=True))
    if options.write:
        pages.write(PAGE, MARK, rows, TITLES, recipes.RECIPES)


if __name__ == "__main__":
    main()
