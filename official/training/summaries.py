"""TensorBoard: scalars, picture grids, histograms and the flags of a run."""

from __future__ import annotations

import json
import os
from typing import Any, Mapping, Sequence

import numpy as np
import tensorflow as tf


class Summaries:
    """Writes the events of one phase; silent on workers that are not the chief."""

    def __init__(self, folder: str, *, chief: bool = True):
        """Args: folder: <model_dir>/<phase>/logs."""
        self.folder = folder
        self.writer = tf.summary.create_file_writer(folder) if chief else tf.summary.create_noop_writer()

    def scalars(self, values: Mapping[str, Any], step: int, prefix: str = "train") -> None:
        """One point per name, as `prefix/name`."""
        with self.writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"{prefix}/{name}", float(value))

    def pictures(self, name: str, pictures: Sequence[np.ndarray], step: int) -> None:
        """Pictures of any sizes, uint8 [H, W, 3] each, padded to the largest."""
        if not pictures:
            return
        height = max(p.shape[0] for p in pictures)
        width = max(p.shape[1] for p in pictures)
        grid = np.zeros((len(pictures), height, width, 3), np.uint8)
        for i, picture in enumerate(pictures):
            grid[i, : picture.shape[0], : picture.shape[1]] = picture
        with self.writer.as_default(step=step):
            tf.summary.image(name, grid, max_outputs=len(pictures))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """A histogram of any number of values."""
        if len(values):
            with self.writer.as_default(step=step):
                tf.summary.histogram(name, values)

    def flags(self, flags: Mapping[str, Any]) -> None:
        """The resolved flags as a text."""
        text = "\n".join(f"    --{name}={json.dumps(value)}" for name, value in sorted(flags.items()))
        with self.writer.as_default(step=0):
            tf.summary.text("flags", text)

    def flush(self) -> None:
        """Writes what is buffered."""
        self.writer.flush()


def events_files(folder: str) -> list[str]:
    """Event files below a folder."""
    found = []
    for root, _, names in os.walk(folder):
        found += [os.path.join(root, name) for name in names if "tfevents" in name]
    return sorted(found)
