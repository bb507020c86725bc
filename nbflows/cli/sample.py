"""nbflows sample: samples of a model as a PNG."""

import argparse

import torch
from torch import Tensor

from nbflows import pretrained, provenance, upstream
from nbflows.cli.options import Commands, add_chunk_size, add_command, add_device, add_number, add_upstream, checked
from nbflows.data.pictures import picture_name
from nbflows.flow import Flow
from nbflows.labelled import LabelledFlow
from nbflows.translation import TranslationFlow


def add_sample(commands: Commands) -> None:
    """Adds ``nbflows sample``."""
    parser = add_command(commands, "sample", _sample, "draw images from a model into a PNG")
    parser.add_argument("model", help="a name of nbflows list, a .safetensors file, or the folder of a run")
    parser.add_argument(
        "png",
        nargs="?",
        default="samples.png",
        type=checked(picture_name),
        help="file for the samples (default: samples.png)",
    )
    add_upstream(parser)
    add_number(parser, "--image-size", "image size of an mAR-SCF checkpoint (default: 32)", metavar="N")
    add_number(parser, "--num-samples", "number of samples (default: 64)", metavar="N", default=64)
    add_number(
        parser,
        "--temperature",
        "factor on the noise; one, or one per level (default: 1)",
        metavar="T",
        nargs="+",
        default=[1.0],
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME=VALUE",
        default=[],
        help="for a model that is given labels: mouth=smile, or class=3; after MODEL (default: labels of test images)",
    )
    add_chunk_size(parser)
    add_number(parser, "--seed", "random seed for the noise (default: 0)", metavar="N", default=0)
    add_device(parser)


def _sample(options: argparse.Namespace) -> None:
    if options.upstream:
        shape = (3, options.image_size, options.image_size) if options.image_size else None
        flow = upstream.load_upstream(options.model, shape).to(options.device)
    else:
        flow = pretrained.load(options.model, options.device)
    if options.image_size and flow.shape[1:] != (options.image_size, options.image_size):
        raise ValueError(f"the model makes images of {flow.shape}, whatever --image-size says: leave it out")
    if options.labels and not isinstance(flow, LabelledFlow):
        raise ValueError("--labels is for models that are given labels; leave it out")
    context = _labels(options) if isinstance(flow, LabelledFlow) else None
    temperature = options.temperature[0] if len(options.temperature) == 1 else options.temperature
    draw(flow, options.png, options.num_samples, temperature, options.seed, options.device, options.chunk_size, context)


def _labels(options: argparse.Namespace) -> Tensor:
    """The labels of all samples: those of the examples in the JSON of the model, apart from those of the options."""
    known = provenance.part(pretrained.describe(options.model), "labels", options.model)
    try:
        values, examples = known["values"], torch.tensor(known["examples"])
        numbers = {name: [*values[name]] for name in values}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the JSON of {options.model} does not say which labels there are ({error})") from error
    labels = examples[torch.arange(options.num_samples) % len(examples)]
    for given in options.labels:
        name, _, value = given.partition("=")
        if value not in numbers.get(name, []):
            kinds = (
                f"values of {name}: {', '.join(numbers[name])}" if name in numbers else f"names: {', '.join(numbers)}"
            )
            raise ValueError(f"--labels {given} is not a label of this model, as in NAME=VALUE; {kinds}")
        column = labels if labels.ndim == 1 else labels[:, [*numbers].index(name)]
        column.fill_(numbers[name].index(value))
    return labels


def draw(
    flow: Flow,
    png: str,
    num_samples: int,
    temperature: float | list[float],
    seed: int,
    device: str,
    chunk_size: int = 256,
    context: Tensor | None = None,
) -> None:
    """Draws samples from a flow and writes them into a PNG. The context has a row of labels for each sample."""
    from nbflows.data.pictures import save_samples

    if isinstance(flow, TranslationFlow):
        raise ValueError("this model needs a source image: use nbflows translate")
    generator = torch.Generator(device).manual_seed(seed)
    context = None if context is None else context.to(device)
    samples = flow.sample(
        num_samples, context, temperature=temperature, generator=generator, chunk_size=chunk_size, progress=True
    )
    save_samples(samples, png, flow.num_grey_levels)
    print(f"{num_samples} samples at temperature {temperature}, seed {seed}: {png}")
