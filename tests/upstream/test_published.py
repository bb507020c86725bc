"""The authors' weights by name: fetched once, converted, and from then on at hand; the licence is shown once."""

import hashlib
import io
import json
import os
import pickle
import random
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nbflows import list_pretrained, load_pretrained, pretrained, upstream
from nbflows.cli import main
from nbflows.storage.download import DownloadError
from nbflows.storage.manifest import Manifest, sha256
from nbflows.upstream import published as module
from tests import http_server
from tests.http_server import give_up_after
from tests.reference_data import CHECKPOINTS, reference, uva_checkpoint, uva_state_dict

UVA, MAR_SCF, RESFLOW = (
    "upstream/uva-mnist-multiscale",
    "upstream/marscf-cifar10-mixlogcdf-256",
    "upstream/resflow-mnist",
)


def saved(content, **options):
    """As torch.save writes it."""
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def uva_original():
    """A file of the tutorial's multi-scale model, with random weights."""
    return saved({"state_dict": uva_state_dict("multiscale_random"), "epoch": 3})


def mar_scf_state():
    arrays = reference("mar_scf_affine.npz")
    return {key[6:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("state/")}


def zipped(members, form=zipfile.ZIP_STORED):
    """A zip archive of these files, always of the same bytes: without the time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, form)
    return stream.getvalue()


def log_prob(flow):
    """With the same images and noise each time."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(flow.num_grey_levels, (2, *flow.shape), generator=generator).byte()
    torch.manual_seed(5)
    with torch.no_grad():
        return flow.log_prob(images)


def files(folder):
    """Everything below a folder, hidden files and empty folders too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def converted(name):
    return [f"{name.replace('/', '-')}.{suffix}" for suffix in ("json", "safetensors")]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offer(server, cache, monkeypatch):
    """Puts an original at the address of a name; unless it is told otherwise, with its hash."""

    def offer(name, content, *answers, **changes):
        entry = upstream.PUBLISHED[name]
        changes = {"sha256": sha256(content), "git_blob": None, **changes}
        entry = replace(entry, address=f"{server.address}/{entry.file}", **changes)
        monkeypatch.setitem(upstream.PUBLISHED, name, entry)
        server.answers[f"/{entry.file}"] = list(answers) or [http_server.whole(content)]
        return entry

    return offer


def load(name):
    return load_pretrained(name, progress=False)


# --- once from the authors, then from the cache -----------------------------------------------------------------------


def test_the_first_load_fetches_and_converts_the_second_asks_nobody(offer, server, cache, capsys):
    entry = offer(UVA, uva_original())
    expected = log_prob(upstream.uva(uva_state_dict("multiscale_random")).eval())
    flow = load(UVA)
    assert not flow.training
    assert torch.equal(log_prob(flow), expected)
    assert capsys.readouterr().out == f"{UVA}: {entry.purpose}. Licence of the weights: {entry.licence}\n"
    assert server.asked == ["/MNISTFlow_multiscale.ckpt"]
    # The original is needed no more.
    assert files(cache) == converted(UVA)
    again = load(UVA)
    assert not again.training
    assert torch.equal(log_prob(again), expected)
    assert capsys.readouterr() == ("", "")
    assert len(server.asked) == 1


def test_the_converted_file_says_whose_it_is(offer, cache):
    entry = offer(UVA, uva_original())
    load(UVA)
    known = json.loads((cache / converted(UVA)[0]).read_text())
    assert known["builder"] == "multiscale" and known["licence"] == entry.licence
    assert known["address"] == entry.address and known["data"] == "mnist" and known["published"] == entry.published


@pytest.mark.parametrize("name", ["simple", "vardeq"])
def test_the_tutorials_files_have_the_published_hash_and_load_by_name(name, cache, tmp_path, server):
    original = uva_checkpoint(f"MNISTFlow_{name}.ckpt")
    by_name = f"upstream/uva-mnist-{'variational' if name == 'vardeq' else name}"
    assert upstream.PUBLISHED[by_name].sha256 == CHECKPOINTS[original.name]
    by_hand = tmp_path / "data" / "upstream" / original.name
    by_hand.parent.mkdir(parents=True)
    by_hand.symlink_to(original)
    expected = log_prob(upstream.load_upstream(original))
    assert torch.equal(log_prob(load(by_name)), expected)
    assert torch.equal(log_prob(load(by_name)), expected)


def test_an_original_that_was_put_there_by_hand_is_taken_and_stays(offer, server, cache, tmp_path, capsys):
    offer(UVA, uva_original(), http_server.status(404))
    original = tmp_path / "data" / "upstream" / "MNISTFlow_multiscale.ckpt"
    original.parent.mkdir(parents=True)
    original.write_bytes(uva_original())
    flow = load(UVA)
    assert "Licence of the weights: MIT" in capsys.readouterr().out
    assert original.read_bytes() == uva_original()
    assert files(original.parent) == [original.name] and files(cache) == converted(UVA)
    original.unlink()
    assert torch.equal(log_prob(load(UVA)), log_prob(flow))
    assert server.asked == []


def test_a_wrong_original_that_was_put_there_by_hand_is_refused_and_stays(offer, server, cache, tmp_path):
    offer(UVA, uva_original())
    original = tmp_path / "data" / "upstream" / "MNISTFlow_multiscale.ckpt"
    original.parent.mkdir(parents=True)
    original.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"data/upstream/MNISTFlow_multiscale.ckpt is not what its authors published"):
        load(UVA)
    assert original.read_bytes() == b"something else"
    assert not cache.exists() and server.asked == []


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "weights are cut": (1, cut),
    "a weight is flipped": (1, flip),
    "weights are empty": (1, lambda file: file.write_bytes(b"")),
    "weights are missing": (1, Path.unlink),
    "the JSON is cut": (0, cut),
    "the JSON is empty": (0, lambda file: file.write_bytes(b"")),
    "the JSON is missing": (0, Path.unlink),
    "the JSON is no dict": (0, lambda file: file.write_text("[]")),
    "the JSON is not text": (0, lambda file: file.write_bytes(b"\xff\xfe\x00")),
    "the JSON has no hash": (0, lambda file: file.write_text('{"builder": "multiscale", "arguments": {}}')),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_converted_file_is_made_anew(offer, server, cache, damage):
    offer(UVA, uva_original())
    expected = log_prob(load(UVA))
    which, do = DAMAGE[damage]
    do(cache / converted(UVA)[which])
    assert torch.equal(log_prob(load(UVA)), expected)
    assert len(server.asked) == 2
    load(UVA)
    assert len(server.asked) == 2
    assert files(cache) == converted(UVA)


def test_another_process_that_is_done_in_the_meantime_does_not_hinder(offer, cache, monkeypatch):
    for name, content in ((UVA, uva_original()), (MAR_SCF, mar_scf_zip())):
        offer(name, content)
        really_load = module.load_upstream

        def meanwhile(*arguments, name=name, really_load=really_load, **options):
            # Just as this one has its original, another process comes and does all of it.
            with pytest.MonkeyPatch.context() as other:
                other.setattr(module, "load_upstream", really_load)
                other.setattr(os, "getpid", lambda: 4_000_000)
                load(name)
            return really_load(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, "load_upstream", meanwhile)
            flow = load(name)
        assert torch.equal(log_prob(load(name)), log_prob(flow))
    assert files(cache) == sorted(converted(UVA) + converted(MAR_SCF))


# --- only what they published -----------------------------------------------------------------------------------------


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def test_gits_hash_is_compared_where_there_is_no_other(offer, cache):
    content = uva_original()
    assert git_blob(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    offer(UVA, content, sha256=None, git_blob=git_blob(content + b"!"))
    with pytest.raises(ValueError, match="is not what its authors published: its hash is"):
        load(UVA)
    assert files(cache) == []
    offer(UVA, content, sha256=None, git_blob=git_blob(content))
    load(UVA)
    assert files(cache) == converted(UVA)


def test_another_file_than_the_published_one_is_refused_and_not_opened(offer, server, cache, monkeypatch):
    offer(UVA, uva_original(), sha256="0" * 64)
    monkeypatch.setattr(module, "load_upstream", lambda *arguments, **options: pytest.fail("it was opened"))
    with pytest.raises(DownloadError, match="is not the file that was asked for") as refused:
        load(UVA)
    assert str(refused.value).startswith(f"{UVA} is not in {cache} and could not be downloaded: ")
    assert files(cache) == []


FAULTS = {
    "not found": (lambda content: http_server.status(404), "answers 404 Not Found"),
    "out of order": (lambda content: http_server.status(503), "answers 503"),
    "cut off": (lambda content: http_server.cut_off(content, 5000), "broke off in the middle"),
    "a stall": (lambda content: http_server.stall(content, 5000), r"sends nothing for 0\.5 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("known", [True, False], ids=["a known hash", "no known hash"])
def test_a_failing_download_leaves_nothing_and_the_error_names_the_ways_out(offer, cache, fault, known, monkeypatch):
    answer, message = FAULTS[fault]
    if fault == "a stall":
        give_up_after(0.5, monkeypatch)
    content = uva_original()
    entry = offer(UVA, content, answer(content), **({} if known else {"sha256": None}))
    with pytest.raises(DownloadError, match=message) as refused:
        load(UVA)
    assert f"Put {entry.file} into data/upstream/, or try again where {entry.address}" in str(refused.value)
    assert "or use a model trained here: list_pretrained() names them" in str(refused.value)
    assert not cache.exists() or files(cache) == []


def test_no_server_at_all_is_an_error_that_names_the_ways_out(offer, server, cache):
    offer(UVA, uva_original())
    server.stop()
    with pytest.raises(DownloadError, match=r"cannot be reached(.|\n)*Put .* into"):
        load(UVA)


def test_a_failure_is_forgiven_once(offer, server, cache):
    content = uva_original()
    offer(UVA, content, http_server.status(500), http_server.whole(content))
    load(UVA)
    assert len(server.asked) == 2 and files(cache) == converted(UVA)


def test_a_page_in_place_of_a_file_without_a_known_hash_is_refused(offer, cache):
    offer(RESFLOW, b"<html>moved</html>", sha256=None)
    with pytest.raises(ValueError, match=r"mnist_resflow_16-16-16.pth cannot be read as a checkpoint of torch"):
        load(RESFLOW)
    assert files(cache) == []


def test_an_original_of_another_system_is_refused(offer, cache):
    offer(UVA, saved({"encoder.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="is not a checkpoint of the UvA tutorial"):
        load(UVA)
    assert files(cache) == []


class Harm:
    """What a pickle can do: here it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("form", ["pickle", "zip", "old"])
@pytest.mark.parametrize("name", [UVA, RESFLOW, MAR_SCF])
def test_a_pickle_with_code_runs_nothing(offer, cache, tmp_path, name, form):
    marker = tmp_path / "harm"
    state = {"state_dict": {**uva_state_dict("multiscale_random"), "more": Harm(marker)}, "ema": Harm(marker)}
    content = (
        pickle.dumps(Harm(marker)) if form == "pickle" else saved(state, _use_new_zipfile_serialization=form == "zip")
    )
    pickle.loads(pickle.dumps(Harm(marker)))
    assert marker.exists()
    marker.unlink()
    if name == MAR_SCF:
        content = zipped({f"ckpts/{upstream.PUBLISHED[name].member}": content})
    offer(name, content)
    # Refused, or read without its harmful part.
    with pytest.raises(ValueError, match=r"\.(ckpt|pth|pt)|state dict|more"):
        load(name)
    assert not marker.exists()
    assert files(cache) == []


# --- zip archives -----------------------------------------------------------------------------------------------------

MEMBER = upstream.PUBLISHED[MAR_SCF].member


def mar_scf_zip(folder="ckpts/"):
    return zipped({"ckpts/readme.txt": "hello", f"{folder}{MEMBER}": saved(mar_scf_state())})


@pytest.mark.parametrize("folder", ["", "ckpts/", "a/b/"])
def test_a_file_is_taken_out_of_whatever_folder_of_a_zip_archive(offer, server, cache, folder, capsys):
    offer(MAR_SCF, mar_scf_zip(folder))
    expected = log_prob(upstream.mar_scf(mar_scf_state()).eval())
    assert torch.equal(log_prob(load(MAR_SCF)), expected)
    assert "Licence of the weights: none is stated: ask the authors" in capsys.readouterr().out
    assert files(cache) == converted(MAR_SCF)
    assert torch.equal(log_prob(load(MAR_SCF)), expected)
    assert len(server.asked) == 1


@pytest.mark.parametrize("folder", ["../", "/tmp/../../", "..\\..\\"])
def test_a_folder_that_leads_out_leads_nowhere(offer, cache, tmp_path, folder):
    offer(MAR_SCF, mar_scf_zip(folder))
    try:
        load(MAR_SCF)
    except ValueError:
        assert files(cache) == []
    else:
        assert files(cache) == converted(MAR_SCF)
    assert files(tmp_path) == sorted({"cache", *(f"cache/{file}" for file in files(cache))})


def test_a_zip_archive_given_by_hand_stays_and_nothing_is_unpacked_beside_it(offer, server, cache, tmp_path):
    offer(MAR_SCF, mar_scf_zip())
    archive = tmp_path / "data" / "upstream" / "ckpts.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(mar_scf_zip())
    load(MAR_SCF)
    assert files(archive.parent) == ["ckpts.zip"] and files(cache) == converted(MAR_SCF)
    assert server.asked == []


def damaged(content, do):
    content = bytearray(content)
    do(content)
    return bytes(content)


def set_in_headers(content, offset_local, offset_central, value):
    """Writes two bytes into both headers of every file of an archive."""
    for signature, offset in ((b"PK\3\4", offset_local), (b"PK\1\2", offset_central)):
        for match in re.finditer(re.escape(signature), bytes(content)):
            struct.pack_into("<H", content, match.start() + offset, value)


def deflated():
    """Noise, which does not become smaller, in the form of what does."""
    content = random.Random(0).randbytes(5000)
    return zipped({f"ckpts/{MEMBER}": content}, zipfile.ZIP_DEFLATED)


def bad_zips():
    whole = mar_scf_zip()
    small = zipped({f"ckpts/{MEMBER}": random.Random(0).randbytes(5000)})
    header = 30 + len(f"ckpts/{MEMBER}")
    return {
        "without the file": zipped({"ckpts/other.pt": b"x", f"{MEMBER}/x": b"x", f"x{MEMBER}": b"x"}),
        "with the file twice": zipped({f"a/{MEMBER}": b"x", f"b/{MEMBER}": b"y"}),
        "empty": zipped({}),
        "no archive": b"<html>moved</html>",
        "cut short": whole[:-1000],
        "its beginning is missing": whole[1000:],
        "a flipped byte": damaged(small, lambda c: c.__setitem__(header + 3, c[header + 3] ^ 255)),
        "flipped bytes in what is compressed": damaged(
            deflated(), lambda c: c.__setitem__(slice(header, header + 9), b"\xff" * 9)
        ),
        "encrypted": damaged(small, lambda c: set_in_headers(c, 6, 8, 1)),
        "in a form nobody knows": damaged(small, lambda c: set_in_headers(c, 8, 10, 77)),
        "a bomb": zipped({f"ckpts/{MEMBER}": bytes(30_000_000)}, zipfile.ZIP_DEFLATED),
    }


ZIP_ERRORS = {
    "without the file": f"has no {MEMBER}",
    "with the file twice": MEMBER,
    "empty": f"has no {MEMBER}",
    "no archive": "is not a zip archive, or is damaged",
    "cut short": "is not a zip archive, or is damaged",
    "its beginning is missing": "is not a zip archive, or is damaged",
    "a flipped byte": "is not a zip archive, or is damaged",
    "flipped bytes in what is compressed": "is not a zip archive, or is damaged",
    "encrypted": "is not a zip archive, or is damaged",
    "in a form nobody knows": "is not a zip archive, or is damaged",
    "a bomb": f"{MEMBER} would unpack to 30000000 bytes",
}


@pytest.mark.parametrize("fault", ZIP_ERRORS)
def test_a_bad_zip_archive_is_refused_and_leaves_nothing(offer, cache, fault):
    offer(MAR_SCF, bad_zips()[fault], sha256=None)
    with pytest.raises(ValueError, match=rf"ckpts\.zip.*{re.escape(ZIP_ERRORS[fault])}"):
        load(MAR_SCF)
    assert files(cache) == []


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(offer, cache, monkeypatch):
    bomb = bytearray(zipped({f"ckpts/{MEMBER}": bytes(30_000_000)}, zipfile.ZIP_DEFLATED))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", bomb, bomb.index(signature) + offset, 1000)
    really_write, most = module.files.write, []
    monkeypatch.setattr(module.files, "write", lambda file, c: (most.append(len(c)), really_write(file, c)))
    offer(MAR_SCF, bytes(bomb))
    with pytest.raises(ValueError, match=r"ckpts\.zip|\.pt"):
        load(MAR_SCF)
    assert max(most, default=0) <= 1000
    assert files(cache) == []


# --- no room to keep it -----------------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_an_error_where_the_file_must_be_fetched(offer, tmp_path, monkeypatch):
    (tmp_path / "in-the-way").write_text("a file")
    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "in-the-way" / "cache"))
    offer(UVA, uva_original())
    with pytest.raises(DownloadError, match=r"cannot be kept in .*in-the-way.*no writing there(.|\n)*Put .* into"):
        load(UVA)


def test_an_original_at_hand_loads_although_the_cache_cannot_be_written(offer, tmp_path, monkeypatch, capsys):
    (tmp_path / "in-the-way").write_text("a file")
    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "in-the-way" / "cache"))
    offer(UVA, uva_original())
    original = tmp_path / "data" / "upstream" / "MNISTFlow_multiscale.ckpt"
    original.parent.mkdir(parents=True)
    original.write_bytes(uva_original())
    expected = log_prob(upstream.uva(uva_state_dict("multiscale_random")).eval())
    assert torch.equal(log_prob(load(UVA)), expected)
    assert "in-the-way" in capsys.readouterr().out


def test_a_disk_that_is_full_when_the_converted_file_is_kept_leaves_nothing(offer, cache, monkeypatch):
    offer(UVA, uva_original())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        try:
            load(UVA)
        except OSError as error:
            assert "No space left" in str(error)
    assert files(cache) == []
    load(UVA)
    assert files(cache) == converted(UVA)


# --- the table --------------------------------------------------------------------------------------------------------

ENTRY = {"sha256": "0" * 64, "bytes": 1, "builder": "simple", "arguments": {}, "purpose": "ours", "licence": "MIT"}
SCORE = {"mean": 1.23456, "standard_error": 0.00678, "num_draws": 8, "num_images": 100}


@pytest.fixture
def listing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved_models").mkdir()
    models = {
        "b-own": {**ENTRY, "test_bits_per_dim": SCORE, "published": "1.078 (M = 8)", "data": "mnist"},
        "a-own": ENTRY,
    }
    Manifest(models).write(tmp_path / "saved_models" / "manifest.json")
    return list_pretrained()


def test_every_name_is_in_the_list_ours_first(listing):
    assert list(listing) == ["a-own", "b-own", *upstream.PUBLISHED]
    assert listing["b-own"]["purpose"] == "ours"
    assert listing[UVA]["licence"] == upstream.PUBLISHED[UVA].licence


def test_a_notebook_shows_published_and_own_figures_in_separate_columns_of_html(listing):
    html = listing._repr_html_()
    assert html.startswith("<table>")
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in html.splitlines() if "<td" in row]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[0] for row in cells] == list(listing)
    assert cells[0] == ["a-own", "no address", "ours", "", "", ""]
    assert cells[1] == ["b-own", "no address", "ours", "1.235 ± 0.007 (M = 8)", "1.078 (M = 8)", "mnist"]
    theirs = {name: (own, published) for name, _, _, own, published, _ in cells if name.startswith("upstream/")}
    assert theirs == {name: ("", entry.published) for name, entry in upstream.PUBLISHED.items()}


def test_a_score_of_many_draws_keeps_apart_from_the_published_one(listing):
    facts = listing.facts("b-own")
    assert facts["bits/dim"] == "1.235 ± 0.007 (M = 8)" and facts["published"] == "1.078 (M = 8)"
    assert listing.facts("a-own")["bits/dim"] == ""


def test_the_names_say_what_they_need_to(monkeypatch):
    for name, entry in upstream.PUBLISHED.items():
        assert re.fullmatch(r"upstream/[a-z0-9-]+", name)
        assert entry.address.startswith("https://") and "/" not in entry.file
        assert entry.purpose and entry.licence and entry.data
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.git_blob is None or re.fullmatch("[0-9a-f]{40}", entry.git_blob)
    assert {"uva-mnist-simple", "uva-mnist-variational", "uva-mnist-multiscale"} <= {
        name.removeprefix("upstream/") for name in upstream.PUBLISHED
    }


def test_a_score_of_theirs_is_not_recorded():
    from nbflows.metrics import BitsPerDim

    with pytest.raises(ValueError, match="for which no scores are stored"):
        pretrained.record(UVA, BitsPerDim(1.0, 0.1, 10, num_draws=1))


def test_an_unknown_name_lists_the_authors_weights(capsys):
    for call in (load_pretrained, pretrained.describe):
        with pytest.raises(ValueError, match=r"no published weights named 'upstream/nope'; .*mnist-simple"):
            call("upstream/nope")
    assert main(["evaluate", "upstream/uva-mnist-simple", "--record"]) == 2
    assert "--record is for a model of ours" in capsys.readouterr().err
