"""The numbers over the steps that a phase has written for TensorBoard."""

from __future__ import annotations

import os
import struct
from typing import Iterator

import tensorflow as tf

Curve = list[tuple[int, float]]
_LONGEST = 50_000  # bytes of a record with numbers; images are longer, and are not parsed


def read_curves(folder: str) -> dict[str, Curve]:
    """Every scalar by its tag, (step, value) by rising step; of a step that was taken again after a restart
    the later value.

    Args:
      folder: <model_dir>/<phase>/logs; nothing there gives {}.
    """
    found: dict[str, dict[int, float]] = {}
    for path in events_files(folder):
        for record in _records(path):
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return {tag: sorted(points.items()) for tag, points in found.items()}


def events_files(folder: str) -> list[str]:
    """Event files below a folder."""
    found = []
    for root, _, names in os.walk(folder):
        found += [os.path.join(root, name) for name in names if "tfevents" in name]
    return sorted(found)


def _records(path: str) -> Iterator[bytes]:
    """The short records of an event file; one that a killed process left unfinished ends it."""
    with open(path, "rb") as file:
        while len(head := file.read(12)) == 12:  # length, and its checksum
            length = struct.unpack("<Q", head[:8])[0]
            if length > _LONGEST:
                file.seek(length + 4, 1)
                continue
            record = file.read(length)
            if len(record) < length or len(file.read(4)) < 4:
                return
            yield record
