"""Evaluation shared among the workers of a run: each looks at its part of the images, the chief evaluates
all.

What is seen goes through files in the run folder, written whole: parts are whole batches, so that the numbers
are one worker's to the bit. A part that is there already (the run was killed in between) is taken, if it is
of the same weights, images and flags.
"""

from __future__ import annotations

import glob
import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

from official.data.fingerprints import ids_digest
from official.data.source import Source
from official.files import whole_file
from official.tasks.task import Columns, Task
from official.training.distribution import WorkerLost, require_workers, worker_of
from official.training.recovery import weights_sha256

PARTS = "parts"
WAIT_SECONDS = 0.5


def part_of(images: int, batch: int, worker: int, workers: int) -> tuple[int, int]:
    """(first, last): whole batches, as even as can be; the last part may be shorter, and any may be empty."""
    batches = -(-images // batch)
    first, last = (min(images, batches * number // workers * batch) for number in (worker, worker + 1))
    return first, last


def evaluate_together(
    strategy: tf.distribute.Strategy,
    task: Task,
    model: tf.keras.Model,
    source: Source,
    folder: str,
    progress: str,
) -> dict[str, Any]:
    """`Task.evaluate` by all workers of a run; metrics on the chief, nothing on others.

    Args:
      model: of this worker alone, the same on all.

    Raises:
      WorkerLost: one that a part is missing from does not answer any more.
    """
    worker, workers = worker_of(strategy)
    if workers == 1:
        return task.evaluate(model, source, folder, progress)
    experiment = task.experiment
    key = f"{weights_sha256(model.variables)[:12]}-{ids_digest(source.ids)}-{experiment.fingerprint()}"
    key = f"{key}-{workers}"
    paths = [os.path.join(folder, PARTS, f"{key}-{number}.npz") for number in range(workers)]
    if not os.path.isfile(paths[worker]):
        first, last = part_of(len(source), experiment.decoding.eval_batch_size, worker, workers)
        words = progress if worker == 0 else ""
        _write(paths[worker], task.look(model, source, first, last, words) if last > first else {})
    if worker:
        return {}
    for number, path in enumerate(paths):
        while not os.path.isfile(path):
            _require(strategy, number, path)
            time.sleep(WAIT_SECONDS)
    metrics = task.score(source, _joined(paths), folder)
    _remove(os.path.join(folder, PARTS), key)
    return metrics


def _require(strategy: tf.distribute.Strategy, number: int, path: str) -> None:
    """Raises WorkerLost unless the worker is there, or has written its part and ended: the run may end with
    it.
    """
    try:
        require_workers(strategy, (number,))
    except WorkerLost:
        if not os.path.isfile(path):
            raise


def _write(path: str, columns: Columns) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **columns)


def _joined(paths: list[str]) -> Columns:
    parts = []
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            parts.append({name: file[name] for name in file.files})
    parts = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _remove(folder: str, key: str) -> None:
    """Parts that have been evaluated; the other workers are done with theirs."""
    for path in glob.glob(os.path.join(glob.escape(folder), f"{key}-*.npz")):
        os.remove(path)
