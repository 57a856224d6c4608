"""The exported model of a run: written whole or not at all, and once."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from typing import Any, Callable

import tensorflow as tf

from official.errors import FileDamaged
from official.experiment import Experiment
from official.files import name_file, read_json, sweep, sync_entries, sync_folder, temporary_name, write_json
from official.lock import folder_lock
from official.screen import stamped
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
    flags = {**experiment.decisive_flags(), "tflite": experiment.serving.tflite}
    key = hashlib.sha256(json.dumps([weights_sha256, flags], sort_keys=True).encode()).hexdigest()
    note = _note(folder)
    there = {kind: os.path.join(folder, name) for kind, name in note.get("files", {}).items()}
    if note.get("key") == key and all(os.path.exists(path) for path in there.values()):
        return there, False
    stamped(f"exporting the model to {folder}")  # half a minute in which nothing else is said
    with folder_lock(experiment.runtime.model_dir, "export.lock"):
        files = _write(load, folder, {"key": key, "weights_sha256": weights_sha256})
    return {kind: os.path.join(folder, name) for kind, name in files.items()}, True


def _note(folder: str) -> dict[str, Any]:
    """What an export says of itself; {} if there is none, or it is damaged and must be made again."""
    try:
        return read_json(os.path.join(folder, NOTE))
    except FileDamaged:
        return {}


def _write(
    load: Callable[[], tuple[Task, tf.keras.Model]], folder: str, note: dict[str, Any]
) -> dict[str, str]:
    """Exports to a temporary folder, flushes it and puts it in the place of `folder`.

    Returns:
      The files by kind, relative to the folder.
    """
    for left in (folder, f"{folder}.old"):
        sweep(glob.escape(left), exclusive=True)  # of a process that was killed
    temporary, old = temporary_name(folder), temporary_name(f"{folder}.old")
    task, model = load()
    try:
        made = task.export(model, temporary)
        files = {kind: os.path.relpath(path, temporary) for kind, path in made.items()}
        write_json(os.path.join(temporary, NOTE), {**note, "files": files})
        for part, _, _ in os.walk(temporary):
            sync_folder(part)
        if os.path.isdir(folder):
            os.replace(folder, old)
        os.replace(temporary, folder)
        sync_entries(os.path.dirname(os.path.abspath(folder)))
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        name_file(error, folder)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return files
