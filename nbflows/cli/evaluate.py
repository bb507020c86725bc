"""nbflows evaluate: bits/dim of a model on the test images."""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from nbflows import data, metrics, pretrained, provenance, tasks, upstream
from nbflows.cli.options import (
    Commands,
    add_command,
    add_data,
    add_device,
    add_number,
    add_upstream,
    checked,
    load_data,
    print_table,
)
from nbflows.cli.sample import draw
from nbflows.data.pictures import picture_name
from nbflows.flow import Flow
from nbflows.joint import JointFlow
from nbflows.translation import TranslationFlow


def add_evaluate(commands: Commands) -> None:
    """Adds ``nbflows evaluate``."""
    parser = add_command(commands, "evaluate", _evaluate, "measure bits/dim of a model on the test images")
    parser.add_argument("model", help="a name of nbflows list, a .safetensors file, or the folder of a run")
    add_upstream(parser)
    parser.add_argument("--task", metavar="NAME", help=f"task of a CAFLOW checkpoint: {', '.join(tasks.names())}")
    add_data(parser, "default: the data it was trained on")
    add_number(parser, "--num-draws", "number M of dequantization draws per image (default: 1)", metavar="M", default=1)
    add_number(parser, "--limit", "use only the first N test images", metavar="N")
    add_number(parser, "--seed", "random seed for the noise (default: 0)", metavar="N", default=0)
    add_device(parser)
    parser.add_argument(
        "--precision",
        default="32-true",
        choices=["32-true", "bf16-mixed"],
        help="precision of the conditioner networks (default: 32-true)",
    )
    parser.add_argument(
        "--png",
        metavar="FILE",
        type=checked(picture_name),
        help="also draw 64 samples into FILE (with --upstream by default into MODEL.png here)",
    )
    add_number(parser, "--num-samples", "samples per source of a translation model (default: 10)", metavar="N")
    add_number(parser, "--temperature", "temperature of these samples (default: 0.8)", metavar="T")
    add_number(
        parser, "--quality-images", "number of test images for the quality of translations (default: 500)", metavar="N"
    )
    parser.add_argument("--record", action="store_true", help="store the result in the JSON of the model")


def _evaluate(options: argparse.Namespace) -> None:
    theirs = options.upstream or options.model.startswith("upstream/")
    if options.record and (theirs or options.limit):
        raise ValueError("--record is for a model of ours on all test images: without --upstream and --limit")
    flow, images = _model_and_images(options)
    if options.png and isinstance(flow, TranslationFlow):
        raise ValueError("--png is for models that need no source; nbflows translate draws this one's pictures")
    if _quality_settings(options) and not isinstance(flow, TranslationFlow):
        raise ValueError("--num-samples, --temperature and --quality-images are for models that make images of images")
    chosen, contexts = images.test[: options.limit], provenance.contexts(flow, images)
    result = metrics.evaluate(
        flow,
        chosen,
        contexts["test"][: options.limit] if contexts else None,
        num_draws=options.num_draws,
        progress=True,
        seed=options.seed,
        precision=options.precision,
    )
    part = "test images" if len(chosen) == len(images.test) else f"the first {len(chosen)} test images"
    print(f"{images.variant}; {part}: {result}")
    if isinstance(flow, JointFlow) and images.labels is not None:
        print(metrics.accuracy(flow, chosen, images.labels["test"][: options.limit], seed=options.seed))
    quality = {}
    if isinstance(flow, TranslationFlow) and isinstance(images, data.PairData):
        quality = {"quality": _quality(flow, images, options)}
    if options.record:
        print("recorded as", pretrained.record(options.model, result, **quality))
    draws = options.upstream and flow.context_shape is None
    png = options.png or (f"{Path(options.model).stem}.png" if draws else None)
    if png:
        given = contexts["test"][:64] if contexts else None
        count = 64 if given is None else len(given)
        draw(flow, png, count, temperature=1.0, seed=options.seed, device=options.device, context=given)


def _model_and_images(options: argparse.Namespace) -> tuple[Flow, data.Data]:
    """Returns the model to evaluate, and data that fit it."""
    task = tasks.get(options.task) if options.task else None
    details = {} if options.upstream else pretrained.describe(options.model)
    own_task = provenance.task_of(details, options.model)
    if task and own_task:
        raise ValueError(f"--task is for --upstream: this model's task is {own_task.name}")
    task = task or own_task

    def load(name: str) -> data.Data:
        images = load_data(options, name, task)
        return tasks.apply(task, images) if task and not isinstance(images, data.PairData) else images

    images = load(options.data) if options.data or options.sources else None
    if options.upstream:
        shape = images.shape if isinstance(images, data.ImageData) else None
        flow = upstream.load_upstream(options.model, shape).to(options.device)
        # The tutorial's models; other checkpoints do not name their data.
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
    if isinstance(images, data.PairData) and isinstance(flow, TranslationFlow):
        # The authors' code takes a grey source as three equal channels.
        channels = flow.context_shape[0]
        sources = {split: tasks.with_channels(part, channels) for split, part in images.sources.items()}
        images = replace(images, sources=sources)
    return flow, images


def _own_data(
    options: argparse.Namespace, details: dict, given: data.Data | None, load: Callable[[str], data.Data]
) -> data.Data | None:
    """Returns the data that a model was trained on, or those of the options; reports if these differ."""
    if given is None:
        if options.image_size or options.num_bits:
            raise ValueError(
                "--image-size is for folders, and --num-bits for data that --data names (only images of 256 levels "
                "can be reduced): give --data too"
            )
        # Weights of the original authors have no recipe.
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


def _quality_settings(options: argparse.Namespace) -> dict:
    given = {name: getattr(options, name) for name in ("num_samples", "temperature", "quality_images")}
    return {name: value for name, value in given.items() if value is not None}


def _quality(flow: TranslationFlow, pairs: data.PairData, options: argparse.Namespace) -> dict:
    """Prints the quality of the model's pictures; returns it for the JSON of the model."""
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
    print_table(rows, ["picture", *columns])
    return {**settings, **{name: {c: asdict(score) for c, score in scores.items()} for name, scores in table.items()}}
