"""Portraits: drawn as documented, with the entropy, the probabilities and the posteriors that brute force finds."""

import itertools

import numpy as np
import pytest
import torch

from nbflows import data, tasks
from nbflows.data import by_name, portraits
from nbflows.data.pixels import grey
from nbflows.data.portraits.attributes import ATTRIBUTES, Attribute, Attributes
from nbflows.data.portraits.drawing import BACKGROUND, EYES, HUES
from nbflows.data.portraits.generator import NOISE, REACH, STEPS, Generator
from nbflows.data.portraits.probability import Truth, noise_entropy

SMALL = Attributes(
    (
        Attribute("ground", ("dark", "light"), (30, 70)),
        Attribute("shape", ("none", "disc", "box"), {("dark",): (20, 50, 30), ("light",): (60, 0, 40)}, ("ground",)),
        # Of equal luma, and none where there is no shape.
        Attribute("hue", ("none", "red", "blue"), {("*",): (0, 35, 65), ("none",): (100, 0, 0)}, ("shape",)),
        Attribute("corner", ("off", "on"), (50, 50)),
    )
)
HUE = {"none": (0, 0, 0), "red": HUES["red"], "blue": HUES["blue"]}


def _ground(canvas, ground):
    canvas.paint(np.ones_like(canvas.x), 60.3 if ground == "dark" else 190.7 + 10 * canvas.x[..., None])


def _shape(canvas, shape, hue):
    if shape != "none":
        distance = canvas.ellipse(-0.3, 0, 0.6, 0.9) if shape == "disc" else canvas.box(-0.3, 0, 0.5, 0.6)
        canvas.paint(canvas.mask(distance), HUE[hue])


def _corner(canvas, corner):
    if corner == "on":
        canvas.paint(canvas.mask(canvas.box(0.75, 0.75, 0.25, 0.25)), (120, 130, 140))


BLOCKS = ((("ground",), ()), (("corner",), ()), (("shape", "hue"), ()))
ALL = np.array(list(itertools.product(range(2), range(3), range(3), range(2))))
POSSIBLE = ALL[np.isfinite(SMALL.log_prob(ALL))]


@pytest.fixture(scope="module")
def small():
    return Truth(Generator(SMALL, (_ground, _shape, _corner), 4), BLOCKS)


def _brute_log_image(images, rendered):
    """log p of images (N, 3, P) for each of M renderings, by the definition of the noise alone."""
    noise = np.arange(-REACH, REACH + 1)
    result = np.zeros((len(images), len(rendered)))
    for m, one in enumerate(rendered):
        for channel, pixel in np.ndindex(*one.shape):
            values = np.floor((one[channel, pixel] + noise) / STEPS + 0.5).astype(int)
            p = np.bincount(values, weights=NOISE, minlength=256)
            with np.errstate(divide="ignore"):
                result[:, m] += np.log(p[images[:, channel, pixel]])
    return result


def _drawn(truth, count, seed=0):
    labels = truth.generator.labels(count, seed)
    return torch.from_numpy(truth.generator.images(labels, seed)), torch.from_numpy(labels)


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_there_are_many_attributes_and_more_combinations():
    assert len(ATTRIBUTES) == 23
    # What data/README.md and docs/results/portraits.md print.
    assert f"{ATTRIBUTES.combinations():.1e}" == "2.9e+14"
    assert f"{ATTRIBUTES.entropy():.2f}" == "40.21"
    truth = portraits.truth(32)
    assert [f"{bound:.4f}" for bound in truth.entropy_bits_per_dim()] == ["2.2951", "2.3084"]
    assert [f"{bound:.4f}" for bound in truth.entropy_bits_per_dim(0.033)] == ["2.3082", "2.3084"]


@pytest.mark.slow  # Draws hundreds of portraits.
@pytest.mark.parametrize("size", [16, 32])
def test_an_image_is_a_function_of_seed_and_number(size):
    images, labels = portraits.draw(300, size, seed=3)
    # Across the chunks in which images are made.
    again, known = portraits.draw(6, size, seed=3, first=253)
    assert images.dtype == torch.uint8 and images.shape == (300, 3, size, size)
    assert torch.equal(again, images[253:259]) and torch.equal(known, labels[253:259])
    others, _ = portraits.draw(6, size, seed=4, first=253)
    assert (others != again).float().mean() > 0.5


@pytest.mark.slow  # Drawn at three sizes.
def test_a_portrait_has_the_same_attributes_at_every_size():
    small, labels = portraits.draw(8, 16)
    large, same = portraits.draw(8, 32)
    assert torch.equal(labels, same)
    halved = large.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    # Noise of standard deviation 1.15 in one, of half in the other; edges are drawn alike.
    assert (halved - small.float()).abs().mean() < 3


def test_values_come_as_often_as_the_tables_say():
    count = 20_000
    labels = ATTRIBUTES.draw(np.random.Philox(7).random_raw(count * len(ATTRIBUTES)).reshape(count, -1))
    for k, name in enumerate(ATTRIBUTES.names):
        p = ATTRIBUTES.marginal((name,))
        share = np.bincount(labels[:, k], minlength=len(p)) / count
        assert (abs(share - p) <= 5 * np.sqrt(p * (1 - p) / count)).all(), name
    assert np.isfinite(ATTRIBUTES.log_prob(labels)).all()


@pytest.mark.parametrize(
    ("percent", "parents"), [((50, 40), ()), ({("dark",): (50, 50)}, ("ground",)), ((110, -10), ())]
)
def test_a_table_that_is_incomplete_is_an_error(percent, parents):
    ground = Attribute("ground", ("dark", "light"), (30, 70))
    with pytest.raises(ValueError, match="percent that sum to 100"):
        Attributes((ground, Attribute("other", ("a", "b"), percent, parents)))


def test_tables_agree_with_all_combinations(small):
    p = np.exp(SMALL.log_prob(ALL))
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert SMALL.combinations() == (p > 0).sum()
    assert SMALL.entropy() == pytest.approx(-(p[p > 0] * np.log2(p[p > 0])).sum(), abs=1e-12)
    joint = np.zeros((3, 2))
    np.add.at(joint, (ALL[:, 2], ALL[:, 0]), p)
    np.testing.assert_allclose(SMALL.marginal(("hue", "ground")), joint, atol=1e-12)
    assert (SMALL.possible(ALL) == (p > 0)).all()


@pytest.mark.slow  # Thousands of images.
@pytest.mark.parametrize("size", [16, 32])
def test_noise_never_leaves_the_grey_levels(size):
    # An image is a mean of the colours of its layers: it is within the range that all of them are in.
    low, high = REACH / STEPS - 0.5, 255.5 - (REACH + 1) / STEPS
    for layer in portraits.truth(size).generator.layers:
        colours, left = layer.table[..., :3, :], layer.table[..., 3:, :]
        assert (colours >= low * (1 - left) - 1e-3).all() and (colours <= high * (1 - left) + 1e-3).all(), layer.names


@pytest.mark.parametrize("palette", [BACKGROUND, HUES, EYES])
def test_a_grey_picture_does_not_tell_the_hues_of_a_palette(palette):
    luma = np.array([19595, 38470, 7471]) / 2**16
    assert np.ptp([colour @ luma for colour in palette.values()]) < 1e-9


# --- the truth, by brute force ----------------------------------------------------------------------------------------


def test_the_noise_has_the_entropy_that_counting_finds():
    fractions = [0, 31, 64]
    noise = np.random.default_rng(0).integers(0, 256, (400_000, 4)).sum(1) - REACH
    for fraction in fractions:
        p = np.bincount((noise + fraction + STEPS // 2 >> 7) + 5) / len(noise)
        # The error of a counted entropy: its standard error is below 1 / sqrt(N), its bias below 10 / (2 N).
        assert noise_entropy(fraction) == pytest.approx(
            -(p[p > 0] * np.log2(p[p > 0])).sum(), abs=5 / len(noise) ** 0.5
        )


def test_the_entropy_of_images_is_within_its_bounds(small):
    assert len(small.indistinct()) == 0
    low, high = small.entropy_bits_per_dim(ambiguity=0)
    assert 0 < high - low < 2e-4
    proven = small.entropy_bits_per_dim()
    assert proven[0] < low and proven[1] == high
    # With no two combinations alike, H(image) is the mean of -log p(a) and the entropies of the noise of all values.
    p = np.exp(SMALL.log_prob(POSSIBLE))
    rendered = small.generator.render(POSSIBLE)
    noise = np.array([noise_entropy(fraction) for fraction in range(STEPS)])[rendered % STEPS].sum((1, 2))
    assert low <= (p * (noise - np.log2(p))).sum() / 48 <= high
    images, _ = _drawn(small, 2000)
    bits = -small.log_prob(images) / (48 * np.log(2))
    assert abs(bits.mean() - (low + high) / 2) < 4 * bits.std() / 2000**0.5


def test_an_attribute_that_no_pixel_shows_is_found():
    hidden = Attributes((Attribute("ground", ("dark", "light"), (30, 70)), Attribute("unseen", ("a", "b"), (50, 50))))
    truth = Truth(Generator(hidden, (_ground,), 4), ((("ground",), ()), (("unseen",), ())))
    assert {tuple(pair[:, 1]) for pair in truth.indistinct()} == {(0, 1)}
    images, _ = _drawn(truth, 5)
    assert truth.ambiguity(images) == pytest.approx((1, 0), abs=1e-12)
    images[0] = 0
    with pytest.raises(ValueError, match="probability 0"):
        truth.ambiguity(images)


def test_log_prob_is_that_of_all_combinations(small):
    images, labels = _drawn(small, 40)
    with np.errstate(divide="ignore"):
        each = _brute_log_image(images.numpy().reshape(40, 3, -1), small.generator.render(POSSIBLE))
        each += SMALL.log_prob(POSSIBLE)
    expected = torch.logsumexp(torch.from_numpy(each), 1)
    torch.testing.assert_close(small.log_prob(images), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(small.log_prob(images, labels), expected, rtol=0, atol=1e-9)
    images[:, 0, 0, 0] = 255
    assert (small.log_prob(images) == -np.inf).all()


@pytest.mark.parametrize("task", [tasks.Inpainting("half"), tasks.Inpainting(ratio=0.6)], ids=str)
def test_the_posterior_of_inpainting_is_that_of_all_combinations(small, task):
    images, _ = _drawn(small, 6, seed=1)
    known = task.known(4, 4).flatten().numpy()
    seen = images.numpy().reshape(6, 3, -1)[:, :, known]
    _compare(small, task, images, _brute_log_image(seen, small.generator.render(POSSIBLE)[:, :, known]))


def test_the_posterior_of_colorization_is_that_of_all_combinations(small):
    images, _ = _drawn(small, 4, seed=1)
    levels = grey(images).numpy().reshape(4, -1)
    scores = np.zeros((4, len(POSSIBLE)))
    for m, one in enumerate(small.generator.render(POSSIBLE)):
        for pixel in range(16):
            # All reds, greens and blues that noise reaches, 9^3 of them at most.
            values = [np.floor((r + np.array([-REACH, REACH])) / STEPS + 0.5).astype(int) for r in one[:, pixel]]
            triples = np.array(list(itertools.product(*(range(low, high + 1) for low, high in values))))
            p = np.exp(_brute_log_image(triples[:, :, None], one[None, :, pixel, None]))[:, 0]
            luma = grey(torch.from_numpy(triples[:, :, None, None]).byte()).flatten().numpy()
            chances = np.bincount(luma, weights=p, minlength=256)
            with np.errstate(divide="ignore"):
                scores[:, m] += np.log(chances[levels[:, pixel]])
    _compare(small, tasks.Colorization(), images, scores)


def _compare(truth, task, images, scores):
    with np.errstate(divide="ignore"):
        joint = np.exp(scores + SMALL.log_prob(POSSIBLE))
    sources, _ = task.pair(images)
    several = 0
    for source, weights in zip(sources, joint, strict=True):
        labels, p = truth.posterior(source, task)
        expected = {tuple(a): w / weights.sum() for a, w in zip(POSSIBLE.tolist(), weights, strict=True) if w > 0}
        found = dict(zip(map(tuple, labels.tolist()), p.tolist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-12)
        assert (p.diff() <= 0).all()
        several += len(p) > 1
    assert several


def test_other_tasks_have_no_posterior(small):
    with pytest.raises(ValueError, match="known for colorization and inpainting"):
        small.posterior(torch.zeros(3, 4, 4).byte(), tasks.SuperResolution(2))


# --- portraits --------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # Draws hundreds of portraits.
def test_the_entropy_of_portraits_is_the_mean_of_their_bits():
    images, labels = portraits.draw(400)
    # Measured on 300 images: 0.033 bits.
    ambiguity, _ = portraits.truth().ambiguity(images[:40])
    assert ambiguity < 0.3
    low, high = portraits.truth().entropy_bits_per_dim(ambiguity)
    bits = -portraits.truth().log_prob(images, labels) / (3072 * np.log(2))
    assert 2.30 < low < high < low + 2e-4
    # log_prob with labels is of both: with the ambiguity, of the image alone.
    assert abs(bits.mean() - ambiguity / 3072 - (low + high) / 2) < 4 * bits.std() / 20


@pytest.mark.slow  # Draws hundreds of portraits.
@pytest.mark.parametrize("part", ["eyes", "clothing", "earrings"])
def test_both_sides_of_a_portrait_agree_and_those_of_two_portraits_do_not(part):
    images, labels = portraits.draw(400)
    swapped = torch.cat([images[..., :16], images.roll(1, dims=0)[..., 16:]], dim=-1)
    column = {"eyes": "eye_colour", "clothing": "clothing_colour", "earrings": "earrings"}[part]
    values = labels[:, ATTRIBUTES.columns((column,))[0]]
    by_chance = (values == values.roll(1)).double().mean().item()
    assert portraits.agreement(images, part) > 0.97
    assert portraits.agreement(swapped, part) == pytest.approx(by_chance, abs=0.03)


def test_agreement_needs_a_known_part_and_size():
    with pytest.raises(ValueError, match="known: eyes, clothing, earrings"):
        portraits.agreement(torch.zeros(1, 3, 32, 32).byte(), "hats")
    with pytest.raises(ValueError, match="16, 32, 64 pixels wide, not 8"):
        portraits.agreement(torch.zeros(1, 3, 8, 8).byte())


@pytest.mark.slow  # Draws hundreds of portraits.
def test_portraits_are_loaded_by_name_and_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(by_name, "_NUM_PORTRAITS", {"train": 20, "validation": 6, "test": 5})
    loaded = data.load("portraits-16", root=tmp_path)
    images, labels = portraits.draw(31, 16)
    assert torch.equal(torch.cat([loaded.train, loaded.validation, loaded.test]), images)
    assert torch.equal(torch.cat([loaded.attributes[split] for split in data.SPLITS]), labels)
    assert loaded.attribute_values["pose"] == ("left", "straight", "right")
    assert "20/6/5 images" in loaded.variant
    monkeypatch.setattr(portraits, "draw", None)
    assert torch.equal(data.load("portraits-16", root=tmp_path).test, loaded.test)
    pairs = tasks.apply(tasks.Colorization(), loaded)
    assert torch.equal(pairs.attributes["train"], loaded.attributes["train"])
