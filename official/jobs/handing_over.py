"""The exported model of a run: written whole or not at all, and once."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from typing import Callable

import tensorflow as tf

from official.experiment import Experiment
from official.files import read_json, sync_folder, write_json
from official.tasks.task import Task

NOTE = "export.json"


def export_once(
    experiment: Experiment, weights_sha256: str, load: Callable[[], tuple[Task, tf.keras.Model]]
) -> tuple[dict[str, str], bool]:
    """Exports to `<model_dir>/export`, unless these very weights and flags are there.

    Args:
      weights_sha256: of the model; load: gives its task and itself, is called only if it is needed.

    Returns:
      The paths by kind, and whether they were written now.
    """
    folder = os.path.join(experiment.runtime.model_dir, "export")
    flags = {**experiment.decisive_flags(), "tflite": experiment.handover.tflite}
    key = hashlib.sha256(json.dumps([weights_sha256, flags], sort_keys=True).encode()).hexdigest()
    note = read_json(os.path.join(folder, NOTE))
    there = {kind: os.path.join(folder, name) for kind, name in note.get("files", {}).items()}
    if note.get("key") == key and all(os.path.exists(path) for path in there.values()):
        return there, False
    for left in (".tmp[0-9]*", ".old[0-9]*"):  # of a process that was killed
        for path in glob.glob(glob.escape(folder) + left):
            shutil.rmtree(path, ignore_errors=True)
    temporary, old = f"{folder}.tmp{os.getpid()}", f"{folder}.old{os.getpid()}"
    task, model = load()
    files = {kind: os.path.relpath(path, temporary) for kind, path in task.export(model, temporary).items()}
    write_json(os.path.join(temporary, NOTE), {"key": key, "weights_sha256": weights_sha256, "files": files})
    for part, _, _ in os.walk(temporary):
        sync_folder(part)
    if os.path.isdir(folder):
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)
    return {kind: os.path.join(folder, name) for kind, name in files.items()}, True
