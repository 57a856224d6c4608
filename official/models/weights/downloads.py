"""One file from an address: whole and of the stated hash, or not there; a broken one is gone on with."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from typing import Any, Iterator

from official.files import sync_folder
from official.models.weights.weight_files import WeightsError
from official.screen import note

PART = ".part"
CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte


def has_digest(path: str, digest: str) -> bool:
    """Whether a file has a hash.

    Args:
      digest: "md5:…" or "sha256:…" in hex digits; fewer than all are a prefix. "" fits every file.
    """
    if not digest:
        return True
    kind, _, wanted = digest.partition(":")
    found = hashlib.new(kind)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest().startswith(wanted)


def fetch(address: str, path: str, digest: str) -> None:
    """Writes what is at `address` to `path`; what a broken connection left in PATH.part is gone on with.

    Raises:
      WeightsError: no network, an answer that is no file, a connection that broke, another hash.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    part = path + PART
    with _alone(part + ".lock"):
        if os.path.isfile(path) and has_digest(path, digest):
            return  # another process was first
        note(f"downloading {address}\n  to {path}")
        try:
            _append(address, part)
        except urllib.error.HTTPError as error:
            said = f"{error.code} ({error.reason})"
            raise WeightsError(f"{address} answers {said}; {_by_hand(path)}") from error
        except (http.client.HTTPException, OSError) as error:
            raise WeightsError(_broken(address, path, part, error)) from error
        if not has_digest(part, digest):
            os.remove(part)
            raise WeightsError(
                f"{address} is not the file that it should be: its hash is not {digest}; it is deleted"
            )
        os.replace(part, path)
        sync_folder(os.path.dirname(os.path.abspath(path)))


def _append(address: str, part: str) -> None:
    """Goes on where `part` ends, or from the start where the server cannot."""
    have = os.path.getsize(part) if os.path.isfile(part) else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # all of it is there already, or more than all; the hash decides
            raise
        return
    with answer, open(part, "ab" if have and answer.status == 206 else "wb") as file:
        size = int(answer.headers.get("Content-Length", -1))
        _copy(answer, file, size)


def _copy(answer: Any, file: Any, size: int) -> None:
    """Copies the answer; raises IncompleteRead where it has fewer bytes than it said."""
    done, said = 0, 0
    while chunk := answer.read(CHUNK):
        file.write(chunk)
        done += len(chunk)
        if size > 0 and done * 10 // size > said:
            said = done * 10 // size
            note(f"  {done:,} of {size:,} bytes")
    if size >= 0 and done < size:
        raise http.client.IncompleteRead(b"", size - done)


def _broken(address: str, path: str, part: str, error: Exception) -> str:
    there = os.path.getsize(part) if os.path.isfile(part) else 0
    if there:
        done = f"{address} broke off after {there:,} bytes ({_said(error)})"
        return f"{done}; the same command goes on from there"
    return f"{address} cannot be reached ({_said(error)}); {_by_hand(path)}"


def _said(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _by_hand(path: str) -> str:
    return f"fetch it on another machine and put it at {path}"


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Only one process at a time downloads one file."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
