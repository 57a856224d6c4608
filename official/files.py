"""Files that are whole or not there: JSON written under another name and renamed, folders flushed to disk."""

from __future__ import annotations

import collections
import json
import os
from typing import Any, Sequence


def write_json(path: str, content: Any) -> None:
    """Writes JSON to a temporary name, flushes it to disk and renames it."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = f"{path}.tmp{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file to a temporary name, making its folder, and renames it."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = f"{path}.tmp{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def read_json(path: str) -> Any:
    """Reads JSON; {} if the file is not there."""
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def output_names(names: Sequence[str], ending: str) -> list[str]:
    """A relative path for the file that belongs to each name, all different, none outside the folder it is joined to.

    `a/1.jpg` becomes `a/1` + ending; where names differ in their endings alone these stay (`1.jpg.png`, `1.png.png`).
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


def _fsync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
