"""Tasks: what each makes of an image, and a user's own pairs."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nbflows import data, extras, tasks
from nbflows.data import ImageData, PairData, folders, pixels
from nbflows.tasks import Colorization, Inpainting, SideBySide, Sketch, SuperResolution

EVERY_TASK = [SuperResolution(2), Colorization(), Inpainting(), Inpainting("half"), Sketch(), SideBySide()]


@pytest.fixture(scope="module")
def photos():
    return data.load("photo-patches").test[:40]


def _as_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())


def _largest_difference(images, pictures):
    theirs = np.stack([np.asarray(picture) for picture in pictures]).reshape(len(images), *images.shape[2:], -1)
    return np.abs(images.permute(0, 2, 3, 1).numpy().astype(int) - theirs.astype(int)).max()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_super_resolution_is_pils_bicubic_within_one_level_each_way(photos, factor):
    task = SuperResolution(factor)
    small, (sources, targets) = task.shrink(photos), task.pair(photos)
    assert small.shape == (40, 3, 32 // factor, 32 // factor) and small.dtype == sources.dtype == torch.uint8
    shrunk = [_as_pil(image).resize((32 // factor, 32 // factor), Image.Resampling.BICUBIC) for image in photos]
    assert _largest_difference(small, shrunk) <= 1
    enlarged = [_as_pil(image).resize((32, 32), Image.Resampling.BICUBIC) for image in small]
    assert _largest_difference(sources, enlarged) <= 1
    assert torch.equal(targets, photos)
    assert torch.equal(task.baseline(sources, 3), sources)


def test_super_resolution_stays_within_few_levels():
    images = 16 * torch.randint(2, (50, 1, 8, 8)).byte()
    sources, _ = SuperResolution(2).pair(images, num_grey_levels=17)
    # Black and white overshoot, in both directions; 17 levels end at 16.
    assert sources.max() == 16 and sources.min() == 0


def test_images_beyond_one_chunk_are_all_resized():
    images = torch.randint(256, (1030, 1, 8, 8)).byte()
    sources, _ = SuperResolution(2).pair(images)
    assert len(sources) == 1030 and torch.equal(sources[-7:], SuperResolution(2).pair(images[-7:])[0])


def test_grey_is_the_luma_of_pil(photos):
    sources, targets = Colorization().pair(photos)
    assert _largest_difference(sources, [_as_pil(image).convert("L") for image in photos]) == 0
    assert torch.equal(targets, photos)
    assert torch.equal(Colorization(num_channels=3).pair(photos)[0], sources.expand(-1, 3, -1, -1))
    assert torch.equal(Colorization().baseline(sources, 3), sources.expand(-1, 3, -1, -1))
    assert pixels.grey(sources) is sources
    few = torch.full((1, 3, 2, 2), 16).byte()
    assert (pixels.grey(few) == 16).all()


def test_the_square_hole_is_that_of_the_authors():
    known = Inpainting("square", 0.15).known(64, 64)
    rows, columns = torch.where(~known)
    # int(sqrt(64 * 64 * 0.15)) = 24, from 64 // 2 - 24 // 2 on.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 43, 20, 43)
    assert (~known).sum() == 24 * 24


def test_a_square_wider_than_the_picture_ends_at_its_edges():
    hole = ~Inpainting("square", 0.5).known(4, 16)
    assert hole.any(1).all() and hole.any(0).sum() == 5


def test_the_half_hole_is_the_right_one():
    known = Inpainting("half").known(4, 7)
    assert known[:, :3].all() and not known[:, 3:].any()


def test_a_mask_file_is_black_in_the_hole(photos, tmp_path):
    values = np.full((32, 32), 255, np.uint8)
    values[3:9, 20:30] = 0
    Image.fromarray(values).save(tmp_path / "mask.png")
    task = Inpainting(tmp_path / "mask.png")
    assert np.array_equal(task.known(32, 32).numpy(), values > 0)
    sources, _ = task.pair(photos)
    assert np.array_equal(sources.numpy(), photos.numpy() * (values > 0))
    assert str(task) == "inpainting of the hole of mask.png"
    assert tasks.get(**json.loads(json.dumps(task.describe()))) == task


@pytest.mark.parametrize("mask", ["square", "half"])
def test_known_pixels_are_given_and_pasted_back(photos, mask):
    task = Inpainting(mask)
    sources, targets = task.pair(photos)
    known = task.known(32, 32)
    assert torch.equal(sources * known, targets * known) and not (sources * ~known).any()
    results = torch.randint(256, (40, 5, 3, 32, 32)).byte()
    pasted = task.paste(results, sources)
    assert torch.equal(pasted * known, (targets * known)[:, None].expand_as(pasted))
    assert torch.equal(pasted * ~known, results * ~known)
    assert torch.equal(task.paste(results[:, 2], sources), pasted[:, 2])
    assert torch.equal(task.paste(targets, sources), targets)


def test_the_baseline_of_inpainting_keeps_what_is_known_and_fills_each_image_by_itself(photos):
    task = Inpainting()
    sources, targets = task.pair(photos)
    filled = task.baseline(sources, 3)
    assert filled.dtype == torch.uint8 and torch.equal(task.paste(filled, sources), filled)
    assert torch.equal(filled[7:8], task.baseline(sources[7:8], 3))
    # A smooth surface is closer to photographs than the black hole.
    error = (filled.float() - targets.float()).square().mean()
    assert error < 0.2 * (sources.float() - targets.float()).square().mean()


def test_the_baseline_of_inpainting_continues_a_ramp():
    ramp = torch.arange(16).byte().expand(1, 1, 16, 16)
    sources, _ = Inpainting().pair(ramp, num_grey_levels=17)
    assert torch.equal(Inpainting().baseline(sources, 1, num_grey_levels=17), ramp)


def test_a_sketch_has_the_edges_and_nothing_else():
    images = torch.zeros(2, 3, 16, 16).byte()
    images[1, :, :, 8:] = 200
    sources, targets = Sketch().pair(images)
    assert sources.shape == (2, 1, 16, 16) and targets is images
    assert not sources[0].any()
    rows, columns = sources[1, 0].nonzero(as_tuple=True)
    # The detector leaves the outermost pixels out.
    assert set(columns.tolist()) <= {7, 8} and set(rows.tolist()) == set(range(1, 15))
    assert sources.unique().tolist() == [0, 255]
    assert Sketch().pair(images // 16, num_grey_levels=17)[0].max() == 16
    # Contrast counts relative to the range of grey.
    assert not Sketch().pair(images // 16)[0].any()
    assert Sketch().baseline(sources, 3).shape == (2, 3, 16, 16)


def test_smoothing_leaves_fewer_edges(photos):
    edges = [Sketch(sigma).pair(photos)[0].bool().sum() for sigma in (0.5, 1, 3)]
    assert edges[0] > edges[1] > edges[2] > 0


def test_what_needs_scikit_image_says_so(photos, monkeypatch):
    for name in ("skimage", "skimage.feature", "skimage.restoration"):
        monkeypatch.setitem(sys.modules, name, None)
    for compute in (lambda: Sketch().pair(photos), lambda: Inpainting().baseline(photos, 3)):
        with pytest.raises(extras.MissingPackageError, match=r'pip install "nbflows\[data\]"'):
            compute()


def test_side_by_side_the_source_is_on_the_left():
    images = torch.arange(2 * 3 * 4 * 10).view(2, 3, 4, 10).byte()
    sources, targets = SideBySide().pair(images)
    assert torch.equal(torch.cat([sources, targets], dim=3), images)
    assert torch.equal(SideBySide().baseline(sources, 3), sources)


@pytest.mark.parametrize("task", EVERY_TASK, ids=str)
def test_a_task_makes_the_same_pairs_of_all_splits_each_time(task):
    parts = [torch.randint(256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(n)).byte() for n in (9, 3, 4)]
    images = ImageData(
        "mine",
        "noise",
        *parts,
        labels={split: torch.arange(len(part)) for split, part in zip(data.SPLITS, parts, strict=True)},
    )
    pairs = tasks.apply(task, images)
    assert isinstance(pairs, PairData) and pairs.name == "mine" and pairs.labels is images.labels
    assert pairs.variant == f"noise; {task}"
    for split, part in zip(data.SPLITS, parts, strict=True):
        sources, targets = task.pair(part)
        assert torch.equal(pairs.sources[split], sources) and torch.equal(getattr(pairs, split), targets)
        assert sources.shape[2:] == targets.shape[2:] == pairs.shape[1:]
    assert pairs.model_arguments() == {
        "shape": pairs.shape,
        "num_grey_levels": 256,
        "source_channels": pairs.sources["test"].shape[1],
    }
    assert (pairs.known is None) == (task.name != "inpainting")
    assert tasks.get(**json.loads(json.dumps(pairs.task))) == task


def test_few_levels_reach_the_task():
    images = data.load("digits")
    pairs = tasks.apply(SuperResolution(2), images)
    assert pairs.num_grey_levels == 17 and max(sources.max() for sources in pairs.sources.values()) <= 16
    assert "; super-resolution x2 by bicubic interpolation" in pairs.variant


def test_every_task_is_known_by_its_name():
    assert tasks.names() == ["super-resolution", "colorization", "inpainting", "sketch", "side-by-side"]
    assert {type(task).name for task in EVERY_TASK} == set(tasks.TASKS)
    assert tasks.get("super-resolution", factor=8) == SuperResolution(8)


def _apply(task, shape=(3, 8, 8)):
    return tasks.apply(task, ImageData("mine", "noise", *[torch.zeros(2, *shape).byte()] * 3))


def _mask(tmp_path, values):
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "mask.png")
    return Inpainting(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("make", "exception", "message"),
    [
        (lambda _: tasks.get("upscaling"), ValueError, "no task named 'upscaling'; known: super-resolution, color"),
        (lambda _: tasks.get("inpainting", factor=2), ValueError, "inpainting takes no factor; .* mask, ratio"),
        (lambda _: tasks.get("side-by-side", a=1, b=2), ValueError, "takes no a, b; its arguments: none"),
        (lambda _: SuperResolution(1), ValueError, "2 or more, not 1"),
        (lambda _: SuperResolution(2.5), ValueError, "a whole number, not 2.5"),
        (lambda _: Colorization(2), ValueError, "1 channel or 3 equal ones, got 2"),
        (lambda _: Inpainting(ratio=1.0), ValueError, "between 0 and 1, got 1.0"),
        (lambda _: Sketch(0), ValueError, "sigma is more than 0, not 0"),
        (lambda _: _apply(SuperResolution(4), (3, 8, 10)), ValueError, "divisible by 4, got 10x8"),
        (lambda _: _apply(Colorization(), (1, 8, 8)), ValueError, "colour images of 3 channels, these have 1"),
        (lambda _: _apply(SideBySide(), (3, 8, 9)), ValueError, "even width, got 9x8"),
        (lambda _: _apply(Inpainting(ratio=0.01)), ValueError, "64 of 64 pixels are known"),
        (lambda _: _apply(Inpainting("sqare")), FileNotFoundError, "no mask sqare: a mask is 'square', 'half' or"),
        (lambda p: _apply(_mask(p, np.zeros((8, 9)))), ValueError, "mask.png is 9x8, the picture 8x8"),
        (lambda p: _apply(_mask(p, np.zeros((8, 8)))), ValueError, "0 of 64 pixels are known"),
        (lambda _: tasks.apply(Sketch(), data.load("moons")), ValueError, "moons: .* these are points"),
        (lambda _: tasks.apply(Sketch(), _apply(Inpainting())), ValueError, "mine: .* these are pairs already"),
    ],
)
def test_what_a_task_cannot_do_is_an_error(tmp_path, make, exception, message):
    with pytest.raises(exception, match=message):
        make(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {}}, r"mine: sources are needed for train, validation, test, there are \[\]"),
        ({"train": torch.zeros(3, 3, 8, 8).byte()}, r"of train are \(2, 3, 8, 8\), its images \(3, 3, 8, 8\)"),
        ({"test": torch.zeros(2, 3, 8, 9).byte()}, r"test is \(2, 3, 8, 9\), train is \(2, 3, 8, 8\)"),
        ({"known": torch.ones(8, 9).bool()}, r"the mask is \(8, 9\), the images are \(8, 8\)"),
    ],
)
def test_sources_that_do_not_fit_their_images_are_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(_apply(Inpainting()), **changes)


# --- a user's own pairs -----------------------------------------------------------------------------------------------


def _save(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def _pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 250, (count, 8, 8, 3), dtype=np.uint8)


def _two_folders(path, count=30, folder="."):
    """Sources one level above their targets, and grey."""
    for i, picture in enumerate(_pictures(count)):
        _save(path / "out" / folder / f"{i:03d}.png", picture)
        _save(path / "in" / folder / f"{i:03d}.bmp", picture[..., 0] + 1)
    return path / "in", path / "out"


def test_folders_of_the_same_names_are_pairs_in_every_split(tmp_path):
    pairs = tasks.load_pairs(*_two_folders(tmp_path), root=tmp_path)
    assert pairs.name == "in-to-out" and pairs.variant == "pairs of folders in and out, 8x8, 25/2/3 images"
    assert pairs.model_arguments() == {"shape": (3, 8, 8), "num_grey_levels": 256, "source_channels": 1}
    assert tasks.get(**pairs.task) == SideBySide() and pairs.known is None
    for split in data.SPLITS:
        assert torch.equal(pairs.sources[split], getattr(pairs, split)[:, :1] + 1)
    everything = torch.cat([pairs.train, pairs.validation, pairs.test]).flatten(1)
    assert sorted(everything.tolist()) == sorted(_pictures(30).transpose(0, 3, 1, 2).reshape(30, -1).tolist())


def test_folders_named_after_splits_are_the_splits_of_pairs(tmp_path):
    _two_folders(tmp_path, 20, "train/a")
    _two_folders(tmp_path, 7, "val/b")
    pairs = tasks.load_pairs(tmp_path / "in", tmp_path / "out", root=tmp_path)
    assert (len(pairs.train), len(pairs.validation), len(pairs.test)) == (18, 2, 7)
    assert torch.equal(pairs.sources["test"], pairs.test[:, :1] + 1)


def test_pairs_are_cached_until_one_of_their_files_changes(tmp_path, monkeypatch):
    pair = _two_folders(tmp_path)
    before = tasks.load_pairs(*pair, root=tmp_path)
    decode = folders._decode_all
    monkeypatch.setattr(folders, "_decode_all", None)
    again = tasks.load_pairs(*pair, root=tmp_path)
    assert torch.equal(again.train, before.train) and torch.equal(again.sources["test"], before.sources["test"])
    monkeypatch.setattr(folders, "_decode_all", decode)
    _save(pair[0] / "000.bmp", np.full((8, 8), 251, np.uint8))
    changed = tasks.load_pairs(*pair, root=tmp_path)
    assert 251 in torch.cat(list(changed.sources.values()))


def test_a_small_source_is_enlarged_and_a_large_target_shrunk(tmp_path):
    for i in range(20):
        _save(tmp_path / "in" / f"{i}.png", np.full((10, 15), i, np.uint8))
        # 31 is 15 doubled, but for the rounding of a pixel.
        _save(tmp_path / "out" / f"{i}.png", np.full((20, 31, 3), i, np.uint8))
    pairs = tasks.load_pairs(tmp_path / "in", tmp_path / "out", image_size=12, root=tmp_path)
    assert pairs.shape == (3, 12, 12) and pairs.sources["train"].shape[1:] == (1, 12, 12)
    assert torch.equal(pairs.sources["test"], pairs.test[:, :1])
    assert "12x12, resized by area average and cropped in the middle, 17/1/2" in pairs.variant


def test_a_broken_file_takes_its_partner_with_it(tmp_path):
    folders = _two_folders(tmp_path, 32)
    (folders[0] / "003.bmp").write_bytes(b"not a picture")
    (folders[1] / "005.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped 2 of 32 pairs") as caught:
        pairs = tasks.load_pairs(*folders, root=tmp_path)
    assert "003.bmp" in str(caught[0].message) and "005.png: empty file" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert len(pairs.train) + len(pairs.validation) + len(pairs.test) == 30
    assert torch.equal(pairs.sources["train"], pairs.train[:, :1] + 1)


def _without(folders, *names):
    for name in names:
        (folders[0].parent / name).unlink()
    return folders


def _with(folders, name, *shape):
    _save(folders[0].parent / name, np.zeros(shape, np.uint8))
    return folders


@pytest.mark.parametrize(
    ("change", "image_size", "message"),
    [
        (lambda f: _without(f, "in/004.bmp"), None, "1 of the 29 files below .*in and 30 below .*004.png"),
        (lambda f: _without(f, *[f"out/{i:03d}.png" for i in range(7)]), None, r"7 of .*000.bmp, .*004.bmp \.\.\."),
        (
            lambda f: _with(f, "in/004.png", 8, 8),
            None,
            r"1 of the 31 files .* have the name of another .* \(.*004.bmp\)",
        ),
        (lambda f: _with(f, "in/004.bmp", 4, 6), None, "004.bmp is 6x4 and its partner .*004.png 8x8; .*--image-size"),
        (lambda f: _with(f, "out/004.png", 16, 8), 8, "004.bmp is 8x8 and its partner .*004.png 8x16; .* proportions"),
        (lambda f: ((f[0] / "none").mkdir() or f[0] / "none", f[1]), None, "no image files below .*none"),
    ],
)
def test_pairs_that_do_not_fit_are_named_with_their_numbers(tmp_path, change, image_size, message):
    with pytest.raises(ValueError, match=message):
        tasks.load_pairs(*change(_two_folders(tmp_path)), image_size=image_size, root=tmp_path)


def test_pairs_of_several_sizes_need_an_image_size(tmp_path):
    folders = _with(_with(_two_folders(tmp_path), "in/004.bmp", 9, 9), "out/004.png", 9, 9)
    with pytest.raises(ValueError, match=r"below .*in have 2 sizes \(8x8, 9x9 ...\); give --image-size"):
        tasks.load_pairs(*folders, root=tmp_path)


def test_pairs_none_of_which_can_be_read_are_an_error(tmp_path):
    folders = _two_folders(tmp_path, 1)
    (folders[0] / "000.bmp").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 image pairs .*000.bmp: empty file"):
        tasks.load_pairs(*folders, root=tmp_path)
