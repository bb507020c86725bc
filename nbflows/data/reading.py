"""Pictures, masks and arrays from outside: one set of rules for training, pairs and translation, see data/README.md."""

import io
import math
import os
import stat
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

import numpy as np

from nbflows.progress import bar

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageFile

Item = TypeVar("Item")
Result = TypeVar("Result")

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
# Made by systems beside pictures: copies, smaller ones, and what is none.
_BY_SYSTEMS = frozenset(("__macosx", "@eadir", "thumbs"))
# By name, because the content counts and not the suffix: Pillow would hand PostScript to Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# The limit of pixels of any kind, decoded in less than 300 MiB; more than 16 bits in four channels is not a picture.
MAX_PIXELS = 4096 * 4096
_TOO_LARGE = "more than 4096x4096 pixels; make it smaller first"
# Before and around the pixels, which take up to 8 bytes each. Photographs have up to some MiB, in some ten parts.
_METADATA, _HEADER_READS = 2**23, 2**13
# Largest are a GIF's blocks of 255 bytes, two reads each.
_READS = 2**18
_MAX_BYTES = 8 * MAX_PIXELS + _METADATA
# Pillow reads these kinds of Netpbm in Python, pixel by pixel.
_MAX_SLOW_BYTES = 2**20
# Usual are about 10; each goes over the whole picture, and takes a few bytes.
_MAX_SCANS = 50
# Deflated noise-free pictures shrink to a few hundredths.
_MAX_RATIO, _SMALL = 100, 2**26
# In the pictures that we write ourselves, see ``mark``.
SHEET, DRAWN = "nbflows, a sheet of pictures", "nbflows"
# The Exif tag, for formats without the text chunks of PNG.
_SOFTWARE = 0x0131


def mark(maker: str, **more: str) -> dict:
    """Returns arguments of Pillow's ``save`` that mark a picture as ours, except in BMP; ``more`` only in PNG."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info, exif = PngInfo(), Image.Exif()
    for key, value in {"Software": maker, **more}.items():
        info.add_text(key, value)
    exif[_SOFTWARE] = maker
    return {"pnginfo": info, "exif": exif}


class Unreadable(ValueError):
    """A file is not a usable picture; the message names it and says why."""


class _Bounded(io.BufferedReader):
    """A file with a limit of reads and bytes, because Pillow reads headers piece by piece in Python."""

    def __init__(self, file: str | Path):
        super().__init__(io.FileIO(file))
        self.reads, self.bytes = _HEADER_READS, _METADATA

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.reads -= 1
        self.bytes -= len(content)
        if min(self.reads, self.bytes) < 0:
            raise ValueError("more metadata, or in more parts, than a picture has; save it again first")
        return content


class Picture(NamedTuple):
    """The content of a file.

    Attributes:
        image: a Pillow image of 8 bits, "L" or "RGB", with the camera's rotation undone.
        opacity: "L", 255 where a pixel is opaque; None if all are.
        remarks: what was left out or changed.
    """

    image: "PIL.Image.Image"
    opacity: "PIL.Image.Image | None"
    remarks: list[str]


def find(folder: Path, once: bool = False) -> tuple[dict[Path, os.stat_result], list[str]]:
    """Finds the picture files below a folder, in order of their paths, and describes the skipped ones.

    Links are followed, each folder is entered once. Hidden names, other suffixes, broken links, pipes and devices are
    skipped.

    Args:
        folder: where to look.
        once: take only one of several names of a file, for example links.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no pictures in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    top = folder.resolve()
    passed: dict[str, list[str]] = {}
    others: Counter[str] = Counter()
    found: list[tuple[bool, Path, os.stat_result]] = []
    entered: set[tuple[int, int]] = set()
    # Links last, so that files are named after their folder, not after a link to it.
    pending, linked = [folder], []

    def pass_over(why: str, path: Path) -> None:
        passed.setdefault(why, []).append(str(path.relative_to(folder)))

    while pending or linked:
        current = pending.pop() if pending else linked.pop(0)
        identity = _identity(current.stat())
        if identity in entered:
            pass_over("links to folders that are read anyway", current)
            continue
        entered.add(identity)
        try:
            with os.scandir(current) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError:
            if current == folder:
                raise
            pass_over("folders that cannot be opened", current)
            continue
        for name in names:
            path = current / name
            if name.startswith("."):
                pass_over("hidden files and folders", path)
            elif os.path.isdir(path) and name.lower() in _BY_SYSTEMS:
                pass_over("folders of previews or of a system's own", path)
            elif os.path.isdir(path):
                if not path.is_symlink():
                    pending.append(path)
                elif (target := path.resolve()) in top.parents:
                    pass_over(f"links that lead out of {folder.name}, to a folder that holds it ({target})", path)
                else:
                    linked.append(path)
            elif path.suffix.lower() not in SUFFIXES:
                others[path.suffix.lower() or "no suffix"] += 1
            else:
                try:
                    status = os.stat(path)
                except OSError:
                    pass_over("broken links", path)
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.append((path.is_symlink(), path, status))
                else:
                    pass_over("neither files nor folders", path)
    files: dict[Path, os.stat_result] = {}
    known: set[tuple[int, int]] = set()
    for _, path, status in sorted(found, key=lambda one: one[:2]):
        if once and _identity(status) in known:
            pass_over("further names of files that are read anyway", path)
            continue
        known.add(_identity(status))
        files[path] = status
    words = [f"ignored {len(names)} {why} ({_shortened(names)})" for why, names in passed.items()]
    if others:
        words.append(f"ignored {others.total()} files of other kinds ({_shortened(sorted(others))})")
    if not files:
        raise ValueError("; ".join([f"no image files below {top}; looked for {', '.join(sorted(SUFFIXES))}", *words]))
    return dict(sorted(files.items())), words


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def each(read: Callable[[Item], Result], items: list[Item], title: str) -> list[Result | Unreadable]:
    """Reads the items, several at a time; returns the results, or the ``Unreadable`` that was raised."""

    def tried(item: Item) -> Result | Unreadable:
        try:
            return read(item)
        except Unreadable as error:
            return error

    with silent(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(bar(pool.map(tried, items), f"reading {title}", total=len(items)))


@contextmanager
def silent() -> Iterator[None]:
    """Without Pillow's warnings, which name no file; what they are about is refused or a remark. Not for threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def counted(remarks: Iterable[str]) -> list[str]:
    """Summarises remarks on many pictures in words."""
    return [f"{count} pictures: {remark}" for remark, count in sorted(Counter(remarks).items())]


def picture(file: str | Path, image_size: int | tuple[int, int] | None = None) -> Picture:
    """Reads a picture file.

    Args:
        file: BMP, GIF, JPEG, PNG, PBM to PPM, TIFF or WebP, by its content.
        image_size: size that it will be brought to; a JPEG larger than ``MAX_PIXELS`` is decoded at 1/2 to 1/8 of its
            size if enough pixels remain.

    Raises:
        Unreadable: the file is not a picture, is damaged, too large, or does not have 8 or 16 bits.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        if not 0 < status.st_size <= _MAX_BYTES:
            raise ValueError(f"{status.st_size} bytes, larger than any picture" if status.st_size else "empty file")
        with _Bounded(file) as stream:
            if stream.peek(12)[8:12] == b"WEBP":
                # These are read in one piece.
                stream.bytes += status.st_size
            with Image.open(stream, formats=_FORMATS) as image:
                _bound(image, file, image_size)
                stream.reads, stream.bytes = _READS, _METADATA + 8 * image.width * image.height
                return _decoded(image, file)
    except UnidentifiedImageError:
        reason = f"not a picture of a kind that is read ({', '.join(_FORMATS)})"
    except Image.DecompressionBombError:
        reason = _TOO_LARGE
    except ValueError as error:
        reason = str(error)
    except Exception as error:
        # Decoders raise anything on broken files.
        reason = f"cannot be decoded ({type(error).__name__}: {error})"
    raise Unreadable(f"{file}: {reason}") from None


def opaque(file: str | Path, image_size: int | tuple[int, int] | None = None) -> "tuple[PIL.Image.Image, list[str]]":
    """Returns the image of ``picture`` and its remarks; ``Unreadable`` if a pixel is transparent."""
    image, opacity, remarks = picture(file, image_size)
    if opacity is None:
        return image, remarks
    total = image.width * image.height
    raise Unreadable(
        f"{file}: transparent in {total - opacity.histogram()[255]} of {total} pixels; put it on a background first"
    )


def _bound(image: "PIL.ImageFile.ImageFile", file: str | Path, image_size: int | tuple[int, int] | None) -> None:
    """Refuses what would take too long or too much memory; nothing is decoded yet."""
    width, height = image.size
    progressive = image.format in ("JPEG", "MPO") and "progressive" in image.info
    if progressive and Path(file).read_bytes().count(b"\xff\xda") > _MAX_SCANS:
        raise ValueError(f"a progressive JPEG of more than {_MAX_SCANS} scans; save it again first")
    if width * height > MAX_PIXELS and image_size is not None and not progressive:
        # Only a JPEG is decoded smaller; others ignore it. Turned later: both sides must have enough.
        image.draft(None, (np.max(image_size), np.max(image_size)))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{width}x{height}, {_TOO_LARGE}")
    if image.format == "PPM" and image.tile[0][0].startswith("ppm") and os.stat(file).st_size > _MAX_SLOW_BYTES:
        raise ValueError(
            f"a {width}x{height} Netpbm file of text or with unusual levels, too slow to read; save it as PNG"
        )


def _largest_level(image: "PIL.ImageFile.ImageFile") -> int:
    """Returns the value of white in a Netpbm file; 255 where Pillow's reader does not need it."""
    arguments = image.tile[0][3]
    return 255 if isinstance(arguments, str | None) else arguments[1]


def _has_second_frame(file: str | Path) -> bool:
    """Whether a GIF has a second frame. Pillow looks for it too, and copies all of a comment at each of its parts."""
    content = Path(file).read_bytes()

    def end_of_blocks(place: int) -> int:
        while content[place]:
            place += 1 + content[place]
        return place + 1

    def end_of_table(place: int, flags: int) -> int:
        return place + (3 << (flags & 7) + 1 if flags & 0x80 else 0)

    place, frames = end_of_table(13, content[10]), 0
    # The file may end where Pillow's own reader no longer looks.
    with suppress(IndexError):
        while frames < 2 and content[place] != 0x3B:
            if content[place] == 0x2C:
                frames += 1
                place = end_of_blocks(end_of_table(place + 10, content[place + 9]) + 1)
            else:
                # An extension; or a stray byte, which Pillow passes over.
                place = end_of_blocks(place + 2) if content[place] == 0x21 else place + 1
    return frames > 1


def _decoded(image: "PIL.ImageFile.ImageFile", file: str | Path) -> Picture:
    from PIL import Image, ImageOps
    from PIL.TiffImagePlugin import TiffImageFile

    remarks = []
    # For a PNG, getexif would decode the picture.
    maker = image.info.get("Software") if image.format == "PNG" else image.getexif().get(_SOFTWARE)
    if maker == SHEET:
        raise ValueError("a sheet of pictures that nbflows drew, no single one")
    if maker == DRAWN:
        remarks.append("drawn by a model of nbflows")
    # A JPEG may hold its preview as a second frame.
    several = _has_second_frame(file) if image.format == "GIF" else getattr(image, "is_animated", False)
    if several and image.format != "MPO":
        remarks.append("several frames, of which the first is used")
    transparent = image.info.get("transparency")
    # Pillow compares a transparent colour with values that it has brought to 8 bits.
    changed = image.format == "PNG" and image.mode in ("L", "RGB") and image.tile[0][3] != image.mode
    if changed and transparent is not None:
        raise ValueError("a transparent colour, and not 8 bits a channel; make it opaque first")
    # Read before decoding, which loses it. In BMP, 16 bits are those of a whole pixel.
    rawmode = image.tile[0][3] if image.tile else ""
    rawmode = str(rawmode if isinstance(rawmode, str | None) else rawmode[0])
    deep = image.format in ("PNG", "TIFF") and ";16" in rawmode
    if image.format == "PPM" and image.mode == "RGB" and _largest_level(image) > 255:
        remarks.append("more than 8 bits a channel, rounded to 8")
    inverted = isinstance(image, TiffImageFile) and image.mode.startswith("I;16") and image.tag_v2.get(262) == 0
    ImageOps.exif_transpose(image, in_place=True)
    # Netpbm's and older Pillow's modes of 16 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image)
        values = 65535 - values if inverted else values
        deep = True
        opacity = None if transparent is None else Image.fromarray((values != transparent).astype(np.uint8) * 255)
        eight_bits = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode.startswith(("I", "F")):
        raise ValueError(f"32 bits a channel (mode {image.mode}); convert it to 8 or 16 bits first")
    else:
        wanted = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        if image.mode in ("CMYK", "LAB", "HSV"):
            remarks.append(f"{image.mode}, made RGB without a colour profile")
        eight_bits, opacity = image, None
        if image.has_transparency_data:
            eight_bits = image.convert("LA" if wanted == "L" else "RGBA")
            opacity = eight_bits.getchannel("A")
        eight_bits = eight_bits.convert(wanted)
    if deep:
        if not np.asarray(eight_bits).any():
            raise ValueError("16 bits a channel, and the highest 8 are 0 everywhere: save it in 8 bits first")
        remarks.append("16 bits, of which the highest 8 are used")
    if opacity is not None and opacity.getextrema() == (255, 255):
        opacity = None
    return Picture(eight_bits, opacity, remarks)


def fit(image: "PIL.Image.Image", image_size: int | tuple[int, int] | None) -> "PIL.Image.Image":
    """Resizes a Pillow image and crops its middle to this size: a square, or height and width."""
    from PIL import Image, ImageOps

    if image_size is None:
        return image
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    # Area averaging avoids aliasing when shrinking.
    shrinks = image.height >= height and image.width >= width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return ImageOps.fit(image, (width, height), method)


def mask(file: str | Path, width: int, height: int) -> np.ndarray:
    """Reads a mask: True where it is white (above 127), bool ``(height, width)``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, has another size or transparent pixels, or is black everywhere; names the file.
    """
    if not Path(file).exists():
        raise FileNotFoundError(f"no mask {file}")
    with silent():
        image, _ = opaque(file)
    values = np.asarray(image.convert("L"))
    if values.shape != (height, width):
        raise ValueError(
            f"the mask {file} is {image.width}x{image.height}, the picture {width}x{height}; it must have its size"
        )
    known = values > 127
    if not known.any():
        raise ValueError(
            f"the mask {file} is black: 0 of {known.size} pixels are known, its values end at {values.max()}; "
            "it should be white (255) where pixels are known and black (0) in the hole"
        )
    return known


def arrays(file: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz file, or that of a .npy file under "".

    Raises:
        ValueError: damaged, of Python objects, or it claims more than it holds; names the file.
    """
    with open(file, "rb") as stream:
        try:
            if str(file).lower().endswith(".npy"):
                return {"": _array(stream, os.fstat(stream.fileno()).st_size)}
            return _members(stream)
        except ValueError as error:
            reason = str(error)
        except Exception as error:
            # zipfile and numpy raise anything on damaged files.
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
    raise ValueError(f"{file} is damaged, or no array file of NumPy: {reason}") from None


def _members(stream: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        unpacked, packed = (sum(getattr(one, size) for one in members) for size in ("file_size", "compress_size"))
        if unpacked > max(_SMALL, _MAX_RATIO * packed):
            raise ValueError(f"its {packed} bytes unpack to {unpacked}, which pictures never do")
        result = {}
        for member in members:
            with archive.open(member) as content:
                name = member.filename.removesuffix(".npy")
                if name in result:
                    raise ValueError(f"two arrays named {name!r}")
                result[name] = _array(content, member.file_size)
        return result


def _array(stream: IO[bytes], num_bytes: int) -> np.ndarray:
    """Checks what the header says before anything is allocated."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in headers:
        raise ValueError(f"its format is version {'.'.join(map(str, version))}")
    shape, _, dtype = headers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded; save plain numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > num_bytes:
        raise ValueError(f"it claims an array {shape} of {dtype}, and holds {num_bytes} bytes")
    stream.seek(0)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    # Reading to the end also compares a check sum.
    if stream.read(1):
        raise ValueError(f"more bytes than its array {shape} of {dtype}")
    return array
