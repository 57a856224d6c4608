"""The run folder: what made it, the ids it was made from, and `summary.json` at the end of a job."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from typing import Any, Mapping, Sequence

from official.data.fingerprints import difference, image_digests
from official.data.source import Category, Source
from official.errors import UserError
from official.experiment import Experiment, by_present_names, experiment_from
from official.files import read_json, whole_file, write_json
from official.screen import note
from official.trained_model import RUN, class_difference
from official.training.phases import ROLES, begun_phases, changed_flags, spoiled, way_out

SUMMARY = "summary.json"
SECONDS = "seconds.json"
RECIPE = "recipe"  # in run.json: what --recipe=auto chose, by flag
GOES_ON = ("self_train", "train", "linear_eval")  # jobs that one start need not end
_OF_A_JOB = ("job", "flags_fingerprint", "versions", "seed", "seconds")
_OF_TRAINING = ("teacher", "student", "control", "pseudo_labels", "rounds", "images_seen")
PACKAGES = (
    "tensorflow",
    "keras",
    "keras-cv",
    "tensorflow-addons",
    "tensorflow-datasets",
    "numpy",
    "pycocotools",
)


class FlagsDiffer(UserError):
    """The run folder was made with other flags."""


class RunFolder:
    """One `--model_dir`."""

    def __init__(self, experiment: Experiment) -> None:
        """Raises ValueError if there is no --model_dir."""
        if not experiment.runtime.model_dir:
            raise UserError("--model_dir is needed: the folder that a run writes to and continues from")
        self.experiment = experiment
        self.path = experiment.runtime.model_dir
        self.chief = True
        self.started = time.time()
        kept = read_json(os.path.join(self.path, SECONDS)) if self._keeps_seconds() else {}
        self.seconds: dict[str, float] = kept.get(experiment.runtime.job, {})
        self.before = self.seconds.pop("total", 0.0)

    def claim(self, *, chief: bool = True) -> None:
        """Records the flags, once nothing is left that could be found wrong with them.

        Raises:
          FlagsDiffer: see `check`.
        """
        self.chief = chief
        going_on, saved = self.check(), read_json(os.path.join(self.path, RUN))
        if going_on:
            note(going_on)
        if chief and saved.get("flags") != self.experiment.flags():
            os.makedirs(self.path, exist_ok=True)
            self._write_run(saved)

    def check(self) -> str:
        """Whether the flags describe all that has begun here (official/training/phases.py); writes nothing.

        Returns:
          What is gone on from, and with which other flags; empty where none has changed.

        Raises:
          FlagsDiffer: shows every difference, and what to do.
        """
        saved = read_json(os.path.join(self.path, RUN))
        changed = changed_flags(saved["decisive_flags"], self.experiment) if "decisive_flags" in saved else {}
        begun = begun_phases(self.path) if changed else []
        lost = spoiled(
            changed, begun, given_teacher=bool(self.experiment.training.teacher) and "teacher" not in changed
        )
        if lost:
            lines = [
                f"  --{n}: {a!r} there, {b!r} now{_of(n, lost)}" for n, (a, b) in sorted(changed.items())
            ]
            raise FlagsDiffer(
                f"{self.path} was made with other flags:\n"
                + "\n".join(lines)
                + "\nUse the same flags to continue it. To keep what is still valid and make the rest anew, "
                "give these "
                f"flags with\n  {way_out(self.path, lost, saved['flags'])}"
            )
        if not begun:
            return ""
        flags = " ".join(f"--{name}={now}" for name, (_, now) in sorted(changed.items()))
        return f"{self.path}: going on from {', '.join(begun)} with {flags}"

    def note_recipe(self, chosen: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Keeps the flags that --recipe=auto chose, which a run that goes on takes from here; and as
        `recipe.cfg`.
        """
        saved = read_json(os.path.join(self.path, RUN))
        if saved.get(RECIPE) == dict(chosen):
            return
        os.makedirs(self.path, exist_ok=True)
        with (
            whole_file(os.path.join(self.path, "recipe.cfg")) as temporary,
            open(temporary, "w", encoding="utf-8") as file,
        ):
            file.write("\n".join(lines) + "\n")
        write_json(os.path.join(self.path, RUN), {**saved, RECIPE: dict(chosen)})

    def _write_run(self, saved: dict[str, Any]) -> None:
        content = {
            "fingerprint": self.experiment.fingerprint(),
            "decisive_flags": self.experiment.decisive_flags(),
            "flags": self.experiment.flags(),
            "versions": versions(),
            "seed": self.experiment.runtime.seed,
        }
        write_json(os.path.join(self.path, RUN), {**saved, **content})

    def note_categories(self, categories: Sequence[Category]) -> None:
        """Records the classes, for jobs that open no labelled data.

        Raises:
          FlagsDiffer: something was trained here on other classes.
        """
        path = os.path.join(self.path, RUN)
        saved = read_json(path)
        there = [Category(c["id"], c["name"]) for c in saved.get("categories", [])]
        if there and there != list(categories) and self._depends("labeled"):
            raise FlagsDiffer(
                f"{self.path} was made from data with other classes:\n{class_difference(there, categories)}\n"
                "Its weights mean the old ones. Give it the data that it was made from, or use another "
                "--model_dir."
            )
        if there != list(categories):
            write_json(path, {**saved, "categories": [{"id": c.id, "name": c.name} for c in categories]})

    def _depends(self, role: str) -> list[str]:
        """The phases that have begun and depend on a data set."""
        return [phase for phase in begun_phases(self.path) if phase in ROLES[role]]

    def categories(self) -> tuple[Category, ...]:
        """The recorded classes.

        Raises:
          ValueError: nothing has been trained here.
        """
        saved = read_json(os.path.join(self.path, RUN)).get("categories")
        if saved is None:
            raise UserError(f"{self.path} holds no trained model: its {RUN} names no classes")
        return tuple(Category(c["id"], c["name"]) for c in saved)

    def note_source(self, role: str, source: Source) -> None:
        """Writes the ids that a role ("labeled", "unlabeled", "eval", "joint") reads, and what was skipped.

        Raises:
          FlagsDiffer: what has begun here was made from other images or labels.
        """
        place = os.path.join(self.path, "data", role)
        ids, digests = [str(i) for i in source.ids], image_digests(source)
        there, before = read_json(f"{place}_ids.json"), read_json(f"{place}_digests.json")
        differing = difference(there, ids, before or (), digests) if there else ""
        begun = self._depends(role) if differing else []
        if begun:
            raise FlagsDiffer(
                f"{source.word}: not the images that {self.path} was made from "
                f"({', '.join(begun)}):\n{differing}\n"
                "Put them back to continue it, or use another --model_dir."
            )
        os.makedirs(os.path.dirname(place), exist_ok=True)
        for name, content in (("ids", ids), ("digests", digests)):
            if differing or not read_json(f"{place}_{name}.json"):
                write_json(f"{place}_{name}.json", content)
        write_json(f"{place}_skipped.json", source.report.content(source.word))

    # --- time -------------------------------------------------------------------------------------

    def spend(self, part: str, seconds: float) -> None:
        """Adds to the seconds of a part of a job; those of a training job count over all its starts."""
        self.seconds[part] = round(self.seconds.get(part, 0.0) + seconds, 2)
        if self._keeps_seconds() and os.path.isfile(os.path.join(self.path, RUN)):
            self._note_seconds()

    def _keeps_seconds(self) -> bool:
        return self.chief and self.experiment.runtime.job in GOES_ON

    def _all_seconds(self) -> dict[str, float]:
        return {**self.seconds, "total": round(self.before + time.time() - self.started, 2)}

    def _note_seconds(self) -> None:
        kept = read_json(os.path.join(self.path, SECONDS))
        write_json(
            os.path.join(self.path, SECONDS), {**kept, self.experiment.runtime.job: self._all_seconds()}
        )

    def summarize(self, content: dict[str, Any]) -> dict[str, Any]:
        """Writes `summary.json` and the same under the job's own name, atomically; returns it.

        What a training job left in `summary.json` stays there when a later job writes: see `joined`.
        """
        runtime = self.experiment.runtime
        summary = {
            "job": runtime.job,
            "flags_fingerprint": self.experiment.fingerprint(),
            "versions": versions(),
            "seed": runtime.seed,
            "seconds": self._all_seconds(),
            **content,
        }
        os.makedirs(self.path, exist_ok=True)
        if self._keeps_seconds():
            self._note_seconds()
        write_json(os.path.join(self.path, f"summary_{runtime.job}.json"), summary)
        before = read_json(os.path.join(self.path, SUMMARY)) if runtime.job not in GOES_ON else {}
        write_json(os.path.join(self.path, SUMMARY), joined(before, summary))
        return summary


def joined(before: Mapping[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """What `summary.json` holds after a job: its own summary, and of the one before what the training left.

    The results of phases and of the training as a whole stay; which job it was, its seconds, versions and
    flags are then in "training". What both have (an evaluation, an export) is the later job's; skipped inputs
    are those of both.
    """
    job = before.get("training", before).get("job")
    if job not in GOES_ON:
        return summary
    training = before.get("training") or {name: before[name] for name in _OF_A_JOB if name in before}
    kept = {name: value for name, value in before.items() if name not in _OF_A_JOB}
    own = {name: value for name, value in summary.items() if name not in _OF_TRAINING or name not in kept}
    skipped = {**before.get("skipped_inputs", {}), **summary.get("skipped_inputs", {})}
    return {**kept, **own, "training": training, "skipped_inputs": skipped}


def _of(flag: str, lost: dict[str, list[str]]) -> str:
    phases = [phase for phase, names in lost.items() if flag in names]
    return f" ({', '.join(phases)})" if phases else ""


def saved_recipe(model_dir: str) -> dict[str, Any]:
    """What --recipe=auto chose for a run, by flag; {} for none."""
    return read_json(os.path.join(model_dir, RUN)).get(RECIPE, {}) if model_dir else {}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def saved_flags(model_dir: str) -> dict[str, Any]:
    """The flags that a run folder was made with, {} if it is new."""
    known = experiment_from({}).flags()
    saved = read_json(os.path.join(model_dir, RUN)).get("flags", {}) if model_dir else {}
    return {name: value for name, value in by_present_names(saved).items() if name in known}
