"""PyTorch's state dicts (.pth, .pt) and .safetensors, opened as data; neither torch nor pickle is used.

PyTorch's files are pickles, that is programs. What is here reads such a program as a list of words, knows the
few that describe tensors, and refuses all others: nothing is imported, called or built. Two layouts:

    zip      ARCHIVE/data.pkl beside ARCHIVE/data/KEY, one file per storage (PyTorch 1.6 and later)
    stream   magic, version, system, state dict, list of keys: pickles; then per key its length and numbers

A .safetensors is the length of a header, the header (JSON: dtype, shape, place), and the numbers.

Source: torch/serialization.py (_legacy_save, _save), torch/_utils.py; github.com/huggingface/safetensors,
"Format"; the words of a pickle: pickletools of Python.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
import json
import math
import pickletools
import struct
import zipfile
from typing import Any, BinaryIO, Callable, Iterator, Literal, Mapping, Sequence

import ml_dtypes
import numpy as np

from official.models.weights.weight_files import StoredArray, WeightFile, WeightsError, start_of_member

PICKLE_LIMIT = 4_000_000  # bytes of a description; that of EfficientNet-L2 has half a million
MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py
STREAM_VERSION = 1001
# As timm reads a training checkpoint: the averaged weights first.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
Order = Literal["<", ">"]  # of bytes
STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("f8"),
    "FloatStorage": np.dtype("f4"),
    "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("i8"),
    "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
SAFETENSORS: dict[str, np.dtype] = {
    "F64": np.dtype("f8"),
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("i8"),
    "I32": np.dtype("i4"),
    "I16": np.dtype("i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


# --- the words of a pickle ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that a pickle would import; here it stays a name."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A row of numbers in the file."""

    key: str
    dtype: np.dtype
    length: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_LITERALS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
    + ("SHORT_BINSTRING", "BINSTRING")
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _load(stream: io.BytesIO, path: str) -> Any:
    """The next pickle of `stream`, made of numbers, texts, lists, dicts and `_Tensor`.

    Raises:
      WeightsError: a word or a name that no state dict needs; too few words.
    """
    machine = _Machine(path)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path}: its description is damaged, or of another kind ({str(error)[:100]})"
        ) from error
    raise WeightsError(f"{path}: its description ends too early")


class _Machine:
    """The stack and the memory that the words of a pickle work on."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, word: str, argument: Any) -> None:
        """One word."""
        if word in ("PROTO", "FRAME"):
            return
        if word in _LITERALS:
            self.stack.append(argument)
        elif word in _CONSTANTS:
            self.stack.append(_CONSTANTS[word]())
        elif word in _TUPLES:
            self._tuple(self._popped(_TUPLES[word]))
        elif word in ("BINPUT", "LONG_BINPUT"):
            self.memory[argument] = self.stack[-1]
        elif word in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[argument])
        elif word == "GLOBAL":
            self.stack.append(self._global(*argument.split(" ", 1)))
        else:
            method = getattr(self, f"_{word.lower()}", None) if word in _OTHERS else None
            if method is None:
                raise WeightsError(f"{self.path}: the word {word} is in no state dict; the file is refused")
            method()

    def _popped(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError("too few values")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def _to_mark(self) -> list[Any]:
        place = max(i for i, value in enumerate(self.stack) if value is _MARK)
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def _tuple(self, values: list[Any] | None = None) -> None:
        self.stack.append(tuple(self._to_mark() if values is None else values))

    def _memoize(self) -> None:
        self.memory[len(self.memory)] = self.stack[-1]

    def _append(self) -> None:
        value = self.stack.pop()
        list.append(self.stack[-1], value)

    def _appends(self) -> None:
        values = self._to_mark()
        list.extend(self.stack[-1], values)

    def _setitem(self) -> None:
        self._set(self._popped(2))

    def _setitems(self) -> None:
        self._set(self._to_mark())

    def _set(self, values: list[Any]) -> None:
        _fill(self.stack[-1], list(zip(values[::2], values[1::2])))

    def _build(self) -> None:
        """The versions of a state dict's modules; not needed."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise WeightsError(f"{self.path}: sets attributes of something that is no dict; refused")

    def _stack_global(self) -> None:
        self.stack.append(self._global(*self._popped(2)))

    def _global(self, module: str, name: str) -> _Global:
        found = _Global(str(module), str(name))
        if found not in _KNOWN:
            raise WeightsError(
                f"{self.path} wants Python's {module}.{name}, which is no tensor; such a file is refused, for"
                " what it names would be run. Save model.state_dict() alone"
            )
        return found

    def _reduce(self) -> None:
        function, arguments = self._popped(2)
        if not isinstance(function, _Global) or function not in _MAKERS:
            raise TypeError("calls what cannot be called")
        self.stack.append(_MAKERS[function](*arguments))

    def _binpersid(self) -> None:
        kind, storage, key, _, length, *views = self.stack.pop()
        if kind != "storage" or not isinstance(storage, _Global) or any(view is not None for view in views):
            raise WeightsError(f"{self.path}: keeps numbers in a way that is not known")
        dtype = STORAGES[storage.name]
        if not isinstance(key, str) or not isinstance(length, int) or length < 0:
            raise WeightsError(f"{self.path}: the storage {key!r} of {length!r} numbers makes no sense")
        self.stack.append(_Storage(key, dtype, length))


_OTHERS = frozenset(
    ("TUPLE", "MEMOIZE", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD", "STACK_GLOBAL", "REDUCE")
    + ("BINPERSID",)
)


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise TypeError("a tensor without a storage or with other strides than sides")
    if any(type(n) is not int or n < 0 for n in numbers):
        raise TypeError(f"a tensor of shape {shape}, offset {offset} and strides {strides}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


def _ordered(pairs: Sequence[Any] = ()) -> dict:
    """An OrderedDict; Python 2 wrote it with its items."""
    return _fill({}, [tuple(pair) for pair in pairs])


def _fill(content: dict, pairs: list[tuple[Any, Any]]) -> dict:
    """Puts pairs into a dict. Its keys are texts or numbers: the hash of a deep tuple may end the process."""
    for key, value in pairs:
        if not isinstance(key, (str, int)):
            raise TypeError("a dict whose keys are neither texts nor numbers")
        dict.__setitem__(content, key, value)
    return content


_MAKERS: Mapping[_Global, Callable[..., Any]] = {
    _Global("collections", "OrderedDict"): _ordered,
    _Global("torch._utils", "_rebuild_tensor"): _tensor,
    _Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Global("torch._utils", "_rebuild_parameter"): _parameter,
}
_KNOWN = frozenset(_MAKERS) | {_Global("torch", name) for name in STORAGES}


# --- state dicts -----------------------------------------------------------------------------------


@contextlib.contextmanager
def open_torch(path: str) -> Iterator[WeightFile]:
    """A .pth or .pt with a state dict, alone or inside a training checkpoint, of either layout.

    Raises:
      WeightsError: it wants anything but tensors; it is cut short; no tensors in it.
    """
    with open(path, "rb") as file:
        reader = _zip_tensors if zipfile.is_zipfile(path) else _stream_tensors
        yield WeightFile(path, reader(path, file))


def _zip_tensors(path: str, file: BinaryIO) -> dict[str, StoredArray]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        descriptions = [name for name in members if name.endswith("/data.pkl")]
        if len(descriptions) != 1:
            raise WeightsError(f"{path} is an archive, but none of PyTorch's: it has no data.pkl")
        root = descriptions[0].removesuffix("data.pkl")
        if any(name.startswith(f"{root}code/") for name in members):
            raise WeightsError(f"{path} is a TorchScript program; save model.state_dict() alone")
        with archive.open(descriptions[0]) as opened:
            tensors = _state_dict(_load(_limited(opened, path), path), path)
        order: Order = ">" if _text(archive, members, f"{root}byteorder") == "big" else "<"
        storages = {}
        for key in {tensor.storage.key for tensor in tensors.values()}:
            info = members.get(f"{root}data/{key}")
            if info is None or info.compress_type != zipfile.ZIP_STORED:
                raise WeightsError(f"{path}: {root}data/{key} is absent or compressed")
            storages[key] = (start_of_member(file, info), info.file_size)
    return _arrays(path, file, tensors, storages, order)


def _text(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> str:
    if name not in members:
        return ""
    with archive.open(name) as opened:
        return opened.read(16).decode("ascii", "replace").strip()


def _limited(opened: Any, path: str) -> io.BytesIO:
    content = opened.read(PICKLE_LIMIT + 1)
    if len(content) > PICKLE_LIMIT:
        raise WeightsError(f"{path}: its description has more than {PICKLE_LIMIT:,} bytes")
    return io.BytesIO(content)


def _stream_tensors(path: str, file: BinaryIO) -> dict[str, StoredArray]:
    stream = io.BytesIO(file.read(PICKLE_LIMIT))
    if stream.getvalue()[:1] != b"\x80" or _load(stream, path) != MAGIC:
        raise WeightsError(f"{path} is no file that torch.save wrote")
    if _load(stream, path) != STREAM_VERSION:
        raise WeightsError(f"{path} is of an unknown version of torch.save's stream")
    order: Order = "<" if _load(stream, path).get("little_endian", True) else ">"
    tensors = _state_dict(_load(stream, path), path)
    keys = _load(stream, path)
    known = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    end, storages = file.seek(0, io.SEEK_END), {}
    place = stream.tell()
    for key in keys:
        file.seek(place)
        head = file.read(8)
        length = struct.unpack(f"{order}q", head)[0] if len(head) == 8 else -1
        if key not in known or length != known[key].length:
            raise WeightsError(f"{path}: is cut short, or the storage {key} has not the stated length")
        size = length * known[key].dtype.itemsize
        storages[key] = (place + 8, min(size, max(0, end - place - 8)))
        place += 8 + size
    if missing := sorted(set(known) - set(storages)):
        raise WeightsError(f"{path}: is cut short: it lacks the storages {missing[:3]}")
    return _arrays(path, file, tensors, storages, order)


def _state_dict(content: Any, path: str) -> dict[str, _Tensor]:
    """The tensors by name, without the "module." that a training on several GPUs leaves."""
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    found = {
        name.removeprefix("module."): value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(value, _Tensor)
    }
    if not found:
        raise WeightsError(f"{path}: no tensors by name in it; save model.state_dict()")
    return found


def _arrays(
    path: str,
    file: BinaryIO,
    tensors: Mapping[str, _Tensor],
    storages: Mapping[str, tuple[int, int]],
    order: Order,
) -> dict[str, StoredArray]:
    """The tensors as arrays of the file.

    Args:
      storages: where each begins, and the bytes that are there; order: of bytes, "<" or ">".
    """
    found = {}
    for name, tensor in tensors.items():
        dtype = tensor.storage.dtype
        if dtype != BFLOAT16:
            dtype = dtype.newbyteorder(order)
        elif order == ">":
            raise WeightsError(f"{path}: bfloat16 of a big-endian machine")
        start, there = storages[tensor.storage.key]
        extent = 1 + sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides))
        extent = extent if math.prod(tensor.shape) else 0
        if (tensor.offset + extent) * dtype.itemsize > there:
            raise WeightsError(f"{path}: is cut short: {name} goes beyond the {there:,} bytes of its storage")
        load = functools.partial(_strided, file, start, extent, tensor, dtype)
        found[name] = StoredArray(tensor.shape, dtype, extent * dtype.itemsize, load)
    return found


def _strided(file: BinaryIO, start: int, extent: int, tensor: _Tensor, dtype: np.dtype) -> np.ndarray:
    file.seek(start + tensor.offset * dtype.itemsize)
    row = np.frombuffer(file.read(extent * dtype.itemsize), dtype)
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(row, tensor.shape, strides, writeable=False)


# --- safetensors -----------------------------------------------------------------------------------


@contextlib.contextmanager
def open_safetensors(path: str) -> Iterator[WeightFile]:
    """A .safetensors.

    Raises:
      WeightsError: its header makes no sense, or says more than the file has.
    """
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else 0
        if not 2 <= length <= min(PICKLE_LIMIT, size - 8):
            raise WeightsError(
                f"{path}: a header of {length:,} bytes in a file of {size:,}: no .safetensors, or cut short"
            )
        header = json.loads(file.read(length), object_pairs_hook=functools.partial(_once, path))
        header.pop("__metadata__", None)
        start = 8 + length
        yield WeightFile(
            path, {name: _of_header(path, file, name, entry, start, size) for name, entry in header.items()}
        )


def _once(path: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, count in collections.Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise WeightsError(f"{path}: its header names {twice[:3]} twice")
    return dict(pairs)


def _of_header(path: str, file: BinaryIO, name: str, entry: Any, start: int, size: int) -> StoredArray:
    try:
        dtype, shape, (begin, end) = SAFETENSORS.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {name} lacks a dtype, a shape or a place in the header") from error
    if dtype is None:
        raise WeightsError(f"{path}: {name} has the dtype {entry['dtype']!r}, which is not known here")
    if not sound or start + end > size or end - begin != math.prod(shape) * dtype.itemsize:
        raise WeightsError(
            f"{path}: {name} of shape {shape} and bytes {begin} to {end} does not fit a file of {size:,}:"
            " cut short?"
        )

    def load() -> np.ndarray:
        file.seek(start + begin)
        little = dtype if dtype == BFLOAT16 else dtype.newbyteorder("<")
        return np.frombuffer(file.read(end - begin), little).reshape(shape)

    return StoredArray(tuple(shape), dtype, end - begin, load)
