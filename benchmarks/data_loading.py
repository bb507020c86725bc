"""Measures the share of training time that goes into data: seconds a batch against seconds a step, for every recipe.

    python benchmarks/data_loading.py [--only mnist] [--threads 2] [--max-images 4] [--csv FILE]

A batch is gathered from the whole training set in memory; sets that are not here are random images of their shapes. A
step is timed on a few images and scaled to the recipe's batch. The last two columns say what the share would be if a
step took a 10th and a 50th of that on a GPU, and batches were gathered by the CPU all the same: at most, as sets that
fit are kept on the GPU. Of recipes that differ in nothing but their data only the first is timed.
"""

import argparse
import csv
import statistics
import time

# By name, where the data may be missing: shape and number of training images.
SHAPES = {
    "mnist": ((1, 28, 28), 50_000),
    "cifar10": ((3, 32, 32), 45_000),
    "imagenet32": ((3, 32, 32), 1_268_356),
    "imagenet64": ((3, 64, 64), 1_268_356),
    "tiny-imagenet-32": ((3, 32, 32), 8_000),
    "celeba-hq-256-5bit": ((3, 256, 256), 24_300),
    None: ((3, 64, 64), 60_000),
}
NUM_BATCHES = 200


def training_data(recipe, loaded: dict):
    """The recipe's, or random images of their shape: up to 1 GiB, far more than any cache holds."""
    import torch

    from nbflows import data, tasks

    if recipe.data not in loaded:
        try:
            loaded[recipe.data] = data.load(recipe.data) if recipe.data else None
        except FileNotFoundError:
            loaded[recipe.data] = None
        if loaded[recipe.data] is None:
            shape, count = SHAPES[recipe.data]
            count = min(count, 2**30 // torch.Size(shape).numel())
            levels = 32 if recipe.data == "celeba-hq-256-5bit" else 256
            images = torch.randint(levels, (count, *shape), dtype=torch.uint8)
            loaded[recipe.data] = data.ImageData(
                f"random {recipe.data or 'images'}", "", images, images[:8], images[:8], num_levels=levels
            )
    images = loaded[recipe.data]
    if recipe.task == "side-by-side":
        return tasks.apply(tasks.get("colorization"), images)
    return recipe.prepare(images)


def seconds_per_batch(recipe, images) -> float:
    from nbflows.data import Batches

    paired = images.labels["train"] if recipe.density_weight is not None else None
    paired = images.sources["train"] if recipe.task else paired
    batches = Batches(images.train, recipe.batch_size // recipe.accumulate, True, recipe.seed, paired=paired)
    seconds = []
    while len(seconds) < NUM_BATCHES:
        stream = iter(batches)
        start = time.perf_counter()
        for _ in stream:
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
    # The mean: drawing an epoch's order takes long, and once an epoch.
    return statistics.mean(seconds)


def seconds_per_step(recipe, images, max_images: int) -> float:
    import torch

    from nbflows import training
    from nbflows.nets import update_norms

    kind = training.TranslationModule if recipe.task else training.FlowModule
    kind = training.JointModule if recipe.density_weight is not None else kind
    module = kind(recipe.build(images), recipe, steps_per_epoch=1)
    optimizer = module.configure_optimizers()["optimizer"]
    batch = recipe.batch_size // recipe.accumulate
    count = min(batch, max_images)
    inputs = [images.train[:count]]
    inputs += [images.labels["train"][:count]] if recipe.density_weight is not None else []
    inputs += [images.sources["train"][:count]] if recipe.task else []
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        optimizer.zero_grad()
        module.measure(*module.augment(*inputs))[module.objective].mean().backward()
        torch.nn.utils.clip_grad_norm_(module.flow.parameters(), recipe.clip_norm)
        optimizer.step()
        update_norms(module.flow)
        seconds.append(time.perf_counter() - start)
    # The first sets every ActNorm.
    return min(seconds[1:]) * batch / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only recipes whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-images", type=int, default=4, help="in the step that is timed")
    parser.add_argument("--csv", help="write the rows there too")
    options = parser.parse_args()

    import torch
    from tabulate import tabulate

    from nbflows import hardware, recipes

    torch.set_num_threads(options.threads)
    hardware.keep_freed_memory()
    rows, loaded, timed = [], {}, set()
    for name, recipe in recipes.RECIPES.items():
        if options.only not in name:
            continue
        images = training_data(recipe, loaded)
        key = recipe.builder, repr(recipe.model_arguments(images)), recipe.batch_size, recipe.task
        if key in timed:
            continue
        timed.add(key)
        batch, step = seconds_per_batch(recipe, images), seconds_per_step(recipe, images, options.max_images)
        rows.append(
            {
                "recipe": name,
                "data": images.name,
                "batch": recipe.batch_size // recipe.accumulate,
                "ms a batch": round(1000 * batch, 3),
                "ms a step": round(1000 * step),
                **{
                    f"share{title}": f"{100 * batch / (batch + step / speedup):.2g} %"
                    for speedup, title in ((1, ""), (10, ", step 10x faster"), (50, ", step 50x faster"))
                },
            }
        )
        print(*rows[-1].values(), flush=True)
    if not rows:
        raise SystemExit(f"no recipe's name contains {options.only!r}: {', '.join(recipes.RECIPES)}")
    print(tabulate(rows, headers="keys"))
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
