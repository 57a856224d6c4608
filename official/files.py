"""Files that are whole or not there: JSON written under another name and renamed, folders flushed to disk."""

from __future__ import annotations

import json
import os
from typing import Any


def write_json(path: str, content: Any) -> None:
    """Writes JSON to a temporary name, flushes it to disk and renames it."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = f"{path}.tmp{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: str) -> Any:
    """Reads JSON; {} if the file is not there."""
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


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
