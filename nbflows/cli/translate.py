"""nbflows translate: images to images, with a model of p(target | source)."""

import argparse

from nbflows import pretrained, tasks
from nbflows.cli.options import Commands, add_chunk_size, add_command, add_device, add_number
from nbflows.cli.picture_files import translate_files
from nbflows.translation import TranslationFlow


def add_translate(commands: Commands) -> None:
    """Adds ``nbflows translate``."""
    parser = add_command(commands, "translate", _translate, "translate pictures with an image-to-image model")
    parser.add_argument("source", metavar="IN", help="a picture, or a folder of pictures")
    parser.add_argument(
        "out", metavar="OUT", help="a picture or a folder, as IN is; a contact sheet of all samples is written beside"
    )
    parser.add_argument(
        "--model", required=True, help="a name of nbflows list, a .safetensors file, or the folder of a run"
    )
    parser.add_argument("--task", choices=tasks.names(), help="task of the model (default: from its JSON)")
    add_number(parser, "--num-samples", "samples per picture (default: 10)", metavar="N", default=10)
    add_number(
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
        help="mask for inpainting: a picture, black in the hole (default: transparency of IN, else the model's hole)",
    )
    parser.add_argument(
        "--resize", action="store_true", help="bring pictures that do not fit to the model's size and crop their middle"
    )
    add_chunk_size(parser)
    add_number(parser, "--seed", "random seed for the noise (default: 0)", metavar="N", default=0)
    add_device(parser)


def _translate(options: argparse.Namespace) -> None:
    flow = pretrained.load(options.model, options.device)
    if not isinstance(flow, TranslationFlow):
        raise ValueError(f"{options.model} makes pictures of nothing but noise: nbflows sample draws them")
    task = pretrained.describe(options.model).get("task") or {"name": options.task}
    if task["name"] is None:
        raise ValueError(f"{options.model} does not say what it was trained for: name it with --task")
    if options.task not in (None, task["name"]):
        raise ValueError(f"{options.model} was trained for {task['name']}, not for {options.task}")
    temperature = options.temperature[0] if len(options.temperature) == 1 else options.temperature
    written = translate_files(
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
