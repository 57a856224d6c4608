"""What a run says and records about the images that it evaluates on: what was held out, and who has seen it
before.
"""

from __future__ import annotations

import os

from official.data import holdout
from official.data.fingerprints import image_digests
from official.data.source import Source
from official.experiment import Experiment
from official.files import read_json, write_json
from official.screen import note, warn
from official.training.run_folder import RunFolder

_STARTS = ("teacher", "init_checkpoint", "init")


def note_held_out(folder: RunFolder, experiment: Experiment, kept: Source, held: Source) -> None:
    """Prints what was held out and how sure numbers on it can be; keeps it in `data/held_out.json`."""
    lines, numbers = holdout.describe(kept, held)
    note("\n".join(lines))
    data = experiment.data
    content = {
        "eval_fraction": data.eval_fraction,
        "split_seed": data.split_seed,
        **numbers,
        "ids": [str(i) for i in held.ids],
    }
    write_json(os.path.join(folder.path, "data", "held_out.json"), content)


def warn_of_seen_images(experiment: Experiment, evaluation: Source) -> list[str]:
    """Prints, and returns, a warning for every starting point that was trained on images that this run
    evaluates on.
    """
    now, found = None, []
    for flag in _STARTS:
        run = _run_around(getattr(experiment.training, flag))
        if not run:
            continue
        there = [
            read_json(os.path.join(run, "data", f"labeled_{what}.json")) or [] for what in ("ids", "digests")
        ]
        now = now or set(zip(map(str, evaluation.ids), image_digests(evaluation)))
        seen = len(now & set(zip(*there)))
        if seen:
            found.append(
                f"--{flag}={getattr(experiment.training, flag)} was trained on {seen} of the "
                f"{len(evaluation)} images that "
                "are evaluated on here: its scores, and those of what starts from it, are too good"
            )
    for line in found:
        warn(line)
    return found


def _run_around(path: str) -> str:
    """The run folder at or around a path, "" if there is none."""
    path = os.path.abspath(path) if path else ""
    for _ in range(4):  # run, phase, checkpoints, step
        if path and os.path.isfile(os.path.join(path, "run.json")):
            return path
        path = os.path.dirname(path)
    return ""
