"""nbflows compress and decompress: files of MNIST, arrays and pictures come back."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from nbflows import cli
from nbflows.coding.archive import Codec
from nbflows.storage.weights import save_flow
from tests.coding.test_exact import flow, images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_flow(flow(), tmp_path_factory.mktemp("model") / "digits.safetensors"))


def idx(x):
    return b"\x00\x00\x08\x03" + np.array([len(x), *x.shape[2:]], ">u4").tobytes() + x.numpy().tobytes()


def test_a_file_of_mnist_comes_back_byte_for_byte(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few-idx3-ubyte").write_bytes(idx(images(4)))
    assert cli.main(["compress", "few-idx3-ubyte", "few.nbf", "--model", model]) == 0
    assert "4 images" in capsys.readouterr().out
    assert cli.main(["decompress", "few.nbf", "again", "--model", model, "--threads", "2"]) == 0
    assert (tmp_path / "again").read_bytes() == (tmp_path / "few-idx3-ubyte").read_bytes()
    # Nothing is overwritten.
    assert cli.main(["decompress", "few.nbf", "--model", model]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 1, 8, 8)])
def test_an_array_comes_back_in_its_shape(model, tmp_path, shape):
    array = images(4).numpy().reshape(shape)
    np.save(tmp_path / "a.npy", array)
    assert cli.main(["compress", str(tmp_path / "a.npy"), str(tmp_path / "a.nbf"), "--model", model]) == 0
    assert cli.main(["decompress", str(tmp_path / "a.nbf"), str(tmp_path / "b.npy"), "--model", model]) == 0
    assert np.array_equal(np.load(tmp_path / "b.npy"), array) and np.load(tmp_path / "b.npy").shape == shape


def test_a_folder_of_pictures_comes_back_with_its_names(model, tmp_path):
    for i, image in enumerate(images(3)):
        file = tmp_path / "in" / f"{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(file)
    assert cli.main(["compress", str(tmp_path / "in"), str(tmp_path / "a.nbf"), "--model", model]) == 0
    assert cli.main(["decompress", str(tmp_path / "a.nbf"), str(tmp_path / "out"), "--model", model]) == 0
    for i, image in enumerate(images(3)):
        assert torch.equal(torch.from_numpy(np.array(Image.open(tmp_path / "out" / f"{i % 2}" / f"{i}.png"))), image[0])


@pytest.mark.parametrize(
    "content, message",
    [
        (idx(images(2))[:-1], "2 images of 8x8"),
        (idx(images(2, (1, 4, 4))), "2 images of 4x4"),
        (b"\x1f\x8b" + bytes(20), "gunzip"),
        (b"some text", "not a picture"),
        (idx(images(0)), "no images"),
    ],
)
def test_what_cannot_be_coded_is_said_in_one_line(model, tmp_path, content, message, capsys):
    (tmp_path / "in").write_bytes(content)
    (tmp_path / "old.nbf").write_bytes(b"kept")
    assert cli.main(["compress", str(tmp_path / "in"), str(tmp_path / "old.nbf"), "--model", model]) == 2
    assert "is not overwritten" in capsys.readouterr().err and (tmp_path / "old.nbf").read_bytes() == b"kept"
    assert cli.main(["compress", str(tmp_path / "in"), str(tmp_path / "a.nbf"), "--model", model]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "a.nbf").exists()


def test_a_file_cannot_choose_where_its_model_is_read_or_where_pictures_go(model, tmp_path, capsys, monkeypatch):
    x, codec = images(1), Codec(flow())
    file = tmp_path / "a.nbf"
    file.write_bytes(codec.pack(x, model=model, kind="npy", shape=[1, 8, 8], name="x"))
    assert cli.main(["decompress", str(file), str(tmp_path / "out")]) == 2
    assert "not a published one" in capsys.readouterr().err
    for names in (["../b.png"], ["/b.png"], ["b"], ["a.png", "b.png"]):
        file.write_bytes(codec.pack(x, model=model, kind="pictures", names=names, name="x"))
        assert cli.main(["decompress", str(file), str(tmp_path / "out"), "--model", model]) == 2
        assert re.search("names of the pictures|how to restore", capsys.readouterr().err)
    for name in ("../x", ".x", "a\x1b[2J", "", "/x"):
        file.write_bytes(codec.pack(x, model=model, kind="npy", shape=[1, 8, 8], name=name))
        assert cli.main(["decompress", str(file), "--model", model]) == 2
        assert "gives no name" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("a.png", "a.bmp"), ("a.bmp", "a.png/b.png"), ("A.png", "a.bmp")])
def test_what_could_not_be_restored_is_not_coded(names, model, tmp_path, capsys):
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(images(1)[0, 0].numpy()).save(tmp_path / "in" / name)
    assert cli.main(["compress", str(tmp_path / "in"), str(tmp_path / "a.nbf"), "--model", model]) == 2
    assert "would both come back as a.png" in capsys.readouterr().err.lower() and not (tmp_path / "a.nbf").exists()


@pytest.mark.parametrize("description", [{"kind": "npy"}, {"kind": "npy", "shape": 3}, {"kind": "pictures"}, {}])
def test_a_header_without_what_it_needs_is_one_line(model, tmp_path, capsys, description):
    (tmp_path / "a.nbf").write_bytes(Codec(flow()).pack(images(1), **description))
    assert cli.main(["decompress", str(tmp_path / "a.nbf"), str(tmp_path / "out"), "--model", model]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "Traceback" not in error and not (tmp_path / "out").exists()
