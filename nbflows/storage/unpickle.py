"""Reads checkpoints that hold objects of unknown classes, and runs none of the code that a pickle can ask for."""

import contextlib
import gc
import io
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# The steps of a pickle and the arguments of its calls. A tensor takes a hundred; all of them 1.5 s and 150 MB at most.
MAX_WORK = 2 * 10**6
# The longest name of a class; the longest list of records of a zip archive.
MAX_LINE, MAX_DIRECTORY = 4096, 2**22


class Opaque:
    """A record of an object whose class is not imported, or of a class or function.

    A class or function that is only mentioned is a subclass of ``Opaque`` with a ``name`` and nothing else.

    Attributes:
        name: full name of the class or function: ``"lib.utils.ExponentialMovingAverage"``.
        args, kwargs: what the class or function would have been called with.
        state: the dict of the object's attributes, or whatever else its class pickles as its state.
        elements: the items of a subclass of list, or the pairs ``(key, value)`` of a subclass of dict.
    """

    name = ""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.kwargs = args, kwargs
        self.state: Any = {}
        self.elements: list = []

    def append(self, element: Any) -> None:
        """Keeps an item that the pickle appends to a list."""
        self.elements.append(element)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.elements.append((key, value))

    def __repr__(self) -> str:
        return f"Opaque({self.name})"


def read_checkpoint(file: str | Path) -> dict:
    """Reads a file of ``torch.save``, in the zip format or in the one from before torch 1.6; tensors on the CPU.

    It takes 2 s and 200 MB beside the file's size at most, whatever the file is. ``torch.load(weights_only=True)`` runs
    no code either, but it hashes nested tuples for ever, and takes as much memory as a file asks for.

    Tensors, numbers, strings, dtypes and the plain containers come back unchanged, and tensors that shared memory share
    it. Everything else is an ``Opaque`` record. For example, the averaged weights of the authors of Residual Flows are
    at ``read_checkpoint(file)["ema"].state["shadow_params"]``, a dict of tensors by the names of the parameters.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, or is damaged, cut short or contradicts itself; names the file.
    """
    if Path(file).exists() and not Path(file).is_file():
        raise ValueError(f"{file} is a folder or a device, not a file")
    with open(file, "rb") as stream, _without_garbage_collection():
        try:
            is_zip, num_bytes = stream.read(4) == b"PK\x03\x04", stream.seek(0, io.SEEK_END)
            content = _read_zip(stream, num_bytes) if is_zip else _read_legacy(stream, num_bytes)
        # A damaged pickle or archive can raise almost anything.
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            reason = reason if len(reason) <= 500 else f"{reason[:500]} ..."
            raise ValueError(f"{file} cannot be read as a checkpoint of torch: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds one {type(content).__name__}; a checkpoint is a dict")
    return content


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A pickle makes no garbage, and looking for it over and over takes most of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def stored_bytes(state: dict) -> int:
    """Returns the memory of the tensors of a state dict, counting shared memory once.

    Raises ValueError for a value that is not a tensor or has no name, and for a tensor that repeats few numbers: at a
    stride of 0 a file of few bytes holds a tensor of any size.
    """
    memories = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise ValueError(f"a state dict holds tensors by their names, this one a {kind} as {key!s:.100}")
        memory = value.untyped_storage()
        if value.numel() * value.itemsize > memory.nbytes():
            raise ValueError(f"{key:.100} is a tensor of {tuple(value.shape)} in {memory.nbytes()} bytes")
        memories[memory._cdata] = memory.nbytes()
    return sum(memories.values())


def _read_zip(stream: BinaryIO, num_bytes: int) -> Any:
    # zipfile takes a hundred times the memory of the list of records; a file of a thousand tensors has one of 0.1 MB.
    stream.seek(max(0, num_bytes - 2**16))
    end = stream.read()
    sizes = [struct.unpack_from("<L", end, found.start() + 12)[0] for found in re.finditer(b"PK\5\6.{18}", end, re.S)]
    sizes += [struct.unpack_from("<Q", end, found.start() + 40)[0] for found in re.finditer(b"PK\6\6.{52}", end, re.S)]
    if any(MAX_DIRECTORY < size < 2**32 - 1 for size in sizes):
        raise ValueError(f"its list of records has {max(sizes)} bytes; {MAX_DIRECTORY} are read at most")
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise ValueError(f"its {num_bytes} bytes are a zip archive that is cut short or damaged ({error})") from error
    # torch compresses nothing: a record cannot become larger than the file.
    if packed := [record.filename for record in archive.infolist() if record.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(f"its record {packed[0]:.100} is compressed; those of torch are not")
    if (claimed := sum(record.file_size for record in archive.infolist())) > num_bytes:
        raise ValueError(f"its records would unpack to {claimed} bytes, the file has {num_bytes}")
    folders = [name.removesuffix("data.pkl") for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(folders) != 1:
        raise ValueError(f"a zip archive with {len(folders)} records */data.pkl, expected one")
    (folder,) = folders
    if f"{folder}byteorder" in archive.namelist():
        _require_little_endian(archive.read(f"{folder}byteorder") == b"little")
    pickled = io.BytesIO(archive.read(f"{folder}data.pkl"))
    return _Unpickler(pickled, lambda key, _: bytearray(archive.read(f"{folder}data/{key}"))).load()


def _read_legacy(stream: io.BufferedReader, num_bytes: int) -> Any:
    """Reads the magic number, the protocol, the system, the content, the keys of the storages, then the storages."""
    stream.seek(0)
    buffers: dict[str, bytearray] = {}
    needed = 0

    # The storages follow the content, so no more memory is taken than the rest of the file can fill.
    def empty_buffer(key: str, size: int) -> bytearray:
        nonlocal needed
        needed, left = needed + size, num_bytes - stream.tell()
        if needed > left:
            raise ValueError(f"its storages need {needed} bytes or more, the file has {left} left")
        return buffers.setdefault(key, bytearray(size))

    unpickler = _Unpickler(stream, empty_buffer)
    try:
        magic = unpickler.load()
    except ValueError as error:
        raise ValueError(f"neither a zip archive nor a pickle ({error})") from error
    if not isinstance(magic, int) or magic != MAGIC_NUMBER:
        raise ValueError(f"it begins with {_shown(magic)}, not with the magic number {MAGIC_NUMBER:#x}")
    if (protocol := unpickler.load()) != PROTOCOL_VERSION:
        raise ValueError(f"its protocol is {_shown(protocol)}, expected {PROTOCOL_VERSION}")
    _require_little_endian(unpickler.load()["little_endian"])
    content, keys = unpickler.load(), unpickler.load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is not a list of names")
    if unmatched := set(keys) ^ set(buffers):
        raise ValueError(f"storages {', '.join(unmatched)} are in its tensors or in its list, not in both")
    for key in keys:
        header, size, item_size = stream.read(8), len(buffers[key]), unpickler.storages[key].dtype.itemsize
        count = int.from_bytes(header, "little", signed=True)
        if len(header) == 8 and count * item_size != size:
            raise ValueError(f"storage {key} has {count} elements of {item_size} bytes, its tensors say {size} bytes")
        if len(header) < 8 or (found := stream.readinto(buffers[key])) < size:
            raise ValueError(f"it ends after {found if len(header) == 8 else 0} of the {size} bytes of storage {key}")
    return content


def _require_little_endian(is_little_endian: bool) -> None:
    if not is_little_endian:
        raise ValueError("its numbers are big-endian; only little-endian ones are read")


class _Storage(NamedTuple):
    memory: torch.UntypedStorage
    dtype: torch.dtype


# The opcodes of protocols 2 to 5, which torch writes, but for EXT1 to EXT4, which find classes without find_class, and
# BYTEARRAY8, which takes memory for bytes that are not there.
_STEPS = b"\x80\x95.(01N\x88\x89JKM\x8a\x8bGX\x8c\x8dTUBC\x8e)t\x85\x86\x87]ae}su\x8f\x90\x91hjqr\x94c\x93R\x81\x92bQ"


def _hashing(step: bytes, keys: Callable[["_Unpickler"], Iterable]) -> Callable[["_Unpickler"], None]:
    """Returns a step that hashes, with its keys checked: a hash of nested tuples can take for ever."""
    load: Callable[..., None] = pickle._Unpickler.dispatch[step[0]]

    def checked(unpickler: "_Unpickler") -> None:
        _check_keys(keys(unpickler))
        load(unpickler)

    return checked


# The Unpickler written in Python: the one in C lets a file set attributes of any object and take any amount of memory.
class _Unpickler(pickle._Unpickler):
    """Calls only the constructors in ``_CONSTRUCTORS``; every other name becomes an ``Opaque``.

    Args:
        stream: stands at the pickle, and just behind it after ``load``.
        buffer: returns the memory of a storage, given its key and its size in bytes.
    """

    # Made by load of the base class, whose stubs leave them out.
    stack: list
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, stream: BinaryIO, buffer: Callable[[str, int], bytearray]):
        # A pickle reads one byte at least for each of its steps.
        super().__init__(_Counted(stream, self.spend), encoding="utf-8")
        self.stream, self.buffer, self.work = stream, buffer, 0
        self.classes: dict[str, type[Opaque]] = {}
        self.storages: dict[str, _Storage] = {}

    def load(self) -> Any:
        self.memo = {}
        try:
            return super().load()
        except ValueError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error!s:.200}"
            raise ValueError(f"the pickle is cut short or damaged at byte {self.stream.tell()}: {text}") from error

    def spend(self, work: int) -> None:
        """Counts the work, because a file of a few bytes could ask for it without end."""
        self.work += work
        if self.work > MAX_WORK:
            raise ValueError(f"the pickle asks for more than {MAX_WORK} steps: no checkpoint does")

    def find_class(self, module: str, name: str) -> Any:
        name = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if name in _CONSTRUCTORS:
            return _CONSTRUCTORS[name]
        if name not in self.classes:
            # A class takes a kilobyte.
            self.spend(100)
            self.classes[name] = type("Opaque", (Opaque,), {"name": name})
        return self.classes[name]

    def persistent_load(self, saved_id: Any) -> Any:
        match saved_id:
            case ("module", kind, *_):
                return kind
            case ("storage", kind, str(key), _, int(count), *view) if view in ([], [None]):
                return self._storage(getattr(kind, "name", ""), key, count)
        raise ValueError(f"a reference of an unknown kind: {_shown(saved_id)}")

    def _storage(self, kind: str, key: str, count: int) -> _Storage:
        dtype = _STORAGES.get(kind.rpartition(".")[2])
        if dtype is None:
            raise ValueError(f"storage {key:.50} is a {kind:.100}; known: {', '.join(_STORAGES)}")
        if count < 0:
            raise ValueError(f"storage {key} has {count} elements")
        size = count * dtype.itemsize
        if key not in self.storages:
            buffer = self.buffer(key, size)
            # torch.frombuffer refuses an empty one.
            flat = torch.frombuffer(buffer, dtype=torch.uint8) if buffer else torch.empty(0, dtype=torch.uint8)
            self.storages[key] = _Storage(flat.untyped_storage(), dtype)
        memory = self.storages[key].memory
        if memory.nbytes() != size:
            raise ValueError(f"storage {key} has {memory.nbytes()} bytes, a tensor in it says {size}")
        return _Storage(memory, dtype)

    def load_call(self, keywords: bool = False) -> None:
        """REDUCE and NEWOBJ; with keywords NEWOBJ_EX. The cost is the arguments: each may be a list of a million."""
        kwargs = self.stack.pop() if keywords else {}
        args, kind = self.stack.pop(), self.stack.pop()
        self.spend(10 + len(args) + len(kwargs))
        self.spend(sum(map(_size, args)))
        self.append(kind(*args, **kwargs))

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Opaque):
            match state:
                # An object that has both a __dict__ and __slots__.
                case tuple((dict() | None as attributes, dict(slots))):
                    self.spend(_size(attributes) + len(slots))
                    state = {**(attributes or {}), **slots}
            target.state = state
        elif isinstance(target, OrderedDict) and isinstance(state, dict) and [*state] in ([], ["_metadata"]):
            # A state_dict keeps its versions in this attribute.
            vars(target).update(state)
        else:
            raise ValueError(f"the pickle sets the state of a {type(target).__name__}")

    def load_empty_set(self) -> None:
        # A set is ten times as large as other values.
        self.spend(10)
        self.append(set())

    def load_frame(self) -> None:
        # Frames save system calls, and would hide the steps within them.
        self.read(8)

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **{step: pickle._Unpickler.dispatch[step] for step in _STEPS},
        pickle.REDUCE[0]: load_call,
        pickle.NEWOBJ[0]: load_call,
        pickle.NEWOBJ_EX[0]: partial(load_call, keywords=True),
        pickle.BUILD[0]: load_build,
        pickle.EMPTY_SET[0]: load_empty_set,
        pickle.FRAME[0]: load_frame,
        pickle.SETITEM[0]: _hashing(pickle.SETITEM, lambda self: self.stack[-2:-1]),
        pickle.SETITEMS[0]: _hashing(pickle.SETITEMS, lambda self: self.stack[::2]),
        pickle.ADDITEMS[0]: _hashing(pickle.ADDITEMS, lambda self: self.stack),
        pickle.FROZENSET[0]: _hashing(pickle.FROZENSET, lambda self: self.stack),
    }


class _Counted:
    """Counts the reads of a pickle, and reads only what is there."""

    def __init__(self, stream: BinaryIO, spend: Callable[[int], None]):
        self.stream, self.spend = stream, spend
        here = stream.tell()
        self.end = stream.seek(0, io.SEEK_END)
        stream.seek(here)

    def read(self, size: int) -> bytes:
        self.spend(1)
        # Every size but 1 comes from the file, and would take its memory before it is read.
        if size > 1 and size > self.end - self.stream.tell():
            raise EOFError
        return self.stream.read(size)

    def readline(self) -> bytes:
        line = self.stream.readline(MAX_LINE)
        if len(line) == MAX_LINE:
            raise ValueError(f"a name of {MAX_LINE} bytes and more in the pickle")
        return line


def _check_keys(keys: Iterable) -> None:
    """Raises ValueError for a key that a dict or a set could take for ever to find."""
    for key in keys:
        short = not isinstance(key, int) or key.bit_length() <= 64
        plain = isinstance(key, (int, float, NoneType, torch.dtype, Opaque)) or (
            isinstance(key, (str, bytes)) and len(key) <= MAX_LINE
        )
        if not (plain and short) and not (isinstance(key, type) and issubclass(key, Opaque)):
            raise ValueError(f"a key of a dict or a set is {_shown(key)}; keys are short text and numbers")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, tuple, list, dict, set, frozenset)) else 1


def _shown(value: Any) -> str:
    """Text and numbers, shortened; of anything else only its kind, as it may hold itself a billion times."""
    if isinstance(value, str) or (isinstance(value, int) and value.bit_length() < 1000):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"


def _tensor(
    storage: _Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool = False,
    hooks: object = None,
    metadata: object = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    dtype = dtype or storage.dtype
    available = storage.memory.nbytes() // dtype.itemsize
    if not all(type(number) is int for number in (offset, *size, *stride)) or len(size) > 64:
        raise ValueError("a tensor whose size is not a short list of whole numbers")
    if len(size) != len(stride) or min(offset, *size, *stride, 0) < 0:
        raise ValueError(f"a tensor of size {tuple(size)} with strides {tuple(stride)} and offset {offset}")
    needed = offset + (1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else 0)
    if needed > available:
        raise ValueError(
            f"a tensor of size {tuple(size)} with strides {tuple(stride)} and offset {offset} needs {needed} elements, "
            f"its storage has {available}"
        )
    if metadata:
        raise ValueError("a tensor with metadata: conj and neg, conjugate and negative views, are not read")
    tensor = torch.empty(0, dtype=dtype).set_(storage.memory, offset, tuple(size), tuple(stride))
    return tensor.requires_grad_(requires_grad)


def _tensor_of_dtype(
    storage: _Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
    hooks: object,
    dtype: torch.dtype,
    metadata: object = None,
) -> Tensor:
    """For the dtypes that have no storage class of their own, such as uint16 and float8."""
    return _tensor(storage, offset, size, stride, requires_grad, hooks, metadata, dtype)


def _parameter(data: Tensor, requires_grad: bool, *_: Any) -> nn.Parameter:
    return nn.Parameter(data, requires_grad)


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"bytes in the encoding {_shown(encoding)}, expected latin1")
    return text.encode("latin1")


def _numpy_scalar(dtype: Opaque, data: bytes) -> np.generic:
    kind = dtype.args[0]
    if not isinstance(kind, str) or not re.fullmatch(r"[biufc]\d{1,2}", kind):
        raise ValueError(f"a NumPy scalar of type {_shown(kind)}; only numbers are read")
    return np.frombuffer(data, np.dtype(kind).newbyteorder(dtype.state[1]), count=1)[0]


def _collection(kind: type) -> Callable:
    """A set or a dict of what is given, its keys looked at before they are hashed."""

    def build(elements: Iterable = ()) -> Any:
        if not isinstance(elements, (list, tuple, set, frozenset, dict)):
            raise ValueError(f"a {kind.__name__} of something that is not a list")
        pairs = kind is OrderedDict and not isinstance(elements, dict)
        _check_keys([key for key, _ in elements] if pairs else elements)
        return kind(elements)

    return build


# What a pickle may call. None of these does more than build the value that it is named after.
_CONSTRUCTORS = {
    "builtins.bytes": _bytes,
    "builtins.complex": complex,
    "builtins.frozenset": _collection(frozenset),
    "builtins.set": _collection(set),
    "_codecs.encode": _bytes,
    "collections.OrderedDict": _collection(OrderedDict),
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
}

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
