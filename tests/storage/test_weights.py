"""Files of weights: any name is its own file, and whatever is damaged or foreign is a ValueError that names it."""

import json
import random
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nbflows import load_flow, load_pretrained, models, pretrained, save_flow
from nbflows.storage import weights


def other(seed):
    torch.manual_seed(seed)
    return models.simple((1, 8, 8), 17, num_couplings=2, hidden_channels=4, num_blocks=1)


def is_same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("glow-v1.2", "glow-v1.3"),
        ("a.b.c", "a.b"),
        ("a", "a.safetensors.safetensors"),
        ("1.0", "1"),
        (".hidden", "hidden"),
        ("run.2026-11-29", "run.2026-11-30"),
        ("ünï.cödé", "ünï.cödè"),
    ],
)
def test_two_names_are_two_files(tmp_path, name, second):
    files = [save_flow(other(seed), tmp_path / each) for seed, each in enumerate((name, second))]
    assert files[0] != files[1] and len(list(tmp_path.iterdir())) == 4
    for seed, each in enumerate((name, second)):
        for way in (tmp_path / each, str(tmp_path / each), files[seed], files[seed].with_suffix(".json")):
            assert is_same(load_flow(way), other(seed))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".npz", ".bin", ".PT", ".png"])
def test_the_suffix_of_another_kind_of_file_is_refused(tmp_path, suffix):
    save_flow(other(0), tmp_path / "x")
    for act in (load_flow, weights.describe, lambda file: save_flow(other(1), file)):
        with pytest.raises(ValueError, match=rf"x\{suffix} is not a .safetensors file: .* give the folder"):
            act(tmp_path / f"x{suffix}")
    assert len(list(tmp_path.iterdir())) == 2 and is_same(load_flow(tmp_path / "x"), other(0))


def test_a_folder_is_no_name_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        save_flow(other(0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_details_that_json_cannot_say_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="numbers, text, lists and dicts"):
        save_flow(other(0), tmp_path / "x", place=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder as a training leaves it, below the working directory."""
    monkeypatch.chdir(tmp_path)
    flow = other(0)
    save_flow(flow, "runs/digits/model")
    torch.save({"state_dict": {f"flow.{k}": v for k, v in flow.state_dict().items()}}, "runs/digits/best.ckpt")
    return Path("runs/digits")


def test_a_path_is_treated_as_a_path_wherever_a_model_is_named(run):
    for way in (run, run / "model", run / "model.json", run / "model.safetensors"):
        for named in (way, str(way)):
            assert is_same(pretrained.load(named), other(0)) and pretrained.describe(named)["builder"]
    for way in (run / "best.ckpt", "runs/digits/best.ckpt"):
        with pytest.raises(ValueError, match=r"best.ckpt is not a .safetensors file: .* give the folder, runs/digits"):
            pretrained.load(way)
    for way in ("runs/digit", Path("runs/digit/model"), "runs/digits/modl"):
        with pytest.raises(FileNotFoundError, match=r"does not exist.* did you mean '(digits|model)"):
            pretrained.load(way)
    (run / "model.safetensors").unlink()
    assert is_same(pretrained.load(run), other(0))


def test_names_are_text_or_paths_and_a_slip_is_corrected():
    assert is_same(load_pretrained(Path("digits-glow")), load_pretrained("digits-glow"))
    for act in (load_pretrained, pretrained.load, pretrained.describe):
        with pytest.raises(ValueError, match=r"'digits-golw'; did you mean 'digits-glow'") as error:
            act("digits-golw")
        assert len(str(error.value)) < 300
        with pytest.raises(ValueError, match="did you mean 'upstream/uva-mnist-simple'"):
            act("upstream/uva-mnist-simpl")
        for strange in (None, 3, b"digits-glow"):
            with pytest.raises(TypeError, match="a model is named by a str or a Path, not by a"):
                act(strange)


JSON = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"3",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"{" + b" " * 2**22 + b"}",
    b'{"builder": 1, "arguments": {}}',
    b'{"builder": ["digits_simple"], "arguments": {}}',
    b'{"builder": "digits_simple", "arguments": []}',
    b'{"builder": "digits_simple", "arguments": null}',
    b'{"builder": "digits_simple"}',
    b'{"builder": "digits_simple", "arguments": {}, "recipe": null}',
    b'{"builder": "digits_simple", "arguments": {}, "recipe": {"data": 3}}',
    b'{"builder": "digits_simple", "arguments": {}, "task": null}',
    b'{"builder": "digits_simple", "arguments": {}, "task": {"factor": 2}}',
    b'{"builder": "digits_simple", "arguments": {}, "task": {"name": 2}}',
    b'{"builder": "system", "arguments": {}}',
    b'{"builder": "__class__", "arguments": {}}',
]


@pytest.mark.parametrize("content", JSON, ids=range(len(JSON)))
def test_a_foreign_json_is_an_error_that_names_it(tmp_path, content):
    save_flow(other(0), tmp_path / "model")
    (tmp_path / "model.json").write_bytes(content)
    for act in (load_flow, pretrained.load):
        with pytest.raises(ValueError, match="model") as error:
            act(tmp_path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


ARGUMENTS = [
    {"num_couplings": 10**7},
    {"num_couplings": 10**12},
    {"num_couplings": 10**400},
    {"num_couplings": -1},
    {"num_couplings": 1.5},
    {"num_couplings": "8"},
    {"num_couplings": None},
    {"num_blocks": 10**9},
    {"hidden_channels": 20_000},
    {"hidden_channels": 10**6},
    {"hidden_channels": 2**62},
    {"hidden_channels": 0},
    {"shape": [200_000, 200_000]},
    {"shape": [1, 50_000, 50_000]},
    {"shape": [1, 2**40, 8]},
    {"shape": []},
    {"shape": {}},
    {"shape": [[[]]]},
    {"num_grey_levels": 10**9},
    {"num_grey_levels": float("nan")},
    {"nothing": 1},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_sizes_that_do_not_fit_the_weights_are_refused_before_they_take_memory(tmp_path, arguments):
    file = save_flow(other(0), tmp_path / "model").with_suffix(".json")
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "arguments": {**description["arguments"], **arguments}}))
    with pytest.raises(ValueError, match=r"model.safetensors: (its builder does not take|the weights are not)"):
        load_flow(tmp_path / "model")


def test_a_file_from_before_grey_levels_had_their_own_name_is_read(tmp_path):
    flow = models.digits_simple().eval()
    file = save_flow(flow, tmp_path / "model").with_suffix(".json")
    file.write_text(file.read_text().replace("num_grey_levels", "num_levels"))
    assert '"num_levels": 17' in file.read_text()
    loaded = load_flow(tmp_path / "model")
    assert loaded.num_grey_levels == 17 and loaded.built_by == flow.built_by


def test_the_limit_is_of_one_flow_and_leaves_the_others_alone():
    with models.builder.no_larger_than(10, 1000), pytest.raises(ValueError, match="larger than its weights"):
        models.simple(num_couplings=10**9)
    assert models.digits_simple().shape == (1, 8, 8)
    assert not torch.zeros(1).is_meta


def test_weights_that_are_not_finite_are_refused(tmp_path):
    for value in (torch.nan, torch.inf):
        flow = other(0)
        file = save_flow(flow, tmp_path / "spoilt")
        with torch.no_grad():
            next(flow.parameters()).view(-1)[0] = value
        # As another program would.
        safetensors.torch.save_file({name: w.contiguous() for name, w in flow.state_dict().items()}, file)
        with pytest.raises(ValueError, match=r"spoilt.safetensors: .* not finite"):
            load_flow(tmp_path / "spoilt")


CHECKPOINTS = [
    b"",
    b"junk",
    [],
    {},
    {"state_dict": 3},
    {"state_dict": [torch.ones(1)]},
    {"state_dict": {}},
    {"state_dict": {"flow.a": 1}},
    {"state_dict": {1: torch.ones(1)}},
    {"state_dict": {"flow.": torch.ones(1)}},
    {"state_dict": {"other.weight": torch.ones(1)}},
    {"state_dict": {None: None, "flow.x": "y"}},
]


@pytest.mark.parametrize("content", CHECKPOINTS, ids=range(len(CHECKPOINTS)))
def test_a_damaged_checkpoint_of_a_run_is_an_error_that_names_it(run, content):
    (run / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (run / "best.ckpt").write_bytes(content)
    else:
        torch.save(content, run / "best.ckpt")
    with pytest.raises(ValueError, match=r"^runs/digits"):
        load_flow(run)


def test_wherever_a_file_of_a_model_is_cut_or_changed_the_error_names_it(tmp_path):
    """200 damaged files, weights and JSON in turn; what still loads has other weights or other details."""
    file = save_flow(other(0), tmp_path / "model")
    draw = random.Random(18)
    for trial in range(200):
        damaged = file if trial % 2 else file.with_suffix(".json")
        whole = damaged.read_bytes()
        position = draw.randrange(len(whole))
        # In half of the trials within the header, where the sizes are.
        position = position % 2000 if trial % 4 > 1 else position
        change = [b"", struct.pack("<q", draw.getrandbits(62)), bytes([draw.getrandbits(8)])][trial % 3]
        rest = b"" if trial % 5 == 0 else whole[position + len(change) :]
        damaged.write_bytes(whole[:position] + change + rest)
        try:
            load_flow(file)
        except ValueError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)
        damaged.write_bytes(whole)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    import os

    save_flow(other(0), tmp_path / "model")
    for name in ("model.safetensors", "model.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="does not exist, or is not a file"):
            load_flow(tmp_path / "model")
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(whole)


def test_a_description_of_other_weights_is_refused_and_one_without_a_hash_is_not(tmp_path):
    one, two = (
        save_flow(other(seed), tmp_path / str(seed), half=seed == 2, weights_sha256="of another") for seed in (1, 2)
    )
    assert is_same(load_flow(one), other(1)) and load_flow(two)
    one.write_bytes(two.read_bytes())
    with pytest.raises(ValueError, match=r"1.json describes other weights than those of .*1.safetensors .*both files"):
        load_flow(one)
    details = weights.describe(one)
    for damaged in (None, 5, [], "0" * 64):
        one.with_suffix(".json").write_text(json.dumps({**details, "weights_sha256": damaged}))
        with pytest.raises(ValueError, match="describes other weights"):
            load_flow(one)
    # As versions before wrote it.
    del details["weights_sha256"]
    one.with_suffix(".json").write_text(json.dumps(details))
    assert is_same(load_flow(one), load_flow(two))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_flow_comes_back_in_the_precision_of_its_weights_and_never_in_half_precision(tmp_path, dtype):
    flow = models.digits_glow(num_steps=1, hidden_channels=4)
    flow.train().log_prob(torch.randint(17, (32, 1, 8, 8)))
    flow = flow.eval().double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter) / 100)
    loaded = load_flow(save_flow(flow.to(dtype), tmp_path / "model"))
    assert loaded.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert is_same(loaded, flow.to(loaded.dtype))


def test_a_flow_in_float64_is_not_stored_in_half_precision_unasked(tmp_path):
    with pytest.raises(ValueError, match=r"save flow.float\(\), or without half"):
        save_flow(other(1).double(), tmp_path / "model", half=True)
    assert not list(tmp_path.iterdir())
