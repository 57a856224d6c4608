"""Files of numbers from elsewhere, opened as data: names and shapes first, then one wanted array at a time.

Nothing in a file is executed or unpickled, and nothing is unfolded before its shape is known to be the wanted
one: what a header claims is compared with what is wanted and with the bytes that are there, so a small file
that claims or unfolds to gigabytes is refused for the price of its header.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import io
import math
import os
import struct
import zipfile
from typing import Any, BinaryIO, Callable, Iterator, Mapping

import h5py
import numpy as np
import tensorflow as tf

from official.errors import UserError

TEXT_LIMIT = 16_000_000  # bytes of a note or a config; that of an exported EfficientNet-B7 has 1.3 million


class WeightsError(UserError):
    """A weight file that cannot be used; the message names file and variable."""


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """One array of a file, not yet read.

    Attributes:
      shape, dtype: as the file claims.
      stored: bytes that the file has for it; None where they are compressed.
      load: reads it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    stored: int | None
    load: Callable[[], np.ndarray]

    @property
    def claimed(self) -> int:
        """Bytes that it would take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """An open file of arrays by name.

    Attributes:
      path: for messages.
      arrays: what it claims to hold.
    """

    path: str
    arrays: Mapping[str, StoredArray]

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Looks at what the file claims of an array, without reading it.

        Args:
          shape: that the reader has a place for.

        Raises:
          WeightsError: another shape; no real numbers; more claimed than stored.
        """
        array = self.arrays[name]
        if tuple(array.shape) != tuple(shape):
            raise WeightsError(
                f"{self.path}: {name} is {tuple(array.shape)}, the model's is {tuple(shape)}; it is of"
                " another size of model"
            )
        if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
            raise WeightsError(f"{self.path}: {name} holds {array.dtype.name}, not real numbers")
        self._check_size(name)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The values of one array, float32 of `shape`, after `check`.

        Raises:
          WeightsError: as `check`; also NaN or infinity.
        """
        self.check(name, shape)
        with np.errstate(over="ignore"):  # looked at below
            values = np.asarray(self.arrays[name].load()).astype(np.float32)
        broken = values.size - int(np.isfinite(values).sum())
        if broken:
            raise WeightsError(
                f"{self.path}: {name} has {broken} of {values.size} values that are NaN or infinite"
            )
        return values

    def read_text(self, name: str) -> str:
        """A note that was stored as a scalar of text.

        Raises:
          WeightsError: none there, or none of a note's size.
        """
        array = self.arrays.get(name)
        if array is None or array.dtype.kind != "U" or array.shape or array.claimed > TEXT_LIMIT:
            raise WeightsError(f"{self.path}: {name} is no note, that is a text")
        self._check_size(name)
        return str(array.load())

    def _check_size(self, name: str) -> None:
        array = self.arrays[name]
        if array.stored is not None and array.claimed > array.stored:
            raise WeightsError(
                f"{self.path}: {name} claims {array.claimed:,} bytes, the file has {array.stored:,} for it"
            )


# --- TensorFlow ------------------------------------------------------------------------------------


def open_checkpoint(prefix: str) -> WeightFile:
    """A checkpoint of TF1 or TF2, or a SavedModel's variables; its graph is never looked at."""
    reader = tf.train.load_checkpoint(prefix)
    there = sum(os.path.getsize(path) for path in glob.glob(glob.escape(prefix) + ".data-*"))
    dtypes = reader.get_variable_to_dtype_map()
    return WeightFile(
        prefix,
        {
            name: StoredArray(
                tuple(shape),
                np.dtype(dtypes[name].as_numpy_dtype),
                there,
                functools.partial(reader.get_tensor, name),
            )
            for name, shape in reader.get_variable_to_shape_map().items()
        },
    )


def checkpoint_prefix(path: str) -> str:
    """`path` itself, or what the folder `path` holds: a SavedModel's variables, or its only checkpoint."""
    inside = os.path.join(path, "variables", "variables")
    if os.path.isfile(inside + ".index"):
        return inside
    found = glob.glob(os.path.join(glob.escape(path), "*.index"))
    return found[0].removesuffix(".index") if len(found) == 1 else path


# --- NumPy -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_npz(path: str) -> Iterator[WeightFile]:
    """An .npz, without pickles."""
    with zipfile.ZipFile(path) as archive:
        yield WeightFile(
            path, {info.filename.removesuffix(".npy"): _npy(archive, info) for info in archive.infolist()}
        )


def _npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> StoredArray:
    def load():
        with archive.open(info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    with archive.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):  # later ones may have headers of gigabytes
            raise WeightsError(
                f"{archive.filename}: {info.filename} is of a version of .npy that NumPy writes for no plain"
                " array"
            )
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return StoredArray(shape, dtype, info.file_size - file.tell(), load)


# --- HDF5 ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_h5(path: str) -> Iterator[WeightFile]:
    """An HDF5 file; links out of it are not followed."""
    with h5py.File(path, "r") as file:
        yield WeightFile(path, _h5_arrays(file, path))


def _h5_arrays(file: h5py.File, path: str) -> dict[str, StoredArray]:
    found: dict[str, StoredArray] = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            if item.external or item.is_virtual:
                raise WeightsError(
                    f"{path}: {name} takes its values from another file; such a file is refused"
                )
            found[name] = StoredArray(item.shape, item.dtype, _h5_stored(item), lambda: item[()])

    file.visititems(visit)
    return found


def _h5_stored(item: h5py.Dataset) -> int | None:
    stored = item.id.get_storage_size()
    compressed = item.id.get_create_plist().get_nfilters() > 0
    return None if compressed and stored else stored


# --- zip archives ----------------------------------------------------------------------------------


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A small member of an archive, such as a config.

    Raises:
      WeightsError: it unfolds to more than `TEXT_LIMIT`, whatever the archive says of it.
    """
    with archive.open(name) as file:
        content = file.read(TEXT_LIMIT + 1)
    if len(content) > TEXT_LIMIT:
        raise WeightsError(f"{archive.filename}: {name} unfolds to more than {TEXT_LIMIT:,} bytes")
    return content


@contextlib.contextmanager
def open_h5_member(path: str, archive: zipfile.ZipFile, name: str) -> Iterator[WeightFile]:
    """An HDF5 file inside a zip archive, read where it lies.

    Raises:
      WeightsError: absent, or compressed (Keras stores it as it is).
    """
    if name not in archive.namelist():
        raise WeightsError(f"{path} has no {name}; save the model with Keras' own format of weights")
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise WeightsError(
            f"{path}: {name} is compressed, which Keras does not do; pack it again without compression"
        )
    with (
        open(path, "rb") as raw,
        h5py.File(_Window(raw, start_of_member(raw, info), info.file_size), "r") as file,
    ):
        yield WeightFile(path, _h5_arrays(file, path))


def start_of_member(raw: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its local header, a name and an extra field."""
    raw.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", raw.read(4))
    return info.header_offset + 30 + name + extra


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, raw: io.BufferedReader, start: int, length: int) -> None:
        super().__init__()
        self._raw, self._start, self._length, self._place = raw, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(
            0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        )
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._raw.seek(self._start + self._place)
        content = self._raw.read(max(0, min(len(buffer), self._length - self._place)))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)
