"""nbflows train: a recipe, with the settings that the options change."""

import argparse
from dataclasses import replace
from pathlib import Path

from nbflows import data, hardware, provenance, ranks, recipes, recompute
from nbflows.cli.options import Commands, add_command, add_data, add_number, image_size, load_data


def add_train(commands: Commands) -> None:
    """Adds ``nbflows train``."""
    parser = add_command(commands, "train", _train, "train a recipe's model; everything goes to one folder")
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe; nbflows list shows them all")
    add_data(parser, "default: the recipe's")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the run's folder")
    parser.add_argument(
        "--start-from",
        metavar="MODEL",
        help="begin with the weights of a model of the same size (a name of nbflows list, a .safetensors file, or the "
        "folder of a run) and a new optimizer",
    )
    add_number(
        parser,
        "--max-minutes",
        "stop after M minutes in all, validate and save; the learning rate falls in the last quarter",
        metavar="M",
    )
    add_number(parser, "--max-steps", "stop after N training steps in all, with the same schedule", metavar="N")
    add_number(parser, "--epochs", "passes over the data (default: the recipe's)", metavar="N")
    add_number(parser, "--batch-size", "images per batch over all devices (default: the recipe's)", metavar="N")
    add_number(parser, "--lr", "learning rate (default: the recipe's)", metavar="R")
    add_number(
        parser,
        "--seed",
        "random seed for weights, order and noise (default: the recipe's)",
        "seed of a training",
        metavar="N",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "32-true", "bf16-mixed", "64-true"],
        help="precision of the conditioner networks (default: auto, the faster of the next two)",
    )
    parser.add_argument(
        "--memory",
        default="plain",
        choices=recompute.MEMORY,
        help="kept for backward: all (plain, the default), each layer's input (checkpoint), or, where a layer has a "
        "cheap inverse, nothing (invertible); the gradients are the same, a step takes 30 to 60 %% longer",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="run affine and mixture couplings, priors of one Gaussian and their networks by torch.compile; meant for "
        "GPUs: on a CPU it takes half a minute and more to start, and does not make steps faster",
    )
    parser.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="device to train on (default: auto)"
    )
    add_number(parser, "--devices", "number of devices on each machine (default: 1)", metavar="N", default=1)
    add_number(parser, "--num-nodes", "number of machines (default: 1)", metavar="N", default=1)
    add_number(
        parser, "--checkpoint-seconds", "seconds between two writes of last.ckpt (default: 30)", metavar="S", default=30
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")


def _train(options: argparse.Namespace) -> None:
    # Lightning takes seconds to import: not for --help.
    from nbflows import training
    from nbflows.training import runs

    recipe = recipes.get(options.recipe)
    hardware.require(options.device, options.devices)
    out = Path(options.out or f"runs/{options.recipe}")
    saved = runs.checkpoint_to_resume(out) if options.resume else None
    before = runs.read_checkpoint(saved)["run"] if saved else {}
    given = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.lr,
        "seed": options.seed,
    }
    # A resumed run keeps its settings, unless they are given again.
    changes = {name: before["recipe"][name] if before and value is None else value for name, value in given.items()}
    recipe = replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    if before and not (options.data or options.sources):
        images = provenance.load(before["data"], out)
        _require_form(options, before["data"]["origin"], recipe, out)
    else:
        images = _training_data(options, recipe)
    images = recipe.objective.prepare(images)
    if ranks.is_first():
        print("\n".join(filter(None, (f"data: {images.variant}", images.ignored))))
    result = training.train(
        recipe,
        images,
        out=out,
        resume=options.resume,
        max_minutes=options.max_minutes,
        max_steps=options.max_steps,
        precision=options.precision,
        device=options.device,
        devices=options.devices,
        num_nodes=options.num_nodes,
        checkpoint_seconds=options.checkpoint_seconds,
        progress=not options.no_progress,
        memory=options.memory,
        compile=options.compile,
        start_from=options.start_from,
    )
    scores = [score for score in (result.test, result.accuracy) if score is not None]
    if ranks.is_first():
        print(f"test: {', '.join(map(str, scores))}\nthe model, its samples and the training curve: {out}")


def _require_form(options: argparse.Namespace, origin: dict, recipe: recipes.Recipe, out: Path) -> None:
    """Raises ValueError if the options ask for another size or depth than that of the data which a run goes on with."""
    # Pairs in two folders have the size of the target for both sides.
    task = recipe.objective.task if "name" in origin else None
    size, own = image_size(options, task), origin.get("image_size")
    sides = [(n, n) if isinstance(n, int) else n and tuple(n) for n in (size, own)]
    bits = options.num_bits, origin.get("num_bits", 8)
    for name, given, there in (("image-size", *sides), ("num-bits", *bits)):
        if given is not None and given != there:
            kept = "x".join(map(str, there)) if isinstance(there, tuple) else there or "as its files are"
            raise ValueError(
                f"the run in {out} keeps its data, whose --{name} is {kept}: leave it away, or begin another run with "
                "--out"
            )


def _training_data(options: argparse.Namespace, recipe: recipes.Recipe) -> data.Data:
    name = options.data or recipe.data
    if not name:
        raise ValueError(f"{options.recipe} is trained on images of your own: give their folder with --data")
    if options.sources and recipe.objective.task is None:
        raise ValueError("--sources is for recipes of a task")
    return load_data(options, name, recipe.objective.task)
