"""Files of images: the same bits again, or an error; never a wrong pixel."""

import hashlib
import json

import numpy as np
import pytest
import torch

from nbflows import models
from nbflows.coding.archive import Codec, read_header
from tests.coding.test_exact import flow, images


@pytest.fixture(scope="module")
def codec():
    return Codec(flow())


@pytest.fixture(scope="module")
def content(codec):
    return codec.pack(images(5), kind="test")


@pytest.mark.parametrize("count", [1, 5, 40])
def test_images_come_back(codec, count):
    x = images(count)
    content = codec.pack(x, kind="test", names=["ä"])
    assert torch.equal(codec.unpack(content), x)
    header, _ = read_header(content)
    assert header["names"] == ["ä"] and header["images"] == count


def test_blocks_come_back_in_their_order(codec, monkeypatch):
    monkeypatch.setattr("nbflows.coding.archive._BLOCK", 7)
    x = images(30)
    content = codec.pack(x)
    assert len(read_header(content)[0]["blocks"]) == 5 and torch.equal(codec.unpack(content), x)


def test_a_file_is_as_long_as_the_probability_says(codec):
    x = images(300)
    bits = -flow().log_prob(x).double().sum().item() / np.log(2)
    content = codec.pack(x)
    header = 8 * (len(content) - read_header(content)[0]["blocks"][0])
    # 18 lanes of 64 bits, and a thousandth for the rounding of probabilities.
    assert 8 * len(content) - header < 1.001 * bits + 18 * 64


def test_100_damages_are_all_found(codec, content):
    generator = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        match generator.integers(3):
            case 0:
                damaged[generator.integers(len(content))] ^= 1 << generator.integers(8)
            case 1:
                damaged = damaged[: generator.integers(len(content))]
            case _:
                damaged.insert(generator.integers(len(content)), int(generator.integers(256)))
        with pytest.raises(ValueError, match=r"damaged|not a file|format"):
            codec.unpack(bytes(damaged))


def sealed(content, **changes):
    """The file with another header and a check sum that fits."""
    header, codes = read_header(content)
    text = json.dumps({**header, **changes}).encode()
    body = content[:8] + len(text).to_bytes(4, "little") + text + codes
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": 10**9}, "does not fit"),
        ({"images": -1}, "does not fit"),
        ({"images": 5.0}, "does not fit"),
        ({"blocks": [1, 2]}, "does not fit"),
        ({"blocks": "a"}, "does not fit"),
        ({"fingerprint": 3}, "does not fit"),
        ({"fingerprint": ["0" * 16, "0" * 16]}, "weights of another model"),
        ({"pixels": "0" * 16}, "not those that were written"),
    ],
)
def test_a_header_that_lies_is_refused(codec, content, changes, message):
    with pytest.raises(ValueError, match=message):
        codec.unpack(sealed(content, **changes))


def test_a_machine_with_other_numbers_says_so(codec, content):
    header, _ = read_header(content)
    with pytest.raises(ValueError, match="computes other probabilities"):
        codec.unpack(sealed(content, fingerprint=[header["fingerprint"][0], "0" * 16]))


def test_only_models_of_integers_code(codec):
    with pytest.raises(ValueError, match="mnist-pixelflow"):
        Codec(models.digits_simple())
    with pytest.raises(ValueError, match="the model is for images of"):
        codec.pack(images(2, (1, 4, 4)))
    with pytest.raises(ValueError, match="no images"):
        codec.pack(images(0))


def test_more_images_than_a_reader_takes_are_not_written(codec, content, monkeypatch):
    monkeypatch.setattr("nbflows.coding.archive._MOST_VALUES", 4 * 64)
    assert torch.equal(codec.unpack(codec.pack(images(4))), images(4))
    with pytest.raises(ValueError, match="at most 4 images"):
        codec.pack(images(5))
    with pytest.raises(ValueError, match="at most 4 images"):
        codec.unpack(content)


def test_names_that_a_reader_would_refuse_are_not_written(codec, monkeypatch):
    monkeypatch.setattr("nbflows.coding.archive._LARGEST_HEADER", 2000)
    with pytest.raises(ValueError, match="make several files"):
        codec.pack(images(1), names=["a" * 1000])
