"""Lossless compression of MNIST's test images in one file: nbflows beside general and picture formats.

    python -m benchmarks.compression [--model mnist-pixelflow] [--images 10000]

Every file holds all images and whatever it takes to restore them. Pictures are one sheet of 100 columns. JPEG XL needs
Debian's libjxl-tools (``cjxl``), and is left out where it is missing.
"""

import argparse
import bz2
import io
import lzma
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def idx(images: Tensor) -> bytes:
    """The images in MNIST's own format."""
    sizes = np.array([len(images), *images.shape[2:]], ">u4").tobytes()
    return b"\x00\x00\x08\x03" + sizes + images.numpy().tobytes()


def sheet(images: Tensor, kind: str, **options) -> bytes:
    """All images as one picture of 100 columns."""
    from PIL import Image

    rows = -(-len(images) // 100)
    whole = torch.zeros(rows * 100, *images.shape[2:], dtype=torch.uint8)
    whole[: len(images)] = images[:, 0]
    picture = whole.view(rows, 100, *images.shape[2:]).permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
    stream = io.BytesIO()
    Image.fromarray(picture.contiguous().numpy()).save(stream, kind, **options)
    return stream.getvalue()


def jpeg_xl(images: Tensor) -> bytes:
    """The sheet as JPEG XL, without loss, at its largest effort."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.png"), Path(folder, "a.jxl")
        source.write_bytes(sheet(images, "PNG"))
        subprocess.run(["cjxl", "-d", "0", "-e", "9", source, target], check=True, capture_output=True)
        return target.read_bytes()


def rows(images: Tensor) -> list[list]:
    """Name, bytes and bits/dim of each format."""
    formats: dict[str, Callable[[], bytes]] = {
        "PNG, one sheet": lambda: sheet(images, "PNG", optimize=True),
        "WebP, one sheet": lambda: sheet(images, "WEBP", lossless=True, quality=100, method=6),
        "bzip2": lambda: bz2.compress(idx(images), 9),
        "xz": lambda: lzma.compress(idx(images), preset=9 | lzma.PRESET_EXTREME),
    }
    if shutil.which("cjxl"):
        formats["JPEG XL, one sheet"] = lambda: jpeg_xl(images)
    else:
        print("JPEG XL is left out: there is no cjxl here")
    return [[name, size, 8 * size / images.numel()] for name, size in ((n, len(f())) for n, f in formats.items())]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    from tabulate import tabulate

    from nbflows import data, pretrained
    from nbflows.coding.archive import Codec

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mnist-pixelflow", help="a name of nbflows list, or a file")
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help="test images (default: all)")
    options = parser.parse_args(arguments)
    images = data.load("mnist").test[: options.images]
    table = rows(images)
    codec, start = Codec(pretrained.load(options.model)), time.perf_counter()
    content = codec.pack(images, progress=True, model=options.model, kind="idx", name="t10k-images-idx3-ubyte")
    written = time.perf_counter()
    if not torch.equal(codec.unpack(content, progress=True), images):
        raise SystemExit("the images did not come back")
    read = time.perf_counter()
    table.append([f"nbflows, {options.model}", len(content), 8 * len(content) / images.numel()])
    print(tabulate(table, [f"{len(images)} images", "bytes", "bits/dim"], floatfmt=".3f", tablefmt="github"))
    print(f"{len(images) / (written - start):.0f} images/s written, {len(images) / (read - written):.0f} read")


if __name__ == "__main__":
    main()
