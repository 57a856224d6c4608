"""What a machine has to compute with: cores, memory, GPUs; this one, or one that a flag describes."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess

import tensorflow as tf

from official.errors import FlagError

_GIB = float(1 << 30)
_UNKNOWN_GPU = 8  # gigabytes of a GPU that does not say


@dataclasses.dataclass(frozen=True)
class Machine:
    """Attributes:
    cores: that this process may use; memory: gigabytes that it may use.
    gpus: how many; gpu_memory: gigabytes of each, 0 without one.
    """

    cores: int
    memory: int
    gpus: int = 0
    gpu_memory: int = 0

    def __str__(self) -> str:
        gpus = (
            f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} of {self.gpu_memory} GB"
            if self.gpus
            else "no GPU"
        )
        return f"{self.cores} CPU core{'s' if self.cores > 1 else ''}, {self.memory} GB of memory, {gpus}"


def machine_of(text: str) -> Machine:
    """The machine that --machine describes; this one where it is empty.

    Raises:
      FlagError: another form than cores=64,memory=512,gpus=8,gpu_memory=80.
    """
    if not text:
        return this_machine()
    names = [field.name for field in dataclasses.fields(Machine)]
    try:
        pairs = dict(entry.split("=") for entry in text.split(","))
        values = {name.strip(): int(value) for name, value in pairs.items()}
        found = Machine(**values)
    except (ValueError, TypeError) as error:
        raise FlagError(
            f"--machine={text}: it should name cores and memory (GB), and with GPUs gpus and gpu_memory (GB "
            "of each), such as cores=64,memory=512,gpus=8,gpu_memory=80"
        ) from error
    if found.cores < 1 or found.memory < 1 or found.gpus < 0 or (found.gpus > 0) != (found.gpu_memory > 0):
        raise FlagError(
            f"--machine={text}: {', '.join(names[:2])} are at least 1; gpus and gpu_memory belong together"
        )
    return found


def this_machine() -> Machine:
    """What this process may use, limits of a container included; gigabytes are whole ones, rounded."""
    gpus = tf.config.get_visible_devices("GPU")
    return Machine(_cores(), max(1, round(_memory() / _GIB)), len(gpus), _gpu_memory() if gpus else 0)


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():
        cores = min(cores, max(1, math.floor(int(quota) / int(period))))
    return cores


def _memory() -> float:
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    return min(whole, float(limit)) if limit.isdecimal() else whole


def _gpu_memory() -> int:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        return max(1, round(min(map(int, said)) / 1024.0))
    except (OSError, subprocess.SubprocessError, ValueError):
        return _UNKNOWN_GPU


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
