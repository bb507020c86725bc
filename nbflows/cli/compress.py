"""nbflows compress and decompress: images in one file, without any loss, and back."""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
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
        help="pictures, a folder of pictures, an array .npy, or an MNIST image file (...-idx3-ubyte)",
    )
    parser.add_argument(
        "out", metavar=f"OUT{_SUFFIX}", type=checked(_code_name), help="compressed file to write; it must not exist"
    )
    parser.add_argument(
        "--model", required=True, help="a pixelflow model: mnist-pixelflow, or the folder or file of your own"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="number of CPU threads (default: torch's choice)"
    )
    parser = add_command(commands, "decompress", _decompress, "restore what nbflows compress coded")
    parser.add_argument("code", metavar=f"IN{_SUFFIX}", help="a file of nbflows compress")
    parser.add_argument(
        "out",
        nargs="?",
        metavar="OUT",
        type=Path,
        help="file to write, or folder for pictures (default: the name of the input, in the current folder)",
    )
    parser.add_argument("--model", help="where the model is, if it is not a published one")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="number of CPU threads (default: torch's choice)"
    )


def _code_name(text: str) -> Path:
    if Path(text).suffix.lower() != _SUFFIX:
        raise ValueError(f"{text!r} is not the name of a code: end it in {_SUFFIX}")
    return Path(text)


def _compress(options: argparse.Namespace) -> None:
    _use(options.threads)
    _require_free(options.out)
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
    # A file must not choose which other files are read or downloaded.
    if not options.model and model not in pretrained.find_manifest().models:
        raise ValueError(f"the model {model[:100]!r} is not a published one: say where it is with --model")
    out = options.out or Path(str(header.get("name") or ""))
    if not options.out and (len(out.parts) != 1 or not out.name.isprintable() or out.name.startswith(".")):
        raise ValueError(f"the file gives no name for its images: nbflows decompress {options.code} OUT")
    _require_free(out)
    codec = Codec(pretrained.load(model))
    write = _writer(out, header, (header["images"], *codec.shape))
    images = codec.unpack(content, progress=True)
    write(images.numpy())
    print(f"{out}: {len(images)} images, the same pixels as before")


def _require_free(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out} exists, and is not overwritten: name another place")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.absolute().parent}")


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
            print(remark)
        names += sorted(found)
    if not names:
        raise ValueError(f"{', '.join(map(str, sources))}: no pictures")
    folder = first if first.is_dir() and len(sources) == 1 else None
    shown = [(name.relative_to(folder) if folder else Path(name.name)).with_suffix(".png").as_posix() for name in names]
    # Some file systems do not tell small letters from capitals.
    counts = Counter(name.casefold() for name in shown)
    folders = {parent.as_posix().casefold() for name in shown for parent in PurePosixPath(name).parents}
    if twice := [name for name in shown if counts[name.casefold()] > 1 or name.casefold() in folders]:
        raise ValueError(f"two pictures would both come back as {twice[0]}: rename one, or compress their folder")
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


def _writer(out: Path, header: dict, shape: tuple[int, ...]) -> Callable[[np.ndarray], None]:
    """Returns what writes decoded images; raises ValueError, before they are decoded, if the header does not fit."""
    kind, names, wanted = header.get("kind"), header.get("names"), header.get("shape")
    if kind == "idx":
        sizes = np.array([shape[0], *shape[2:]], ">u4").tobytes()
        return lambda array: files.write(out, _IDX + sizes + array.tobytes())
    if kind == "npy" and isinstance(wanted, list) and tuple(wanted) in (shape, (shape[0], *shape[2:])):
        return lambda array: _write_array(out, array.reshape(wanted))
    if kind == "pictures" and isinstance(names, list) and len({*map(str, names)}) == len(names) == shape[0]:
        paths = [PurePosixPath(str(name)) for name in names]
        # Names come from a file: they must stay in the folder.
        if all(not path.is_absolute() and ".." not in path.parts and path.suffix == ".png" for path in paths):
            return lambda array: _write_pictures([out / path for path in paths], array)
        raise ValueError("the names of the pictures lead out of the folder, or do not end in .png")
    raise ValueError(f"the file does not say how to restore its {shape[0]} images")


def _write_array(out: Path, array: np.ndarray) -> None:
    with files.replacing(out) as stream:
        np.save(stream, array)


def _write_pictures(targets: list[Path], array: np.ndarray) -> None:
    from PIL import Image

    for target, image in zip(targets, array, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(target)
