"""Indexes of data sets: what opening found, in columns, so that it is found out once and not at every start.

An index is a folder of parts, one a file of records or a folder of images, each a NumPy .npz of columns and a
note of what it was made from: path, length, time of the last change, and the options that decide what is in
it. A part is taken when that is still so, and made anew when it is not; the other parts stay. Parts are
written whole or not at all, by several processes at a time if need be, as soon as they are made: a start that
is killed has not worked for nothing.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import hashlib
import json
import os
import threading
import zipfile
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from official.files import whole_file
from official.screen import Bar

VERSION = 1  # of what the columns mean
SMALL = 64 * 2**20  # bytes of a data set that is read anew at every start, without an index
_MADE_FROM = "made_from"
_MEGABYTE = 2**20
_folder: contextvars.ContextVar[str] = contextvars.ContextVar("index", default="")

Columns = dict[str, np.ndarray]


@contextlib.contextmanager
def kept_in(folder: str) -> Iterator[None]:
    """What is opened inside keeps its index in a folder, made when it is needed; "": keeps none."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


class Part:
    """One part of an index, of whatever stands in `place` (a path) seen with `options`."""

    def __init__(self, kind: str, place: str, options: dict[str, Any], *, kept: bool = True) -> None:
        """Args:
        kind: what the columns are, e.g. "records"; options: JSON values that decide them.
        kept: False: nowhere.
        """
        self.options = {"version": VERSION, "kind": kind, "place": place, **options}
        key = json.dumps(self.options, sort_keys=True).encode("utf-8", "surrogateescape")
        name = hashlib.sha256(key).hexdigest()[:24]
        self.path = os.path.join(_folder.get(), f"{kind}-{name}.npz") if _folder.get() and kept else ""

    def read(self, made_from: Any = None) -> Columns | None:
        """The columns; None where there are none, of something else, or the file is damaged."""
        if not self.path:
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                note = json.loads(bytes(file[_MADE_FROM]))
                if note != _as_json({**self.options, "from": made_from}):
                    return None
                return {name: file[name] for name in file.files if name != _MADE_FROM}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, columns: Columns, made_from: Any = None) -> None:
        """Keeps the columns, if an index is kept at all."""
        if not self.path:
            return
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        note = np.frombuffer(json.dumps({**self.options, "from": made_from}).encode(), np.uint8)
        with whole_file(self.path, flush=False) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{_MADE_FROM: note}, **columns)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def of_files(
    kind: str,
    paths: Sequence[str],
    options: dict[str, Any],
    make: Callable[[str, Callable[[int], None]], Columns],
    what: str,
) -> list[Columns]:
    """The columns of every file, from the index or made anew, several files at a time.

    Args:
      make: (path, progress) -> columns; calls progress(bytes) with what it has read since the last call,
        which raises when the work is to stop.
      what: is done, for the bar.
    """
    froms = [list(stamp(path)) for path in paths]
    kept = sum(length for length, _ in froms) >= SMALL
    places = [path if "://" in path else os.path.abspath(path) for path in paths]
    parts = [Part(kind, place, options, kept=kept) for place in places]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        found = list(pool.map(lambda pair: pair[0].read(pair[1]), zip(parts, froms)))
    missing = [i for i, columns in enumerate(found) if columns is None]
    size = sum(froms[i][0] for i in missing)

    def made(i: int, progress: Callable[[int], None]) -> None:
        found[i] = make(paths[i], progress)
        parts[i].write(found[i], froms[i])

    _in_threads(made, missing, size, what)
    return found


def _in_threads(
    work: Callable[[int, Callable[[int], None]], None], items: Sequence[int], size: int, what: str
) -> None:
    """Does the work for every item; an error, or an interruption, ends all of it."""
    stop, lock, done = threading.Event(), threading.Lock(), [0]

    def progress(count: int) -> None:
        if stop.is_set():
            raise concurrent.futures.CancelledError
        with lock:
            done[0] += count

    pool = concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        futures = {pool.submit(work, item, progress) for item in items}
        with Bar(what, size // _MEGABYTE, "MB", shown=size > 256 * _MEGABYTE) as bar:
            while futures:
                ready, futures = concurrent.futures.wait(futures, 0.5, concurrent.futures.FIRST_EXCEPTION)
                for future in ready:
                    future.result()
                if done[0] // _MEGABYTE > bar.done:
                    bar.advance(done[0] // _MEGABYTE - bar.done)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def stamp(path: str) -> tuple[int, int]:
    """Length in bytes and time of the last change in nanoseconds; -1 where there is no file."""
    try:
        if "://" in path:
            stat = tf.io.gfile.stat(path)
            return int(stat.length), int(stat.mtime_nsec)
        local = os.stat(path)  # TensorFlow's knows whole seconds alone
        return local.st_size, local.st_mtime_ns
    except (OSError, tf.errors.OpError):
        return -1, -1


def texts(values: Sequence[str]) -> np.ndarray:
    """Text as bytes [N], UTF-8, for a column; what is no UTF-8 keeps its bytes."""
    return np.array([value.encode("utf-8", "surrogateescape") for value in values], dtype=bytes)


def as_text(column: np.ndarray) -> np.ndarray:
    """The inverse of `texts`, str [N]."""
    return np.char.decode(column, "utf-8", "surrogateescape") if len(column) else np.zeros(0, str)
