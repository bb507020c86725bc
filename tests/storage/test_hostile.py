"""Files made to harm: each ends in ValueError, in two seconds and 300 MiB at most, measured in a process of its own."""

import io
import json
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

resource = pytest.importorskip("resource")

HEAD = b"\x80\x02"
# Nested tuples, each twice the one before: 2^60 steps to hash or to print the last.
BOMB = b")" + b"q\x00h\x00\x86" * 60


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def called(name: str, arguments: bytes) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + arguments + b"R"


def pickles() -> dict[str, bytes]:
    """What may stand as one value of a dict in a pickle, by name."""
    long = b"(" + b"K\x01" * 100_000
    again = b"q\x00" + b"0"
    get = b"h\x00"
    storage = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0atQ"
    tensor = "torch._utils _rebuild_tensor_v2"
    rest = b"\x89}t"
    return {
        "hash of a key": b"}" + BOMB + b"Ns",
        "hash of keys": b"}(" + BOMB + b"Nu",
        "hash in a dict": b"(" + BOMB + b"Nd",
        "hash in a frozenset": b"(" + BOMB + b"\x91",
        "hash in a set": b"\x8f(" + BOMB + b"\x90",
        "hash in set()": called("builtins set", b"]" + BOMB + b"a\x85"),
        "hash in frozenset()": called("builtins frozenset", b"]" + BOMB + b"a\x85"),
        "hash in OrderedDict()": called("collections OrderedDict", b"]" + BOMB + b"N\x86a\x85"),
        "hash of a flat tuple": long + b"t" + again + b"}" + (get + b"Ns") * 20_000,
        "text of a reference": BOMB + b"Q",
        "text of a storage": b"((" + text("storage") + BOMB + BOMB + text("cpu") + b"K\x0atQ",
        "text of a numpy type": called(
            "numpy.core.multiarray scalar", called("numpy dtype", BOMB + b"\x85") + b"U\x01a\x86"
        ),
        "text of an encoding": called("_codecs encode", text("a") + BOMB + b"\x86"),
        "text of metadata": called(tensor, storage[1:] + b"K\x00))\x89}" + BOMB + b"t"),
        "text of a size": called(tensor, b"(" + storage[1:] + b"K\x00" + BOMB + BOMB + rest),
        "a state for a tuple": BOMB + b"}b",
        "a list copied again": long + b"t" + again + called("builtins set", get + b"\x85") * 2000,
        "text coded again": text("x" * 10**6) + again + called("_codecs encode", get + text("latin1") + b"\x86") * 3000,
        "a dict copied again": b"}("
        + b"".join(text(f"{i}") + b"N" for i in range(20_000))
        + b"u"
        + again
        + (called("collections OrderedDict", b")") + get + b"b") * 3000,
        "classes": b"".join(f"cm\nn{i}\n".encode() for i in range(300_000)),
        "objects": b"cm\nn\n" + again + (get + b")R") * 500_000,
        "ordered dicts": b"ccollections\nOrderedDict\n" + again + (get + b")R") * 500_000,
        "sets": b"\x8f" * 3_000_000,
        "lists": b"]" * 5_000_000,
        "dicts": b"}" * 5_000_000,
        "deep lists": b"]" * 400_000 + b"a" * 399_999,
        "deep tuples": b")" + b"\x85" * 900_000,
        "copies of the top": b"N" + b"2" * 5_000_000,
        "a long number": b"\x8b" + struct.pack("<I", 2 * 10**6) + b"\x7f" * 2 * 10**6,
        "a long number in text": b"I" + b"9" * 10**6 + b"\n",
        "a longer number in text": b"L" + b"9" * 4000 + b"L\n",
        "keys that are long numbers": b"\x8b"
        + struct.pack("<I", 10**6)
        + b"\x7f" * 10**6
        + again
        + b"}"
        + (get + b"Ns") * 50_000,
        "bytes that are not there": b"B" + struct.pack("<I", 2**31 - 1) + b"x",
        "text that is not there": b"X" + struct.pack("<I", 2**32 - 1) + b"x",
        "more that is not there": b"\x8d" + struct.pack("<Q", 2**40) + b"x",
        "a frame that is not there": b"\x95" + struct.pack("<Q", 2**40) + b"N",
        "a bytearray": b"\x96" + struct.pack("<Q", 2**40),
        "a far place in the memo": b"Nr" + struct.pack("<I", 2**31) + b"0N",
        "a key in front of get": called("collections OrderedDict", b")") + b"}" + text("get") + b"Nsb",
    }


def zipped(pickled: bytes, **records: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in {"data.pkl": pickled, **records}.items():
            archive.writestr(f"a/{name}", content)
    return stream.getvalue()


def legacy(pickled: bytes) -> bytes:
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return start + pickled + pickle.dumps([], 2)


def stretched(shape: tuple, stride: tuple) -> torch.Tensor:
    return torch.zeros(1).as_strided(shape, stride)


def checkpoints() -> dict[str, dict]:
    """With the keys of a system, and tensors of few bytes that claim to be large."""
    large = stretched((1, 1, 50_000, 50_000), (0, 0, 0, 0))
    wide = stretched((6000, 2, 3, 3), (0, 0, 0, 0))
    many = {f"flows.{i}.network.nn.0.weight": torch.zeros(1, 2, 3, 3) for i in range(1000)}
    return {
        "uva mask": {"flows.0.mask": large, "flows.0.network.nn.0.weight": torch.zeros(4, 2, 3, 3)},
        "uva width": {"flows.0.mask": torch.ones(1, 1, 8, 8), "flows.0.network.nn.0.weight": wide},
        "uva true width": {
            "flows.0.mask": torch.ones(1, 1, 28, 28),
            "flows.0.network.nn.0.weight": torch.zeros(6000, 2, 3, 3),
        },
        "uva couplings": {**many, **{f"flows.{i}.mask": torch.ones(1, 1, 8, 8) for i in range(1000)}},
        "mar_scf": {
            "flow.layers.0.actnormlayer.bias": stretched((1, 12, 1, 1), (0, 0, 0, 0)),
            "flow.layers.0.coupling.NN_net.conv1.weight": wide,
            "flow.c_prior.prior_list.0.prior_lstm.conv_embed.bias": stretched((10**6,), (0,)),
        },
        "caflow": {"model.rflow.uflow.scale_blocks.1.layers.2.weight": stretched((12 * 10**5, 1), (0, 0))},
        "residual": {"transforms.0.chain.0.nnet.0.weight": wide, "transforms.0.chain.0.nnet.0.v": large},
        "no text": {5: torch.ones(1), "flows.0.mask": 3},
    }


def random_pickle(draw: random.Random) -> bytes:
    """Any steps in any order, and what they need where it is cheap to have it."""
    parts = [
        *(b")", b"]", b"}", b"\x8f", b"(", b"N", b"2", b"0", b"1", b"t", b"l", b"d", b"s", b"u", b"a", b"e", b"\x85"),
        *(b"\x86", b"\x87", b"R", b"\x81", b"b", b"Q", b"\x90", b"\x91", b"\x94", b"o", b"h\x00", b"q\x00", b"h\x01"),
        *(b"K\x01", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"cbuiltins\nset\n", b"cm\nn\n", text("a")),
        *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"c_codecs\nencode\n", b"ctorch\nFloatStorage\n", text("storage")),
        *(BOMB, b"\x8a\x08" + b"\x7f" * 8, b"G" + struct.pack(">d", float("nan")), b"X" + struct.pack("<I", 2**31)),
    ]
    steps = b"N" * 8 + b"".join(draw.choices(parts, k=draw.randrange(1, 200)))
    # Some of them many times over.
    return steps + draw.choice(parts[:-1]) * draw.choice([1, 1, 10**5])


def write_all(folder: Path) -> int:
    """Every hostile file, one way to read it in its name."""
    draw, number = random.Random(18), 0

    def keep(suffix: str, content: bytes) -> None:
        nonlocal number
        (folder / f"{number:03}.{suffix}").write_bytes(content)
        number += 1

    bodies = [HEAD + b"}" + text("state_dict") + body + b"s." for body in pickles().values()]
    bodies += [HEAD + random_pickle(draw) + b"." for _ in range(60)]
    for body in bodies:
        keep("pt", zipped(body, **{"data/0": bytes(40)}))
        keep("pt", legacy(body))
    for state in checkpoints().values():
        stream = io.BytesIO()
        torch.save({"state_dict": state} if len(state) < 100 else state, stream)
        keep("pt", stream.getvalue())
    # Archives: a record that unpacks, a long list of records, lies in its numbers.
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**8))
    keep("pt", stream.getvalue())
    end = bytearray(stream.getvalue())
    keep("pt", bytes(end).replace(struct.pack("<I", 10**8), struct.pack("<I", 1000)))
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    directory = entry * 400_000
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    keep("pt", b"PK\3\4" + directory + tail)
    for header in (2**62, 2**40, 10**8, 0):
        keep("safetensors", struct.pack("<Q", header) + b"{" * 1000)
    empty = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(50_000))
    keep("safetensors", struct.pack("<Q", len(empty) + 2) + b"{" + empty.encode() + b"}")
    for content in (b"[" * 10**6, b'{"a":' * 10**6, b"[[]," * 10**6 + b"0]", b"9" * 10**6, b'"' + b"x" * 10**7):
        keep("json", content)
    for builder in ("simple", "multiscale", "glow", "mar_scf", "residual_flow", "residual_flow_2d", "caflow"):
        for name in ("num_couplings", "num_blocks", "num_scales", "num_steps", "hidden_channels", "shape", "channels"):
            value = draw.choice([10**7, 10**9, 65_536, 100, 2**62, 10**30])
            value = [1, value, value] if name == "shape" else value
            keep("json", json.dumps({"builder": builder, "arguments": {name: value}}).encode())
    # Sizes each of which is harmless, and whose product is not.
    for builder, arguments in (
        ("pixelflow", {"shape": [1, 1024, 1024], "piece": 1, "width": 2048, "num_heads": 1}),
        ("pixelflow", {"num_grey_levels": 256, "width": 2048, "hidden": 2048, "reach": 64}),
        ("nsf_2d", {"shape": [2048], "hidden_features": 2048, "num_bins": 49}),
        ("maf_2d", {"shape": [1024], "hidden_features": 65_536}),
        ("glow", {"shape": [2048, 8, 8], "num_scales": 1}),
        ("digits_glow", {"hidden_channels": 8192}),
        ("simple", {"shape": [64, 64, 64], "hidden_channels": 2048, "num_blocks": 64}),
        ("mar_scf", {"shape": [64, 64, 64], "prior_channels": 2048, "num_components": 2048}),
    ):
        keep("json", json.dumps({"builder": builder, "arguments": arguments}).encode())
    return number


READER = """
import resource, sys, time
from pathlib import Path
import torch
from nbflows import load_flow, models, upstream
from nbflows.storage import unpickle
torch.set_num_threads(1)
models.digits_simple()
with torch.device("meta"):
    models.digits_glow()
folder = Path(sys.argv[1])
for file in sorted(folder.iterdir()):
    if file.is_dir() or file.name.startswith("good"):
        continue
    if file.suffix == ".pt":
        ways = [unpickle.read_checkpoint, upstream.load_upstream]
    else:
        place = folder / "good"
        place.mkdir(exist_ok=True)
        for suffix in (".json", ".safetensors"):
            (place / f"model{suffix}").write_bytes((folder / f"good{suffix}").read_bytes())
        (place / f"model{file.suffix}").write_bytes(file.read_bytes())
        ways = [lambda _: load_flow(place)]
    for way in ways:
        before, start, end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), "read"
        try:
            way(file)
        except Exception as error:
            end = type(error).__name__
            lines = str(error).count(chr(10)) + len(str(error)) // 2000
            end += "" if lines == 0 else " of many lines"
        seconds, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(file.name, end, f"{seconds:.2f}", (after - before) // 1024, sep=";", flush=True)
"""


# All of them take half a minute.
@pytest.mark.parametrize(
    "share", [27, pytest.param(5, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.full_size)]
)
def test_every_hostile_file_ends_soon_and_small(tmp_path, share):
    from nbflows import models, save_flow

    number = write_all(tmp_path)
    assert number > 250
    left_out = [file for index, file in enumerate(sorted(tmp_path.iterdir())) if index % share]
    for file in left_out:
        file.unlink()
    number -= len(left_out)
    save_flow(models.simple((1, 8, 8), 17, 2, 4, 1), tmp_path / "good")

    def limited():
        # A file that never ends is stopped, and so is one that takes all memory.
        resource.setrlimit(resource.RLIMIT_CPU, (200, 200))

    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)], capture_output=True, text=True, preexec_fn=limited, timeout=500
    )
    rows = [line.split(";") for line in run.stdout.splitlines()]
    # The next file after the last one that ended is the one that did not.
    assert run.returncode == 0, (rows[-1:], run.stderr[-500:])
    assert len({name for name, *_ in rows}) == number
    slowest, largest = (max(rows, key=lambda row: float(row[column])) for column in (2, 3))
    print(f"{number} files in {time.monotonic() - start:.0f} s; slowest {slowest}, largest {largest}")
    strange = [row for row in rows if row[1] not in ("read", "ValueError")]
    assert not strange
    # Of the processor, not of a clock on a machine that does other things; and a slower processor than ours.
    assert float(slowest[2]) < 2, slowest
    assert int(largest[3]) < 300, largest
