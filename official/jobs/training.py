"""The training jobs: the whole loop, the teacher alone, and a linear layer on frozen features."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from typing import Any, Sequence

import tensorflow as tf

from official.data.source import DataError, Source
from official.errors import UserError
from official.experiment import Experiment
from official.jobs.afterwards import beside_each_other, conclude, report
from official.jobs.beside import Beside, control_alone, end_with_parent, share_machine
from official.jobs.checks import check_flags, check_run, check_thresholds
from official.jobs.data_checks import keep_warnings, quick_checks
from official.jobs.export_folder import export_once
from official.jobs.held_out import note_held_out, warn_of_seen_images
from official.jobs.opening import timed
from official.jobs.preparing import Prepared, open_all, plan_text, run_plan, with_recipe
from official.jobs.settling import settled
from official.screen import note, warn
from official.self_training.loop import SelfTraining
from official.self_training.rounds import begin_round, joined_summary
from official.self_training.thresholds import AUTO
from official.tasks.registry import build_task, task_class
from official.tasks.task import Task
from official.trained_model import describe
from official.training.distribution import build_strategy, is_chief, set_up_runtime
from official.training.loading import load_model
from official.training.machine import machine_of
from official.training.run_folder import RunFolder, saved_flags
from official.training.run_phase import read_result


def _open_loop(
    prepared: Prepared,
    experiment: Experiment,
    folder: RunFolder,
    strategy: tf.distribute.Strategy,
    *,
    unlabeled: bool,
    beside: bool = False,
) -> SelfTraining:
    """Opens the data of a run and notes them in its folder, and says what will be done.

    Args:
      prepared: as `experiment`, which is settled; beside: another process has noted and said it.
    """
    check_flags(experiment)
    check_run(experiment, strategy, pseudo=unlabeled)
    set_up_runtime(experiment.runtime)
    folder.check()
    with timed(folder, "open_data"):
        data = prepared.data or open_all(experiment, unlabeled=unlabeled)
        labeled, pool, evaluation, joint, held_out = (
            data.labeled,
            data.unlabeled,
            data.evaluation,
            data.joint,
            data.held_out,
        )
        task = build_task(experiment, labeled.categories)
    if labeled.annotations is not None and labeled.annotations.counts().sum() == 0:
        raise DataError(f"{labeled.word}: none of the {len(labeled)} labelled images has a usable box")
    check_thresholds(experiment, labeled.categories)
    plan = run_plan(experiment, data)
    loop = SelfTraining(task, experiment, strategy, labeled, pool, evaluation, joint, plan)
    if beside:
        return loop
    if prepared.chosen and is_chief(strategy):
        folder.note_recipe(prepared.chosen, prepared.lines)
    folder.claim(chief=is_chief(strategy))
    if is_chief(strategy):
        folder.note_categories(labeled.categories)
        for role, source in (
            ("labeled", labeled),
            ("unlabeled", pool),
            ("eval", evaluation),
            ("joint", joint),
        ):
            if source is not None:
                folder.note_source(role, source)
        if held_out is not None:
            note_held_out(folder, experiment, labeled, held_out)
        if evaluation is not None:
            warn_of_seen_images(experiment, evaluation)
        keep_warnings(
            folder.path, quick_checks(experiment, {"labeled": labeled, "unlabeled": pool, "eval": evaluation})
        )
    note(
        f"training: {len(labeled)} images{_amount(labeled)}"
        + (f"; unlabelled: {len(pool)} images" if pool else "")
        + (f"; evaluation: {len(evaluation)} images" if evaluation else "")
        + (
            (
                f"; joint: {len(joint)} images of {len(joint.categories)} classes, weight "
                f"{experiment.loss.joint_weight}"
            )
            if joint
            else ""
        )
    )
    if is_chief(strategy):
        note(plan_text(plan, experiment, machine_of(experiment.runtime.machine), data))
    return loop


def _amount(source: Source) -> str:
    labels = {"masks": source.read_mask, "a class each": source.image_classes}
    found = [name for name, present in labels.items() if present is not None]
    if source.annotations is not None:
        found.append(f"{len(source.annotations.boxes)} boxes")
    return f" with {found[0]}, {len(source.categories)} classes" if found else " without labels"


def self_train(experiment: Experiment) -> dict[str, Any]:
    """The whole loop."""
    share_machine(experiment.runtime)
    strategy = build_strategy(experiment.runtime)  # before TensorFlow does anything else
    prepared = with_recipe(experiment, unlabeled=True)
    given, experiment = prepared.experiment, settled(prepared.experiment)
    folder = RunFolder(experiment)
    if not task_class(experiment.model.task).needs_labels:
        raise DataError(
            f"job=self_train makes pseudo labels; --task={experiment.model.task} has none: use --job=train"
        )
    loop = _open_loop(prepared, experiment, folder, strategy, unlabeled=True)
    summary: dict[str, Any] = {"skipped_inputs": _skipped(loop)}
    last, rounds = loop, []
    for number in range(1, experiment.training.rounds + 1):
        own = folder
        if number > 1:
            note(f"\n== round {number}")
            last, own = begin_round(loop, number)
            assert loop.plan is not None
            loop.plan.round = number
        with timed(folder, f"round_{number}") if number > 1 else contextlib.nullcontext():
            rounds.append(_chain(last, own, given))
        if number > 1 and is_chief(loop.strategy):
            own.summarize(rounds[-1])
    summary |= joined_summary(rounds)
    if is_chief(loop.strategy):
        with timed(folder, "export"):
            student = _Loaded(loop, summary["student"])
            summary["export"], new = student.export()
            summary["drawings"] = beside_each_other(folder.path, last, summary, new)
    return _end_of_training(folder, loop, summary, last)


def _chain(loop: SelfTraining, folder: RunFolder, given: Experiment) -> dict[str, Any]:
    """All phases of one round, in order, the control beside them if --parallel_phases is given; their results
    by name.
    """
    found: dict[str, Any] = {}
    control = loop.experiment.training.control
    with Beside(given, needed=control and not loop.finished("control")) as beside:
        with timed(folder, "teacher"):
            found["teacher"] = loop.train_teacher()
        with timed(folder, "pseudo_label"):
            loop.make_labels(found["teacher"]["checkpoint"])
            pseudo, found["pseudo_labels"] = loop.read_labels()
        with timed(folder, "student"):
            found["student"] = loop.train_student(pseudo, found["teacher"])
        if control:
            with timed(folder, "control"):
                beside.wait()
                with control_alone(folder.path) if is_chief(loop.strategy) else contextlib.nullcontext():
                    found["control"] = loop.train_control(found["teacher"], found["student"])
    return found


def control(experiment: Experiment) -> dict[str, Any]:
    """The control of a run alone, beside the process that trains the rest: `--parallel_phases` starts it, or
    somebody.

    Raises:
      UserError: no run in --model_dir yet.
      Locked: another process trains the control.
    """
    end_with_parent()
    share_machine(experiment.runtime)
    strategy = build_strategy(experiment.runtime)
    prepared = with_recipe(experiment, unlabeled=False)
    experiment = settled(prepared.experiment)
    folder = RunFolder(experiment)
    if not saved_flags(folder.path):
        raise UserError(
            f"job=control trains the control of a run, and {folder.path} holds none: start the run first, "
            f"with these flags"
        )
    with control_alone(folder.path):
        loop = _open_loop(prepared, experiment, folder, strategy, unlabeled=False, beside=True)
        return {"control": loop.train_control(*_as_long_as(experiment))}


def _as_long_as(experiment: Experiment) -> tuple[dict[str, Any], ...]:
    """The results that decide how long the control is: none, unless --patience may have ended teacher or
    student early.
    """
    if not experiment.training.patience:
        return ()
    done = tuple(
        read_result(os.path.join(experiment.runtime.model_dir, name)) for name in ("teacher", "student")
    )
    if not all(done):
        raise UserError(
            "job=control with --patience: the control takes as many steps as teacher and student, which are "
            "not finished"
        )
    return done


def train(experiment: Experiment, strategy: tf.distribute.Strategy | None = None) -> dict[str, Any]:
    """The teacher alone; for task=contrastive the pre-training. A strategy replaces the options' own."""
    if strategy is None:
        share_machine(experiment.runtime)
        strategy = build_strategy(experiment.runtime)
    prepared = with_recipe(experiment, unlabeled=False)
    experiment = settled(prepared.experiment)
    folder = RunFolder(experiment)
    loop = _open_loop(prepared, experiment, folder, strategy, unlabeled=False)
    summary: dict[str, Any] = {"skipped_inputs": _skipped(loop)}
    with timed(folder, "teacher"):
        summary["teacher"] = loop.train_teacher()
    if is_chief(loop.strategy):
        with timed(folder, "export"):
            summary["export"], _ = _Loaded(loop, summary["teacher"]).export()
    return _end_of_training(folder, loop, summary)


class _Loaded:
    """The model of a finished phase, built when it is first needed."""

    def __init__(self, loop: SelfTraining, phase: dict[str, Any]) -> None:
        self.loop, self.phase = loop, phase

    @functools.cached_property
    def opened(self) -> tuple[Task, tf.keras.Model]:
        return load_model(describe(self.phase["checkpoint"]), self.loop.experiment)

    def export(self) -> tuple[dict[str, str], bool]:
        return export_once(self.loop.experiment, self.phase["weights_sha256"], lambda: self.opened)


def linear_eval(experiment: Experiment) -> dict[str, Any]:
    """Trains a linear classifier on the frozen features that --init names, and evaluates it.

    Source: google-research/simclr README (linear evaluation: crop and flip alone, a head of zeros).
    """
    if experiment.training.init == "random":
        raise DataError("job=linear_eval needs --init: a run folder, a file, or simclr, imagenet, imagenet++")
    model = dataclasses.replace(experiment.model, task="classification", linear_probe=True)
    return train(dataclasses.replace(experiment, model=model))


def _end_of_training(
    folder: RunFolder, loop: SelfTraining, summary: dict[str, Any], last_round: SelfTraining | None = None
) -> dict[str, Any]:
    phases = [name for name in ("teacher", "control", "student") if name in summary]
    chains = summary.get("rounds", [summary])
    for name in phases:  # a start that was killed could not note its own
        folder.seconds[name] = max(folder.seconds.get(name, 0.0), chains[0][name]["seconds"])
    summary["images_seen"] = sum(chain[name]["images_seen"] for chain in chains for name in phases)
    if not is_chief(loop.strategy):
        return summary
    if loop.evaluation is not None:
        last = summary[phases[-1]]
        summary["evaluation"] = {
            name: last[name] for name in ("coco_stats", *loop.task.metrics) if name in last
        }
    else:
        note("no --eval_data and no --eval_fraction: nothing has been evaluated")
    ending = conclude(folder, last_round or loop, summary)
    if ending.verdict is not None:
        summary["verdict"] = ending.verdict.to_json()
    summary = folder.summarize(summary)
    print("\n".join([table(summary, loop.task.metrics), report(ending, summary), *ending.words]))
    _explain_zero(summary, phases, loop.task.metrics[0])
    return summary


def _skipped(loop: SelfTraining) -> dict[str, dict[str, int]]:
    sources = {"labeled": loop.labeled, "unlabeled": loop.unlabeled, "eval": loop.evaluation}
    return {role: dict(s.report.counts) for role, s in sources.items() if s is not None}


def table(summary: dict[str, Any], metrics: Sequence[str]) -> str:
    """The result of a training job as text."""
    widths = [max(8, len(name) + 2) for name in metrics]
    head = "".join(f"{name:>{width}}" for name, width in zip(metrics, widths))
    lines = ["", f"{'':<11}{head}   steps  seconds"]
    chains = summary.get("rounds", [summary])
    for number, chain in enumerate(chains, 1):
        for name in ("teacher", "control", "student"):
            row = chain.get(name)
            if row:
                cells = [f"{row[m]:.3f}" if row.get(m, -1.0) >= 0.0 else "-" for m in metrics]
                values = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths))
                called = f"{name} {number}" if len(chains) > 1 else name
                lines.append(f"{called:<11}{values}{row['steps']:8d}{row['seconds']:9.0f}")
    for number, chain in enumerate(chains, 1):
        prefix = f"round {number}: " if len(chains) > 1 else ""
        lines += [
            prefix + line for line in [*_ending_lines(chain), *_label_lines(chain.get("pseudo_labels", {}))]
        ]
    for name, path in {**summary.get("export", {}), "drawings": summary.get("drawings")}.items():
        if path:
            lines.append(f"{name:<12} {path}")
    logs = {
        os.path.dirname(os.path.dirname(os.path.dirname(chain[n]["checkpoint"])))
        for chain in chains
        for n in (("teacher", "student") if chain is chains[0] else ("student",))
        if n in chain
    }
    lines += [f"{'logs':<12} tensorboard --logdir={path}" for path in sorted(logs)]
    return "\n".join(lines)


def _ending_lines(chain: dict[str, Any]) -> list[str]:
    """Which phases ended early, and which checkpoints were chosen by their score, as text."""
    lines, taken = [], []
    for name in ("teacher", "control", "student"):
        row = chain.get(name, {})
        if "planned_steps" in row:
            lines.append(
                f"{name}: ended after {row['steps']} of {row['planned_steps']} steps, as it no longer gained "
                f"(--patience)"
            )
        if "taken" in row:
            taken.append(f"{name} step {row['taken']['step']} of {row['steps']}")
    if taken:
        lines.append(
            f"the best evaluated checkpoint of each goes on ({', '.join(taken)}): chosen on the evaluation "
            f"data, so these scores are too good (--take=best)"
        )
    return lines


def _label_lines(labels: dict[str, Any]) -> list[str]:
    """What the pseudo labels in use are, as text."""
    lines = []
    at = (
        "the thresholds that were chosen"
        if labels.get("threshold") == AUTO
        else f"score >= {labels.get('threshold')}"
    )
    if "boxes" in labels:
        lines.append(
            f"pseudo labels: {labels['boxes']} boxes at {at} "
            f"on {labels['images_with_boxes']} of {labels['images']} images"
        )
    elif "per_class" in labels:
        lines.append(
            f"pseudo labels: {labels['labels']} of {labels['images']} images at {at}, "
            f"{labels.get('images_used', labels['images'])} in use"
        )
    elif labels:
        lines.append(
            f"pseudo labels: {labels['labelled_pixels']:.1%} of the pixels at {at} "
            f"on {labels['images_with_labels']} of {labels['images']} images"
        )
    return lines


def _explain_zero(summary: dict[str, Any], phases: Sequence[str], metric: str) -> None:
    for name in phases:
        if summary[name].get(metric, 1.0) <= 0.0:
            warn(
                f"{name} has {metric} {summary[name][metric]}. Either it was trained too little (loss in "
                "TensorBoard), or training and evaluation data disagree about classes or labels "
                "(look at the drawings `training_human` and `predictions` in TensorBoard)."
            )
