"""Files that are whole or not there: written under a name of this process alone, flushed to disk, renamed.

A temporary name says who made it, so that what a dead process left behind can be told from what a living
one is writing: `NAME.tmp-<machine>-<pid>-<start of the process>-<random>`, where the machine is host, boot
and PID namespace together (containers may share a pid and even a host name).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from typing import Any, Iterable, Iterator

from official.errors import FileDamaged, UserError

_MARK = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{8}-\d+-\d*-[0-9a-f]{8}$")
# What a process on another machine has not touched for so long belongs to a dead one.
FOREIGN_SECONDS = 24 * 3600.0


# --- whole files ----------------------------------------------------------------------------------


def write_json(path: str, content: Any, *, compact: bool = False) -> None:
    """Writes JSON to a temporary name, flushes it to disk and renames it.

    Args:
      compact: all in one line, which json writes ten times sooner; for lists that nobody reads.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        if compact:
            file.write(json.dumps(content))
        else:
            json.dump(content, file, indent=1)


@contextlib.contextmanager
def whole_file(path: str, *, flush: bool = True) -> Iterator[str]:
    """Gives a temporary name to write to; what is there in the end is renamed to `path`, on an error removed.

    Args:
      flush: waits for the disk first; off for what can be made again.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        if flush:
            _fsync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        name_file(error, path)
        raise
    if flush:
        _fsync(os.path.dirname(os.path.abspath(path)))


def require_space(folder: str, needed: int, what: str) -> None:
    """Raises UserError unless the disk that `folder` is (or will be) on has `needed` bytes free for
    `what`.
    """
    there = os.path.abspath(folder)
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{folder}: {what} take about {needed / 2**20:,.0f} MiB, and the disk has {free / 2**20:,.0f} "
            "MiB free: free some space, lower --keep_checkpoints, or choose another --model_dir"
        )


def name_file(error: BaseException, path: str) -> None:
    """Gives an error of the operating system the file that it is about; a full disk's names none."""
    if isinstance(error, OSError) and error.errno and error.filename is None:
        error.filename = path


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file to a temporary name, making its folder, and renames it."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with whole_file(path, flush=False) as temporary, open(temporary, "wb") as file:
        file.write(content)


def read_json(path: str) -> Any:
    """Reads JSON; {} if the file is not there.

    Raises:
      FileDamaged: what is there is not JSON.
    """
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:  # not UTF-8, or not JSON
        words = f"{path} is damaged: not JSON ({error}); put a copy of it back, or remove it"
        raise FileDamaged(words) from error


def file_sha256(path: str) -> str:
    """The SHA-256 of a file, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def output_names(names: Iterable[str], ending: str) -> list[str]:
    """A relative path for the file that belongs to each name, all different, none outside the folder it is
    joined to.

    `a/1.jpg` becomes `a/1` + ending; where names differ in their endings alone these stay (`1.jpg.png`,
    `1.png.png`).
    Names may be from elsewhere: absolute ones lose the folder that all have in common, `..` is spelled out.

    Args:
      names: ids or paths of images; ending: such as ".png".
    """
    if any(os.path.isabs(name) for name in names):
        common = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
        names = [os.path.relpath(os.path.abspath(name), common) for name in names]
    whole = [_inside(name) for name in names]
    stems = [os.path.splitext(name)[0] for name in whole]
    times = collections.Counter(stem.lower() for stem in stems)  # some file systems ignore case
    found: list[str] = []
    taken: set[str] = set()
    for name, stem in zip(whole, stems):
        base = stem if times[stem.lower()] == 1 else name
        path, number = base + ending, 1
        while path.lower() in taken:
            number += 1
            path = f"{base}_{number}{ending}"
        taken.add(path.lower())
        found.append(path)
    return found


def _inside(name: str) -> str:
    parts = [part for part in str(name).replace("\\", "/").split("/") if part not in ("", ".")]
    parts = ["%2e%2e" if part == ".." else part for part in parts]
    return "".join(c if c >= " " else f"%{ord(c):02x}" for c in "/".join(parts)) or "unnamed"


def sync_folder(folder: str) -> None:
    """Flushes a folder's files and entries to disk."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            _fsync(path)
    _fsync(folder)


def sync_entries(folder: str) -> None:
    """Flushes what a folder holds by name (after a rename), not the content of its files."""
    _fsync(folder)


def _fsync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot flush a folder
            raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(handle)


# --- who is writing -------------------------------------------------------------------------------


def boot() -> str:
    """A number of the running kernel, since its last boot; "" where it has none."""
    return _read("/proc/sys/kernel/random/boot_id")


@functools.cache
def machine() -> str:
    """Eight hex digits for this host, its last boot and this PID namespace: where a pid is one process."""
    parts = [socket.gethostname(), boot()]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:8]


def process_start(pid: int) -> str:
    """When a process of this machine started, in ticks since boot.

    Returns:
      "" if there is no such process, "0" where nobody can say.
    """
    stat = _read(f"/proc/{pid}/stat")
    if stat:
        fields = stat.rpartition(")")[2].split()  # the name in front may hold anything
        return "" if fields[0] in "ZX" else fields[19]
    if os.path.isdir("/proc/self"):
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "0"


def is_alive(pid: int, start: str) -> bool:
    """Whether the process of this machine with that pid is the one that started then."""
    return process_start(pid) == start


def temporary_name(path: str) -> str:
    """A name beside `path` that no other process uses and that says who made it."""
    pid = os.getpid()
    return f"{path}{_MARK}{machine()}-{pid}-{process_start(pid)}-{secrets.token_hex(4)}"


def sweep(path: str, *, exclusive: bool = False) -> list[str]:
    """Removes temporary files and folders of `path`, which may be a glob pattern, whose maker is dead.

    Args:
      exclusive: the caller holds a lock under which nobody else writes here, so all that is not of a
        living process of this machine is left over; else what another machine made is kept for a day.

    Returns:
      What was removed.
    """
    removed = []
    for left in glob.glob(path + _MARK + "*"):
        if _left_over(left, exclusive):
            _remove(left)
            removed.append(left)
    return removed


def sweep_tree(folder: str) -> list[str]:
    """Removes all temporary files and folders below `folder` whose maker is dead; returns their paths."""
    removed = []
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if _TEMPORARY.search(name) and _left_over(os.path.join(place, name), exclusive=False):
                removed.append(os.path.join(place, name))
        folders[:] = [name for name in folders if not _TEMPORARY.search(name)]
    for path in removed:
        _remove(path)
    return removed


def _remove(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.remove(path)


def _left_over(path: str, exclusive: bool) -> bool:
    parts = path.rpartition(_MARK)[2].split("-")
    if len(parts) == 4 and parts[0] == machine() and parts[1].isdigit():
        return not is_alive(int(parts[1]), parts[2])
    if exclusive:
        return True
    try:
        return time.time() - _last_change(path) > FOREIGN_SECONDS
    except OSError:
        return False  # its maker has just renamed it


def _last_change(path: str) -> float:
    inside = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
    return max(os.stat(p).st_mtime for p in (path, *inside))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
