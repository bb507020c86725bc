"""Checkpoints are read without running anything in them; damage is named, never guessed around."""

import argparse
import builtins
import importlib
import io
import os
import pickle
import struct
import sys
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from nbflows.storage.unpickle import MAGIC_NUMBER, PROTOCOL_VERSION, Opaque, read_checkpoint

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])

LIB = """
import torch


class ExponentialMovingAverage(object):
    def __init__(self, module):
        self.module = module
        self.decay = 0.999
        self.shadow_params = {name: param.data + 1 for name, param in module.named_parameters()}
        self.nparams = sum(p.numel() for p in module.parameters())


def squash(x):
    return torch.sigmoid(x)


class ActNorm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("initialized", torch.tensor(1))
        self.activation = squash


class Slots(object):
    __slots__ = ("left", "__dict__")


class Names(dict):
    pass


class Values(list):
    pass


class Members(set):
    pass
"""


@pytest.fixture
def lib(tmp_path, monkeypatch):
    """The module lib.utils: there while a file is written, gone before it is read."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").touch()
    (tmp_path / "lib" / "utils.py").write_text(LIB)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("lib.utils")
    _forget_lib()


def _forget_lib():
    for name in [name for name in sys.modules if name.split(".")[0] == "lib"]:
        del sys.modules[name]


def _saved(tmp_path, content, is_zip):
    file = tmp_path / "checkpoint.pth"
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    return file


def _round_trip(tmp_path, content, is_zip):
    return read_checkpoint(_saved(tmp_path, content, is_zip))


def _pickled(obj, protocol=2):
    """A zip checkpoint's data.pkl, and its archive, by hand."""
    return _zipped({"archive/data.pkl": pickle.dumps(obj, protocol)})


def _zipped(records):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return stream.getvalue()


class _Calls:
    """Pickles to a call of any function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class _Storage:
    """Pickles to a reference to a storage."""

    def __init__(self, kind, key, num_elements, *view):
        self.reference = ("storage", kind, key, "cpu", num_elements, *view)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.reference if isinstance(obj, _Storage) else None


def _pickle_with_storages(obj):
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(obj)
    return stream.getvalue()


def _legacy(content, keys, storages, magic=MAGIC_NUMBER, protocol=PROTOCOL_VERSION, little_endian=True):
    head = [pickle.dumps(part, 2) for part in (magic, protocol, {"little_endian": little_endian})]
    return b"".join([*head, _pickle_with_storages(content), pickle.dumps(keys, 2), storages])


def _name_bytes(value):
    """Part of a test's name: an archive holds the time, and every worker must find the same names."""
    return "bytes" if isinstance(value, bytes) else None


def _tensor_call(storage, offset, size, stride):
    return {"t": _Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())}


@FORMATS
@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(3, 4, dtype=torch.float64),
        torch.randn(5).half(),
        torch.randn(5).bfloat16(),
        torch.tensor([-(2**62), 3]),
        torch.tensor([True, False, True]),
        torch.tensor([1, 255], dtype=torch.uint8),
        torch.tensor([1, 60000], dtype=torch.uint16),
        torch.randn(3, dtype=torch.complex64),
        torch.empty(0),
        torch.empty(3, 0, 2, dtype=torch.int64),
        torch.tensor(2.5),
        torch.arange(24.0).view(2, 3, 4)[:, 1:, ::2],
        torch.arange(6.0).view(2, 3).T,
        torch.tensor([1.0, 2.0]).expand(1000, 2),
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}".removeprefix("torch."),
)
def test_a_tensor_comes_back_as_it_was(tmp_path, tensor, is_zip):
    read = _round_trip(tmp_path, {"tensor": tensor}, is_zip)["tensor"]
    assert (type(read), read.dtype, read.stride()) == (torch.Tensor, tensor.dtype, tensor.stride())
    assert torch.equal(read, tensor) and not read.requires_grad


@FORMATS
def test_many_tensors_keep_their_own_values(tmp_path, is_zip):
    dtypes = [torch.float32, torch.int64, torch.bool, torch.float16]
    tensors = {f"{i}": torch.full((i % 4,), i).to(dtypes[i % 3]) for i in range(50)}
    read = _round_trip(tmp_path, tensors, is_zip)
    assert list(read) == list(tensors)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


@FORMATS
def test_tensors_that_share_memory_still_do(tmp_path, is_zip):
    whole = torch.zeros(4, 4)
    content = {"whole": whole, "row": whole[1], "parameter": nn.Parameter(whole), "apart": torch.zeros(4)}
    read = _round_trip(tmp_path, content, is_zip)
    read["whole"][1, 2] = 7.0
    assert read["row"].tolist() == [0.0, 0.0, 7.0, 0.0]
    assert read["parameter"][1, 2] == 7.0
    assert read["apart"].sum() == 0
    assert read["row"].untyped_storage()._cdata == read["whole"].untyped_storage()._cdata


@FORMATS
@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_parameter_stays_a_parameter(tmp_path, is_zip, requires_grad):
    read = _round_trip(tmp_path, {"p": nn.Parameter(torch.ones(2), requires_grad)}, is_zip)["p"]
    assert type(read) is nn.Parameter and read.requires_grad is requires_grad and read.tolist() == [1.0, 1.0]


@FORMATS
def test_plain_values_come_back_as_they_were(tmp_path, is_zip):
    content = {
        "containers": [(1, 2), {3, 4}, frozenset({5}), OrderedDict(b=1, a=2), {"deep": [{"er": ()}]}],
        "numbers": [True, -1, 2**70, 1.5, 1 + 2j],
        "text": ["ünïcode", b"\x00\xff", b"", None],
        "torch": [torch.Size([2, 3]), torch.float32, torch.bfloat16],
        "numpy": [np.float64(3.28), np.float32(0.5), np.int64(-7), np.bool_(True)],
        5: "a key",
    }
    read = _round_trip(tmp_path, content, is_zip)
    assert read == content
    for name in ["containers", "numbers", "text", "torch", "numpy"]:
        assert [type(value) for value in read[name]] == [type(value) for value in content[name]]


@FORMATS
def test_a_scalar_from_a_big_endian_machine_keeps_its_value(tmp_path, is_zip):
    scalar = _Calls(np.float64(0).__reduce__()[0], np.dtype(">f8"), struct.pack(">d", 3.28))
    assert _round_trip(tmp_path, {"bpd": scalar}, is_zip)["bpd"] == 3.28


@FORMATS
def test_a_list_that_holds_itself_can_be_read(tmp_path, is_zip):
    loop = []
    loop.append(loop)
    read = _round_trip(tmp_path, {"loop": loop}, is_zip)["loop"]
    assert read[0] is read


@FORMATS
def test_a_state_dict_loads_into_its_module(tmp_path, is_zip):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    read = _round_trip(tmp_path, {"model": module.state_dict(), "optimizer": optimizer.state_dict()}, is_zip)
    assert type(read["model"]) is OrderedDict and read["model"]._metadata == module.state_dict()._metadata
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other.load_state_dict(read["model"])
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), module.parameters(), strict=True))
    torch.optim.Adam(other.parameters()).load_state_dict(read["optimizer"])


@FORMATS
def test_the_authors_checkpoint_is_read_without_their_classes(tmp_path, lib, is_zip):
    module = nn.Sequential(lib.ActNorm(), lib.ActNorm())
    file = _saved(
        tmp_path,
        {
            "state_dict": module.state_dict(),
            "args": argparse.Namespace(nblocks="16-16-16", lr=1e-3),
            "ema": lib.ExponentialMovingAverage(module),
            "test_bpd": 3.28,
        },
        is_zip,
    )
    _forget_lib()
    (tmp_path / "lib" / "utils.py").write_text("raise AssertionError('the classes were imported')")
    read = read_checkpoint(file)
    assert "lib" not in sys.modules
    args, ema = read["args"], read["ema"]
    assert (args.name, args.state) == ("argparse.Namespace", {"nblocks": "16-16-16", "lr": 1e-3})
    assert ema.name == "lib.utils.ExponentialMovingAverage" and repr(ema) == f"Opaque({ema.name})"
    assert (ema.state["decay"], ema.state["nparams"], read["test_bpd"]) == (0.999, 4, 3.28)
    assert list(ema.state["shadow_params"]) == ["0.weight", "1.weight"]
    assert ema.state["shadow_params"]["1.weight"].tolist() == [2.0, 3.0]
    first = ema.state["module"].state["_modules"]["0"]
    assert first.name == "lib.utils.ActNorm"
    assert first.state["_parameters"]["weight"].data_ptr() == read["state_dict"]["0.weight"].data_ptr()
    assert issubclass(first.state["activation"], Opaque) and first.state["activation"].name == "lib.utils.squash"


@FORMATS
def test_the_elements_of_unknown_containers_are_kept(tmp_path, lib, is_zip):
    names, slots = lib.Names(a=torch.ones(1), b=2), lib.Slots()
    names.note, slots.left, slots.right = "n", 1, 2
    content = {"d": names, "l": lib.Values([1, 2]), "s": lib.Members([3]), "o": slots, "c": Counter("aab")}
    file = _saved(tmp_path, content, is_zip)
    _forget_lib()
    read = read_checkpoint(file)
    assert all(isinstance(value, Opaque) for value in read.values())
    assert read["d"].elements == [("a", torch.ones(1)), ("b", 2)] and read["d"].state == {"note": "n"}
    assert read["l"].elements == [1, 2]
    assert read["s"].args == ([3],)
    assert read["o"].state == {"left": 1, "right": 2}
    assert (read["c"].name, read["c"].args) == ("collections.Counter", ({"a": 2, "b": 1},))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_of_pickle_is_read(tmp_path, lib, protocol):
    file = tmp_path / "checkpoint.pth"
    slots = lib.Slots()
    slots.left = {1, b"2"}
    file.write_bytes(_pickled({"set": {1}, "bytes": b"\xff", "slots": slots, "l": lib.Values([1, 2])}, protocol))
    read = read_checkpoint(file)
    assert (read["set"], read["bytes"], read["slots"].state) == ({1}, b"\xff", {"left": {1, b"2"}})
    assert read["l"].elements == [1, 2]


@FORMATS
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, torch.load, importlib.import_module])
def test_a_call_in_the_file_is_recorded_and_not_made(tmp_path, function, is_zip):
    trace = tmp_path / "trace"
    argument = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w').close()"
    file = _saved(tmp_path, {"tensor": torch.ones(1), "bad": _Calls(function, argument)}, is_zip)
    read = read_checkpoint(file)
    assert not trace.exists()
    assert read["tensor"].item() == 1.0
    assert isinstance(read["bad"], Opaque) and read["bad"].args == (argument,)
    assert read["bad"].name.endswith(f".{function.__name__}")


def test_names_with_dots_reach_nothing(tmp_path):
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(
        _zipped({"a/data.pkl": b"\x80\x04}\x8c\x01k\x8c\x05torch\x8c\x0edevice.__new__\x93\x8c\x01x\x85Rs."})
    )
    bad = read_checkpoint(file)["k"]
    assert (bad.name, bad.args) == ("torch.device.__new__", ("x",))


# No object of the file but an Opaque has a state, or a file could change what the constructors do.
@pytest.mark.parametrize(
    "target",
    [b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"ctorch\nfloat32\n", b"ctorch\nSize\n)R"],
)
def test_the_state_of_anything_real_is_refused(tmp_path, target):
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(_zipped({"a/data.pkl": b"\x80\x02}U\x01k" + target + b"N}U\x0c__defaults__)s\x86bs."}))
    with pytest.raises(ValueError, match="sets the state of a"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("opcode", "message"),
    [
        (pickle.EXT1 + b"\x01", "damaged at byte 7: KeyError: 130"),
        (pickle.BYTEARRAY8 + struct.pack("<Q", 2**45), "damaged at byte 7: KeyError: 150"),
        (b"I12\n", "damaged at byte 7: KeyError: 73"),
        (pickle.BINBYTES8 + struct.pack("<Q", 2**45), "cut short or damaged at byte"),
        (pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1) + b"hidden", "cut short or damaged at byte"),
        (pickle.BINPERSID, "reference of an unknown kind"),
    ],
)
def test_what_only_a_forged_pickle_has_is_refused(tmp_path, opcode, message):
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(_zipped({"a/data.pkl": b"\x80\x04}U\x01k" + opcode + b"s."}))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(file)


@FORMATS
def test_wherever_a_file_is_cut_short_the_error_names_it(tmp_path, is_zip):
    file = _saved(tmp_path, {"a": torch.arange(50.0), "b": [1, "two"], "c": torch.ones(3).half()}, is_zip)
    whole = file.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(0, len(whole), 1 if len(whole) < 2000 else 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pth cannot be read as a checkpoint of torch: .*\w"):
            read_checkpoint(cut)


@FORMATS
def test_a_damaged_byte_gives_no_error_but_one_that_names_the_file(tmp_path, is_zip):
    file = _saved(tmp_path, {"a": torch.ones(4, 5).T, "b": [1, "two"], "c": argparse.Namespace(d=1)}, is_zip)
    whole = file.read_bytes()
    num_refused = 0
    for position in range(0, len(whole), 1 if len(whole) < 2000 else 3):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            read_checkpoint(file)
        except ValueError as error:
            num_refused += 1
            assert str(file) in str(error)
    assert num_refused > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a zip archive nor a pickle"),
        (b"hello, I am a text\n", "neither a zip archive nor a pickle"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither a zip archive nor a pickle"),
        (b"PK\x03\x04" + bytes(100), "104 bytes are a zip archive that is cut short"),
        (pickle.dumps({"a": 1}), "begins with a dict, not with the magic number 0x1950a86a20f9469cfc6c"),
        (_legacy({}, [], b"", magic=0x1234), "begins with 4660, not with the magic number"),
        (_legacy({}, [], b"", protocol=1002), "protocol is 1002, expected 1001"),
        (_legacy({}, [], b"", little_endian=False), "big-endian"),
        (_zipped({"a/data.pkl": pickle.dumps({}, 2), "a/byteorder": b"big"}), "big-endian"),
        (_zipped({"a/other": b""}), r"0 records \*/data\.pkl"),
        (_zipped({"a/data.pkl": b"", "b/data.pkl": b""}), r"2 records \*/data\.pkl"),
        (_zipped({"a/data.pkl": pickle.dumps([1], 2)}), "holds one list; a checkpoint is a dict"),
    ],
    ids=_name_bytes,
)
def test_a_file_that_is_no_checkpoint_says_why(tmp_path, content, message):
    file = tmp_path / "thing.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"thing\.pth .*{message}"):
        read_checkpoint(file)


def test_a_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("offset", "size", "stride", "message"),
    [
        (0, (11,), (1,), r"size \(11,\) .* needs 11 elements, its storage has 10"),
        (3, (2, 3), (5, 1), r"needs 11 elements, its storage has 10"),
        (0, (2,), (10,), "needs 11 elements"),
        (11, (0,), (1,), "needs 11 elements"),
        (0, (2**62, 2**62), (2**62, 1), "needs .* elements"),
        (-1, (2,), (1,), "offset -1"),
        (9, (2,), (-1,), r"strides \(-1,\)"),
        (0, (2, 2), (1,), r"size \(2, 2\) with strides \(1,\)"),
    ],
)
@FORMATS
def test_a_tensor_must_lie_inside_its_storage(tmp_path, offset, size, stride, message, is_zip):
    content = _tensor_call(_Storage(torch.FloatStorage, "0", 10, *([] if is_zip else [None])), offset, size, stride)
    file = tmp_path / "checkpoint.pth"
    if is_zip:
        file.write_bytes(_zipped({"a/data.pkl": _pickle_with_storages(content), "a/data/0": bytes(40)}))
    else:
        file.write_bytes(_legacy(content, ["0"], struct.pack("<q", 10) + bytes(40)))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("kind", "num_elements", "keys", "storages", "message"),
    [
        (torch.FloatStorage, 10**15, ["0"], bytes(48), r"need 4000000000000000 bytes or more, the file has \d+ left"),
        (torch.FloatStorage, -1, ["0"], bytes(48), "storage 0 has -1 elements"),
        (
            torch.FloatStorage,
            10,
            ["0"],
            struct.pack("<q", 9) + bytes(40),
            "0 has 9 elements of 4 bytes, its tensors say 40",
        ),
        (torch.FloatStorage, 10, ["0"], struct.pack("<q", 10) + bytes(39), "after 39 of the 40 bytes of storage 0"),
        (torch.FloatStorage, 10, ["0"], bytes(7) + b"", "after 0 of the 40 bytes|need 40 bytes"),
        (torch.FloatStorage, 10, ["1"], struct.pack("<q", 10) + bytes(40), "in its tensors or in its list"),
        (torch.FloatStorage, 10, [], bytes(48), "storages 0 are in its tensors or in its list, not in both"),
        (torch.QInt8Storage, 10, ["0"], bytes(48), "storage 0 is a torch.QInt8Storage; known: DoubleStorage"),
    ],
    ids=_name_bytes,
)
def test_storages_of_the_legacy_format_are_checked(tmp_path, kind, num_elements, keys, storages, message):
    file = tmp_path / "checkpoint.pth"
    content = _tensor_call(_Storage(kind, "0", num_elements, None), 0, (1,), (1,))
    file.write_bytes(_legacy(content, keys, storages))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(file)


def test_two_tensors_must_agree_about_their_storage(tmp_path):
    file = tmp_path / "checkpoint.pth"
    content = {n: _tensor_call(_Storage(torch.FloatStorage, "0", n, None), 0, (1,), (1,)) for n in (1, 2)}
    file.write_bytes(_legacy(content, ["0"], struct.pack("<q", 1) + bytes(40)))
    with pytest.raises(ValueError, match="storage 0 has 4 bytes, a tensor in it says 8"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"a/data/0": bytes(39)}, "storage 0 has 39 bytes, a tensor in it says 40"),
        ({"a/data/1": bytes(40)}, "There is no item named 'a/data/0'"),
    ],
)
def test_storages_of_the_zip_format_are_checked(tmp_path, records, message):
    file = tmp_path / "checkpoint.pth"
    content = _tensor_call(_Storage(torch.FloatStorage, "0", 10), 0, (1,), (1,))
    file.write_bytes(_zipped({"a/data.pkl": _pickle_with_storages(content), **records}))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(file)


def test_an_archive_that_unpacks_to_more_than_the_file_is_refused(tmp_path):
    file = tmp_path / "checkpoint.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"a": bytes(10**6)}, 4))
    with pytest.raises(ValueError, match=r"its record a/data.pkl is compressed"):
        read_checkpoint(file)


def test_an_unknown_reference_is_refused(tmp_path):
    file = tmp_path / "checkpoint.pth"
    view = _Storage(torch.FloatStorage, "0", 4, ("1", 2, 2))
    file.write_bytes(_legacy(_tensor_call(view, 0, (1,), (1,)), ["0"], b""))
    with pytest.raises(ValueError, match="reference of an unknown kind"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.datetime64("2019-06-06"), "NumPy scalar of type 'M8'"),
        (torch.ones(2, dtype=torch.complex64).conj(), "conj"),
        (_Calls(__import__("_codecs").encode, "a", "rot13"), "encoding 'rot13'"),
    ],
)
def test_values_that_would_come_back_wrong_are_refused(tmp_path, value, message):
    file = _saved(tmp_path, {"value": value}, is_zip=True)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(file)
