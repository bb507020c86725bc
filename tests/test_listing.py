"""What there is to train and to load, as a table: each thing once, in 100 columns, with where its file is."""

import pytest

from nbflows import list_pretrained, models, pretrained, upstream, weights
from nbflows.manifest import Manifest, sha256


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory with an empty cache and no address, whose manifest has the model "tiny"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NBFLOWS_PRETRAINED_URL", raising=False)
    announce(tmp_path)
    return tmp_path


CONTENT = weights.to_bytes(models.digits_simple())


def announce(place, base_url=None):
    """Writes the manifest; its model "tiny" has the weights ``CONTENT``."""
    flow = models.digits_simple()
    known = {"sha256": sha256(CONTENT), "bytes": len(CONTENT), "purpose": "a test", "licence": "MIT"}
    entry = {**known, "builder": flow.built_by[0], "arguments": flow.built_by[1], "recipe": {"data": "digits"}}
    (place / "saved_models").mkdir(exist_ok=True)
    Manifest({"tiny": entry}, base_url).write(place / "saved_models" / "manifest.json")


# --- where a file is --------------------------------------------------------------------------------------------------


def test_a_model_without_a_file_and_without_an_address_has_no_address(place):
    assert pretrained.status("tiny") == "no address"


def test_a_model_in_the_folder_is_here(place):
    (place / "saved_models" / "tiny.safetensors").write_bytes(CONTENT)
    assert pretrained.status("tiny") == "here"
    pretrained.load_pretrained("tiny", progress=False)


def test_a_model_in_the_cache_is_here_if_it_is_the_published_one(place):
    (place / "cache").mkdir()
    (place / "cache" / f"tiny-{'0' * 12}.safetensors").write_bytes(b"an earlier version")
    assert pretrained.status("tiny") == "no address"
    (place / "cache" / f"tiny-{sha256(CONTENT)[:12]}.safetensors").write_bytes(CONTENT)
    assert pretrained.status("tiny") == "here"
    pretrained.load_pretrained("tiny", progress=False)


def test_a_model_with_an_address_can_be_downloaded(place, monkeypatch):
    announce(place, base_url="https://example.org/models")
    assert pretrained.status("tiny") == "download"
    announce(place)
    monkeypatch.setenv("NBFLOWS_PRETRAINED_URL", "https://example.org/models")
    assert pretrained.status("tiny") == "download"


def test_the_authors_weights_are_downloaded_or_here(place):
    name = "upstream/uva-mnist-simple"
    assert pretrained.status(name) == "download"
    by_hand = place / upstream.published.BY_HAND / upstream.find_published(name).file
    by_hand.parent.mkdir(parents=True)
    by_hand.touch()
    assert pretrained.status(name) == "here"
    by_hand.unlink()
    (place / "cache").mkdir()
    (place / "cache" / "upstream-uva-mnist-simple.safetensors").touch()
    assert pretrained.status(name) == "here"


def test_an_unknown_model_has_no_status(place):
    with pytest.raises(ValueError, match=r"no pretrained model named 'nope'; .*available: tiny"):
        pretrained.status("nope")
    with pytest.raises(ValueError, match="no published weights named 'upstream/nope'"):
        pretrained.status("upstream/nope")
