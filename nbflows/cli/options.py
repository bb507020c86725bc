"""Options that commands share, with their ranges, and the data that they choose."""

import argparse
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from nbflows import data, hardware, inputs, tasks

# The result of ``add_subparsers``, which argparse gives no public type.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Value = TypeVar("Value")


def add_command(
    commands: Commands, name: str, function: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    """Adds a command that calls ``function`` with its options."""
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    # Arguments without another type: names and paths.
    parser.register("type", None, checked(not_empty))
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.set_defaults(command=function, parser=parser)
    return parser


def add_data(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds the options that choose the data."""
    parser.add_argument(
        "--data",
        metavar="NAME|PATH",
        help=f"{', '.join(data.names())}; or a folder of images, a .npy or .npz file ({default})",
    )
    add_number(parser, "--image-size", "resize and crop a folder's images to N x N", metavar="N")
    add_number(parser, "--num-bits", "keep the N highest bits of 8-bit images (default: 8)", metavar="N")
    parser.add_argument(
        "--sources",
        metavar="FOLDER",
        help="folder of the sources of your own pairs; a source has the file name of its target in --data",
    )


def add_number(
    parser: argparse.ArgumentParser,
    option: str,
    help: str,
    kind: str = "",
    *,
    metavar: str,
    default: float | list[float] | None = None,
    nargs: str | None = None,
) -> None:
    """Adds a number with the range of its name in ``inputs``, or of another ``kind``."""
    kind = kind or option.strip("-").replace("-", "_")
    parser.add_argument(
        option,
        type=checked(lambda text: inputs.check(kind, text)),
        help=help,
        metavar=metavar,
        default=default,
        nargs=nargs,
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``."""
    parser.add_argument(
        "--device", default="cpu", type=checked(hardware.require), help="cpu (default), cuda or mps; auto is the best"
    )


def not_empty(text: str) -> str:
    """Returns the text. Raises ValueError if it is empty."""
    if not text.strip():
        raise ValueError("it is empty: leave it away for the default, or see whether a shell variable is not set")
    return text


def checked(convert: Callable[[str], Value]) -> Callable[[str], Value]:
    """Returns a type for argparse that passes on the message of ``convert``."""

    def checked(text: str) -> Value:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def add_upstream(parser: argparse.ArgumentParser) -> None:
    """Adds ``--upstream``."""
    parser.add_argument(
        "--upstream",
        action="store_true",
        help="MODEL is a checkpoint of the authors of the UvA tutorial, mAR-SCF, Residual Flows or CAFLOW",
    )


def load_data(options: argparse.Namespace, name: str, task: tasks.Task | None) -> data.Data:
    """Loads the data that the options choose; images have the task's size, two folders give pairs."""
    if options.sources:
        if not options.data or options.num_bits not in (None, 8):
            raise ValueError("--sources goes with the targets' folder as --data, in 8 bits")
        return tasks.load_pairs(options.sources, options.data, options.image_size)
    return data.load(name, image_size(options, task), num_bits=options.num_bits or 8)


def image_size(options: argparse.Namespace, task: tasks.Task | None) -> int | tuple[int, int] | None:
    """Returns the size of the images: the option's, adapted to the task."""
    return task.image_size(options.image_size) if task else options.image_size


def add_chunk_size(parser: argparse.ArgumentParser) -> None:
    """Adds ``--chunk-size``."""
    add_number(
        parser,
        "--chunk-size",
        "samples computed together; fewer need less memory (default: 256)",
        metavar="N",
        default=256,
    )


def print_table(rows: list[tuple], headers: Sequence[str]) -> None:
    """Prints rows below their headers, aligned where tabulate is installed."""
    try:
        from tabulate import tabulate
    except ImportError:
        # tabulate is missing on a machine that only trains.
        print("\n".join("\t".join(row) for row in [headers, *rows]))
    else:
        print(tabulate(rows, headers))
