"""Nothing on disk is half-written, and nothing that was done is lost.

A checkpoint is a folder `step_00001000` that appears by one rename when all of it is on disk. It
holds weights, optimizer, loss averages and guard, and what belongs to the weights
(official/trained_model.py); data order and random draws follow from (seed,
step), so the step is all that they need.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from typing import Any, Mapping

import numpy as np
import tensorflow as tf

from official.files import read_json, sync_folder, write_json
from official.trained_model import DESCRIPTION

STATE = "state"
META = "checkpoint.json"
RESULT = "result.json"  # of a finished phase
IMPORTED = "imported"  # the phase folder of a network that job=import_checkpoint brought
PHASES = ("student", "teacher", IMPORTED)  # whose checkpoint stands for a run, the first that is there


class Interrupted(RuntimeError):
    """The run was asked to stop and has saved its state."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """Turns SIGINT and SIGTERM into a wish that the loop looks at; a second SIGINT stops at once."""

    def __init__(self):
        self.signal_number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: nobody can send us a signal here
                pass
        return self

    def __exit__(self, *unused) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

    def check(self, what: str) -> None:
        """Raises Interrupted, with how to go on, if a signal has come."""
        if self.signal_number:
            raise Interrupted(
                f"stopped by {signal.Signals(self.signal_number).name}: {what}. "
                "The same command goes on from here.",
                self.signal_number,
            )


class Checkpoints:
    """The checkpoints of one phase: the last few, and the best."""

    def __init__(self, folder: str, objects: Mapping[str, Any], *, keep: int = 3, chief: bool = True):
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
            for name in os.listdir(folder):
                if name.startswith(".tmp"):
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return checkpoint_steps(self.folder)

    def path(self, step: int) -> str:
        """The folder of one checkpoint."""
        return os.path.join(self.folder, f"step_{step:08d}")

    def save(
        self, step: int, meta: Mapping[str, Any] | None = None, description: Mapping[str, Any] | None = None
    ) -> str:  # fmt: skip
        """Writes a checkpoint, atomically, and removes those that are no longer kept.

        Args:
          meta: goes into `checkpoint.json`; description: of the network, goes into `model.json`.
        """
        owner = "chief" if self.chief else f"worker_{os.getpid()}"
        temporary = os.path.join(self.folder, f".tmp_{owner}_{step:08d}")
        self.checkpoint.write(os.path.join(temporary, STATE))
        if not self.chief:
            shutil.rmtree(temporary, ignore_errors=True)
            return self.path(step)
        if description is not None:
            write_json(os.path.join(temporary, DESCRIPTION), description)
        write_json(os.path.join(temporary, META), {"step": step, **(meta or {})})
        sync_folder(temporary)
        final = self.path(step)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        sync_folder(self.folder)
        self._prune()
        return final

    def restore_latest(self) -> int:
        """Restores the newest checkpoint; returns its step, or 0 if there is none."""
        steps = self.steps()
        if not steps:
            return 0
        restore_checkpoint(self.checkpoint, self.path(steps[-1]))
        return steps[-1]

    def meta(self, step: int) -> dict[str, Any]:
        """What `save` was given for a checkpoint, and its score."""
        return read_json(os.path.join(self.path(step), META))

    def note_score(self, step: int, score: float) -> None:
        """Records a checkpoint's score, which decides the best one."""
        path = os.path.join(self.path(step), META)
        write_json(path, {**read_json(path), "score": score})

    def best(self) -> int | None:
        """The step with the highest score, or None if none was scored."""
        scores = {step: read_json(os.path.join(self.path(step), META)).get("score") for step in self.steps()}
        scored = {step: score for step, score in scores.items() if score is not None}
        return max(scored, key=lambda step: (scored[step], step)) if scored else None

    def _prune(self) -> None:
        steps, best = self.steps(), self.best()
        for step in steps[: -self.keep]:
            if step != best:
                shutil.rmtree(self.path(step), ignore_errors=True)


def checkpoint_steps(folder: str) -> list[int]:
    """Steps of the complete checkpoints in a folder, ascending."""
    if not os.path.isdir(folder):
        return []
    names = [name for name in os.listdir(folder) if name.startswith("step_")]
    return sorted(int(name[5:]) for name in names if os.path.isfile(os.path.join(folder, name, META)))


def restore_checkpoint(checkpoint: tf.train.Checkpoint, path: str, *, partial: bool = False) -> None:
    """Restores from a checkpoint folder.

    Args:
      partial: takes only the objects that `checkpoint` has (weights without the optimizer, say).

    Raises:
      ValueError: no complete checkpoint there, or one of another model.
    """
    state = os.path.join(path, STATE)
    if not os.path.isfile(state + ".index"):
        raise ValueError(f"no checkpoint in {path}; it should hold {STATE}.index")
    try:
        status = checkpoint.read(state)
        status.assert_existing_objects_matched()
        if not partial:
            status.assert_consumed()
        status.expect_partial()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise ValueError(f"the checkpoint {path} is of another model: {str(error)[:300]}") from error


def weights_sha256(variables: list[tf.Variable]) -> str:
    """SHA-256 over the sorted variable names and their bytes."""
    digest = hashlib.sha256()
    for variable in sorted(variables, key=lambda v: v.name):
        digest.update(variable.name.encode())
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def find_checkpoint(path: str) -> str:
    """The checkpoint folder that `path` means.

    A run stands for the first of its *finished* phases: its student, else its teacher (which may be elsewhere),
    else its imported network. A phase that was named stands for its last checkpoint, finished or not.

    Raises:
      ValueError: nothing trained there, or a run in which nothing is finished; says what could be named instead.
    """
    begun = []
    for phase in PHASES:
        folder = os.path.join(path, phase)
        last = last_checkpoint(folder)
        if phase_finished(folder):
            return last
        if last:
            begun.append(folder)
    last = last_checkpoint(path)
    if last:
        return last
    if begun:
        raise ValueError(f"{path}: no phase of this run is finished; name what to take of it: {' or '.join(begun)}")
    raise ValueError(f"no checkpoint in {path}; it should be a run folder, a phase of one, or a folder step_...")


def last_checkpoint(folder: str) -> str:
    """The last checkpoint of a phase or of a folder of checkpoints, or `folder` itself if it is one; "" for none."""
    result = read_json(os.path.join(folder, RESULT))
    for inside in (os.path.join(folder, "checkpoints"), folder):
        steps = checkpoint_steps(inside)
        if steps:
            return os.path.join(inside, f"step_{steps[-1]:08d}")
    if os.path.isfile(os.path.join(folder, META)):
        return folder
    return result_checkpoint(os.path.dirname(os.path.abspath(folder)), result) if result else ""


def phase_finished(folder: str) -> bool:
    """Whether a phase has a last checkpoint that nothing follows."""
    last = last_checkpoint(folder)
    if not last or os.path.basename(folder) == IMPORTED:
        return bool(last)
    if os.path.isfile(os.path.join(folder, RESULT)):
        return True
    return bool(read_json(os.path.join(last, DESCRIPTION)).get("finished"))


def result_checkpoint(run: str, result: Mapping[str, Any]) -> str:
    """The checkpoint folder that a phase's result names: the run's own where it has it, else another run's.

    Own ones are relative to the run (earlier versions wrote the path that the run had then).
    """
    named = result["checkpoint"]
    inside = os.path.join(run, *os.path.normpath(named).split(os.sep)[-3:])
    return inside if os.path.isdir(inside) else named
