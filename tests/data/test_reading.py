"""Pictures, masks and arrays from outside: the rules of data/README.md, on generated files and folders."""

import io
import json
import os
import random
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nbflows import data, recipes, tasks, training
from nbflows.cli.picture_files import read_source, translate_files
from nbflows.data import ImageData, PairData, folders, pictures, reading, sets
from nbflows.tasks import Inpainting, Sketch
from tests.cli.test_translate import _stand_in


def _values(*shape, seed=0, low=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def _save(file, values, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file, **options)
    return file


def _chunk(name, part):
    return struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))


def _png(values, colour_type, depth=8, *chunks):
    """Pillow writes neither 16 bits in colour nor all transparent colours."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + (row.astype(">u2") if depth == 16 else row).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# --- folders ----------------------------------------------------------------------------------------------------------


class _Tree:
    """A random folder, and beside it what the rules make of it."""

    def __init__(self, path, seed):
        self.random, self.count = random.Random(seed), 0
        self.top, self.outside = path / "top", path / "outside"
        self.expected, self.words = {}, set()
        self.folder(self.top, 3)
        # A picture at least.
        self.picture(self.top / "last.png")

    def picture(self, file, counts=True):
        self.count += 1
        values = np.full((4, 4), self.count % 256, np.uint8)
        _save(file, values)
        if counts:
            self.expected[file.relative_to(self.top)] = self.count % 256

    def folder(self, folder, depth):
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(self.random.randrange(2, 6)):
            path = folder / f"{self.random.choice('abcxyz')}{i}"
            kind = self.random.choice(
                ["picture", "picture", "hidden", "hidden folder", "other", "broken", "pipe", "linked file", "twice"]
                + ["folder", "linked folder", "loop", "above", "self"] * (depth > 0)
            )
            self.add(kind, path, depth)

    def add(self, kind, path, depth):
        name, suffix = path.name, self.random.choice([".png", ".PNG"])
        if kind == "picture":
            self.picture(path.with_suffix(suffix))
        elif kind == "hidden":
            self.picture(path.with_name(f".{name}.png"), counts=False)
            self.words.add("hidden")
        elif kind == "hidden folder":
            self.picture(path.with_name(f".{name}") / "a.png", counts=False)
            self.words.add("hidden")
        elif kind == "other":
            path.with_suffix(".avif").touch()
            self.words.add(".avif")
        elif kind == "broken":
            path.with_suffix(".png").symlink_to("nothing")
            self.words.add("broken links")
        elif kind == "pipe":
            os.mkfifo(path.with_suffix(".png"))
            self.words.add("neither files nor folders")
        elif kind == "linked file":
            self.count += 1
            target = _save(self.outside / f"{self.count}.png", np.full((4, 4), self.count % 256, np.uint8))
            path.with_suffix(".png").symlink_to(target)
            self.expected[path.with_suffix(".png").relative_to(self.top)] = self.count % 256
        elif kind == "twice" and self.expected:
            inside = [file for file in self.expected if not (self.top / file).is_symlink()]
            if inside:
                path.with_suffix(".png").symlink_to(self.top / self.random.choice(inside))
                self.words.add("further names")
        elif kind == "folder":
            self.folder(path, depth - 1)
        elif kind == "linked folder":
            self.count += 1
            target = self.outside / f"folder{self.count}"
            _save(target / "in.png", np.full((4, 4), self.count % 256, np.uint8))
            path.symlink_to(target)
            self.expected[(path / "in.png").relative_to(self.top)] = self.count % 256
        elif kind == "loop":
            path.symlink_to(path.parent)
            self.words.add("read anyway")
        elif kind == "above":
            path.symlink_to(self.random.choice([self.top.parent, "/"]))
            self.words.add("lead out of")
        elif kind == "self":
            path.symlink_to(path)
            self.words.add("other kinds")


@pytest.mark.parametrize("seed", range(40))
def test_what_is_found_in_a_random_folder_is_what_the_rules_say(tmp_path, seed):
    tree = _Tree(tmp_path, seed)
    files, words = reading.find(tree.top, once=True)
    assert list(files) == sorted(tree.top / file for file in tree.expected)
    text = "; ".join(words)
    assert all(word in text for word in tree.words), (tree.words, text)
    if not tree.words:
        assert text == ""
    values = sorted(int(folders._decode(file, None)[0][0, 0]) for file in files)
    assert values == sorted(tree.expected.values())


def test_a_link_to_a_folder_beside_it_does_not_take_its_place(tmp_path):
    for i in range(20):
        _save(tmp_path / "top" / "train" / f"{i}.png", _values(4, 4, seed=i))
    (tmp_path / "top" / "a").symlink_to(tmp_path / "top" / "train")
    (tmp_path / "top" / "test").mkdir()
    for i in range(3):
        (tmp_path / "top" / "test" / f"{i}.png").symlink_to(tmp_path / "top" / "train" / f"{i}.png")
    images = data.load(tmp_path / "top", root=tmp_path)
    everything = torch.cat([images.train, images.validation, images.test]).flatten(1)
    # Each image once, in one split only.
    assert len(everything.unique(dim=0)) == len(everything) == 20
    assert "ignored 1 links to folders that are read anyway (a)" in images.ignored
    assert "ignored 3 further names of files that are read anyway" in images.ignored


@pytest.mark.parametrize("where", ["", "train/"])
def test_what_is_ignored_is_kept_with_the_data_also_in_the_cache(tmp_path, where):
    folder = tmp_path / "top"
    for i in range(30):
        _save(folder / where / f"{i}.png", _values(4, 4, seed=i))
    for i in range(20):
        (folder / where / f"{i}.{'avif' if i % 2 else 'heic'}").touch()
    _save(folder / where / "deep.png", _values(4, 4, high=2**16, dtype=np.uint16))
    _save(folder / where / "clear.png", _values(4, 4, 4, high=255))
    frames = [Image.fromarray(_values(4, 4, seed=i)) for i in range(3)]
    frames[0].save(folder / where / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"skipped 1 of 33 files .*clear.png: transparent in 16 of 16 pixels"):
        first = data.load(folder, root=tmp_path)
    for images in (first, data.load(folder, root=tmp_path)):
        assert "ignored 20 files of other kinds (.avif, .heic)" in images.ignored
        assert "1 pictures: 16 bits, of which the highest 8 are used" in images.ignored
        assert "1 pictures: several frames, of which the first is used" in images.ignored
        assert "skipped 1 of 33" in images.ignored and "\n" not in images.ignored
    assert tasks.apply(Sketch(), first).ignored == first.ignored


@pytest.mark.parametrize(
    "folders",
    [("images/train", "images/test"), ("train2017", "val2017"), ("a/Valid", "b"), ("dev", "b"), ("holdout", "b")],
)
def test_folders_that_look_like_splits_and_are_none_are_mentioned(tmp_path, folders):
    for i in range(20):
        _save(tmp_path / "top" / folders[i % 2] / f"{i}.png", _values(4, 4, seed=i))
    ignored = data.load(tmp_path / "top", root=tmp_path).ignored
    assert "no split is made of" in ignored and folders[0] in ignored


@pytest.mark.parametrize("folder", ["__MACOSX", "@eaDir", "thumbs", "a/Thumbs"])
def test_folders_of_previews_are_passed_over_and_named(tmp_path, folder):
    for i in range(20):
        _save(tmp_path / "top" / f"{i}.png", _values(4, 4, seed=i))
        _save(tmp_path / "top" / folder / f"{i}.png", _values(4, 4, seed=i))
    images = data.load(tmp_path / "top", root=tmp_path)
    assert len(images.train) == 17 and f"a system's own ({folder})" in images.ignored


def test_images_outside_of_the_splits_are_counted(tmp_path):
    for i in range(30):
        _save(tmp_path / "top" / ("train", "test", "extra")[i % 3] / f"{i}.png", _values(4, 4, seed=i))
    assert "10 images outside of the folders of splits" in data.load(tmp_path / "top", root=tmp_path).ignored


def test_samples_of_a_run_do_not_become_its_data(tmp_path):
    for i in range(20):
        _save(tmp_path / "top" / f"{i}.png", _values(8, 8, seed=i))
    samples = torch.randint(256, (64, 1, 8, 8)).byte()
    pictures.save_samples(samples, tmp_path / "top" / "runs" / "samples" / "step_1.png", 256)
    with pytest.warns(UserWarning, match=r"step_1.png: a sheet of pictures that nbflows drew"):
        images = data.load(tmp_path / "top", 8, root=tmp_path)
    assert len(images.train) + len(images.validation) + len(images.test) == 20
    _save(tmp_path / "in" / "a.png", _values(8, 8, 3))
    translate_files(_stand_in(), Sketch(), tmp_path / "in", tmp_path / "out", num_samples=2)
    with pytest.raises(ValueError, match=r"contact_sheet.png: a sheet of pictures"):
        translate_files(_stand_in(), Sketch(), tmp_path / "out", tmp_path / "again")
    assert reading.picture(tmp_path / "out" / "a-1.png").remarks == ["drawn by a model of nbflows"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"])
def test_samples_are_known_again_in_every_format_that_can_say_so(tmp_path, suffix):
    pictures.save_samples(torch.randint(256, (4, 3, 8, 8)).byte(), tmp_path / f"a{suffix}", 256)
    with pytest.raises(ValueError, match=rf"a{suffix}: a sheet of pictures that nbflows drew"):
        reading.picture(tmp_path / f"a{suffix}")


def test_hidden_files_are_ignored_in_pairs_and_translations(tmp_path, capsys):
    for i in range(20):
        for folder in ("in", "out"):
            _save(tmp_path / folder / f"{i}.png", _values(8, 8, seed=i))
    (tmp_path / "in" / "._0.png").write_bytes(b"Mac OS X")
    pairs = tasks.load_pairs(tmp_path / "in", tmp_path / "out", root=tmp_path)
    assert len(pairs.train) == 17 and pairs.ignored == "in: ignored 1 hidden files and folders (._0.png)"
    written = translate_files(_stand_in(), Sketch(), tmp_path / "in", tmp_path / "results", 1)
    assert len(written) == 22
    assert "ignored 1 hidden files and folders (._0.png)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.png", "a.png is a single picture; give the folder"),
        ("tensor.pt", "tensor.pt exists, but is neither a folder"),
        ("pipe.npy", "pipe.npy exists, but is neither"),
        ("missing", "no data set or path"),
        ("link", "link is a link to gone, which does not exist"),
        ("self", "self is a link to self"),
    ],
)
def test_a_path_that_is_no_data_says_what_it_is(tmp_path, name, message):
    _save(tmp_path / "a.png", _values(4, 4))
    (tmp_path / "tensor.pt").touch()
    os.mkfifo(tmp_path / "pipe.npy")
    for name_of_link, target in (("link", "gone"), ("self", "self")):
        (tmp_path / name_of_link).symlink_to(target)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / name)


def test_a_home_folder_and_capital_letters_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", _values(30, 4, 4))
    (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
    images = data.load("~/A.NPY")
    assert len(images.train) == 25 and images.origin["name"] == str(tmp_path / "A.NPY")


@pytest.mark.parametrize("size", [0, -8, 2.5, "x", float("nan"), (8,), (8, 0), (1, 2, 3), 10**9, True])
def test_image_sizes_that_are_none_are_refused(tmp_path, size):
    with pytest.raises(ValueError, match="image_size is"):
        data.load(tmp_path, image_size=size)


# --- one picture, read alike by all -----------------------------------------------------------------------------------

_L, _RGB = _values(8, 8, seed=1), _values(8, 8, 3, seed=2)
_DEEP, _DEEP_RGB = (_values(8, 8, c, seed=3, high=2**16, dtype=np.uint16) for c in (1, 3))
_DEEP[0, 0] = 513
_P = Image.fromarray(_RGB).quantize(16)
_ALPHA = np.full((8, 8, 1), 255, np.uint8)
_HOLED = _ALPHA.copy()
_HOLED[2, 3:6, 0] = 0, 128, 254


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _encoded(Image.fromarray(_RGB), "PNG", exif=exif)


def _palette():
    return (b"PLTE", np.asarray(_P.getpalette()[:48], np.uint8).tobytes())


_INDICES = np.asarray(_P)
# A second header, which counts.
_LARGE = struct.pack(">IIBBBBB", 5000, 4000, 8, 0, 0, 0, 0)
# A file's bytes; what they are read as, or the reason why not; how many pixels are transparent.
CASES = {
    "grey": (_encoded(Image.fromarray(_L), "PNG"), _L, 0),
    "colour": (_encoded(Image.fromarray(_RGB), "PNG"), _RGB, 0),
    "bmp": (_encoded(Image.fromarray(_RGB), "BMP"), _RGB, 0),
    "ppm": (_encoded(Image.fromarray(_RGB), "PPM"), _RGB, 0),
    "tiff": (_encoded(Image.fromarray(_RGB), "TIFF"), _RGB, 0),
    "webp": (_encoded(Image.fromarray(_RGB), "WEBP", lossless=True), _RGB, 0),
    "gif": (_encoded(_P, "GIF"), np.asarray(_P.convert("RGB")), 0),
    "1 bit": (_encoded(Image.fromarray(_L > 127), "PNG"), 255 * (_L > 127), 0),
    "palette": (_encoded(_P, "PNG"), np.asarray(_P.convert("RGB")), 0),
    "opaque grey": (_encoded(Image.fromarray(np.dstack([_L, _ALPHA])), "PNG"), _L, 0),
    "opaque colour": (_encoded(Image.fromarray(np.dstack([_RGB, _ALPHA])), "PNG"), _RGB, 0),
    "opaque webp": (_encoded(Image.fromarray(np.dstack([_RGB, _ALPHA])), "WEBP", lossless=True), _RGB, 0),
    "grey with holes": (_encoded(Image.fromarray(np.dstack([_L, _HOLED])), "PNG"), _L, 3),
    "colour with holes": (_encoded(Image.fromarray(np.dstack([_RGB, _HOLED])), "PNG"), _RGB, 3),
    "tiff with holes": (_encoded(Image.fromarray(np.dstack([_RGB, _HOLED])), "TIFF"), _RGB, 3),
    "palette, alpha": (
        _png(_INDICES, 3, 8, _palette(), (b"tRNS", bytes([0, 100] + [255] * 14))),
        np.asarray(_P.convert("RGB")),
        int((_INDICES < 2).sum()),
    ),
    "palette, opaque alpha": (
        _png(_INDICES, 3, 8, _palette(), (b"tRNS", bytes([255] * 16))),
        np.asarray(_P.convert("RGB")),
        0,
    ),
    "transparent grey": (_png(_L, 0, 8, (b"tRNS", struct.pack(">H", _L[0, 0]))), _L, int((_L[0, 0] == _L).sum())),
    "transparent colour": (_png(_RGB, 2, 8, (b"tRNS", struct.pack(">HHH", *_RGB[0, 0]))), _RGB, 1),
    "16 bits": (_png(_DEEP, 0, 16), _DEEP[..., 0] >> 8, 0),
    "16 bits in colour": (_png(_DEEP_RGB, 2, 16), _DEEP_RGB >> 8, 0),
    "16 bits, transparent": (_png(_DEEP, 0, 16, (b"tRNS", struct.pack(">H", 513))), _DEEP[..., 0] >> 8, 1),
    "16 bits in Netpbm": (b"P5 8 8 65535\n" + _DEEP.astype(">u2").tobytes(), _DEEP[..., 0] >> 8, 0),
    "16 bits in TIFF": (_encoded(Image.fromarray(_DEEP[..., 0]), "TIFF"), _DEEP[..., 0] >> 8, 0),
    "16 bits, transparent colour": (_png(_DEEP_RGB, 2, 16, (b"tRNS", bytes(6))), "a transparent colour, and not 8", 0),
    "16 bits, small values": (_png(_DEEP >> 8, 0, 16), "16 bits a channel, and the highest 8 are 0", 0),
    "16 bits, small colours": (_png(_DEEP_RGB >> 8, 2, 16), "16 bits a channel, and the highest 8 are 0", 0),
    "16 bits, small, alpha": (
        _png(np.dstack([_DEEP_RGB >> 8, _ALPHA.astype(np.uint16) * 257]), 6, 16),
        "16 bits a channel, and the highest 8 are 0",
        0,
    ),
    "16 bits, small grey, alpha": (
        _png(np.dstack([_DEEP >> 8, _ALPHA.astype(np.uint16) * 257]), 4, 16),
        "16 bits a channel, and the highest 8 are 0",
        0,
    ),
    "16 bits, white is 0": (
        _encoded(Image.fromarray(65535 - _DEEP[..., 0]), "TIFF", tiffinfo={262: 0}),
        _DEEP[..., 0] >> 8,
        0,
    ),
    "32 bits": (_encoded(Image.fromarray(_L.astype(np.int32)), "TIFF"), "32 bits a channel", 0),
    "floats": (_encoded(Image.fromarray(_L.astype(np.float32)), "TIFF"), "32 bits a channel", 0),
    "cmyk": (
        _encoded(Image.fromarray(_RGB).convert("CMYK"), "TIFF"),
        np.asarray(Image.fromarray(_RGB).convert("CMYK").convert("RGB")),
        0,
    ),
    "turned": (_turned(3), _RGB[::-1, ::-1], 0),
    "mirrored": (_turned(5), _RGB.transpose(1, 0, 2), 0),
    "animated": (
        _encoded(_P, "GIF", save_all=True, append_images=[_P.rotate(90)]),
        np.asarray(_P.convert("RGB")),
        0,
    ),
    "nothing": (b"", "empty file", 0),
    "text": (b"not a picture", "not a picture of a kind that is read", 0),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "not a picture of a kind", 0),
    "cut": (_encoded(Image.fromarray(_RGB), "PNG")[:150], "cannot be decoded", 0),
    "too large": (
        _png(np.zeros((1, 1), np.uint8), 0, 8, (b"IHDR", _LARGE)),
        "5000x4000, more than 4096x4096 pixels",
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_reader_makes_the_same_of_a_picture(tmp_path, name):
    content, expected, transparent = CASES[name]
    file = tmp_path / "in" / "a.png"
    for folder in ("in", "out"):
        _save(tmp_path / folder / "b.png", _L)
        (tmp_path / folder / "a.png").write_bytes(content)
    reason = expected if isinstance(expected, str) else f"transparent in {transparent} of 64 pixels"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parts, remarks = folders._decode_splits(tmp_path / "in", sorted((tmp_path / "in").iterdir()), None)
        pairs, _ = folders._decode_pairs(
            tmp_path / "in",
            tmp_path / "out",
            [(tmp_path / "in" / n, tmp_path / "out" / n) for n in ("a.png", "b.png")],
            None,
        )
    refused = isinstance(expected, str) or transparent
    # No warning but ours.
    assert [str(w.message).split(" ")[0] for w in caught] == ["skipped"] * (2 if refused else 0)
    if refused:
        assert len(parts["train"]) == len(pairs["source_train"]) == len(pairs["target_train"]) == 1
        assert f"a.png: {reason}" in remarks[-1] and all(reason in str(w.message) for w in caught)
        with pytest.raises(ValueError, match=rf"a\.png: .*{reason}|a\.png is {reason}"):
            read_source(file, (3, 8, 8), Sketch())
        with pytest.raises(ValueError, match=rf"a\.png: .*{reason}"):
            reading.mask(file, 8, 8)
    else:
        colour = torch.from_numpy(np.array(expected, np.uint8)).view(8, 8, -1).permute(2, 0, 1)
        for images in (parts["train"], pairs["source_train"], pairs["target_train"]):
            assert torch.equal(images[0], colour.expand(len(images[0]), 8, 8))
        assert torch.equal(read_source(file, (3, 8, 8), Sketch())[0], colour.expand(3, 8, 8))
        luma = np.asarray(Image.fromarray(colour.permute(1, 2, 0).squeeze(2).numpy()).convert("L"))
        assert np.array_equal(reading.mask(file, 8, 8), luma > 127)
    if transparent:
        source, known = read_source(file, (3, 8, 8), Inpainting())
        assert (~known).sum() == transparent
        colour = torch.from_numpy(np.array(expected)).view(8, 8, -1).permute(2, 0, 1)
        assert torch.equal(source, colour.expand(3, 8, 8).byte() * known)


def test_a_damaged_picture_is_refused_by_name_or_read(tmp_path):
    generator, file, refused = random.Random(0), tmp_path / "a.png", 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content, *_ in [case for case in CASES.values() if len(case[0]) > 100] * 20:
            damaged = bytearray(content[: generator.choice([None, generator.randrange(1, len(content))])])
            for _ in range(generator.randrange(4)):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            file.write_bytes(damaged)
            try:
                with reading.silent():
                    image, _ = reading.opaque(file)
            except reading.Unreadable as error:
                assert str(error).startswith(f"{file}: ")
                refused += 1
            else:
                assert image.mode in ("L", "RGB") and image.width * image.height <= reading.MAX_PIXELS
    assert refused > 100


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.full((8, 8), 1, np.uint8),
            "mask.png is black: 0 of 64 pixels are known, its values end at 1; it should be",
        ),
        (np.dstack([np.zeros((8, 8, 3), np.uint8), _HOLED]), "mask.png: transparent in 3 of 64 pixels"),
        (np.full((8, 9), 255, np.uint8), "the mask .*mask.png is 9x8, the picture 8x8"),
        (np.full((8, 8), 255, np.uint8), "64 of 64 pixels are known"),
    ],
)
def test_a_mask_that_is_none_is_named(tmp_path, values, message):
    mask, file = _save(tmp_path / "mask.png", values), _save(tmp_path / "a.png", _RGB)
    with pytest.raises(ValueError, match=message):
        read_source(file, (3, 8, 8), Inpainting(), mask=mask)
    with pytest.raises(ValueError, match=message):
        Inpainting(mask).known(8, 8)
    for folder in (tmp_path, tmp_path / "none.png"):
        with pytest.raises((ValueError, OSError), match=r"no regular file|no mask"):
            read_source(file, (3, 8, 8), Inpainting(), mask=folder)


def test_postscript_is_given_to_no_other_program(tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {marker}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for suffix in reading.SUFFIXES:
        (tmp_path / "top").mkdir(exist_ok=True)
        (tmp_path / "top" / f"a{suffix}").write_bytes(CASES["postscript"][0])
    with pytest.raises(ValueError, match="none of the 13 image files"):
        data.load(tmp_path / "top", 8, root=tmp_path)
    assert not marker.exists()


def test_a_large_photograph_is_decoded_smaller(tmp_path):
    Image.new("RGB", (6000, 4000), (200, 30, 60)).save(tmp_path / "a.jpg", quality=50)
    image, _ = reading.opaque(tmp_path / "a.jpg", 32)
    # An eighth; and what is left is enough for the size that is wanted.
    assert image.size == (750, 500)
    assert reading.opaque(tmp_path / "a.jpg", 900)[0].size == (1500, 1000)
    for size in (None, 4000):
        with pytest.raises(ValueError, match="6000x4000, more than 4096x4096"):
            reading.opaque(tmp_path / "a.jpg", size)


@pytest.mark.parametrize("num_samples", [1, 3, 10])
def test_a_translation_writes_over_no_file_that_it_has_read_or_written(tmp_path, num_samples):
    names = ["a", "a-1", "a-2", "a-10", "contact_sheet", "a-sheet", "b"]
    for name in names:
        _save(tmp_path / "in" / f"{name}.png", _RGB)
        _save(tmp_path / f"{name}.png", _RGB)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.png")}
    for source, out in [("in", "out"), ("a.png", "b.png"), ("b.png", "a.png"), ("b.png", "a-sheet.png")]:
        try:
            written = translate_files(_stand_in(), Sketch(), tmp_path / source, tmp_path / out, min(num_samples, 5))
        except ValueError as error:
            assert "would overwrite" in str(error)
        else:
            assert len(set(written)) == len(written)
            assert tmp_path / source not in written
    assert all((tmp_path / "in" / f"{name}.png").read_bytes() == before[tmp_path / f"{name}.png"] for name in names)
    with pytest.raises(ValueError, match=r"c-1.png, made of .*c-1.png, would overwrite .*c-1.png"):
        for name in ("c", "c-1"):
            _save(tmp_path / f"{name}.png", _RGB)
        translate_files(_stand_in(), Sketch(), tmp_path / "c-1.png", tmp_path / "c.png", 3)


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_every_layout_is_read_in_its_only_meaning_or_refused(tmp_path, kind):
    sides = (1, 2, 3, 4, 5)
    shapes = [(30, *rest) for n in (0, 1, 2, 3) for rest in np.ndindex(*[5] * n)]
    for where in shapes:
        shape = (30, *(sides[i] for i in where[1:]))
        array = _values(*shape)
        file = tmp_path / f"a.{kind}"
        np.save(file, array) if kind == "npy" else np.savez(file, anything=array)
        first, last = len(shape) == 4 and shape[1] in (1, 3), shape[-1] in (1, 3)
        meanings = {3: ["grey"] + ["one colour image"] * last, 4: ["first"] * first + ["last"] * last}.get(
            len(shape), []
        )
        if len(meanings) != 1:
            with pytest.raises(ValueError, match=rf"a\.{kind}"):
                data.load(file)
            continue
        images = data.load(file)
        grey = array.reshape(30, 1, *shape[1:]) if meanings == ["grey"] else array
        wanted = array.transpose(0, 3, 1, 2) if meanings == ["last"] else grey
        together = torch.cat([images.train, images.validation, images.test])
        assert tuple(together.shape) == wanted.shape
        assert sorted(together.flatten(1).tolist()) == sorted(wanted.reshape(30, -1).tolist())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.where(np.arange(480).reshape(30, 4, 4) < 3, np.nan, 1.0), "got float64 .* with 3 NaN or infinite values"),
        (np.full((30, 4, 4), 300), "got int64 .* with values 300 to 300"),
        (np.zeros((30, 4, 4), bool), "got bool"),
        (np.zeros((30, 4, 4), "U3"), "got <U3"),
        (np.array([{}, []], dtype=object), "Python objects, which are never loaded"),
        (np.zeros((28, 28, 500), np.uint8), "can be 28 images of 28x500, or 500 of 28x28"),
        (np.zeros((28, 20, 500), np.uint8), "can be 28 images of 20x500, or 500 of 28x20"),
        (np.zeros((30, 0, 4), np.uint8), "without a value"),
        (np.zeros((0, 4, 4), np.uint8), "0 images, too few to split; at least 20"),
        (np.zeros((19, 4, 4), np.uint8), "19 images, too few to split; at least 20"),
    ],
)
def test_arrays_of_other_kinds_are_refused_with_what_is_in_them(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=message) as caught:
            data.load(tmp_path / name)
        assert "unsafe" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "{}_labels"),
        ("train_images", "train_labels"),
        ("x_train", "y_train"),
        ("images", "labels"),
        ("x", "y"),
    ],
)
def test_labels_of_an_npz_stay_with_their_images(tmp_path, names):
    images, labels = _values(40, 4, 4), _values(40, high=10, seed=1, dtype=np.int32)
    images[:, 0, 0] = labels
    names = [name.format("train") for name in names]
    np.savez(tmp_path / "a.npz", **dict(zip(names, (images, labels[:, None]), strict=True)))
    loaded = data.load(tmp_path / "a.npz")
    assert loaded.num_classes == labels.max() + 1 and loaded.ignored == ""
    for split in data.SPLITS:
        assert torch.equal(loaded.labels[split], getattr(loaded, split)[:, 0, 0, 0].long())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"train": 30, "labels": np.zeros(29, int)},
            r"labels are whole numbers \(30,\), one per image; got int64 \(29,\)",
        ),
        ({"train": 30, "labels": np.zeros(30)}, "whole numbers .* got float64"),
        ({"train": 30, "labels": np.full(30, -1)}, "labels are 0 or more"),
        ({"train": 30, "test": 5, "train_labels": np.zeros(30, int)}, "images of train, test, and labels of train"),
        ({"train": 30, "x_train": 30}, "two arrays of train images"),
        ({"val": 30, "valid": 30, "train": 30}, "two arrays of validation images"),
        ({"test": 30}, "no training images"),
        ({"train": 30, "validation": 0, "test": 2}, "validation is empty"),
        ({"train": 30, "validation": 2, "test": np.zeros((3, 5, 5), np.uint8)}, r"test is \(3, 1, 5, 5\), train is"),
        ({"train": 30, "validation": 2, "test": np.zeros((3, 4, 4, 3), np.uint8)}, r"test is \(3, 3, 4, 4\), train is"),
    ],
)
def test_arrays_of_an_npz_that_do_not_fit_are_refused(tmp_path, arrays, message):
    arrays = {name: _values(n, 4, 4) if isinstance(n, int) else n for name, n in arrays.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "a.npz")


def test_two_arrays_of_one_name_are_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, _values(30, 4, 4))
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("train.npy", content.getvalue())
    with pytest.raises(ValueError, match=r"a\.npz .*two arrays named 'train'"):
        data.load(tmp_path / "a.npz")


def test_images_of_five_channels_are_refused():
    part = torch.zeros(2, 5, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        ImageData("a", "a", part, part, part)


def test_arrays_of_other_names_and_few_levels_are_mentioned(tmp_path):
    np.savez(tmp_path / "a.npz", train=_values(30, 4, 4, high=17), weights=np.zeros(3))
    ignored = data.load(tmp_path / "a.npz").ignored
    assert "ignored the arrays weights" in ignored and "the largest value is 16 of 255" in ignored


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_a_damaged_array_file_is_a_value_error_that_names_it_or_the_same_array(tmp_path, save):
    array = _values(30, 4, 4)
    file = tmp_path / f"a.{'npy' if save is np.save else 'npz'}"
    save(file, array)
    content, generator = file.read_bytes(), np.random.default_rng(0)
    damaged = [content[:n] for n in range(0, len(content), 23)] + [content + b"x"]
    for _ in range(300):
        flipped = bytearray(content)
        flipped[generator.integers(len(content))] ^= 1 << generator.integers(8)
        damaged.append(bytes(flipped))
    for one in damaged:
        file.write_bytes(one)
        try:
            (found,) = reading.arrays(file).values()
        except ValueError as error:
            assert str(file) in str(error)
        else:
            # Without a check sum, a value of a .npy may be another one; the header's order too.
            assert found.size == array.size
            assert save is np.save or np.array_equal(found.reshape(array.shape), array)


# --- data made in Python ----------------------------------------------------------------------------------------------


def _images(kind=ImageData, **changes):
    parts = {split: torch.zeros(n, 3, 4, 4).byte() for split, n in zip(data.SPLITS, (4, 2, 3), strict=True)}
    if kind is PairData:
        parts |= {"sources": {split: part[:, :1] for split, part in parts.items()}}
    return kind("mine", "noise", **{**parts, **changes})


def _labels(**changes):
    return {**{split: torch.zeros(n).long() for split, n in zip(data.SPLITS, (4, 2, 3), strict=True)}, **changes}


@pytest.mark.parametrize("split", data.SPLITS)
@pytest.mark.parametrize("kind", [ImageData, PairData])
@pytest.mark.parametrize(
    ("part", "exception", "message"),
    [
        (np.zeros((4, 3, 4, 4), np.uint8), TypeError, "is a ndarray; give a tensor"),
        ([[0]], TypeError, "is a list; give a tensor"),
        (None, TypeError, "is a NoneType; give a tensor"),
        (torch.zeros(4, 3, 4, 4), TypeError, r"is uint8 \(N, C, H, W\), not float32"),
        (torch.zeros(3, 4, 4).byte(), ValueError, r"has the shape \(N, C, H, W\), not \(3, 4, 4\)"),
        (torch.tensor(0).byte(), ValueError, r"has the shape \(N, C, H, W\), not \(\)"),
        (torch.zeros(0, 3, 4, 4).byte(), ValueError, "is empty; each split needs one example"),
        (torch.zeros(4, 1, 4, 4).byte(), ValueError, "all examples need the same shape"),
        (torch.zeros(4, 3, 4, 5).byte(), ValueError, "all examples need the same shape"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_anything_is_done_with_it(kind, split, part, exception, message):
    with pytest.raises(exception, match=message):
        _images(kind, **{split: part})


@pytest.mark.parametrize(
    ("changes", "exception", "message"),
    [
        ({"labels": {"train": torch.zeros(4).long()}}, ValueError, "labels are needed for train, validation, test"),
        ({"labels": _labels(test=torch.zeros(3).int())}, TypeError, r"labels of test is int64 \(N,\), not int32"),
        ({"labels": _labels(test=torch.zeros(2).long())}, ValueError, "2 labels for the 3 images of test"),
        ({"labels": _labels(train=torch.full((4,), -1))}, ValueError, "the smallest of train is -1"),
        ({"labels": _labels(train=[0] * 4)}, TypeError, "labels of train is a list"),
        (
            {"attributes": {"train": torch.zeros(4, 2).long()}},
            ValueError,
            "attributes are needed for train",
        ),
        ({"attributes": _labels()}, ValueError, r"attributes of train has the shape \(N, A\), not \(4,\)"),
        (
            {"attributes": {k: v[:, None].expand(-1, 2) for k, v in _labels().items()}, "attribute_values": {"a": "x"}},
            ValueError,
            r"names 1 attributes with \[1\] values, attributes of train are \(4, 2\)",
        ),
        (
            {"num_grey_levels": 17, "test": torch.full((3, 3, 4, 4), 17).byte()},
            ValueError,
            "test has values up to 17, more than 16",
        ),
        ({"num_grey_levels": 1}, ValueError, "num_grey_levels is 2 or more"),
        ({"num_grey_levels": float("nan")}, ValueError, "num_grey_levels is a whole number"),
    ],
)
def test_labels_and_levels_that_do_not_fit_are_refused(changes, exception, message):
    with pytest.raises(exception, match=message):
        _images(**changes)


@pytest.mark.parametrize(
    ("changes", "exception", "message"),
    [
        ({"train": torch.zeros(3, 3, 4, 4)}, TypeError, "sources of train is uint8"),
        ({"test": np.zeros((3, 1, 4, 4))}, TypeError, "sources of test is a ndarray"),
        (
            {"test": torch.zeros(3, 3, 4, 4).byte()},
            ValueError,
            "sources of test have 3 channels, those of train have 1",
        ),
    ],
)
def test_sources_that_are_none_are_refused(changes, exception, message):
    sources = {**_images(PairData).sources, **changes}
    with pytest.raises(exception, match=message):
        _images(PairData, sources=sources)
    with pytest.raises(TypeError, match="the mask is bool"):
        _images(PairData, known=torch.ones(4, 4))


def test_points_that_are_not_finite_are_counted():
    points = torch.randn(10, 2)
    points[3, 1], points[5, 0] = float("nan"), float("inf")
    with pytest.raises(ValueError, match="2 of 20 values of validation are NaN or infinite"):
        data.Data("mine", "", torch.randn(9, 2), points, torch.randn(3, 2))
    with pytest.raises(TypeError, match="train is float32 or float64"):
        data.Data("mine", "", torch.ones(9, 2).long(), torch.randn(3, 2), torch.randn(3, 2))


def test_labels_beyond_the_classes_of_a_model_are_refused(tmp_path):
    digits = data.load("digits")
    labels = {split: part.clone() for split, part in digits.labels.items()}
    labels["test"][0] = 21
    recipe = recipes.get("digits-joint")
    with pytest.raises(ValueError, match="digits has labels up to 21, the model has 10 classes, 0 to 9"):
        training.train(recipe, replace(digits, labels=labels), out=tmp_path, max_steps=1, progress=False)


def test_damaged_files_of_a_downloaded_set_are_said_to_be(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").touch()
    with pytest.raises(ValueError, match=r"the files of MNIST below .* are damaged"):
        data.load("mnist", root=tmp_path)


def test_a_folder_is_not_its_own_partner(tmp_path):
    _save(tmp_path / "in" / "a.png", _L)
    (tmp_path / "out").symlink_to(tmp_path / "in")
    with pytest.raises(ValueError, match="sources and targets are the same folder"):
        tasks.load_pairs(tmp_path / "in", tmp_path / "out")


# --- the cache --------------------------------------------------------------------------------------------------------


def _cache_of(tmp_path):
    for i in range(30):
        _save(tmp_path / "top" / f"{i}.png", _values(4, 4, seed=i))
    images = data.load(tmp_path / "top", root=tmp_path)
    (cached,) = (tmp_path / "cache").iterdir()
    return images, cached


def _replaced_by(kind, cached, tmp_path):
    cached.unlink()
    if kind == "pipe":
        os.mkfifo(cached)
    elif kind == "folder":
        cached.mkdir()
    elif kind == "link":
        np.savez(tmp_path / "other.npz", train=_values(30, 1, 4, 4, seed=99))
        cached.symlink_to(tmp_path / "other.npz")
    elif kind == "broken link":
        cached.symlink_to("nothing")
    elif kind == "link to a device":
        cached.symlink_to("/dev/zero")
    elif kind == "empty":
        cached.touch()
    elif kind == "other arrays":
        np.savez(cached, train=np.zeros((30, 1, 4, 4)), remarks=np.array(["x"]))
    elif kind == "objects":
        np.savez(cached, train=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    "kind", ["pipe", "folder", "link", "broken link", "link to a device", "empty", "other arrays", "objects"]
)
def test_a_cache_that_is_something_else_is_made_anew(tmp_path, capsys, kind):
    images, cached = _cache_of(tmp_path)
    _replaced_by(kind, cached, tmp_path)
    again = data.load(tmp_path / "top", root=tmp_path)
    assert torch.equal(again.train, images.train) and torch.equal(again.test, images.test)
    assert "decoded again" in capsys.readouterr().err
    # Nothing is left behind, and the next one is used.
    assert list((tmp_path / "cache").iterdir()) == [cached]
    if kind != "folder":
        data.load(tmp_path / "top", root=tmp_path)
        assert "anew" not in capsys.readouterr().err
    if kind == "link":
        assert np.load(tmp_path / "other.npz")["train"][0, 0, 0, 0] == _values(30, 1, 4, 4, seed=99)[0, 0, 0, 0]


def test_a_damaged_cache_is_made_anew_whatever_the_damage(tmp_path, capsys):
    images, cached = _cache_of(tmp_path)
    content, generator = cached.read_bytes(), np.random.default_rng(0)
    damaged = [content[:n] for n in range(0, len(content), len(content) // 12)]
    for _ in range(40):
        flipped = bytearray(content)
        flipped[generator.integers(len(content))] ^= 1 << generator.integers(8)
        damaged.append(bytes(flipped))
    for one in damaged:
        cached.write_bytes(one)
        again = data.load(tmp_path / "top", root=tmp_path)
        assert torch.equal(again.train, images.train) and torch.equal(again.validation, images.validation)


# --- hostile files ----------------------------------------------------------------------------------------------------


def test_metadata_of_some_mebibytes_is_read_over(tmp_path):
    profile, words = b"\xff\xe2" + struct.pack(">H", 65535) + bytes(65533), _chunk(b"tEXt", b"a\0" + b"b" * 2**22)
    jpeg, png = _encoded(Image.fromarray(_RGB), "JPEG"), _png(_RGB, 2)
    chunked = _png(_RGB, 2, 8, *[(b"abCd", b"")] * 1000)
    for content in (jpeg[:2] + profile * 100 + jpeg[2:], png[:33] + words + png[33:], png[:-12] + words, chunked):
        (tmp_path / "a").write_bytes(content)
        assert reading.opaque(tmp_path / "a")[0].size == (8, 8)


def _bombs(path):
    side = 4096
    row = bytes(side * 8 + 1)

    def png(colour_type, depth, width=side, height=side):
        values = zlib.compress(row[: 1 + width * {0: 1, 2: 3, 6: 4}[colour_type] * depth // 8] * height, 9)
        header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", values), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)

    flat = Image.new("RGB", (side, side), (200, 30, 60))
    progressive = _encoded(flat.convert("L"), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    turned = Image.Exif()
    turned[0x0112] = 6
    compressed = io.BytesIO()
    np.savez_compressed(compressed, train=np.zeros((2**30,), np.uint8))
    zeros, fewer = io.BytesIO(), io.BytesIO()
    np.savez_compressed(zeros, x=np.zeros((21000, 64, 64, 3), np.uint8))
    np.savez_compressed(fewer, x=np.zeros((5400, 64, 64, 3), np.uint8))
    screen = struct.pack("<HH", 65535, 65535)
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8), 9))
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + b"\n"
    bombs = {
        "rgba16.png": png(6, 16), "rgb16.png": png(2, 16), "bits.png": png(0, 8, 13000, 13000),
        "turned.jpg": _encoded(flat, "JPEG", exif=turned),
        "cmyk.jpg": _encoded(flat.convert("CMYK"), "JPEG", progressive=True, subsampling=0),
        "scans.jpg": progressive[:-2] + scan * 3000 + progressive[-2:],
        "flat.webp": _encoded(flat, "WEBP", lossless=True, method=0),
        "flat.tif": _encoded(flat, "TIFF", compression="tiff_lzw"),
        "text.ppm": b"P3 4096 4096 255\n" + b"0 " * 2**22, "levels.ppm": b"P6 1024 1024 254\n" + bytes(3 * 2**20),
        "texts.png": png(2, 8, 8, 8)[:33] + text * 9,
        "zeros.npz": zeros.getvalue(), "fewer.npz": fewer.getvalue(), "bomb.npz": compressed.getvalue(),
        "claim.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header,
        "deep.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000,
        "longer.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"(" * 9000,
        "screen.gif": b"GIF89a" + screen + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + screen + b"\0\x02\x02L\x01\0;",
    }  # fmt: skip
    small = png(2, 8, 8, 8)
    jpeg = _encoded(flat.crop((0, 0, 8, 8)), "JPEG")
    exif = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65527)
    gif = b"GIF89a\x08\0\x08\0\0\0\0"
    # Parts of a header by the million, before the pixels, between them and behind them.
    bombs |= {
        "padded.jpg": jpeg[:2] + b"\xff" * 60_000_000,
        "comments.jpg": jpeg[:2] + b"\xff\xfe\0\2" * 6_000_000 + jpeg[2:],
        "exif.jpg": jpeg[:2] + exif * 900 + jpeg[2:], "chunks.png": small[:33] + _chunk(b"abCd", b"") * 4_000_000,
        "idat.png": small[:33] + _chunk(b"IDAT", b"") * 4_000_000 + small[33:],
        "words.png": small[:33] + _chunk(b"tEXt", b"a\0b") * 1_000_000 + small[33:],
        "behind.png": small[:-12] + _chunk(b"tEXt", b"a\0b") * 1_000_000 + small[-12:],
        "long.png": small[:-12] + _chunk(b"tEXt", b"a\0" + b"b" * 120_000_000) + small[-12:],
        "hashes.pgm": b"P5\n" + b"#\n" * 20_000_000 + b"8 8 255\n" + bytes(64),
        "blanks.pgm": b"P5\n" + b" " * 30_000_000 + b"8 8 255\n" + bytes(64),
        # Between the first frame and a second one: Pillow copies all of a comment at each of its parts.
        "between.gif": _encoded(Image.new("P", (2000, 2000)), "GIF")[:-1]
        + b"!\xfe" + (b"\xff" + bytes(255)) * 100_000 + b"\0" + b"," + bytes(8) + b"\0\2\0;",
        "comment.gif": gif + b"!\xfe" + (b"\xff" + bytes(255)) * 200_000 + b"\0;",
    }  # fmt: skip
    for name, content in bombs.items():
        (path / name).write_bytes(content)
    with open(path / "sparse.webp", "wb") as stream:
        stream.write(b"RIFF" + struct.pack("<I", 2**31) + b"WEBPVP8L")
        stream.truncate(10**11)
    return [*bombs, "sparse.webp"]


# Imports once; a child is forked for each file, so that each has a peak of its own.
_MEASURE = """
import json, os, sys, time
from PIL import Image
from nbflows import data
from nbflows.data import folders
Image.init()
def kib(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])
def measure(file):
    before, start = kib("VmRSS"), time.process_time()
    open("/proc/self/clear_refs", "w").write("5")
    try:
        data.load(file) if file[-3:] in ("npy", "npz") else folders._decode(file, None)
    except ValueError as error:
        assert file in str(error)
    print(json.dumps([time.process_time() - start, (kib("VmHWM") - before) / 1024]), flush=True)
for file in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        measure(file)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"not measured: {file}")
"""
NEEDS_LINUX = pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="the peak of memory is read as Linux gives it"
)


def _measured(*files):
    """Seconds of the processor and MiB more than before, for each file that is loaded."""
    command = [sys.executable, "-W", "ignore", "-c", _MEASURE, *map(str, files)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow  # Reads thirty files of up to 100 MB.
@NEEDS_LINUX
def test_no_file_takes_two_seconds_or_300_mib(tmp_path):
    names = _bombs(tmp_path)
    for name, (seconds, mib) in zip(names, _measured(*(tmp_path / name for name in names)), strict=True):
        # Of one core: on a loaded machine the clock on the wall says more.
        assert seconds < 2 and mib < 300, (name, seconds, mib)


@NEEDS_LINUX
@pytest.mark.slow  # Files of a hundred MiB.
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_that_take_their_size_on_disk_are_loaded_in_little_more_than_twice_of_it(tmp_path, kind):
    images = np.zeros((8000, 64, 64, 3), np.uint8)
    file = tmp_path / f"a.{kind}"
    np.save(file, images) if kind == "npy" else np.savez(file, x=images)
    ((_, mib),) = _measured(file)
    # The array and one copy, and what is the same for small ones.
    assert images.nbytes / 2**20 < mib < 2 * images.nbytes / 2**20 + 30


# --- remarks ----------------------------------------------------------------------------------------------------------


def test_colours_of_16_bits_in_netpbm_are_rounded_with_a_remark(tmp_path):
    values = _values(8, 8, 3).astype(np.uint16) * 256 + 130
    file = tmp_path / "a.ppm"
    file.write_bytes(b"P6 8 8 65535\n" + values.astype(">u2").tobytes())
    image, _, remarks = reading.picture(file)
    assert remarks == ["more than 8 bits a channel, rounded to 8"]
    assert (np.asarray(image) == np.round(values / 257)).all()
    file.write_bytes(b"P6 8 8 255\n" + bytes(192))
    assert reading.picture(file).remarks == []


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("comment", [b"", b"a" * 1000])
@pytest.mark.parametrize("size", [8, 600])
def test_further_frames_of_a_gif_are_found(tmp_path, frames, comment, size):
    images = [Image.fromarray(_values(size, size, seed=i)) for i in range(frames)]
    images[0].save(tmp_path / "a.gif", save_all=frames > 1, append_images=images[1:], comment=comment)
    with Image.open(tmp_path / "a.gif") as found:
        assert found.is_animated == (frames > 1)
    image, _, remarks = reading.picture(tmp_path / "a.gif")
    assert np.array_equal(image.convert("L"), images[0])
    assert remarks == ["several frames, of which the first is used"] * (frames > 1)


def test_test_images_that_are_training_images_too_are_counted(tmp_path):
    train, test = _values(40, 8, 8), _values(10, 8, 8, seed=1)
    test[:3], test[3] = train[5:8], train[5]
    np.savez(tmp_path / "a.npz", train=train, validation=_values(9, 8, 8, seed=3), test=test)
    images = data.load(tmp_path / "a.npz")
    assert images.ignored == "4 of 10 test images are training images, too: their score is too good"
    for split, part in (("train", train), ("val", _values(9, 8, 8, seed=3)), ("test", test)):
        for i, image in enumerate(part):
            (tmp_path / "top" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "top" / split / f"{i}.png")
    assert "4 of 10 test images are training images" in data.load(tmp_path / "top", root=tmp_path).ignored
    test[:4] = _values(4, 8, 8, seed=2)
    np.savez(tmp_path / "a.npz", train=train, test=test)
    assert data.load(tmp_path / "a.npz").ignored == ""


def test_images_that_differ_in_one_pixel_are_no_copies():
    train = torch.zeros(30, 3, 64, 64, dtype=torch.uint8)
    test = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    test[0, 2, 63, 63] = 1
    test[1, 0, 0, 1] = 1
    assert sets.num_copies(train, test) == 1


def test_copies_are_counted_in_a_second_for_100_000_images():
    images = torch.randint(256, (100_000, 1, 28, 28), dtype=torch.uint8)
    start = time.process_time()
    assert sets.num_copies(images, images[::10]) == 10_000
    # About 0.3 s here.
    assert time.process_time() - start < 3
