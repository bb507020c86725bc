"""The manifest says what is published; one that says nonsense is refused before anything is done with it."""

import json
import os
from pathlib import Path

import pytest

from nbflows import pretrained
from nbflows.storage import manifest
from nbflows.storage.manifest import Manifest

ROOT = Path(__file__).parents[2]
ENTRY = {
    "sha256": "0" * 64,
    "bytes": 10,
    "builder": "digits_simple",
    "arguments": {},
    "purpose": "a test",
    "licence": "MIT",
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "manifest.json"


def content(entry=ENTRY, name="tiny", **changes):
    return {"format": 1, "base_url": None, "models": {name: entry}, **changes}


def without(key):
    return {name: value for name, value in ENTRY.items() if name != key}


def test_what_is_written_is_read_again(file):
    known = Manifest({"b-2": ENTRY, "a": {**ENTRY, "bytes": 11}}, "https://example.org/models", {"news": [1, {"x": 2}]})
    known.write(file)
    assert Manifest.read(file) == known
    assert list(Manifest.read(file).models) == ["a", "b-2"]
    assert [path.name for path in file.parent.iterdir()] == ["manifest.json"]


def test_fields_that_are_not_known_are_kept(file):
    file.write_text(json.dumps(content({**ENTRY, "colour": "blue"}, mirrors=["https://example.org"], since=2026)))
    known = Manifest.read(file)
    assert known.entry("tiny")["colour"] == "blue"
    known.write(file)
    assert json.loads(file.read_text()) == content(
        {**ENTRY, "colour": "blue"}, mirrors=["https://example.org"], since=2026
    )


def test_writing_that_fails_leaves_the_old_manifest(file, monkeypatch):
    Manifest({"a": ENTRY}).write(file)
    before = file.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Manifest({"b": ENTRY}).write(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("text", ["", "{", "<html>", '{"format": 1, "models": {', "\x00\x01"])
def test_what_is_not_json_is_an_error_that_names_the_file(file, text):
    file.write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json is not JSON: "):
        Manifest.read(file)


def test_bytes_that_are_no_text_are_an_error_that_names_the_file(file):
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"manifest.json is not JSON: "):
        Manifest.read(file)


@pytest.mark.parametrize("value", [[], "models", 3, None, {}, {"format": 1}, {"format": 1, "models": ["tiny"]}])
def test_other_json_is_an_error_that_names_the_file(file, value):
    file.write_text(json.dumps(value))
    with pytest.raises(
        ValueError, match=r"manifest.json (is not a manifest: it has no 'models'|holds a \w+, not a JSON)"
    ):
        Manifest.read(file)


@pytest.mark.parametrize("newer", [2, "1", None, 1.5])
def test_another_format_is_an_error_that_says_what_to_do(file, newer):
    file.write_text(json.dumps(content(format=newer)))
    with pytest.raises(ValueError, match=rf"format {newer}, this version of nbflows reads format 1: update it"):
        Manifest.read(file)


@pytest.mark.parametrize("key", ENTRY)
def test_a_missing_field_is_an_error_that_names_model_and_field(file, key):
    file.write_text(json.dumps(content(without(key))))
    with pytest.raises(ValueError, match=rf"manifest.json: the entry of tiny has no '{key}' that is a "):
        Manifest.read(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sha256", 3),
        ("sha256", None),
        ("bytes", "10"),
        ("bytes", 1.5),
        ("builder", ["digits_simple"]),
        ("arguments", [1, 2]),
        ("arguments", "shape"),
        ("purpose", None),
        ("licence", {}),
    ],
)
def test_a_field_of_another_type_is_an_error_that_names_model_and_field(file, key, value):
    file.write_text(json.dumps(content({**ENTRY, key: value})))
    with pytest.raises(ValueError, match=rf"the entry of tiny has no '{key}' that is a "):
        Manifest.read(file)


@pytest.mark.parametrize("entry", [None, "MIT", [], 3])
def test_an_entry_that_is_none_is_an_error(file, entry):
    file.write_text(json.dumps(content(entry)))
    with pytest.raises(ValueError, match=r"the entry of tiny has no "):
        Manifest.read(file)


@pytest.mark.parametrize("digits", ["", "0" * 63, "0" * 65, "g" * 64, "A" * 64, "0" * 64 + "\n", "../" * 21 + "a"])
def test_a_hash_that_is_none_is_an_error(file, digits):
    file.write_text(json.dumps(content({**ENTRY, "sha256": digits})))
    with pytest.raises(ValueError, match=r"the sha256 of tiny is not 64 hexadecimal digits"):
        Manifest.read(file)


@pytest.mark.parametrize("address", [3, ["https://example.org"], {}, True])
def test_a_base_address_that_is_no_text_is_an_error(file, address):
    file.write_text(json.dumps(content(base_url=address)))
    with pytest.raises(ValueError, match=r"base_url"):
        Manifest.read(file)


NO_NAMES = [
    "",
    ".",
    "..",
    "../tiny",
    "a/../../tiny",
    "/etc/passwd",
    "a/b",
    "upstream/tiny",
    "a\\b",
    "..\\tiny",
    "C:tiny",
    "Tiny",
    "tiny model",
    "tiny.safetensors",
    "tiny_model",
    "-tiny",
    "tiny-",
    "a--b",
    "tiny\n",
    "tiny\x00",
    "ti%2e%2eny",
    "~",
    "tïny",
    "٣",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_could_lead_out_of_the_folder_is_an_error(file, name):
    file.write_text(json.dumps(content(name=name)))
    with pytest.raises(ValueError, match=r"is not a name of a model: lower case, digits and single hyphens"):
        Manifest.read(file)


@pytest.mark.parametrize("name", ["a", "7", "mnist-multiscale", "tiny-imagenet-32-caflow-super-resolution"])
def test_plain_names_are_names(file, name):
    file.write_text(json.dumps(content(name=name)))
    assert list(Manifest.read(file).models) == [name]


def test_an_unknown_name_is_an_error_with_a_suggestion_and_all_names():
    known = Manifest({"mnist-multiscale": ENTRY, "digits-glow": ENTRY})
    with pytest.raises(
        ValueError,
        match=r"no pretrained model named 'mnist-multscale'; did you mean 'mnist-multiscale'\? "
        r"available: digits-glow, mnist-multiscale",
    ):
        known.entry("mnist-multscale")
    with pytest.raises(ValueError, match=r"no pretrained model named 'xyz'; available: digits-glow, mnist-multiscale"):
        known.entry("xyz")
    assert known.entry("digits-glow") is ENTRY


def test_the_hash_is_sha_256():
    assert manifest.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_manifest_in_the_folder_where_one_works_comes_before_that_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.find_manifest() == Manifest.read(ROOT / "saved_models" / "manifest.json")
    (tmp_path / "saved_models").mkdir()
    assert pretrained.find_manifest() == Manifest.read(ROOT / "saved_models" / "manifest.json")
    Manifest({"tiny": ENTRY}).write(tmp_path / "saved_models" / "manifest.json")
    assert list(pretrained.find_manifest().models) == ["tiny"]
