"""The command line: nbflows train | evaluate | sample | translate | publish | lessons | list."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from nbflows import (
    __version__,
    data,
    extras,
    hardware,
    inputs,
    lessons,
    listing,
    metrics,
    pretrained,
    provenance,
    recipes,
    recompute,
    runs,
    tasks,
    translate,
    upstream,
)
from nbflows.flow import Flow
from nbflows.joint import JointFlow
from nbflows.pictures import picture_name
from nbflows.translation import TranslationFlow

EXAMPLES = """examples:
  nbflows list                                               what there is to train, and which models are here
  nbflows train digits-multiscale --max-minutes 1            a first flow, no download
  nbflows train mnist-multiscale --device cuda               the tutorial's best flow, at full length
  nbflows train photo-patches-multiscale --data MY_PICTURES --image-size 32
  nbflows train mnist-multiscale --resume                    go on after an interruption
  nbflows train mnist-glow --start-from mnist-glow --max-minutes 60      go on from a published model
  nbflows evaluate runs/digits-multiscale --num-draws 8
  nbflows sample runs/digits-multiscale samples.png --temperature 0.8
  nbflows translate --model runs/MODEL IN.png OUT.png --num-samples 10 --temperature 0.8 --best
  nbflows evaluate upstream/uva-mnist-simple                 the original authors' weights, by name
  nbflows evaluate --upstream marscf_cifar10_mixlogcdf_4_96.pt --data cifar10
  nbflows publish runs/MODEL my-model --purpose "what it is for"
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot print a character of ours gets a question mark.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    status = 0
    try:
        try:
            status = _run(arguments)
        finally:
            print(end="", flush=True)
    except OSError as error:
        # Nobody reads on, as in nbflows list | head; or there is no room. Python would try once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141 if isinstance(error, BrokenPipeError) else status or _say(error)
    return status


def _run(arguments: list[str] | None) -> int:
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        # argparse itself would show the usage of nbflows here, not that of the command.
        options.parser.error(f"unknown: {' '.join(unknown)}. The options are listed above; --help explains them")
    try:
        return options.command(options) or 0
    except KeyboardInterrupt as stop:
        # A training that was stopped says how to go on.
        print(f"nbflows: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    # RuntimeError: what torch says, and weights or gradients that are not finite.
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, extras.MissingPackageError) as error:
        if options.traceback:
            raise
        return _say(error)


def _say(error: Exception) -> int:
    """An explained error, not a stack trace: one line with the numbers and the way out."""
    message = " ".join(str(error).split("\n")) or {MemoryError: "there is not enough memory"}.get(type(error), "")
    if not message:
        raise error
    print(f"nbflows: {message if len(message) <= 2000 else message[:2000] + ' ...'}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nbflows",
        description="Trains, scores and samples normalizing flows for images.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nbflows {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_sample(commands)
    _add_translate(commands)
    _add_publish(commands)
    _add_list(commands)
    return parser


def _command(commands, name: str, function, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    # Arguments without a type of their own: names and paths.
    parser.register("type", None, _checked(_not_empty))
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.set_defaults(command=function, parser=parser)
    return parser


def _add_data(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--data",
        metavar="NAME|PATH",
        help=f"{', '.join(data.names())}; or a folder of images, a .npy or .npz file ({default})",
    )
    _add_number(parser, "--image-size", "resize and crop a folder's images to N x N", metavar="N")
    _add_number(parser, "--num-bits", "keep the N highest bits of 8-bit images (default: 8)", metavar="N")
    parser.add_argument(
        "--sources",
        metavar="FOLDER",
        help="for pairs of your own: their sources, files named as their targets in the folder --data",
    )


def _add_number(parser: argparse.ArgumentParser, option: str, help: str, kind: str = "", **settings) -> None:
    """A number with the range that ``inputs`` has for its name, or for another ``kind``."""
    kind = kind or option.strip("-").replace("-", "_")
    parser.add_argument(option, type=_checked(lambda text: inputs.check(kind, text)), help=help, **settings)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="cpu", type=_checked(hardware.require), help="cpu (default), cuda or mps; auto is the best"
    )


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty: leave it away for the default, or see whether a shell variable is not set")
    return text


def _checked(convert):
    """A type of argparse that says what ``convert`` says."""

    def checked(text: str):
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _add_upstream(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--upstream",
        action="store_true",
        help="MODEL is a checkpoint of the authors of the UvA tutorial, mAR-SCF, Residual Flows or CAFLOW",
    )


def _add_train(commands) -> None:
    parser = _command(commands, "train", _train, "train a recipe's model; everything goes to one folder")
    parser.add_argument("recipe", help=f"one of: {', '.join(recipes.RECIPES)}")
    _add_data(parser, "default: the recipe's")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in that folder")
    parser.add_argument(
        "--start-from",
        metavar="MODEL",
        help="begin with the weights of a model of the same size (a name of nbflows list, a .safetensors file, or the "
        "folder of a run) and a new optimizer",
    )
    _add_number(
        parser,
        "--max-minutes",
        "stop after M minutes in all, validate and save; the learning rate falls in the last quarter",
        metavar="M",
    )
    _add_number(parser, "--max-steps", "the same after N training steps in all", metavar="N")
    _add_number(parser, "--epochs", "passes over the data (default: the recipe's)", metavar="N")
    _add_number(parser, "--batch-size", "over all devices (default: the recipe's)", metavar="N")
    _add_number(parser, "--lr", "learning rate (default: the recipe's)", metavar="R")
    _add_number(
        parser, "--seed", "of weights, order and noise (default: the recipe's)", "seed of a training", metavar="N"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "32-true", "bf16-mixed", "64-true"],
        help="of the conditioner networks; coordinates stay in float32. auto (default): the faster of the next two",
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
        help="run couplings, priors of one Gaussian and their networks by torch.compile; meant for GPUs: on a CPU it "
        "takes half a minute and more to start, and the steps are no faster",
    )
    parser.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="where to train (default: auto)"
    )
    _add_number(parser, "--devices", "how many devices on each machine (default: 1)", metavar="N", default=1)
    _add_number(parser, "--num-nodes", "how many machines (default: 1)", metavar="N", default=1)
    _add_number(parser, "--checkpoint-seconds", "how often last.ckpt is written (default: 30)", metavar="S", default=30)
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def _train(options) -> None:
    # Lightning takes seconds to import: not for --help.
    from nbflows import training

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
    # A resumed run keeps what it was started with, unless it is given anew.
    changes = {name: before["recipe"][name] if before and value is None else value for name, value in given.items()}
    recipe = replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    if before and not (options.data or options.sources):
        images = provenance.load(before["data"], out)
        _require_form(options, before["data"]["origin"], recipe, out)
    else:
        images = _training_data(options, recipe)
    images = recipe.prepare(images)
    say = training.rank_zero_only(print)
    say("\n".join(filter(None, (f"data: {images.variant}", images.ignored))))
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
    say(f"test: {', '.join(map(str, scores))}\nthe model, its samples and the training curve: {out}")


def _require_form(options, origin: dict, recipe: recipes.Recipe, out: Path) -> None:
    """Raises ValueError if the options ask for another size or depth than that of the data which a run goes on with."""
    # Pairs in two folders have the size of the target for both sides.
    task = tasks.get(recipe.task, **recipe.task_arguments) if recipe.task and "name" in origin else None
    size, own = _image_size(options, task), origin.get("image_size")
    sides = [(n, n) if isinstance(n, int) else n and tuple(n) for n in (size, own)]
    bits = options.num_bits, origin.get("num_bits", 8)
    for name, given, there in (("image-size", *sides), ("num-bits", *bits)):
        if given is not None and given != there:
            kept = "x".join(map(str, there)) if isinstance(there, tuple) else there or "as its files are"
            raise ValueError(
                f"the run in {out} keeps its data, whose --{name} is {kept}: leave it away, or begin another run with "
                "--out"
            )


def _training_data(options, recipe: recipes.Recipe) -> data.Data:
    if not (options.data or recipe.data):
        raise ValueError(f"{options.recipe} is trained on images of your own: give their folder with --data")
    if options.sources and recipe.task is None:
        raise ValueError("--sources is for recipes of a task")
    task = tasks.get(recipe.task, **recipe.task_arguments) if recipe.task else None
    return _load(options, options.data or recipe.data, task)


def _load(options, name: str, task: tasks.Task | None) -> data.Data:
    """Data as the options ask for them, images large enough for the task; pairs where they come in two folders."""
    if options.sources:
        if not options.data or options.num_bits not in (None, 8):
            raise ValueError("--sources goes with the targets' folder as --data, in 8 bits")
        return tasks.load_pairs(options.sources, options.data, options.image_size)
    return data.load(name, _image_size(options, task), num_bits=options.num_bits or 8)


def _image_size(options, task: tasks.Task | None) -> int | tuple[int, int] | None:
    return task.image_size(options.image_size) if task else options.image_size


def _add_evaluate(commands) -> None:
    parser = _command(commands, "evaluate", _evaluate, "bits/dim of a model on the test images")
    parser.add_argument("model", help="a name of nbflows list, a .safetensors file, or the folder of a run")
    _add_upstream(parser)
    parser.add_argument("--task", metavar="NAME", help=f"of a checkpoint of CAFLOW: {', '.join(tasks.names())}")
    _add_data(parser, "default: the data it was trained on")
    _add_number(parser, "--num-draws", "draws of dequantization noise per image (default: 1)", metavar="M", default=1)
    _add_number(parser, "--limit", "only the first N test images", metavar="N")
    _add_number(parser, "--seed", "of the noise (default: 0)", metavar="N", default=0)
    _add_device(parser)
    parser.add_argument(
        "--precision",
        default="32-true",
        choices=["32-true", "bf16-mixed"],
        help="of the conditioner networks (default: 32-true)",
    )
    parser.add_argument(
        "--png",
        metavar="FILE",
        type=_checked(picture_name),
        help="also draw 64 samples into FILE (with --upstream by default into MODEL.png here)",
    )
    _add_number(parser, "--num-samples", "of a translation model, per source (default: 10)", metavar="N")
    _add_number(parser, "--temperature", "of these samples (default: 0.8)", metavar="T")
    _add_number(parser, "--quality-images", "of how many test images (default: 500)", metavar="N")
    parser.add_argument("--record", action="store_true", help="keep the result in the JSON beside the model")


def _evaluate(options) -> None:
    theirs = options.upstream or options.model.startswith("upstream/")
    if options.record and (theirs or options.limit):
        raise ValueError("--record is for a model of ours on all test images: without --upstream and --limit")
    flow, images = _model_and_images(options)
    if options.png and isinstance(flow, TranslationFlow):
        raise ValueError("--png is for models that need no source; nbflows translate draws this one's pictures")
    if _quality_settings(options) and not isinstance(flow, TranslationFlow):
        raise ValueError("--num-samples, --temperature and --quality-images are for models that make images of images")
    chosen = images.test[: options.limit]
    result = metrics.evaluate(
        flow,
        chosen,
        images.sources["test"][: options.limit] if isinstance(images, data.PairData) else None,
        num_draws=options.num_draws,
        progress=True,
        seed=options.seed,
        precision=options.precision,
    )
    part = "test images" if len(chosen) == len(images.test) else f"the first {len(chosen)} test images"
    print(f"{images.variant}; {part}: {result}")
    if isinstance(flow, JointFlow) and getattr(images, "labels", None) is not None:
        print(metrics.accuracy(flow, chosen, images.labels["test"][: options.limit], seed=options.seed))
    quality = {}
    if isinstance(flow, TranslationFlow):
        quality = {"quality": _quality(flow, images, options)}
    if options.record:
        print("recorded as", pretrained.record(options.model, result, **quality))
    draws = options.upstream and flow.context_shape is None
    png = options.png or (f"{Path(options.model).stem}.png" if draws else None)
    if png:
        _draw(flow, png, num_samples=64, temperature=1.0, seed=options.seed, device=options.device)


def _model_and_images(options) -> tuple[Flow, data.Data]:
    """The model to evaluate, and data that fit it."""
    task = tasks.get(options.task) if options.task else None
    details = {} if options.upstream else pretrained.describe(options.model)
    own_task = provenance.task_of(details, options.model)
    if task and own_task:
        raise ValueError(f"--task is for --upstream: this model's task is {own_task.name}")
    task = task or own_task

    def load(name: str) -> data.Data:
        images = _load(options, name, task)
        return tasks.apply(task, images) if task and not isinstance(images, data.PairData) else images

    images = load(options.data) if options.data or options.sources else None
    if options.upstream:
        flow = upstream.load_upstream(options.model, images.shape if images else None).to(options.device)
        # The tutorial's models; the others do not say what they were trained on.
        if not images and flow.shape == (1, 28, 28):
            images = load("mnist")
    else:
        flow = pretrained.load(options.model, options.device)
        images = _own_data(options, details, images, load)
    if isinstance(flow, TranslationFlow) and not (task or options.sources):
        raise ValueError(f"the model makes images of images: say how with --task, one of {', '.join(tasks.names())}")
    if not images:
        raise ValueError("the model does not say what it was trained on: name the data with --data")
    provenance.require_fit(flow, images)
    if isinstance(images, data.PairData):
        # A grey source, where the authors' code takes three equal channels.
        channels = flow.context_shape[0]
        sources = {split: tasks.with_channels(part, channels) for split, part in images.sources.items()}
        images = replace(images, sources=sources)
    return flow, images


def _own_data(options, details: dict, given: data.Data | None, load) -> data.Data | None:
    """The data that a model was trained on; or those that the options name, and then it is said whether they differ."""
    if given is None:
        if options.image_size or options.num_bits:
            raise ValueError(
                "--image-size is for folders, and --num-bits for data that --data names (only images of 256 levels "
                "can be reduced): give --data too"
            )
        # Published by their authors, who have no recipe of ours.
        if str(options.model).startswith("upstream/"):
            return load(details["recipe"]["data"]) if details["recipe"]["data"] else None
        return provenance.training_data(details, options.model)
    known = provenance.part(details, "trained_on", options.model)
    found = provenance.like(known, given)
    same = bool(known) and provenance.same(known, found)
    differ = provenance.against(known, found) if known else f"{details.get('data')}, against {given.variant}"
    if options.record and not same:
        raise ValueError(f"--record is for the data that the model was trained on: {differ}")
    if known and not same:
        print(f"other data than the model was trained on: {differ}")
    return given


def _quality_settings(options) -> dict:
    given = {name: getattr(options, name) for name in ("num_samples", "temperature", "quality_images")}
    return {name: value for name, value in given.items() if value is not None}


def _quality(flow: TranslationFlow, pairs: data.PairData, options) -> dict:
    """Prints how close the model's pictures come to the true ones; returns it for the JSON beside the model."""
    from nbflows import quality

    settings = {"num_samples": 10, "temperature": 0.8, "quality_images": 500, **_quality_settings(options)}
    count = min(settings.pop("quality_images"), options.limit or len(pairs.test))
    table = quality.translations(flow, pairs, **settings, num_images=count, seed=options.seed, progress=True)
    columns = list(table["sample"])
    rows = [
        (name, *(f"{scores[c].mean:.2f} ± {scores[c].standard_error:.2f}" if c in scores else "" for c in columns))
        for name, scores in table.items()
    ]
    print(f"{settings['num_samples']} samples at temperature {settings['temperature']} for {count} test images:")
    _print_table(rows, ["picture", *columns])
    return {**settings, **{name: {c: asdict(score) for c, score in scores.items()} for name, scores in table.items()}}


def _add_sample(commands) -> None:
    parser = _command(commands, "sample", _sample, "draw images from a model into a PNG")
    parser.add_argument("model", help="a name of nbflows list, a .safetensors file, or the folder of a run")
    parser.add_argument(
        "png", nargs="?", default="samples.png", type=_checked(picture_name), help="where to (default: samples.png)"
    )
    _add_upstream(parser)
    _add_number(parser, "--image-size", "of mAR-SCF's checkpoints, which do not say it (default: 32)", metavar="N")
    _add_number(parser, "--num-samples", "how many (default: 64)", metavar="N", default=64)
    _add_number(
        parser,
        "--temperature",
        "scales the noise; one, or one per level (default: 1)",
        metavar="T",
        nargs="+",
        default=[1.0],
    )
    _add_chunk_size(parser)
    _add_number(parser, "--seed", "of the noise (default: 0)", metavar="N", default=0)
    _add_device(parser)


def _add_chunk_size(parser: argparse.ArgumentParser) -> None:
    _add_number(
        parser,
        "--chunk-size",
        "samples computed together; fewer need less memory (default: 256)",
        metavar="N",
        default=256,
    )


def _sample(options) -> None:
    if options.upstream:
        shape = (3, options.image_size, options.image_size) if options.image_size else None
        flow = upstream.load_upstream(options.model, shape).to(options.device)
    else:
        flow = pretrained.load(options.model, options.device)
    if options.image_size and flow.shape[1:] != (options.image_size, options.image_size):
        raise ValueError(f"the model makes images of {flow.shape}, whatever --image-size says: leave it out")
    temperature = options.temperature[0] if len(options.temperature) == 1 else options.temperature
    _draw(flow, options.png, options.num_samples, temperature, options.seed, options.device, options.chunk_size)


def _draw(
    flow: Flow,
    png: str,
    num_samples: int,
    temperature: float | list[float],
    seed: int,
    device: str,
    chunk_size: int = 256,
) -> None:
    from nbflows.pictures import num_levels_of, save_samples

    if flow.context_shape is not None:
        raise ValueError("this model makes pictures of pictures: nbflows translate, with a source")
    generator = torch.Generator(device).manual_seed(seed)
    samples = flow.sample(
        num_samples, temperature=temperature, generator=generator, chunk_size=chunk_size, progress=True
    )
    save_samples(samples, png, num_levels_of(flow))
    print(f"{num_samples} samples at temperature {temperature}, seed {seed}: {png}")


def _add_translate(commands) -> None:
    parser = _command(
        commands, "translate", _translate, "make pictures of pictures, with a model of an image-to-image task"
    )
    parser.add_argument("source", metavar="IN", help="a picture, or a folder of pictures")
    parser.add_argument(
        "out", metavar="OUT", help="a picture or a folder, as IN is; a contact sheet of all samples is written beside"
    )
    parser.add_argument(
        "--model", required=True, help="a name of nbflows list, a .safetensors file, or the folder of a run"
    )
    parser.add_argument("--task", choices=tasks.names(), help="what the model is for (default: what its JSON says)")
    _add_number(parser, "--num-samples", "for each picture (default: 10)", metavar="N", default=10)
    _add_number(
        parser,
        "--temperature",
        "scales the noise; one, or one per level; after IN and OUT (default: 1)",
        metavar="T",
        nargs="+",
        default=[1.0],
    )
    parser.add_argument(
        "--best", action="store_true", help="write only the sample of the highest likelihood (default: all, best first)"
    )
    parser.add_argument(
        "--mask",
        metavar="FILE",
        help="for inpainting: a picture, black in the hole (default: where IN is transparent, or else the model's own)",
    )
    parser.add_argument(
        "--resize", action="store_true", help="bring pictures that do not fit to the model's size and crop their middle"
    )
    _add_chunk_size(parser)
    _add_number(parser, "--seed", "of the noise (default: 0)", metavar="N", default=0)
    _add_device(parser)


def _translate(options) -> None:
    flow = pretrained.load(options.model, options.device)
    if not isinstance(flow, TranslationFlow):
        raise ValueError(f"{options.model} makes pictures of nothing but noise: nbflows sample draws them")
    task = pretrained.describe(options.model).get("task") or {"name": options.task}
    if task["name"] is None:
        raise ValueError(f"{options.model} does not say what it was trained for: name it with --task")
    if options.task not in (None, task["name"]):
        raise ValueError(f"{options.model} was trained for {task['name']}, not for {options.task}")
    temperature = options.temperature[0] if len(options.temperature) == 1 else options.temperature
    written = translate.translate_files(
        flow,
        tasks.get(**task),
        options.source,
        options.out,
        num_samples=options.num_samples,
        temperature=temperature,
        best=options.best,
        mask=options.mask,
        resize=options.resize,
        seed=options.seed,
        chunk_size=options.chunk_size,
    )
    print(f"{options.num_samples} samples a picture at temperature {temperature}, seed {options.seed}: {written[0]}")
    print(f"{len(written)} files in all, the last one {written[-1]}")


def _add_publish(commands) -> None:
    parser = _command(
        commands, "publish", _publish, "put a trained model into saved_models/, its manifest and README.md"
    )
    parser.add_argument("model", nargs="?", help="a .safetensors file, or the folder of a run")
    parser.add_argument("name", nargs="?", help="for load_pretrained: lower case, digits and hyphens")
    parser.add_argument("--purpose", metavar="TEXT", help="what it is for, in a line")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    parser.add_argument("--licence", metavar="TEXT", default="MIT", help="of the weights (default: MIT)")
    parser.add_argument(
        "--published", metavar="TEXT", help='bits/dim that a paper reports of it, as in "1.020 (M = 8)"'
    )
    parser.add_argument(
        "--cards",
        action="store_true",
        help="publish nothing: write README.md from the manifest, and the pictures that are missing or out of date",
    )


def _publish(options) -> None:
    from nbflows import cards, publish

    if options.cards and (options.model or options.purpose or options.half or options.published):
        options.parser.error("--cards stands alone: it writes the cards of the models that are published already")
    if not options.cards:
        if not (options.model and options.name and options.purpose):
            options.parser.error('give MODEL, NAME and --purpose "what it is for"; or --cards alone')
        entry = publish.publish(
            options.model, options.name, options.purpose, options.half, options.licence, options.published or ""
        )
        print(f"{options.name}: {metrics.BitsPerDim(**entry['test_bits_per_dim'])}, {entry['bytes']} bytes")
    print(f"written: {', '.join(map(str, cards.write_cards(pretrained.saved_models())))}")


def _add_list(commands) -> None:
    parser = _command(commands, "lessons", _lessons, "copy the lessons to a folder, to work on them there")
    parser.add_argument("folder", metavar="DIR", help="where to; it is made if it does not exist")
    parser = _command(commands, "list", _list, "the recipes, and the models that are trained already")
    parser.add_argument("name", nargs="?", help="show what is known of this recipe or model (default: list them all)")


def _lessons(options) -> None:
    copies = lessons.copy_lessons(options.folder)
    print(f"{len(copies)} lessons, the first one {copies[0]}. Open them with: jupyter lab {options.folder}")


def _list(options) -> None:
    known = pretrained.list_pretrained()
    if options.name:
        print(listing.facts({**_recipe_facts(options.name), **_model_facts(options.name, known)}))
        return
    print("Recipes, for nbflows train\n")
    print(listing.recipes(recipes.RECIPES))
    print("\n\nTrained models, for nbflows sample, evaluate and translate\n")
    print(known)
    notes = (
        "here: the file is on this machine.",
        "download: the file is downloaded once, when the model is first used.",
        "no address: train the model with its recipe, or copy its file from a clone of nbflows.",
        "nbflows list NAME shows the scores, the data and the training of a model.",
    )
    print("", *map(listing.paragraph, notes), sep="\n")


def _recipe_facts(name: str) -> dict[str, str]:
    if name not in recipes.RECIPES:
        return {}
    recipe = recipes.get(name)
    return {
        "recipe": recipe.description,
        "trained on": recipe.data or "images of your own, given with --data",
        "schedule": f"{recipe.epochs} epochs, batches of {recipe.batch_size}, {recipe.optimizer} at "
        f"{recipe.learning_rate:g}",
    }


def _model_facts(name: str, known: pretrained.Listing) -> dict[str, str]:
    if name in known:
        return known.facts(name)
    if name in recipes.RECIPES:
        return {"model": "none is published; the recipe trains one"}
    raise ValueError(f"no recipe and no model named {name!r}; nbflows list shows them all")


def _print_table(rows: list[tuple], headers: Sequence[str]) -> None:
    try:
        from tabulate import tabulate
    except ImportError:
        # On a machine that only trains.
        print("\n".join("\t".join(row) for row in [headers, *rows]))
    else:
        print(tabulate(rows, headers))


if __name__ == "__main__":
    sys.exit(main())
