"""What was found out about image files, kept in an index: a part a folder, an entry a file.

An entry is known by the file's name, length and time of change.
"""

from __future__ import annotations

import json
import os
from typing import Any, Sequence

import numpy as np

from official.data.index import Part, stamp, texts

Entry = Any  # a JSON value: what was found out about one file


class ImageIndex:
    """The entries of some image files.

    Attributes:
      entries: of every file, None where it is not known or the file has changed. Whoever finds out sets it,
        and calls `keep`.
    """

    def __init__(self, paths: Sequence[str], options: dict[str, Any], *, kept: bool) -> None:
        """Args: options: JSON values that decide the entries; kept: False: nothing is read or written."""
        self.entries: list[Entry | None] = [None] * len(paths)
        self._folders: dict[str, list[int]] = {}
        self._names, self._stamps = [os.path.basename(path) for path in paths], np.zeros([0, 2], np.int64)
        self._options, self._kept = options, kept
        if not kept:
            return
        self._stamps = np.array([stamp(path) for path in paths], np.int64).reshape(-1, 2)
        for i, path in enumerate(paths):
            self._folders.setdefault(os.path.dirname(os.path.abspath(path)), []).append(i)
        for folder, places in self._folders.items():
            self._take(folder, np.array(places))

    def keep(self, places: Sequence[int]) -> None:
        """Writes the parts of the folders that these files are in, with all that is known by now."""
        touched = set(places)
        for folder, own in self._folders.items():
            if not touched.isdisjoint(own):
                self._write(folder, [i for i in own if self.entries[i] is not None])

    def _part(self, folder: str) -> Part:
        return Part("images", folder, self._options, kept=self._kept)

    def _take(self, folder: str, places: np.ndarray) -> None:
        columns = self._part(folder).read()
        if columns is None or not len(columns["names"]):
            return
        names = texts([self._names[i] for i in places])
        at = np.minimum(np.searchsorted(columns["names"], names), len(columns["names"]) - 1)
        same = (columns["names"][at] == names) & (columns["stamps"][at] == self._stamps[places]).all(axis=1)
        table = json.loads(bytes(columns["table"]))
        for i, code in zip(places[same].tolist(), columns["codes"][at[same]].tolist()):
            self.entries[i] = table[code]

    def _write(self, folder: str, places: list[int]) -> None:
        """These files' entries, and those that the part has of others (of another set with images here)."""
        table: dict[str, int] = {}
        rows = {self._names[i]: (self._stamps[i], _coded(self.entries[i], table)) for i in places}
        before = self._part(folder).read()
        if before is not None:
            old = json.loads(bytes(before["table"]))
            known = (before["names"].tolist(), before["stamps"], before["codes"].tolist())
            for name, stamp, code in zip(*known):
                rows.setdefault(name.decode("utf-8", "surrogateescape"), (stamp, _coded(old[code], table)))
        names = texts(list(rows))
        order = np.argsort(names, kind="stable")
        columns = {
            "names": names[order],
            "stamps": np.array([stamp for stamp, _ in rows.values()], np.int64).reshape(-1, 2)[order],
            "codes": np.array([code for _, code in rows.values()], np.int32)[order],
            "table": np.frombuffer(f"[{','.join(table)}]".encode(), np.uint8),
        }
        self._part(folder).write(columns)


def _coded(entry: Entry, table: dict[str, int]) -> int:
    return table.setdefault(json.dumps(entry), len(table))
