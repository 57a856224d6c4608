"""One process at a time in a folder: a lock that says who holds it, and that a dead holder does not keep.

The lock is a file, held twice: by `flock`, which the kernel lets go when a process dies and which is seen by
every process of this machine (and through NFS of others), and by what is written in it: host, pid, start and
a time that a thread renews, for disks on which `flock` does nothing and for other machines.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from typing import Any, Iterator

from official.errors import UserError
from official.files import boot, is_alive, machine, process_start

RENEW_SECONDS = 10.0
STALE_SECONDS = 180.0  # a holder on another machine that has been silent for so long is dead
LOCK = "run.lock"


class Locked(UserError):
    """Another process is at work in the folder."""


@contextlib.contextmanager
def folder_lock(folder: str, name: str = LOCK) -> Iterator[None]:
    """Holds `folder/name` for a `with` block; makes the folder, and removes it if nothing has come into it.

    Raises:
      Locked: says who holds it: host, pid, since when, with which command.
      OSError: the folder cannot be made or written.
    """
    made = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    lock = _Lock(os.path.join(folder, name))
    try:
        lock.take()
        yield
    finally:
        lock.release()
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # refused unless it is empty


class _Lock:
    """One lock file; see the head of this module."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._handle = -1
        self._token = secrets.token_hex(8)
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Takes the lock or raises Locked."""
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            free = _flock(handle)
            if not _is_file(handle, self.path):  # its last holder removed it in this moment
                os.close(handle)
                continue
            holder = _read(handle)
            if free is False or (holder and _lives(holder, self.path, free)):
                os.close(handle)
                raise Locked(_refusal(self.path, holder))
            break
        self._handle = handle
        if holder:
            print(f"{self.path}: left by {_who(holder)}, which is dead; taken over", file=sys.stderr)
        self._write()
        if free is None:
            self._settle()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Gives the lock back, if it was taken."""
        if self._handle < 0:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_mine():
                os.remove(self.path)
        os.close(self._handle)
        self._handle = -1

    def _settle(self) -> None:
        """Without flock two may have written at the same time: the last one has it."""
        time.sleep(0.5)
        if not self._is_mine():
            holder = _read(self._handle)
            os.close(self._handle)
            self._handle = -1
            raise Locked(_refusal(self.path, holder))

    def _write(self) -> None:
        content = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._since,
            "machine": machine(),
            "boot": boot(),
            "start": process_start(os.getpid()),
            "token": self._token,
            "command": " ".join(sys.argv)[:300],
        }
        text = json.dumps(content).encode()
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text, 0)

    def _is_mine(self) -> bool:
        return _is_file(self._handle, self.path) and _read(self._handle).get("token") == self._token

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                mine = self._is_mine()
                if mine:
                    os.utime(self._handle)
            except OSError:
                continue  # a network disk that is away for a moment
            if not mine:
                taker = _who(_read_path(self.path))
                print(f"\nerror: {self.path} was taken by {taker}; this process stops", file=sys.stderr)
                os._exit(1)  # nothing may be written here any more; every file is whole


def _flock(handle: int) -> bool | None:
    """Whether the lock is ours now; None where the disk knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN) else None


def _lives(holder: dict[str, Any], path: str, free: bool | None) -> bool:
    """Whether the process that wrote the lock is at work, where `flock` (see `_flock`) does not say so.

    Under one kernel `flock` knows; else a pid tells on this machine, and the last sign of life on another.
    """
    if free and holder.get("boot") == boot():
        return False
    if holder.get("machine") == machine():
        return is_alive(int(holder.get("pid", 0)), str(holder.get("start")))
    return _age(path) < STALE_SECONDS


def _age(path: str) -> float:
    """Seconds since a file was touched, by the clock of its disk (two machines' clocks may differ)."""
    probe = f"{path}.{secrets.token_hex(4)}"
    with open(probe, "wb"):
        now = os.stat(probe).st_mtime
    os.remove(probe)
    return now - os.stat(path).st_mtime


def _is_file(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _read(handle: int) -> dict[str, Any]:
    """What the lock says; {} for nothing, or for what a process was killed while writing."""
    try:
        found = json.loads(os.pread(handle, 4096, 0) or b"{}")
        return found if isinstance(found, dict) else {}
    except ValueError:
        return {}


def _read_path(path: str) -> dict[str, Any]:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return {}
    try:
        return _read(handle)
    finally:
        os.close(handle)


def _who(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    what = f"(since {holder.get('since')}: {holder.get('command')})"
    return f"process {holder.get('pid')} on {holder.get('host')} {what}"


def _refusal(path: str, holder: dict[str, Any]) -> str:
    where = (
        ""
        if holder.get("machine") == machine()
        else (
            f" If that machine is gone, wait {STALE_SECONDS:.0f} s after its last sign of life, or remove "
            f"{path}."
        )
    )
    return (
        f"{os.path.dirname(path)} is in use by {_who(holder)}. Wait until it has finished, stop it "
        f"(kill {holder.get('pid')}), or use another folder.{where}"
    )
