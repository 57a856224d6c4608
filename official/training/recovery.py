"""Nothing on disk is half-written, and nothing that was done is lost.

A checkpoint is a folder `step_00001000` that appears by one rename when all of it is on disk. It
holds weights, optimizer, loss averages and guard, and what belongs to the weights
(official/trained_model.py); data order and random draws follow from (seed, step), so the step is all
that they need. Its `checkpoint.json` holds the checksum of every file and of itself, which are compared
before anything is taken from it: a damaged checkpoint is put aside for the one before it.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from typing import Any, Mapping

import numpy as np
import tensorflow as tf

from official.errors import FileDamaged, UserError
from official.files import (
    file_sha256,
    read_json,
    sweep,
    sync_entries,
    sync_folder,
    temporary_name,
    write_json,
)
from official.screen import warn
from official.trained_model import DESCRIPTION

STATE = "state"
META = "checkpoint.json"
RESULT = "result.json"  # of a finished phase
IMPORTED = "imported"  # the phase folder of a network that job=import_checkpoint brought
ASIDE = ".damaged"  # what a damaged checkpoint is renamed to
ROUND = "round_"  # begins the name of the folder, in its run, of a later round of self-training
PHASES = ("student", "teacher", IMPORTED)  # whose checkpoint stands for a run, the first that is there


class CheckpointDamaged(FileDamaged):
    """A checkpoint that is not what was written."""


class Checkpoints:
    """The checkpoints of one phase: the last few, and the best."""

    def __init__(self, folder: str, objects: Mapping[str, Any], *, keep: int = 3, chief: bool = True) -> None:
        """Builds the keeper.

        Args:
          folder: made if it is not there.
          objects: trackable objects by name.
          keep: how many to keep, besides the best.
          chief: whether this process's files are the ones that count. Other workers must write too
            (saving is collective), but to a folder that is thrown away.
        """
        self.folder, self.keep, self.chief = folder, keep, chief
        self.checkpoint = tf.train.Checkpoint(**objects)
        if chief:
            os.makedirs(folder, exist_ok=True)
            sweep(os.path.join(glob.escape(folder), "*"), exclusive=True)  # the run's lock is held
            for left in glob.glob(os.path.join(glob.escape(folder), ".tmp_*")):  # of an earlier version
                shutil.rmtree(left, ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return checkpoint_steps(self.folder)

    def path(self, step: int) -> str:
        """The folder of one checkpoint."""
        return os.path.join(self.folder, f"step_{step:08d}")

    def save(
        self, step: int, meta: Mapping[str, Any] | None = None, description: Mapping[str, Any] | None = None
    ) -> str:
        """Writes a checkpoint, atomically, and removes those that are no longer kept.

        Args:
          meta: goes into `checkpoint.json`; description: of the network, goes into `model.json`.
        """
        temporary = temporary_name(self.path(step))
        try:
            self.checkpoint.write(os.path.join(temporary, STATE))
            if self.chief:
                if description is not None:
                    write_json(os.path.join(temporary, DESCRIPTION), description)
                seal(temporary, {"step": step, **(meta or {})})
                sync_folder(temporary)
                _discard(self.path(step))
                os.replace(temporary, self.path(step))
                sync_entries(self.folder)
                self._prune()
        finally:  # a worker's, or one for which there was no room
            shutil.rmtree(temporary, ignore_errors=True)
        return self.path(step)

    def restore_latest(self) -> int:
        """Restores the newest checkpoint that is whole; returns its step, 0 if there is none."""
        step = newest_whole(self.folder, chief=self.chief)
        if step:
            _restore(self.checkpoint, self.path(step))
        return step

    def meta(self, step: int) -> dict[str, Any]:
        """What `save` was given for a checkpoint, and its score."""
        return read_json(os.path.join(self.path(step), META))

    def restore(self, step: int) -> None:
        """Restores one of the checkpoints."""
        restore_checkpoint(self.checkpoint, self.path(step))

    def note_score(self, step: int, score: float) -> None:
        """Records a checkpoint's score, which decides the best one."""
        meta = read_json(os.path.join(self.path(step), META))
        scores = {**meta.get("scores", {}), str(step): score}
        seal(self.path(step), {**meta, "score": score, "scores": scores}, meta.get("files", {}))

    def best(self) -> int | None:
        """The step with the highest score, or None if none was scored."""
        return best_step(self.folder)

    def _prune(self) -> None:
        steps, best = self.steps(), self.best()
        for step in steps[: -self.keep]:
            if step != best:
                _discard(self.path(step))


def best_step(folder: str) -> int | None:
    """Of the checkpoints in a folder the step with the highest score, or None if none was scored."""
    scores = {step: _score(os.path.join(folder, f"step_{step:08d}")) for step in checkpoint_steps(folder)}
    scored = {step: score for step, score in scores.items() if score is not None}
    return max(scored, key=lambda step: (scored[step], step)) if scored else None


def checkpoint_steps(folder: str) -> list[int]:
    """Steps of the complete checkpoints in a folder, ascending."""
    if not os.path.isdir(folder):
        return []
    names = [name for name in os.listdir(folder) if re.fullmatch(r"step_\d+", name)]
    return sorted(int(name[5:]) for name in names if os.path.isfile(os.path.join(folder, name, META)))


# --- whole or damaged -----------------------------------------------------------------------------


def newest_whole(folder: str, *, chief: bool = True) -> int:
    """The step of the newest checkpoint in a folder that is not damaged, 0 for none; says which ones are.

    Args:
      chief: also puts the damaged ones aside, so that nothing takes them for the newest any more.
    """
    for step in reversed(checkpoint_steps(folder)):
        path = os.path.join(folder, f"step_{step:08d}")
        reason = damage(path)
        if not reason:
            return step
        warn(f"{path} is damaged ({reason}): put aside as {path}{ASIDE}; going on from the state before it")
        if chief:
            shutil.rmtree(path + ASIDE, ignore_errors=True)
            os.replace(path, path + ASIDE)
    return 0


def damage(path: str) -> str:
    """Why the checkpoint folder `path` is not what was written; "" if it is."""
    try:
        meta = read_json(os.path.join(path, META))
    except FileDamaged:
        return f"{META} is not JSON"
    if not isinstance(meta, dict) or not meta:
        return f"it has no {META}"
    if "sealed" in meta and meta["sealed"] != _seal_of(meta):
        return f"{META} has been changed"
    for name, there in meta.get("files", {}).items():
        file = os.path.join(path, name)
        if not os.path.isfile(file):
            return f"{name} is missing"
        if os.path.getsize(file) != there["bytes"]:
            return f"{name} has {os.path.getsize(file)} bytes, not {there['bytes']}"
        if file_sha256(file) != there["sha256"]:
            return f"the checksum of {name} is wrong"
    return "" if "files" in meta else _tensor_damage(path)


def _tensor_damage(path: str) -> str:
    """Reads all of a checkpoint of an earlier version, which has TensorFlow's own checksums alone."""
    if not os.path.isfile(os.path.join(path, STATE + ".index")):
        return f"{STATE}.index is missing"
    try:
        reader = tf.train.load_checkpoint(os.path.join(path, STATE))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # the reader raises many kinds
        return f"TensorFlow cannot read it: {str(error)[:120]}"
    return ""


def seal(folder: str, meta: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> None:
    """Writes `checkpoint.json`: `meta`, checksums of files (all in the folder unless given) and its own."""
    if files is None:
        paths = {name: os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name != META}
        files = {name: {"bytes": os.path.getsize(p), "sha256": file_sha256(p)} for name, p in paths.items()}
    content = {**meta, **({"files": files} if files else {})}
    write_json(os.path.join(folder, META), {**content, "sealed": _seal_of(content)})


def _seal_of(meta: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in meta.items() if name != "sealed"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _score(path: str) -> float | None:
    try:
        return read_json(os.path.join(path, META)).get("score")
    except (FileDamaged, AttributeError):
        return None


def _discard(path: str) -> None:
    """Removes a checkpoint, which is there or not at every moment: it loses its name first."""
    if os.path.isdir(path):
        doomed = temporary_name(path)
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _remedy(path: str) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    own = os.path.basename(os.path.abspath(path))
    before = [step for step in checkpoint_steps(folder) if f"step_{step:08d}" != own]
    result = os.path.join(os.path.dirname(folder), "result.json")
    again = f"trains on from step {before[-1]}" if before else "trains this phase again"
    if not os.path.isfile(result):
        return f"Put a copy of it back, or remove it: the command that made it then {again}."
    return f"Put a copy of it back, or remove it and {result}: the command that made it then {again}."


def restore_checkpoint(checkpoint: tf.train.Checkpoint, path: str, *, partial: bool = False) -> None:
    """Restores from a checkpoint folder.

    Args:
      partial: takes only the objects that `checkpoint` has (weights without the optimizer, say).

    Raises:
      UserError: no checkpoint there, a damaged one (CheckpointDamaged), or one of another model.
    """
    if not any(os.path.isfile(os.path.join(path, name)) for name in (META, STATE + ".index")):
        raise UserError(f"no checkpoint in {path}; it should hold {STATE}.index")
    reason = damage(path)
    if reason:
        raise CheckpointDamaged(f"the checkpoint {path} is damaged: {reason}. {_remedy(path)}")
    _restore(checkpoint, path, partial=partial)


def _restore(checkpoint: tf.train.Checkpoint, path: str, *, partial: bool = False) -> None:
    try:
        status = checkpoint.read(os.path.join(path, STATE))
        status.assert_existing_objects_matched()
        if not partial:
            status.assert_consumed()
        status.expect_partial()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"the checkpoint {path} is of another model: {str(error)[:300]}") from error


def weights_sha256(variables: list[tf.Variable]) -> str:
    """SHA-256 over the sorted variable names and their bytes."""
    digest = hashlib.sha256()
    for variable in sorted(variables, key=lambda v: v.name):
        digest.update(variable.name.encode())
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def find_checkpoint(path: str, take: str = "") -> str:
    """The checkpoint folder that `path` means.

    A run stands for the student of its last finished round, or else the first of its *finished* phases: its
    student, its teacher (which may be elsewhere), its imported network. A phase that was named stands for its
    checkpoint, finished or not: see `taken_checkpoint`.

    Raises:
      UserError: nothing there, nothing trained there, or a run in which nothing is finished; says what could
        be named instead.
    """
    if not os.path.exists(path):
        raise UserError(f"no such run folder: {path}")
    begun = []
    for folder in reversed(round_folders(path)):
        if phase_finished(os.path.join(folder, PHASES[0])):
            return taken_checkpoint(os.path.join(folder, PHASES[0]), take)
    for phase in PHASES:
        folder = os.path.join(path, phase)
        last = last_checkpoint(folder)
        if phase_finished(folder):
            return taken_checkpoint(folder, take)
        if last:
            begun.append(folder)
    if last_checkpoint(path):
        return taken_checkpoint(path, take)
    if begun:
        remedy = f"name what to take of it: {' or '.join(begun)}"
        raise UserError(f"{path}: no phase of this run is finished; {remedy}")
    raise UserError(f"no checkpoint in {path}; it should be a run folder, a phase or a step_... folder")


def round_folders(run: str) -> list[str]:
    """The folders of a run's later rounds, in order."""
    names = [name for name in os.listdir(run) if name.startswith(ROUND)] if os.path.isdir(run) else []
    numbers = sorted(int(name.removeprefix(ROUND)) for name in names if name.removeprefix(ROUND).isdecimal())
    return [os.path.join(run, f"{ROUND}{number}") for number in numbers]


def taken_checkpoint(folder: str, take: str = "") -> str:
    """The checkpoint of a phase that goes on: the one that its result names, else the last.

    Args:
      take: "last" or "best" in place of what the phase was trained with; a folder that is a checkpoint is
        itself.

    Raises:
      UserError: the best of none that was evaluated.
    """
    if os.path.isfile(os.path.join(folder, META)):
        return folder
    if take == "best":
        for inside in (os.path.join(folder, "checkpoints"), folder):
            step = best_step(inside)
            if step is not None:
                return os.path.join(inside, f"step_{step:08d}")
        raise UserError(
            f"--take=best: no checkpoint in {folder} was evaluated while it trained; that needs --eval_every"
        )
    result = read_json(os.path.join(folder, RESULT)) if not take else {}
    named = result_checkpoint(folder, result) if result else ""
    return named if named and os.path.isdir(named) else last_checkpoint(folder)


def last_checkpoint(folder: str) -> str:
    """The last checkpoint of a phase or of a folder of checkpoints, or `folder` itself if it is one; "" for
    none.
    """
    result = read_json(os.path.join(folder, RESULT))
    for inside in (os.path.join(folder, "checkpoints"), folder):
        steps = checkpoint_steps(inside)
        if steps:
            return os.path.join(inside, f"step_{steps[-1]:08d}")
    if os.path.isfile(os.path.join(folder, META)):
        return folder
    return result_checkpoint(folder, result) if "checkpoint" in result else ""


def phase_finished(folder: str) -> bool:
    """Whether a phase has a last checkpoint that nothing follows."""
    last = last_checkpoint(folder)
    if not last or os.path.basename(folder) == IMPORTED:
        return bool(last)
    if os.path.isfile(os.path.join(folder, RESULT)):
        return True
    return bool(read_json(os.path.join(last, DESCRIPTION)).get("finished"))


def result_checkpoint(folder: str, result: Mapping[str, Any]) -> str:
    """The checkpoint folder that the result of the phase in `folder` names.

    What lies in the run, of whatever phase or round, is relative to the folder of the phases and moves with
    it; a teacher from elsewhere is absolute. Earlier versions wrote the path that the run had then: the end
    of it says which checkpoint of this phase it is.
    """
    folder, named = os.path.normpath(folder), result["checkpoint"]
    run = os.path.dirname(folder)
    here = os.path.normpath(os.path.join(run, named))
    if os.path.isdir(here):
        return here
    end = os.path.normpath(named).split(os.sep)[-3:]
    own = os.path.join(run, *end)
    return own if end[0] == os.path.basename(folder) and os.path.isdir(own) else named
