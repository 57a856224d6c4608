"""Which images two data sets share, found without decoding any: for the start of every run."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from official.data.source import Source

SAMPLED = 300  # files of a set that are read to compare contents


def shared_images(these: Source, those: Source) -> tuple[int, list[str]]:
    """How many of `these` are among `those`, at least, and names of some.

    Files count as shared if they are one file (by whatever path or link), or if they are of one length and
    content; contents are compared of at most `SAMPLED` files, and the count scaled up to all. Scenes, and
    sources of one word, share the images that have the same id.
    """
    if these.word == those.word or all(source.word.startswith("scenes") for source in (these, those)):
        ids = set(map(str, those.ids))
        found = [i for i in range(len(these)) if str(these.ids[i]) in ids]
        return len(found), [these.name_of(i) for i in found[:3]]
    ours, theirs = _files(these), _files(those)
    known = {place for place, _ in theirs.values()}
    same = [path for path, (place, _) in ours.items() if place in known]
    lengths: dict[int, list[str]] = {}
    for path, (_, length) in theirs.items():
        lengths.setdefault(length, []).append(path)
    left = [path for path, (place, length) in ours.items() if place not in known and length in lengths]
    chosen = (
        [left[i] for i in np.unique(np.linspace(0, len(left) - 1, min(SAMPLED, len(left))).astype(int))]
        if left
        else []
    )
    digests: dict[str, str] = {}
    copied = [path for path in chosen if _has_copy(path, lengths[ours[path][1]], digests)]
    total = len(same) + round(len(copied) * len(left) / max(1, len(chosen)))
    return total, (same + copied)[:3]


def _files(source: Source) -> dict[str, tuple[tuple[int, int], int]]:
    """((device, number), length) of every file of a source, by its path."""
    found = {}
    for name in map(str, source.file_names if source.file_names is not None else ()):
        try:
            status = os.stat(name)
        except OSError:  # not a file of its own, or one whose name is not UTF-8
            continue
        found[name] = ((status.st_dev, status.st_ino), status.st_size)
    return found


def _has_copy(path: str, others: list[str], digests: dict[str, str]) -> bool:
    for name in (path, *others[:50]):
        if name not in digests:
            with open(name, "rb") as file:
                digests[name] = hashlib.sha256(file.read()).hexdigest()
    return any(digests[path] == digests[other] for other in others[:50])
