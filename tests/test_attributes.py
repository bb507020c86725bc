"""The network that reads attributes: how often it is right, and what it takes."""

import re
from pathlib import Path

import pytest
import torch

from nbflows import attributes, installed, quality
from nbflows.data import ImageData, portraits
from tools import portrait_classifier

ROOT = Path(__file__).parents[1]
# Percent of 5,000 test portraits that it reads correctly, as ``tools/portrait_classifier.py`` printed them.
RIGHT = {
    "background": 100.0,
    "backdrop": 100.0,
    "light": 99.9,
    "pose": 100.0,
    "skin": 99.8,
    "face": 99.4,
    "clothing_colour": 100.0,
    "clothing": 100.0,
    "hair_colour": 98.3,
    "hair": 99.7,
    "headwear": 100.0,
    "hat_colour": 100.0,
    "glasses": 99.7,
    "glasses_colour": 99.8,
    "mouth": 99.5,
    "eyes": 99.9,
    "eye_colour": 99.8,
    "gaze": 100.0,
    "brows": 95.7,
    "nose": 79.5,
    "cheeks": 94.3,
    "beard": 99.7,
    "earrings": 99.9,
}


def test_it_gives_a_value_and_its_probability_for_each_attribute():
    images = torch.randint(256, (3, 3, 32, 32)).byte()
    labels, probabilities = quality.attributes(images)
    counts = torch.tensor([len(values) for values in portraits.ATTRIBUTES.values.values()])
    assert labels.shape == probabilities.shape == (3, 23) and labels.dtype == torch.int64
    assert ((labels >= 0) & (labels < counts)).all()
    # The likeliest of several values has at least its share.
    assert ((probabilities >= 1 / counts - 1e-6) & (probabilities <= 1 + 1e-6)).all()
    one, _ = quality.attributes(images[1:2])
    assert torch.equal(one, labels[1:2])


@pytest.mark.slow  # Drawing all layers of portraits takes seconds.
def test_it_is_right_as_often_as_documented_on_1000_test_portraits():
    count, page = 1000, (ROOT / "docs" / "results" / "portraits.md").read_text(encoding="utf-8")
    images, truth = portraits.draw(count, first=55_000)
    right = (quality.attributes(images)[0] == truth).double().mean(0)
    for name, share in zip(portraits.ATTRIBUTES.names, right, strict=True):
        documented = RIGHT[name] / 100
        # 4 standard errors of both samples, and the rounding of the table.
        error = 4 * (documented * (1 - documented) * (1 / count + 1 / 5000)) ** 0.5 + 0.0005
        assert abs(share - documented) <= max(error, 4 / count), name
        # Better than to name the commonest value always.
        assert share > portraits.ATTRIBUTES.marginal((name,)).max() + 0.15, name
        assert re.search(rf"^\| {name} \|.* {RIGHT[name]} % \|$", page, re.M)


def test_other_images_and_other_weights_are_refused(tmp_path, monkeypatch):
    for images in (torch.zeros(2, 3, 16, 16).byte(), torch.zeros(2, 3, 32, 32)):
        with pytest.raises(ValueError, match=r"expected uint8 images \(N, 3, 32, 32\)"):
            quality.attributes(images)
    monkeypatch.setattr(installed, "folder", lambda name: tmp_path)
    (tmp_path / attributes.FILE).write_bytes(b"no weights")
    with pytest.raises(ValueError, match="has other weights"):
        attributes.load_attribute_net()


def test_the_training_learns_attributes_that_are_plain_to_see():
    torch.manual_seed(1)
    labels = {split: torch.randint(2, (256, 1)) for split in ("train", "validation", "test")}
    images = {
        split: (torch.randint(100, (256, 3, 32, 32)) + 100 * rows[:, :, None, None]).byte()
        for split, rows in labels.items()
    }
    known = {"shade": ("dark", "bright")}
    examples = ImageData("shades", "dark and bright", **images, attributes=labels, attribute_values=known)
    net = portrait_classifier.train(examples, epochs=3)
    found, _ = attributes.read_attributes(net, examples.test)
    assert (found == labels["test"]).all()
