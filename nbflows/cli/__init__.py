"""The command line: nbflows train, evaluate, sample, translate, explore, compress, decompress, lessons, list."""

import argparse
import io
import os
import sys

from nbflows import __version__, extras
from nbflows.cli.catalogue import add_lessons, add_list
from nbflows.cli.compress import add_compress
from nbflows.cli.evaluate import add_evaluate
from nbflows.cli.explore import add_explore
from nbflows.cli.sample import add_sample
from nbflows.cli.train import add_train
from nbflows.cli.translate import add_translate

EXAMPLES = """examples:
  nbflows list                                               recipes, and trained models
  nbflows train digits-multiscale --max-minutes 1            a first flow, no download
  nbflows train mnist-multiscale --device cuda               the tutorial's best flow, at full length
  nbflows train photo-patches-multiscale --data MY_PICTURES --image-size 32
  nbflows train mnist-multiscale --resume                    continue after an interruption
  nbflows train mnist-glow --start-from mnist-glow --max-minutes 60      continue from a published model
  nbflows evaluate runs/digits-multiscale --num-draws 8
  nbflows sample runs/digits-multiscale samples.png --temperature 0.8
  nbflows translate --model runs/MODEL IN.png OUT.png --num-samples 10 --temperature 0.8 --best
  nbflows explore mnist-glow digits-multiscale explorer.html
  nbflows compress t10k-images-idx3-ubyte digits.nbf --model mnist-pixelflow
  nbflows decompress digits.nbf restored-idx3-ubyte          the same bytes again
  nbflows evaluate upstream/uva-mnist-simple                 the original authors' weights, by name
  nbflows evaluate --upstream marscf_cifar10_mixlogcdf_4_96.pt --data cifar10
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    return run(_parser(), arguments)


def run(parser: argparse.ArgumentParser, arguments: list[str] | None) -> int:
    """Calls the ``command`` of the parsed options; returns the exit status. An error is one line without traceback."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot print a character shows a question mark.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    status = 0
    try:
        try:
            status = _run(parser, arguments)
        finally:
            print(end="", flush=True)
    except OSError as error:
        # Nobody reads on, as in nbflows list | head; or there is no room. Python would try once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141 if isinstance(error, BrokenPipeError) else status or _say(error)
    return status


def _run(parser: argparse.ArgumentParser, arguments: list[str] | None) -> int:
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        # argparse would show the usage of nbflows instead of the command's.
        options.parser.error(f"unknown: {' '.join(unknown)}. The options are listed above; --help explains them")
    try:
        return options.command(options) or 0
    except KeyboardInterrupt as stop:
        # A training that was stopped has printed how to continue.
        print(f"nbflows: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    # RuntimeError: torch's errors, and weights or gradients that are not finite.
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, extras.MissingPackageError) as error:
        if options.traceback:
            raise
        return _say(error)


def _say(error: Exception) -> int:
    """Prints an error as one line: fact, cause and fix, without a stack trace."""
    message = " ".join(str(error).split("\n"))
    if not message and type(error) is MemoryError:
        message = "there is not enough memory"
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
    add_train(commands)
    add_evaluate(commands)
    add_sample(commands)
    add_translate(commands)
    add_explore(commands)
    add_compress(commands)
    add_lessons(commands)
    add_list(commands)
    return parser
