"""The control in a process of its own beside teacher, labels and student: they need nothing of each other.

The process is `--job=control` with the flags of the run. It ends when the one that started it ends, however
that came: asked by SIGTERM (it saves and the same command goes on), or killed with it. What it writes lies
below `control/`.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import threading
import time
from typing import Any, Iterator

import tensorflow as tf

from official.errors import FlagError, UserError
from official.experiment import Experiment, Runtime
from official.lock import folder_lock
from official.screen import note, stamped
from official.study.workers import own_command

CONTROL_LOCK = "control.lock"
PARENT = "SELF_TRAINING_PARENT"  # in the environment of the process beside: the id of the one that started it
_PR_SET_PDEATHSIG = 1
_LAST_LINES = 12
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


class Beside:
    """A process that trains the control while a `with` block runs; without `--parallel_phases` none."""

    def __init__(self, experiment: Experiment, *, needed: bool) -> None:
        """Args: needed: whether there is a control to be trained."""
        self.experiment, self.needed = experiment, needed and experiment.runtime.parallel_phases
        self._process: subprocess.Popen | None = None
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)

    def __enter__(self) -> Beside:
        if self.needed:
            note("control: begins in a process of its own, beside teacher, labels and student")
            self._process = subprocess.Popen(
                command_of(self.experiment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(),  # Ctrl-C comes to us alone, and we tell it
            )
            self._reader = threading.Thread(target=self._read, name="control", daemon=True)
            self._reader.start()
        return self

    def __exit__(self, *unused: Any) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()

    def wait(self) -> None:
        """Returns when the control is trained and evaluated.

        Raises:
          UserError: its process has failed; with the last of what it said.
        """
        if self._process is None:
            return
        code = self._process.wait()
        self._reader.join()
        if code:
            ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            said = "\n".join(f"  {line}" for line in self._lines)
            raise UserError(
                f"control: its process {ended}. The same command goes on from its last checkpoint. It "
                f"said:\n{said}"
            )

    def _read(self) -> None:
        """Passes on what the process says; it speaks as in a log (official/screen.py)."""
        assert self._process is not None and self._process.stdout is not None
        rest = b""
        while chunk := os.read(self._process.stdout.fileno(), 4096):
            *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
            for line in lines:
                self._pass_on(line.decode(errors="replace").strip())

    def _pass_on(self, line: str) -> None:
        said = _STAMP.sub("", line, count=1)
        if not said:
            return
        if not said.startswith("control: step"):
            self._lines.append(said)
        stamped(said if said.startswith("control") else f"control: {said}")


def command_of(experiment: Experiment) -> list[str]:
    """The command that trains the control of a run: that of the run, with another job."""
    flags = {name: value for name, value in experiment.flags().items() if name in experiment.given}
    flags |= {"job": "control", "model_dir": experiment.runtime.model_dir, "parallel_phases": False}
    flags["compute_threads"] = computing_threads(experiment.runtime)
    return [*own_command(), *(f"--{name}={value}" for name, value in flags.items())]


def computing_threads(runtime: Runtime) -> int:
    """Threads that a process computes with: --compute_threads, or with --parallel_phases half of the cores;
    0: TensorFlow's choice.
    """
    if runtime.compute_threads or not runtime.parallel_phases:
        return runtime.compute_threads
    # MacOS has none.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def share_machine(runtime: Runtime) -> None:
    """Limits this process to its share; before TensorFlow computes anything.

    Raises:
      FlagError: --parallel_phases where there is nothing to share, or other machines take part.
    """
    threads = computing_threads(runtime)
    if threads:
        with _before_anything(f"--compute_threads={threads}"):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
    if not runtime.parallel_phases:
        return
    if runtime.tpu or runtime.strategy == "multi_worker" or "TF_CONFIG" in os.environ:
        raise FlagError(
            "--parallel_phases: not on a TPU and not with several workers, whose devices one process holds"
        )
    devices = tf.config.list_physical_devices("GPU")
    if len(devices) == 1:
        raise FlagError(
            "--parallel_phases: this machine has one GPU; two are needed (or none: then the cores are shared)"
        )
    if devices:
        with _before_anything("--parallel_phases"):
            tf.config.set_visible_devices(devices[: len(devices) // 2], "GPU")


@contextlib.contextmanager
def _before_anything(flag: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise FlagError(f"{flag} must be set before TensorFlow is used") from error


def _environment() -> dict[str, str]:
    """That of the process beside: the second half of the GPUs, and whose end is its own."""
    count = len(tf.config.list_physical_devices("GPU"))
    named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(str(i) for i in range(count))).split(",")
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(named[count // 2 : count])} if count else {}
    return {**os.environ, **devices, PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """In the process beside: dies when the one that started it dies; nothing that it writes is ever half
    there.
    """
    if PARENT not in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # at once, on Linux
    threading.Thread(target=_watch, args=(int(os.environ[PARENT]),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(128 + signal.SIGKILL)


@contextlib.contextmanager
def control_alone(folder: str) -> Iterator[None]:
    """Has the control of a run to itself; raises Locked where another process trains it."""
    with folder_lock(folder, CONTROL_LOCK):
        yield
