"""``nbflows translate``: which pictures it takes, what it writes, and what it says when something does not fit."""

import re
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nbflows import data, load_flow, models, save_flow, tasks
from nbflows.cli import main
from nbflows.cli.picture_files import read_source, translate_files
from nbflows.tasks import Colorization, Inpainting, SideBySide, Sketch, SuperResolution

COLOUR = (3, 8, 8)


def _values(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _save(file, values, mode=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    (picture.convert(mode) if mode else picture).save(file)
    return file


def _read(file):
    values = np.asarray(Image.open(file))
    return torch.from_numpy(np.array(values if values.ndim == 3 else values[..., None])).permute(2, 0, 1)


def _save_16_bit(file, values):
    """A PNG of 16 bits; Pillow writes no colour ones."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, part in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
    file.write_bytes(content)
    return file


# --- what a picture becomes -------------------------------------------------------------------------------------------


def test_a_colour_picture_is_the_source_as_it_is(tmp_path):
    values = _values(8, 8, 3)
    source, known = read_source(_save(tmp_path / "a.png", values), COLOUR, Sketch())
    assert np.array_equal(source.permute(1, 2, 0).numpy(), values) and known is None
    opaque = np.dstack([values, np.full((8, 8), 255, np.uint8)])
    assert torch.equal(read_source(_save(tmp_path / "b.png", opaque), COLOUR, Sketch())[0], source)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK"])
def test_pictures_of_every_mode_are_read_as_pillow_converts_them(tmp_path, mode):
    file = _save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), _values(8, 8, 3), mode)
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert np.array_equal(read_source(file, COLOUR, Sketch())[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_their_highest_eight(tmp_path, channels):
    values = np.random.default_rng(0).integers(0, 2**16, (8, 8, channels), dtype=np.uint16)
    source, _ = read_source(_save_16_bit(tmp_path / "a.png", values), (channels, 8, 8), Sketch())
    assert np.array_equal(source.permute(1, 2, 0).numpy(), values >> 8)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    picture = Image.fromarray(_values(8, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.save(tmp_path / "a.png", exif=exif)
    source, _ = read_source(tmp_path / "a.png", COLOUR, Sketch())
    assert np.array_equal(source.permute(1, 2, 0).numpy(), _values(8, 8, 3)[::-1, ::-1])


def test_colours_become_grey_and_grey_becomes_colour_as_the_source_needs(tmp_path):
    colour = _save(tmp_path / "a.png", _values(8, 8, 3))
    luma = torch.from_numpy(np.array(Image.open(colour).convert("L")))[None]
    assert torch.equal(read_source(colour, (1, 8, 8), Sketch())[0], luma)
    assert torch.equal(read_source(colour, (1, 8, 8), Colorization())[0], luma)
    # A colour picture must not give its colours away.
    assert torch.equal(read_source(colour, COLOUR, Colorization(3))[0], luma.expand(3, 8, 8))


def test_a_small_picture_is_enlarged_and_an_enlarged_one_is_taken(tmp_path):
    task, image = SuperResolution(2), torch.from_numpy(_values(8, 8, 3)).permute(2, 0, 1)
    expected, _ = task.pair(image[None])
    small = task.shrink(image[None])[0].permute(1, 2, 0).numpy()
    assert torch.equal(read_source(_save(tmp_path / "small.png", small), COLOUR, task)[0], expected[0])
    large = _save(tmp_path / "large.png", expected[0].permute(1, 2, 0).numpy())
    assert torch.equal(read_source(large, COLOUR, task)[0], expected[0])
    # Of any other size, it becomes the small picture.
    big = _save(tmp_path / "big.png", small.repeat(3, 0).repeat(3, 1))
    assert torch.equal(read_source(big, COLOUR, task, resize=True)[0], expected[0])


def test_an_enlarged_picture_of_few_grey_levels_keeps_to_them(tmp_path):
    small = _save(tmp_path / "a.png", 255 * (_values(4, 4) > 127).astype(np.uint8))
    source, _ = read_source(small, (1, 8, 8), SuperResolution(2), num_grey_levels=17)
    assert source.max() == 16 and torch.equal(source, SuperResolution(2).enlarge(_read(small)[None] // 255 * 16, 17)[0])


def test_resizing_averages_the_middle(tmp_path):
    values = _values(16, 20, 3)
    source, _ = read_source(_save(tmp_path / "a.png", values), COLOUR, Sketch(), resize=True)
    averaged = values[:, 2:18].reshape(8, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(source.permute(1, 2, 0).numpy() - averaged).max() <= 1
    assert read_source(tmp_path / "a.png", (3, 4, 8), Sketch(), resize=True)[0].shape == (3, 4, 8)
    flat = _save(tmp_path / "b.png", np.full((4, 5, 3), 77, np.uint8))
    assert (read_source(flat, COLOUR, Sketch(), resize=True)[0] == 77).all()


def test_side_by_side_the_left_half_is_the_source(tmp_path):
    values = _values(8, 16, 3)
    both, left = _save(tmp_path / "a.png", values), _save(tmp_path / "b.png", values[:, :8])
    source, known = read_source(both, COLOUR, SideBySide())
    assert torch.equal(source, read_source(left, COLOUR, SideBySide())[0]) and known is None
    assert np.array_equal(source.permute(1, 2, 0).numpy(), values[:, :8])


@pytest.mark.parametrize("num_grey_levels", [2, 17, 32])
def test_grey_levels_are_shared_out_evenly(tmp_path, num_grey_levels):
    ramp = _save(tmp_path / "a.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    source, _ = read_source(ramp, (1, 16, 16), Sketch(), num_grey_levels)
    counts = source.flatten().bincount()
    assert len(counts) == num_grey_levels and counts.max() - counts.min() <= 1
    assert (source.flatten().diff() >= 0).all()


def test_without_a_mask_the_hole_is_where_the_model_learnt_it(tmp_path):
    file = _save(tmp_path / "a.png", _values(8, 8, 3))
    source, known = read_source(file, COLOUR, Inpainting("half"))
    assert torch.equal(known, Inpainting("half").known(8, 8))
    assert torch.equal(source, _read(file) * known)


def test_the_hole_is_where_the_picture_is_transparent(tmp_path):
    values = np.dstack([_values(8, 8, 3), np.full((8, 8), 255, np.uint8)])
    values[2, 3:6, 3] = 0, 128, 254
    source, known = read_source(_save(tmp_path / "a.png", values), COLOUR, Inpainting())
    assert np.array_equal(known.numpy(), values[..., 3] == 255) and known.sum() == 61
    assert np.array_equal(source.permute(1, 2, 0).numpy(), values[..., :3] * known[..., None].numpy())


def test_the_hole_is_where_the_mask_is_black_too(tmp_path):
    values = np.dstack([_values(16, 16, 3), np.full((16, 16), 255, np.uint8)])
    values[0, 0, 3] = 0
    mask = np.full((16, 16), 200, np.uint8)
    mask[8:, 8:] = 40
    files = _save(tmp_path / "a.png", values), _save(tmp_path / "mask.png", mask)
    _, known = read_source(files[0], (3, 16, 16), Inpainting(), mask=files[1])
    hole = (values[..., 3] == 0) | (mask < 128)
    assert np.array_equal(~known.numpy(), hole)
    # A pixel of the smaller picture is known if all of it is.
    _, known = read_source(files[0], COLOUR, Inpainting(), mask=files[1], resize=True)
    assert np.array_equal(~known.numpy(), hole.reshape(8, 2, 8, 2).any((1, 3)))


def _transparent(path):
    values = np.dstack([_values(8, 8, 3), np.full((8, 8), 255, np.uint8)])
    values[:2, :, 3] = 100
    return _save(path / "a.png", values)


def _broken(path):
    (path / "a.png").write_bytes(b"not a picture")
    return path / "a.png"


def _cut(path):
    file = _save(path / "a.png", _values(8, 8, 3))
    file.write_bytes(file.read_bytes()[:60])
    return file


def _masked(path, mask, task=None):
    return {"mask": _save(path / "mask.png", mask.astype(np.uint8)), "task": task or Inpainting()}


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (_broken, {}, "a.png: not a picture of a kind that is read"),
        (_cut, {}, "a.png: cannot be decoded"),
        (lambda p: _save(p / "a.tif", np.zeros((8, 8), np.float32)), {}, r"32 bits a channel \(mode F\)"),
        (lambda p: _save(p / "a.png", _values(6, 9)), {}, "a.png is 9x6, this model takes 8x8; give --resize"),
        (lambda p: _save(p / "a.png", _values(6, 9)), {"task": SuperResolution(4)}, "9x6, .* takes 2x2 or 8x8; give"),
        (lambda p: _save(p / "a.png", _values(6, 9)), {"task": SideBySide()}, "9x6, this model takes 8x8 or 16x8"),
        (_transparent, {}, "a.png is transparent in 16 of 64 pixels, .* put it on a background first"),
        (_broken, lambda p: _masked(p, np.ones((8, 8)), Sketch()), "for inpainting, this model is for sketch"),
        (_transparent, lambda p: _masked(p, np.ones((9, 8))), "mask.png is 8x9, the picture 8x8"),
        (_transparent, lambda p: _masked(p, np.zeros((8, 8))), "0 of 64 pixels are known"),
        (lambda p: _save(p / "a.png", _values(8, 8)), lambda p: _masked(p, 255 * np.ones((8, 8))), "64 of 64 pixels"),
    ],
)
def test_pictures_that_cannot_be_a_source_are_refused_with_numbers(tmp_path, make, options, message):
    options = options(tmp_path) if callable(options) else options
    with pytest.raises(ValueError, match=message):
        read_source(make(tmp_path), COLOUR, **{"task": Sketch(), **options})


# --- what is written --------------------------------------------------------------------------------------------------


def _stand_in(num_grey_levels=256):
    """Sample n of a picture is 20 n everywhere; of each three, the second is the most probable."""

    def translate(sources, num_samples, temperature, generator, chunk_size, progress):
        values = 20 * torch.arange(num_samples).byte()[None, :, None, None, None]
        scores = torch.tensor([[3.0, 4.0, 1.0, 2.0, 0.0][:num_samples]])
        return SimpleNamespace(images=values.expand(1, num_samples, 3, 8, 8), scores=scores)

    return SimpleNamespace(
        context_shape=COLOUR,
        num_grey_levels=num_grey_levels,
        translate=translate,
        device=torch.device("cpu"),
    )


def _cells(sheet):
    """The pictures of a contact sheet, by row: those of 8x8 are enlarged four times, with 2 pixels around."""
    values = _read(sheet)
    rows, columns = (values.shape[1] - 2) // 34, (values.shape[2] - 2) // 34
    return [
        [values[:, 34 * r + 2 : 34 * r + 34 : 4, 34 * c + 2 : 34 * c + 34 : 4] for c in range(columns)]
        for r in range(rows)
    ]


def test_the_best_sample_is_written_with_a_contact_sheet(tmp_path):
    values = _values(8, 8, 3)
    file, out = _save(tmp_path / "a.png", values), tmp_path / "new" / "b.png"
    written = translate_files(_stand_in(), Sketch(), file, out, num_samples=5, best=True)
    assert written == [out, tmp_path / "new" / "b-sheet.png"]
    assert sorted(out.parent.iterdir()) == sorted(written)
    assert (_read(out) == 20).all()
    ((source, *samples, mean, std),) = _cells(written[1])
    assert np.array_equal(source.permute(1, 2, 0).numpy(), values)
    assert [sample.unique().item() for sample in samples] == [20, 0, 60, 40, 80]
    # Of 0, 20, 40, 60 and 80; white is a quarter of the range.
    assert mean.unique().item() == 40 and std.unique().item() == round(4 * 1000**0.5)


def test_all_samples_are_written_the_most_probable_first(tmp_path):
    file = _save(tmp_path / "a.png", _values(8, 8, 3))
    written = translate_files(_stand_in(), Sketch(), file, tmp_path / "b.png", num_samples=3)
    assert [one.name for one in written] == ["b-1.png", "b-2.png", "b-3.png", "b-sheet.png"]
    assert [_read(one).unique().item() for one in written[:3]] == [20, 0, 40]


def test_one_sample_is_written_under_its_name(tmp_path):
    file = _save(tmp_path / "a.png", _values(8, 8, 3))
    written = translate_files(_stand_in(), Sketch(), file, tmp_path / "b.png", num_samples=1)
    assert [one.name for one in written] == ["b.png", "b-sheet.png"]
    # One sample has no deviation.
    assert len(_cells(written[1])[0]) == 2


def test_a_folder_becomes_a_folder_of_the_same_names(tmp_path):
    for i in range(17):
        _save(tmp_path / "in" / "deep" / f"{i:02d}.bmp", _values(8, 8, seed=i))
    _save(tmp_path / "in" / "top.png", _values(8, 8, 3))
    written = translate_files(_stand_in(), Sketch(), tmp_path / "in", tmp_path / "out", num_samples=2, best=True)
    names = [str(one.relative_to(tmp_path / "out")) for one in written]
    assert names == [
        *[f"deep/{i:02d}.png" for i in range(17)],
        "top.png",
        "contact_sheet_001.png",
        "contact_sheet_002.png",
    ]
    assert all(one.exists() for one in written)
    rows = _cells(written[-2]) + _cells(written[-1])
    assert len(_cells(written[-2])) == 16 and len(rows) == 18
    for i in range(17):
        assert np.array_equal(rows[i][0][0].numpy(), _values(8, 8, seed=i))


def test_a_small_folder_has_one_contact_sheet(tmp_path):
    _save(tmp_path / "in" / "a.png", _values(8, 8))
    written = translate_files(_stand_in(), Sketch(), tmp_path / "in", tmp_path / "out", num_samples=2)
    assert [one.name for one in written] == ["a-1.png", "a-2.png", "contact_sheet.png"]


def test_known_pixels_are_pasted_into_every_sample(tmp_path):
    values = _values(8, 8, 3)
    file, known = _save(tmp_path / "a.png", values), Inpainting("half").known(8, 8)
    written = translate_files(_stand_in(), Inpainting("half"), file, tmp_path / "b.png", num_samples=3)
    for out, inside in zip(written[:3], (20, 0, 40), strict=True):
        assert torch.equal(_read(out), torch.where(known, _read(file), inside))
    *_, std = _cells(written[-1])[0]
    assert not (std * known).any() and (std[:, ~known] == 80).all()


def test_few_grey_levels_are_spread_over_the_range(tmp_path):
    file = _save(tmp_path / "a.png", _values(8, 8, 3))
    written = translate_files(_stand_in(num_grey_levels=51), Sketch(), file, tmp_path / "b.png", num_samples=2)
    assert _read(written[0]).unique().item() == 20 * 255 // 50
    again, _ = read_source(written[0], COLOUR, Sketch(), num_grey_levels=51)
    assert (again == 20).all()


def _folder(path, *names):
    for name in names:
        _save(path / "in" / name, _values(8, 8, 3))
    return path / "in"


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("nothing", "b.png", "no picture or folder .*nothing"),
        ("a.png", "in", r"a.png is a picture, .*in is none; name a file such as .*in.a.png"),
        ("a.png", "b", r"a.png is a picture, .*b is none"),
        ("a.png", "a.png", "would overwrite .*a.png"),
        ("in", "a.png", "in is a folder, and .*a.png a file"),
        ("in", "in", "would lie among the sources"),
        ("in", "in/out", "would lie among the sources"),
        ("twins", "out", "x-01.png, made of .*twins.x.png, would overwrite what is made of .*twins.x.bmp; rename one"),
        ("empty", "out", "no image files below .*empty"),
    ],
)
def test_files_that_do_not_go_together_are_an_error(tmp_path, source, out, message):
    _folder(tmp_path, "x.png")
    _save(tmp_path / "a.png", _values(8, 8, 3))
    for suffix in ("png", "bmp"):
        _save(tmp_path / "twins" / f"x.{suffix}", _values(8, 8, 3))
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        translate_files(_stand_in(), Sketch(), tmp_path / source, tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_written_if_one_picture_does_not_fit(tmp_path):
    folder = _folder(tmp_path, "a.png", "b.png")
    _save(folder / "c.png", _values(9, 9))
    with pytest.raises(ValueError, match=r"c.png is 9x9, this model takes 8x8"):
        translate_files(_stand_in(), Sketch(), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the command, with a model ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return tasks.apply(SuperResolution(2), data.load("digits"))


@pytest.fixture
def model(digits, tmp_path, monkeypatch):
    """A tiny model of super-resolution, its name; and three small digits in a folder; the working directory."""
    monkeypatch.chdir(tmp_path)
    arguments = {**digits.model_arguments(), "num_steps": 1, "num_relation_steps": 1, "hidden_channels": 4}
    flow = models.digits_caflow(**arguments)
    # ActNorm initialises on a batch.
    flow.log_prob(digits.train[:64], digits.sources["train"][:64])
    # Networks begin with zeros: nothing would depend on the source, nor on its noise.
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save_flow(flow, "tiny", task=digits.task)
    small = SuperResolution(2).shrink(digits.test[:3], 17)
    for i, image in enumerate(small):
        _save(tmp_path / "in" / f"{i}.png", (image[0] * (255 // 17)).numpy())
    return "tiny.safetensors"


def _translate(*arguments):
    return main(["translate", "--model", "tiny.safetensors", *arguments])


def test_a_folder_is_translated_from_the_command_line(model, tmp_path, capsys):
    options = ["--task", "super-resolution", "--num-samples", "4", "--temperature", "0.8", "--best"]
    assert _translate("in", "out", *options) == 0
    text = capsys.readouterr().out
    assert "translating: 100%" in text and "4 samples a picture at temperature 0.8, seed 0: out" in text
    assert "4 files in all, the last one out" in text
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
        "contact_sheet.png",
    ]
    assert _read(tmp_path / "out" / "0.png").shape == (1, 8, 8)


def test_a_picture_alone_gets_the_samples_that_it_gets_in_a_folder(model, tmp_path):
    options = ["--num-samples", "2", "--seed", "5", "--temperature", "0.5", "0.9"]
    assert _translate("in", "out", *options) == 0
    assert _translate("in/2.png", "alone.png", *options) == 0
    for number in (1, 2):
        in_folder, alone = _read(tmp_path / f"out/2-{number}.png"), _read(tmp_path / f"alone-{number}.png")
        assert torch.equal(in_folder, alone)
    assert _translate("in/2.png", "other.png", *options, "--seed", "6") == 0
    assert not torch.equal(_read(tmp_path / "other-1.png"), _read(tmp_path / "alone-1.png"))


def test_a_pictures_samples_leave_the_global_random_state_alone(model):
    flow = load_flow(model)
    state = torch.get_rng_state()
    translate_files(flow, SuperResolution(2), "in/0.png", "a.png", num_samples=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "out", "--task", "colorization"], "was trained for super-resolution, not for colorization"),
        (["in", "out", "--mask", "in/0.png"], "a mask is for inpainting, this model is for super-resolution"),
        (["in", "out", "--temperature", "1", "1", "1"], "temperature is one number, or one per level; this flow has 2"),
        (["in/0.png", "out"], "in/0.png is a picture, out is none"),
        (["in", "out", "--model", "nope"], "no pretrained model named 'nope'"),
    ],
)
def test_what_goes_wrong_is_explained_without_a_stack_trace(model, capsys, arguments, message):
    assert _translate(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_model_that_does_not_say_its_task_needs_it_named(model, tmp_path, capsys):
    file = tmp_path / "tiny.json"
    file.write_text(re.sub(r',\s*"task": \{.*?\}', "", file.read_text(), flags=re.S))
    assert _translate("in", "out") == 2
    assert "tiny.safetensors does not say what it was trained for: name it with --task" in capsys.readouterr().err
    # A factor of 4 is super-resolution's own: two pixels are not the digits' four.
    assert _translate("in", "out", "--task", "super-resolution") == 2
    assert "0.png is 4x4, this model takes 2x2 or 8x8" in capsys.readouterr().err


def test_a_model_without_a_source_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_flow(models.digits_simple(), "tiny")
    assert _translate("in", "out") == 2
    assert "tiny.safetensors makes pictures of nothing but noise: nbflows sample draws them" in capsys.readouterr().err


def test_help_explains_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["translate", "--help"])
    assert stop.value.code == 0
    assert "--num-samples" in capsys.readouterr().out
