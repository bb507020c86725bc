"""nbflows compress and decompress: images in one file, without any loss, and back."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbflows import files, inputs, pretrained
from nbflows.cli.options import Commands, add_command, checked
from nbflows.coding.archive import Codec, read_header
from nbflows.data import reading

_SUFFIX = ".nbf"
# The header of MNIST's own files of images: 8-bit numbers in three dimensions.
_IDX = b"\x00\x00\x08\x03"


def add_compress(commands: Commands) -> None:
    """Adds ``nbflows compress`` and ``nbflows decompress``."""
    parser = add_command(commands, "compress", _compress, "code images in one file, without loss")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help="pictures, a folder of pictures, an array .npy, or a file of images of MNIST (...-idx3-ubyte)",
    )
    parser.add_argument("out", metavar=f"OUT{_SUFFIX}", type=checked(_code_name), help="where to write the code")
    parser.add_argument(
        "--model", required=True, help="a model of integers: mnist-pixelflow, or the folder or file of your own"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads (default: as many as torch takes)")
    parser = add_command(commands, "decompress", _decompress, "restore what nbflows compress coded")
    parser.add_argument("code", metavar=f"IN{_SUFFIX}", help="a file of nbflows compress")
    parser.add_argument(
        "out",
        nargs="?",
        metavar="OUT",
        type=Path,
        help="the file, or for pictures the folder, to write (default: the name that was compressed)",
    )
    parser.add_argument("--model", help="where the model is, if it is not a published one")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads (default: as many as torch takes)")


def _code_name(text: str) -> Path:
    if Path(text).suffix.lower() != _SUFFIX:
        raise ValueError(f"{text!r} is not the name of a code: end it in {_SUFFIX}")
    return Path(text)


def _compress(options: argparse.Namespace) -> None:
    _use(options.threads)
    codec = Codec(pretrained.load(options.model))
    images, description = _read([Path(text) for text in options.inputs], codec.shape)
    content = codec.pack(images, progress=True, model=options.model, **description)
    files.write(options.out, content)
    print(
        f"{options.out}: {len(images)} images in {len(content):,} bytes, "
        f"{8 * len(content) / images.numel():.4f} bits/dim, all included"
    )


def _decompress(options: argparse.Namespace) -> None:
    _use(options.threads)
    content = Path(options.code).read_bytes()
    header, _ = read_header(content)
    model: str = options.model or str(header.get("model"))
    # A file must not choose which other files are read.
    if not options.model and model not in pretrained.list_pretrained():
        raise ValueError(f"the model {model[:100]!r} is not a published one: say where it is with --model")
    out = options.out or Path(Path(str(header.get("name", "images"))).name)
    if out.exists():
        raise ValueError(f"{out} exists: name another place, nbflows decompress MODEL OUT")
    images = Codec(pretrained.load(model)).unpack(content, progress=True)
    _write(out, images, header)
    print(f"{out}: {len(images)} images, the same bits as before")


def _use(num_threads: int) -> None:
    if num_threads:
        torch.set_num_threads(inputs.whole(num_threads, "threads", 1))


def _read(sources: list[Path], shape: tuple[int, ...]) -> tuple[Tensor, dict[str, Any]]:
    """Reads images of a model's shape, and what it takes to write them as they were."""
    first = sources[0]
    if len(sources) == 1 and not first.is_dir():
        if first.suffix.lower() == ".npy":
            (array,) = reading.arrays(first).values()
            return _of_array(array, shape, first), {"kind": "npy", "name": first.name, "shape": list(array.shape)}
        with open(first, "rb") as stream:
            start = stream.read(4)
        if start[:2] == b"\x1f\x8b":
            raise ValueError(f"{first} is compressed already: unpack it with gunzip first")
        if start == _IDX:
            return _of_idx(first.read_bytes(), shape, first), {"kind": "idx", "name": first.name}
    names: list[Path] = []
    for source in sources:
        found, ignored = reading.find(source) if source.is_dir() else ({source: None}, [])
        for remark in ignored:
            print(f"ignored: {remark}")
        names += sorted(found)
    if not names:
        raise ValueError(f"{', '.join(map(str, sources))}: no pictures")
    folder = first if first.is_dir() and len(sources) == 1 else None
    shown = [str(name.relative_to(folder)) if folder else name.name for name in names]
    if len(set(shown)) < len(shown):
        raise ValueError("two pictures have the same name: compress the folder that they are in")
    images = torch.stack([_of_picture(name, shape) for name in names])
    return images, {"kind": "pictures", "name": first.stem or "images", "names": shown}


def _of_picture(file: Path, shape: tuple[int, ...]) -> Tensor:
    found = reading.picture(file)
    if found.opacity is not None or found.remarks:
        raise ValueError(f"{file} would not come back as it is: {', '.join(found.remarks) or 'it is transparent'}")
    array = np.asarray(found.image)
    image = torch.from_numpy(array.copy()).view(*array.shape[:2], -1).permute(2, 0, 1)
    if tuple(image.shape) != tuple(shape):
        raise ValueError(f"{file} is an image of {tuple(image.shape)}, the model is for {tuple(shape)}")
    return image


def _of_array(array: np.ndarray, shape: tuple[int, ...], file: Path) -> Tensor:
    channels, height, width = shape
    wanted = [(height, width)] if channels == 1 else []
    if array.dtype != np.uint8 or array.shape[1:] not in [*wanted, tuple(shape)]:
        raise ValueError(
            f"{file} has an array {array.shape} of {array.dtype}, "
            f"the model is for uint8 (N, {channels}, {height}, {width})"
        )
    return torch.from_numpy(np.ascontiguousarray(array)).view(-1, *shape)


def _of_idx(content: bytes, shape: tuple[int, ...], file: Path) -> Tensor:
    count, height, width = np.frombuffer(content, ">u4", 3, 4).tolist()
    if (1, height, width) != tuple(shape) or len(content) != 16 + count * height * width:
        raise ValueError(f"{file} has {count} images of {height}x{width}, the model is for {tuple(shape)}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=16).copy()).view(count, *shape)


def _write(out: Path, images: Tensor, header: dict) -> None:
    array, kind = images.numpy(), header.get("kind")
    if kind == "idx":
        sizes = np.array([len(array), *array.shape[2:]], ">u4").tobytes()
        files.write(out, _IDX + sizes + array.tobytes())
    elif kind == "npy":
        with files.replacing(out) as stream:
            np.save(stream, array.reshape(header["shape"]))
    elif kind == "pictures":
        _write_pictures(out, array, header["names"])
    else:
        raise ValueError(f"the file holds images of an unknown kind, {str(kind)[:100]!r}")


def _write_pictures(folder: Path, array: np.ndarray, names: list[str]) -> None:
    from PIL import Image

    targets = [folder / Path(name).with_suffix(".png") for name in names]
    # Names come from a file: they must stay in the folder.
    if len(targets) != len(array) or len(set(targets)) < len(targets) or any(".." in t.parts for t in targets):
        raise ValueError("the names of the pictures are damaged")
    if not all(target.resolve().is_relative_to(folder.resolve()) for target in targets):
        raise ValueError("the names of the pictures lead out of the folder")
    for target, image in zip(targets, array, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(target)
