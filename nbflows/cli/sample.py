"""nbflows sample: samples of a model as a PNG."""

import argparse

import torch

from nbflows import pretrained, upstream
from nbflows.cli.options import Commands, add_chunk_size, add_command, add_device, add_number, add_upstream, checked
from nbflows.data.pictures import picture_name
from nbflows.flow import Flow


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
    temperature = options.temperature[0] if len(options.temperature) == 1 else options.temperature
    draw(flow, options.png, options.num_samples, temperature, options.seed, options.device, options.chunk_size)


def draw(
    flow: Flow,
    png: str,
    num_samples: int,
    temperature: float | list[float],
    seed: int,
    device: str,
    chunk_size: int = 256,
) -> None:
    """Draws samples from a flow and writes them into a PNG."""
    from nbflows.data.pictures import save_samples

    if flow.context_shape is not None:
        raise ValueError("this model needs a source image: use nbflows translate")
    generator = torch.Generator(device).manual_seed(seed)
    samples = flow.sample(
        num_samples, temperature=temperature, generator=generator, chunk_size=chunk_size, progress=True
    )
    save_samples(samples, png, flow.num_grey_levels)
    print(f"{num_samples} samples at temperature {temperature}, seed {seed}: {png}")
