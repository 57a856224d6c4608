"""The jobs: functions of an experiment, each a list of steps that ends with `summary.json`.

`official/catalog.py` says which there are; this runs them.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable

from official import catalog
from official.experiment import Experiment
from official.jobs.opening import alone_in_folder
from official.jobs.preparing import rehearse

JOBS: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    name: catalog.load(job.function) for name, job in catalog.JOBS.items()
}


def run(experiment: Experiment) -> dict[str, Any]:
    """Runs the experiment's job and returns its summary.

    Raises:
      Locked: another process trains in the folder.
    """
    runtime, job = experiment.runtime, catalog.JOBS[experiment.runtime.job]
    if experiment.serving.dry_run and job.rehearsed:
        return rehearse(experiment)
    with alone_in_folder(runtime) if job.alone and runtime.model_dir else contextlib.nullcontext():
        return JOBS[runtime.job](experiment)
