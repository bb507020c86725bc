"""A model comes by its name from the folder, the cache or an address: with the published bytes, or not at all."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

import nbflows
from nbflows import Flow, load_flow, load_pretrained, models, pretrained, save_flow
from nbflows.storage import weights
from nbflows.storage.download import DownloadError
from nbflows.storage.manifest import Manifest, sha256
from tests import http_server
from tests.http_server import give_up_after

IMAGES = torch.randint(17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(1)).byte()


def small_flow(seed=0):
    """As small as an image flow can be; its weights matter, where those of an untrained one multiply zeros."""
    torch.manual_seed(seed)
    flow = models.simple((1, 8, 8), 17, num_couplings=2, hidden_channels=4, num_blocks=1).eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return flow


def log_prob(flow, images=IMAGES, context=None):
    """With the same noise each time."""
    torch.manual_seed(5)
    with torch.no_grad():
        return flow.log_prob(images, context)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory whose manifest has a model "tiny" that is not there; an empty cache; no address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NBFLOWS_PRETRAINED_URL", raising=False)
    flow = small_flow()
    place = SimpleNamespace(
        flow=flow,
        content=weights.to_bytes(flow),
        saved=tmp_path / "saved_models",
        cache=tmp_path / "cache",
        base_url=None,
    )
    place.saved.mkdir()
    announce(place, place.content)
    return place


def announce(place, content, base_url=None, **changes):
    """Puts the model "tiny" into the manifest, with the hash of this content."""
    builder, arguments = place.flow.built_by
    known = {"builder": builder, "arguments": arguments, "purpose": "a test", "licence": "MIT"}
    entry = {"sha256": sha256(content), "bytes": len(content), **known, **changes}
    Manifest({"tiny": entry}, base_url).write(place.saved / "manifest.json")


def files(folder):
    """Everything below a folder, hidden files too."""
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def offer(server, monkeypatch, *answers):
    """The server has these answers for the model, and its address is in the environment."""
    server.answers["/tiny.safetensors"] = list(answers)
    monkeypatch.setenv("NBFLOWS_PRETRAINED_URL", server.address)


def load():
    return load_pretrained("tiny", progress=False)


def assert_is(flow, expected):
    assert not flow.training
    assert torch.equal(log_prob(flow), log_prob(expected))


def test_the_flows_of_these_tests_can_be_told_apart():
    assert not torch.isclose(log_prob(small_flow()), log_prob(small_flow(seed=1))).any()


# --- where it is looked for -------------------------------------------------------------------------------------------


def test_the_folder_comes_first_and_nothing_is_asked_or_cached(here, server, monkeypatch):
    offer(server, monkeypatch, http_server.whole(here.content))
    (here.saved / "tiny.safetensors").write_bytes(here.content)
    assert_is(load(), here.flow)
    assert server.asked == []
    assert not here.cache.exists()


def test_what_is_not_in_the_folder_is_downloaded_once_and_then_cached(here, server, monkeypatch):
    offer(server, monkeypatch, http_server.whole(here.content))
    assert_is(load(), here.flow)
    (cached,) = here.cache.iterdir()
    assert cached.name == f"tiny-{sha256(here.content)[:12]}.safetensors"
    assert cached.read_bytes() == here.content
    monkeypatch.delenv("NBFLOWS_PRETRAINED_URL")
    assert_is(load(), here.flow)
    assert server.asked == ["/tiny.safetensors"]
    # Nor into the folder, which is under version control.
    assert files(here.saved) == ["manifest.json"]


@pytest.mark.parametrize("slash", ["", "/", "/models/v1", "/models/v1/"])
def test_the_address_may_have_folders_and_a_slash_at_its_end(here, server, monkeypatch, slash):
    server.answers[f"{slash.rstrip('/')}/tiny.safetensors"] = [http_server.whole(here.content)]
    monkeypatch.setenv("NBFLOWS_PRETRAINED_URL", f"{server.address}{slash}")
    assert_is(load(), here.flow)


def test_the_manifest_has_an_address_too_and_the_variable_comes_before_it(here, server, monkeypatch):
    server.answers["/a/tiny.safetensors"] = server.answers["/b/tiny.safetensors"] = [http_server.whole(here.content)]
    announce(here, here.content, base_url=f"{server.address}/a")
    assert_is(load(), here.flow)
    assert server.asked == ["/a/tiny.safetensors"]
    next(here.cache.iterdir()).unlink()
    monkeypatch.setenv("NBFLOWS_PRETRAINED_URL", f"{server.address}/b")
    assert_is(load(), here.flow)
    assert server.asked == ["/a/tiny.safetensors", "/b/tiny.safetensors"]


def test_the_cache_is_the_users_unless_a_variable_names_another(monkeypatch, tmp_path):
    import pooch

    monkeypatch.setenv("NBFLOWS_CACHE", str(tmp_path / "mine"))
    assert pretrained.cache_folder() == tmp_path / "mine"
    for nothing in ("", None):
        monkeypatch.setenv("NBFLOWS_CACHE", nothing) if nothing == "" else monkeypatch.delenv("NBFLOWS_CACHE")
        assert pretrained.cache_folder() == Path(pooch.os_cache("nbflows"))


def test_two_versions_of_a_model_share_a_cache(here, server, monkeypatch):
    other = small_flow(seed=1)
    offer(server, monkeypatch, http_server.whole(here.content), http_server.whole(weights.to_bytes(other)))
    assert_is(load(), here.flow)
    announce(here, weights.to_bytes(other))
    assert_is(load(), other)
    announce(here, here.content)
    assert_is(load(), here.flow)
    assert len(server.asked) == 2 and len(files(here.cache)) == 2


def test_the_download_shows_a_bar_that_can_be_left_out(here, server, monkeypatch, capsys):
    offer(server, monkeypatch, http_server.whole(here.content))
    load()
    assert capsys.readouterr() == ("", "")
    next(here.cache.iterdir()).unlink()
    load_pretrained("tiny")
    shown = capsys.readouterr()
    assert "tiny" in shown.out and "100%" in shown.out and shown.err == ""
    # From the cache there is nothing to wait for.
    load_pretrained("tiny")
    assert capsys.readouterr() == ("", "")


def test_it_goes_to_the_device_that_is_asked_for(here):
    (here.saved / "tiny.safetensors").write_bytes(here.content)
    flow = load_pretrained("tiny", device="meta")
    assert {parameter.device.type for parameter in flow.parameters()} == {"meta"}


def test_float16_weights_become_float32(here):
    content = weights.to_bytes(here.flow, half=True)
    assert len(content) < 0.7 * len(here.content)
    announce(here, content)
    (here.saved / "tiny.safetensors").write_bytes(content)
    flow = load()
    assert {parameter.dtype for parameter in flow.parameters()} == {torch.float32}
    for ours, theirs in zip(flow.parameters(), here.flow.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())


def test_unknown_fields_in_the_manifest_do_not_hinder_loading(here):
    announce(here, here.content, colour="blue", check={"new": [1, 2]})
    file = here.saved / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "mirrors": ["https://example.org"]}))
    (here.saved / "tiny.safetensors").write_bytes(here.content)
    assert_is(load(), here.flow)


@pytest.mark.parametrize("name", ["tinny", "Tiny", "../tiny", "tiny.safetensors", "saved_models/tiny", ""])
def test_only_names_of_the_manifest_are_names(here, server, monkeypatch, name):
    offer(server, monkeypatch, http_server.whole(here.content))
    (here.saved / "tiny.safetensors").write_bytes(here.content)
    with pytest.raises(ValueError, match=rf"no pretrained model named {re.escape(repr(name))}.*available: tiny"):
        load_pretrained(name, progress=False)
    assert server.asked == []


# --- when it cannot be had --------------------------------------------------------------------------------------------


def assert_names_the_ways_by_hand(error, place):
    cached = place.cache / f"tiny-{sha256(place.content)[:12]}.safetensors"
    assert f"copy saved_models/tiny.safetensors of a clone of nbflows to {cached}; or train it" in str(error)
    assert str(error).endswith("nbflows train tiny")


def assert_names_the_three_ways_out(error, place):
    message = str(error)
    assert message.startswith(f"tiny is neither in saved_models nor in {place.cache}, and could not be downloaded: ")
    assert "Set NBFLOWS_PRETRAINED_URL to another address that has it, or NBFLOWS_CACHE to a folder that" in message
    assert_names_the_ways_by_hand(error, place)


def test_without_an_address_the_error_names_the_ways_that_there_are(here):
    with pytest.raises(DownloadError, match="there is no address to download it from yet") as refused:
        load()
    assert "NBFLOWS_PRETRAINED_URL" not in str(refused.value)
    assert_names_the_ways_by_hand(refused.value, here)
    assert files(here.cache) == []
    # The second of them works.
    here.cache.mkdir(parents=True, exist_ok=True)
    Path(re.search(r"nbflows to (\S+);", str(refused.value))[1]).write_bytes(here.content)
    assert_is(load(), here.flow)


WRONG = {
    "cut off": (lambda content: http_server.cut_off(content, 1000), "broke off in the middle"),
    "cut off without a length": (lambda content: http_server.without_length(content[:1000]), "is not the file"),
    "other bytes": (lambda content: http_server.whole(bytes(len(content))), "is not the file"),
    "not found": (lambda content: http_server.status(404), "answers 404 Not Found"),
    "out of order": (lambda content: http_server.status(500), "answers 500 Internal Server Error"),
    "a stall": (lambda content: http_server.stall(content, 1000), r"sends nothing for 0\.5 s"),
    "no end": (lambda content: http_server.endless, "sends more than the"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_failing_download_leaves_nothing_and_the_error_names_the_ways_out(here, server, monkeypatch, fault):
    answer, message = WRONG[fault]
    if fault == "a stall":
        give_up_after(0.5, monkeypatch)
    offer(server, monkeypatch, answer(here.content))
    with pytest.raises(DownloadError, match=message) as refused:
        load()
    assert f"{server.address}/tiny.safetensors" in str(refused.value)
    assert_names_the_three_ways_out(refused.value, here)
    assert files(here.cache) == []


def test_no_server_at_all_is_an_error_that_names_the_ways_out(here, server, monkeypatch):
    offer(server, monkeypatch)
    server.stop()
    with pytest.raises(DownloadError, match="cannot be reached") as refused:
        load()
    assert_names_the_three_ways_out(refused.value, here)
    assert files(here.cache) == []


def test_an_address_of_files_is_refused_with_the_ways_out(here, monkeypatch):
    (here.saved.parent / "tiny.safetensors").write_bytes(here.content)
    monkeypatch.setenv("NBFLOWS_PRETRAINED_URL", here.saved.parent.as_uri())
    with pytest.raises(DownloadError, match="is not an address of http or https") as refused:
        load()
    assert_names_the_three_ways_out(refused.value, here)


def test_a_server_that_fails_once_is_forgiven(here, server, monkeypatch):
    offer(server, monkeypatch, http_server.status(500), http_server.whole(here.content))
    assert_is(load(), here.flow)
    assert len(server.asked) == 2 and len(files(here.cache)) == 1


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_variable(here, server, monkeypatch):
    offer(server, monkeypatch, http_server.whole(here.content))
    (here.saved.parent / "in-the-way").write_text("a file")
    here.cache = here.saved.parent / "in-the-way" / "cache"
    monkeypatch.setenv("NBFLOWS_CACHE", str(here.cache))
    with pytest.raises(DownloadError, match=f"cannot be kept in {here.cache}: no writing there") as refused:
        load()
    assert_names_the_three_ways_out(refused.value, here)


# --- wrong and hostile files ------------------------------------------------------------------------------------------


def test_a_wrong_file_in_the_folder_is_refused_and_not_opened(here, server, monkeypatch):
    offer(server, monkeypatch, http_server.whole(here.content))
    (here.saved / "tiny.safetensors").write_bytes(weights.to_bytes(small_flow(seed=1)))
    monkeypatch.setattr(weights, "parse", lambda *arguments: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=r"tiny.safetensors is not the published tiny: its SHA-256 begins with .* git"):
        load()


def test_a_wrong_file_in_the_cache_is_replaced(here, server, monkeypatch):
    offer(server, monkeypatch, http_server.whole(here.content))
    load()
    (cached,) = here.cache.iterdir()
    cached.write_bytes(weights.to_bytes(small_flow(seed=1)))
    assert_is(load(), here.flow)
    assert cached.read_bytes() == here.content and files(here.cache) == [cached.name]


def test_a_wrong_file_in_the_cache_that_cannot_be_replaced_is_not_opened(here, server, monkeypatch):
    offer(server, monkeypatch, http_server.whole(here.content), http_server.status(404))
    load()
    (cached,) = here.cache.iterdir()
    cached.write_bytes(weights.to_bytes(small_flow(seed=1)))
    monkeypatch.setattr(weights, "parse", lambda *arguments: pytest.fail("it was opened"))
    with pytest.raises(DownloadError, match="answers 404") as refused:
        load()
    assert_names_the_three_ways_out(refused.value, here)


class Harm:
    """What a pickle can do: here it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def hostile_pickles(marker):
    """Pickles that make the file when they are read, as pickle and as torch write them."""
    import io

    content = {"bijection.weight": Harm(marker)}
    by_torch, old = io.BytesIO(), io.BytesIO()
    torch.save(content, by_torch)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    return {"a pickle": pickle.dumps(content), "torch's zip": by_torch.getvalue(), "torch's old form": old.getvalue()}


@pytest.mark.parametrize("announced", [True, False], ids=["the manifest has its hash", "the manifest has another"])
@pytest.mark.parametrize("where", ["folder", "cache", "address"])
@pytest.mark.parametrize("form", ["a pickle", "torch's zip", "torch's old form"])
def test_a_pickle_under_our_name_is_refused_and_runs_nothing(here, server, monkeypatch, form, where, announced):
    marker = here.saved.parent / "harm"
    content = hostile_pickles(marker)[form]
    # The pickle is harmful indeed.
    pickle.loads(hostile_pickles(marker)["a pickle"])
    assert marker.exists()
    marker.unlink()
    if announced:
        announce(here, content)
    if where == "folder":
        (here.saved / "tiny.safetensors").write_bytes(content)
    elif where == "cache":
        here.cache.mkdir()
        (here.cache / f"tiny-{sha256(content if announced else here.content)[:12]}.safetensors").write_bytes(content)
    else:
        offer(server, monkeypatch, http_server.whole(content))
    if announced:
        with pytest.raises(ValueError, match=r"tiny.*\.safetensors is not a safetensors file, or is damaged"):
            load()
    else:
        with pytest.raises((ValueError, DownloadError), match=r"is not the (published|file)|is neither in"):
            load()
    assert not marker.exists()


def with_header(header, data=b"", length=None):
    """The bytes of a safetensors file with this header, and perhaps a lie about the header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


LIES = {
    "nothing": b"",
    "a few bytes": b"\x08\x00\x00",
    "zeros": bytes(100),
    "a web page": b"<html>log in first</html>",
    "a gigantic header": with_header({"a": tensor(0, 8)}, bytes(8), length=2**60),
    "a header longer than the file": with_header({"a": tensor(0, 8)}, bytes(8), length=5000),
    "a header of negative length": with_header({"a": tensor(0, 8)}, bytes(8), length=2**64 - 1),
    "a header that is cut": with_header({"a": tensor(0, 8)}, bytes(8), length=20),
    "a header that is not JSON": with_header(b"{'a': }"),
    "a header that is a list": with_header([1, 2]),
    "a header that is not text": with_header(b"\xff\xfe{}"),
    "offsets behind the end": with_header({"a": tensor(0, 8000, (2000,))}, bytes(8)),
    "offsets that are gigantic": with_header({"a": tensor(0, 2**62, (2**60,))}, bytes(8)),
    "offsets that are negative": with_header({"a": tensor(-8, 0)}, bytes(8)),
    "offsets that go backwards": with_header({"a": tensor(8, 0)}, bytes(8)),
    "offsets that overlap": with_header({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
    "a hole between tensors": with_header({"a": tensor(0, 8), "b": tensor(16, 24)}, bytes(24)),
    "bytes behind the last tensor": with_header({"a": tensor(0, 8)}, bytes(64)),
    "a shape larger than its bytes": with_header({"a": tensor(0, 8, (1000, 1000))}, bytes(8)),
    "a shape that overflows": with_header({"a": tensor(0, 8, (2**32, 2**32, 2))}, bytes(8)),
    "a negative shape": with_header({"a": tensor(0, 8, (-2,))}, bytes(8)),
    "an unknown number format": with_header({"a": tensor(0, 8, dtype="F99")}, bytes(8)),
    "a number format that torch has not": with_header({"a": tensor(0, 6, (8,), dtype="F6_E2M3")}, bytes(6)),
    "no offsets": with_header({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_even_if_the_manifest_has_its_hash(here, lie):
    announce(here, LIES[lie])
    (here.saved / "tiny.safetensors").write_bytes(LIES[lie])
    with pytest.raises(ValueError, match=r"tiny.safetensors is not a safetensors file, or is damaged"):
        load()


def test_the_same_is_said_of_a_file_without_a_name(here):
    file = save_flow(here.flow, here.saved / "mine")
    for content in LIES.values():
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"mine.safetensors is not a safetensors file, or is damaged"):
            load_flow(file)


def changed_tensors(flow):
    state = flow.state_dict()
    first = next(iter(state))
    return {
        "another shape": {**state, first: torch.zeros(3, 5, 7)},
        "one less": {name: value for name, value in state.items() if name != first},
        "one more": {**state, "bijection.more": torch.zeros(2)},
        "none": {},
        "other names": {f"x.{name}": value for name, value in state.items()},
    }


@pytest.mark.parametrize("change", ["another shape", "one less", "one more", "none", "other names"])
def test_tensors_that_are_not_the_builders_are_refused(here, change):
    content = safetensors.torch.save({k: v.contiguous() for k, v in changed_tensors(here.flow)[change].items()})
    announce(here, content)
    (here.saved / "tiny.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="tiny: the weights are not those of its builder"):
        load()


@pytest.mark.parametrize("builder", ["os.system", "Flow", "__import__", "builder", "caflow.caflow", "__all__", ""])
def test_only_builders_are_called(here, builder):
    announce(here, here.content, builder=builder, arguments={"command": f"touch {here.saved.parent}/harm"})
    (here.saved / "tiny.safetensors").write_bytes(here.content)
    with pytest.raises(ValueError, match=rf"tiny: unknown builder {builder!r}; known: .*digits_simple"):
        load()
    assert not (here.saved.parent / "harm").exists()


@pytest.mark.parametrize("name", ["digits_simple", "digits_glow", "residual_flow_mnist", "digits_caflow"])
def test_arguments_that_a_builder_does_not_take_are_an_error(here, name):
    announce(here, here.content, builder=name, arguments={"shape": [1, 8, 8], "num_wheels": 4})
    (here.saved / "tiny.safetensors").write_bytes(here.content)
    with pytest.raises(ValueError, match=r"tiny: its builder does not take the arguments.*num_wheels"):
        load()


# --- two at once ------------------------------------------------------------------------------------------------------

LOAD = """
from nbflows import load_pretrained
from nbflows.storage import download

download.TIMEOUT = 60, 60
flow = load_pretrained("tiny", progress=False)
print(*(parameter.double().sum().item() for parameter in flow.parameters()))
"""


@pytest.mark.slow  # Two fresh processes: a race shows in no other way.
def test_two_processes_that_download_at_the_same_time_both_succeed(here, server, monkeypatch):
    both = threading.Barrier(2)
    slowly = http_server.in_pieces(here.content, 1000, seconds=0.01)

    def answer(handler):
        # Neither gets a byte before both have asked.
        both.wait(timeout=60)
        slowly(handler)

    offer(server, monkeypatch, answer)
    package = str(Path(nbflows.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", LOAD]
    processes = [
        subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    expected = " ".join(str(parameter.double().sum().item()) for parameter in here.flow.parameters())
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert (process.returncode, out.strip()) == (0, expected), error
    assert server.asked == ["/tiny.safetensors"] * 2
    assert files(here.cache) == [f"tiny-{sha256(here.content)[:12]}.safetensors"]
    monkeypatch.delenv("NBFLOWS_PRETRAINED_URL")
    assert_is(load(), here.flow)


# --- what is known of models ------------------------------------------------------------------------------------------


def test_a_name_a_file_and_a_folder_are_told_apart(here):
    (here.saved / "tiny.safetensors").write_bytes(here.content)
    file = save_flow(small_flow(seed=1), here.saved.parent / "run" / "model", colour="blue")
    assert_is(pretrained.load("tiny"), here.flow)
    for own in (file, str(file), file.parent, str(file.parent)):
        assert_is(pretrained.load(own), small_flow(seed=1))
        assert pretrained.describe(own)["colour"] == "blue"
    assert pretrained.describe("tiny")["purpose"] == "a test"


# --- every builder ----------------------------------------------------------------------------------------------------

_RESIDUAL = {"num_blocks": (1, 1), "hidden_channels": 4, "num_end_blocks": 1, "end_features": 4}
_TUTORIAL = {"shape": (1, 8, 8), "num_grey_levels": 17, "num_blocks": 1}
BUILDERS = {
    "caflow": {
        "shape": (3, 16, 16),
        "source_channels": 1,
        "num_scales": 2,
        "num_steps": 1,
        "num_relation_steps": 1,
        "hidden_channels": 4,
        "relation_channels": 4,
    },
    "digits_caflow": {"source_channels": 1, "relation": "shared", "num_steps": 1, "hidden_channels": 4},
    "digits_glow": {"num_steps": 1, "hidden_channels": 4},
    "digits_iaf": {"num_layers": 1, "hidden_features": 64},
    "digits_joint_residual_flow": _RESIDUAL,
    "digits_maf": {"num_layers": 1, "hidden_features": 64},
    "digits_mar_scf": {"num_steps": 1, "hidden_channels": 4, "prior_channels": 4},
    "digits_multiscale": {},
    "digits_nsf": {"num_steps": 1, "hidden_channels": 4},
    "digits_pixelflow": {},
    "digits_residual_flow": _RESIDUAL,
    "digits_simple": {},
    "digits_variational": {},
    "glow": {"shape": (1, 8, 8), "num_scales": 2, "num_steps": 1, "hidden_channels": 4, "num_noise_couplings": 1},
    "iaf_2d": {"num_layers": 2, "hidden_features": 4},
    "joint_residual_flow": {"shape": (1, 8, 8), "num_classes": 3, **_RESIDUAL},
    "maf_2d": {"num_layers": 2, "hidden_features": 4},
    "mar_scf": {"shape": (1, 8, 8), "num_scales": 2, "num_steps": 1, "hidden_channels": 4, "num_blocks": 1},
    "multiscale": {**_TUTORIAL, "num_couplings": (1, 1, 1), "hidden_channels": (4, 4, 4), "num_noise_couplings": 1},
    "nsf_2d": {"num_layers": 2, "hidden_features": 4},
    "tarflow": {"shape": (1, 8, 8), "width": 8, "num_blocks": 2, "num_layers": 1, "num_heads": 2},
    "pixelflow": {"shape": (3, 8, 8), "piece": 4, "width": 8, "num_layers": 1, "num_heads": 2, "hidden": 4},
    "realnvp_2d": {"num_couplings": 2, "hidden_features": 4},
    "residual_flow": {"shape": (3, 8, 8), **_RESIDUAL},
    "residual_flow_2d": {"num_blocks": 2, "hidden_features": 4, "num_hidden": 1},
    "residual_flow_celeba_hq": {"shape": (3, 8, 8), **_RESIDUAL},
    "residual_flow_imagenet32": {"shape": (3, 8, 8), **_RESIDUAL},
    "residual_flow_imagenet64": {"shape": (3, 8, 8), **_RESIDUAL},
    "residual_flow_mnist": {"shape": (1, 8, 8), **_RESIDUAL},
    "simple": {**_TUTORIAL, "num_couplings": 1, "hidden_channels": 4},
    "variational": {**_TUTORIAL, "num_couplings": 1, "hidden_channels": 4, "num_noise_couplings": 1},
}


def test_no_builder_is_forgotten():
    assert sorted(BUILDERS) == sorted(models.__all__)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_flow_of_every_builder_is_saved_and_loaded(name, tmp_path):
    flow = getattr(models, name)(**BUILDERS[name])
    x = torch.randn(8, 2) if len(flow.shape) == 1 else torch.randint(16, (8, *flow.shape)).byte()
    context = None if flow.context_shape is None else torch.randint(16, (8, *flow.context_shape)).byte()
    # Some layers look at their first data.
    with torch.no_grad():
        flow.log_prob(x, context)
        for parameter in flow.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    flow.eval()
    expected = log_prob(flow, x, context)
    file = save_flow(flow, tmp_path / "flow")
    again = load_flow(file)
    assert torch.equal(log_prob(again, x, context), expected)
    assert again.built_by == flow.built_by and again.built_by[0] == name
    assert set(BUILDERS[name]) <= set(flow.built_by[1])
    assert files(tmp_path) == ["flow.json", "flow.safetensors"]
    # What the JSON says is enough, whatever the defaults will be.
    assert json.loads(json.dumps(flow.built_by[1])) == json.loads((tmp_path / "flow.json").read_text())["arguments"]


def test_defaults_are_remembered_and_arguments_by_position_have_their_names():
    name, arguments = models.simple((1, 8, 8), 17, hidden_channels=4).built_by
    assert name == "simple"
    assert arguments == {
        "shape": (1, 8, 8),
        "num_grey_levels": 17,
        "num_couplings": 8,
        "hidden_channels": 4,
        "num_blocks": 3,
    }


def test_a_flow_that_was_put_together_by_hand_is_refused_with_a_clear_error(tmp_path):
    flow = Flow(small_flow().bijection, (1, 8, 8))
    assert flow.built_by is None
    with pytest.raises(ValueError, match=r"put together by hand.*save its state_dict.*a function of nbflows.models"):
        save_flow(flow, tmp_path / "deep" / "flow")
    assert not (tmp_path / "deep").exists()


def test_a_budget_counts_the_trainings_that_a_model_started_from():
    first = {"steps": 10, "seconds": 60}
    second = {"steps": 5, "seconds": 30, "started_from": {"model": "a", **first}}
    assert pretrained.total_budget(first) == (10, 1.0)
    assert pretrained.total_budget(second) == (15, 1.5)
    assert pretrained.total_budget({"steps": 1, "seconds": 6, "started_from": second}) == (16, 1.6)


def test_one_loader_takes_names_files_and_folders(tmp_path):
    flow = nbflows.load("digits-multiscale")
    file = nbflows.save_flow(flow, tmp_path / "run" / "model")
    for model in ("digits-multiscale", file, str(file), tmp_path / "run"):
        loaded = nbflows.load(model, "cpu")
        assert not loaded.training
        pairs = zip(flow.state_dict().values(), loaded.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match="no pretrained model named 'digits-multiscales'; did you mean"):
        nbflows.load("digits-multiscales")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist"):
        nbflows.load(tmp_path / "none.safetensors")
