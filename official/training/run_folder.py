"""The run folder: what made it, the ids it was made from, and `summary.json` at the end of a job."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from typing import Any, Sequence

from official.data.source import Category, Source
from official.experiment import Experiment, experiment_from
from official.files import read_json, write_json
from official.trained_model import RUN
from official.training.recovery import PHASES, last_checkpoint

SUMMARY = "summary.json"
PACKAGES = ("tensorflow", "keras", "keras-cv", "tensorflow-addons", "tensorflow-datasets", "numpy", "pycocotools")


class FlagsDiffer(ValueError):
    """The run folder was made with other flags."""


class RunFolder:
    """One `--model_dir`."""

    def __init__(self, experiment: Experiment):
        """Raises ValueError if there is no --model_dir."""
        if not experiment.runtime.model_dir:
            raise ValueError("--model_dir is needed: the folder that a run writes to and continues from")
        self.experiment = experiment
        self.path = experiment.runtime.model_dir
        self.started = time.time()
        self.seconds: dict[str, float] = {}

    def claim(self, *, chief: bool = True) -> None:
        """Records the flags, or checks that they are those that the folder was made with.

        Raises:
          FlagsDiffer: shows every difference.
        """
        saved = read_json(os.path.join(self.path, RUN))
        if saved:
            there, now = saved["decisive_flags"], self.experiment.decisive_flags()
            differing = [name for name in sorted({*there, *now}) if there.get(name) != now.get(name)]
            if differing:
                lines = [f"  --{n}: {there.get(n)!r} there, {now.get(n)!r} now" for n in differing]
                raise FlagsDiffer(
                    f"{self.path} was made with other flags:\n" + "\n".join(lines)
                    + "\nUse the same flags to continue it, or another --model_dir."
                )
        elif chief:
            os.makedirs(self.path, exist_ok=True)
            write_json(
                os.path.join(self.path, RUN),
                {
                    "fingerprint": self.experiment.fingerprint(),
                    "decisive_flags": self.experiment.decisive_flags(),
                    "flags": self.experiment.flags(),
                    "versions": versions(),
                    "seed": self.experiment.runtime.seed,
                },
            )

    def note_categories(self, categories: Sequence[Category]) -> None:
        """Records the classes, for jobs that open no labelled data."""
        path = os.path.join(self.path, RUN)
        saved = {**read_json(path), "categories": [{"id": c.id, "name": c.name} for c in categories]}
        write_json(path, saved)

    def categories(self) -> tuple[Category, ...]:
        """The recorded classes.

        Raises:
          ValueError: nothing has been trained here.
        """
        saved = read_json(os.path.join(self.path, RUN)).get("categories")
        if saved is None:
            raise ValueError(f"{self.path} holds no trained model: its {RUN} names no classes")
        return tuple(Category(c["id"], c["name"]) for c in saved)

    def note_source(self, role: str, source: Source) -> None:
        """Writes the ids that a role ("labeled", "unlabeled", "eval") reads, and what was skipped."""
        folder = os.path.join(self.path, "data")
        os.makedirs(folder, exist_ok=True)
        report = source.report
        write_json(os.path.join(folder, f"{role}_ids.json"), [str(i) for i in source.ids])
        write_json(
            os.path.join(folder, f"{role}_skipped.json"),
            {"data": source.word, "counts": dict(report.counts), "entries": report.entries},
        )

    def summarize(self, content: dict[str, Any]) -> dict[str, Any]:
        """Writes `summary.json`, and a copy under the job's own name, atomically."""
        runtime = self.experiment.runtime
        summary = {
            "job": runtime.job,
            "flags_fingerprint": self.experiment.fingerprint(),
            "versions": versions(),
            "seed": runtime.seed,
            "seconds": {**self.seconds, "total": round(time.time() - self.started, 2)},
            **content,
        }
        os.makedirs(self.path, exist_ok=True)
        for name in (f"summary_{runtime.job}.json", SUMMARY):
            write_json(os.path.join(self.path, name), summary)
        return summary


def begun_phases(model_dir: str) -> list[str]:
    """The phases of a run that have left something: "teacher", "labels", "student", "control", "imported"."""
    trained = [phase for phase in (*PHASES, "control") if last_checkpoint(os.path.join(model_dir, phase))]
    return trained + (["labels"] if os.path.isfile(os.path.join(model_dir, "pseudo_labels", "plan.json")) else [])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def saved_flags(model_dir: str) -> dict[str, Any]:
    """The flags that a run folder was made with, {} if it is new."""
    known = experiment_from({}).flags()
    saved = read_json(os.path.join(model_dir, RUN)).get("flags", {}) if model_dir else {}
    return {name: value for name, value in saved.items() if name in known}
