"""Looks at the data of a run before it: what is there, what does not fit, what is there twice, and how long
it will take.
"""

from __future__ import annotations

import os
import time
from typing import Any, Mapping

import numpy as np
import tensorflow as tf

from official.data import holdout, similar_images
from official.data.set_statistics import set_statistics, table
from official.data.source import Source
from official.errors import FlagError
from official.evaluation.drawing import sheet, write_png
from official.experiment import Experiment
from official.files import write_json
from official.jobs.data_checks import (
    anchor_flags,
    anchor_report,
    anchor_warnings,
    quick_checks,
    sampled_boxes,
)
from official.jobs.opening import open_eval, open_training, open_unlabeled
from official.jobs.preparing import with_recipe
from official.jobs.reviewed import with_reviewed
from official.jobs.settling import settled
from official.models.anchor_fit import in_network, possible_recall, taught
from official.tasks.registry import build_task
from official.tasks.task import Task
from official.training.distribution import build_strategy, set_up_runtime
from official.training.run_folder import RunFolder
from official.training.time_estimate import estimate

MATCHED_IMAGES = 200
SHOWN_IMAGES = 24


def check_data(experiment: Experiment) -> dict[str, Any]:
    """Opens what the flags name and reports on it; writes `data/check.json` and sheets of images with their
    labels.
    """
    strategy = build_strategy(experiment.runtime)
    pool = experiment.data.unlabeled_data != "rest"
    experiment = with_recipe(experiment, unlabeled=pool, keep_lists=False).experiment
    experiment, folder = settled(experiment), RunFolder(experiment)
    set_up_runtime(experiment.runtime)
    opened, task = _opened(experiment)
    sets = {role: set_statistics(source) for role, source in opened.items()}
    for role, found in sets.items():
        print("\n".join(table(role, found)))
    report: dict[str, Any] = {
        "sets": sets,
        "skipped": {r: s.report.content(s.word) for r, s in opened.items()},
    }
    if task.has_anchors:
        report["anchors"] = _anchors(experiment, opened["labeled"])
    report["drawings"] = _sheets(experiment, task, opened)
    report["duplicates"] = _duplicates(opened)
    report["warnings"] = _warnings(experiment, opened, report)
    print("\n".join(f"WARNING: {line}" for line in report["warnings"]) or "nothing to warn of")
    path = os.path.join(folder.path, "data", "check.json")
    write_json(path, report)  # before steps are taken, which may need more memory than there is
    if experiment.serving.check_steps:
        report["seconds"] = _time(experiment, task, strategy, opened)
        write_json(path, report)
    print(
        f"report       {path}\n"
        + "\n".join(f"drawings     {drawing}" for drawing in report["drawings"].values())
    )
    kept = {name: report[name] for name in ("anchors", "warnings", "drawings", "seconds") if name in report}
    return folder.summarize(
        {
            "check": {**kept, "report": path},
            "skipped_inputs": {r: dict(s.report.counts) for r, s in opened.items()},
        }
    )


def _opened(experiment: Experiment) -> tuple[dict[str, Source], Task]:
    """The sources by role, those that the flags name; and the task."""
    labeled, rest, held_out = open_training(experiment)
    task = build_task(experiment, labeled.categories)
    found = {"labeled": labeled}
    if experiment.data.unlabeled_data != "rest" or (rest is not None and len(rest)):
        found["unlabeled"] = open_unlabeled(experiment, rest)
    evaluation = open_eval(experiment, task, held_out)
    if held_out is not None:
        print("\n".join(holdout.describe(labeled, held_out)[0]))
    found["labeled"], pool = with_reviewed(experiment, labeled, found.get("unlabeled"))
    if pool is not None:
        found["unlabeled"] = pool
    if evaluation is not None:
        found["eval"] = evaluation
    return found, task


def _warnings(experiment: Experiment, opened: dict[str, Source], report: Mapping[str, Any]) -> list[str]:
    found = quick_checks(experiment, opened)
    for pair, copies in report["duplicates"]["between"].items():
        first, second = pair.split(" in ")
        kinds = (
            {"alike": "look like"} if first != second else {"same": "are the same as", "alike": "look like"}
        )
        for kind, verb in kinds.items():
            if copies[kind]["count"]:
                where = f"{second} ones" if first != second else "others of the set"
                example = " and ".join(copies[kind]["pairs"][0])
                found.append(
                    f"{copies[kind]['count']} of {copies['images']} {first} images {verb} {where}: {example}"
                )
    return found


# --- anchors ----------------------------------------------------------------------------------------


def _anchors(experiment: Experiment, labeled: Source) -> dict[str, Any]:
    """The best possible recall, by class too; what would raise it; and what the matching itself leaves of
    it.
    """
    flags, iou = anchor_flags(experiment), experiment.loss.match_iou
    found = anchor_report(experiment, labeled)
    boxes, sizes = sampled_boxes(labeled)
    rows = np.flatnonzero(~labeled.objects.crowd)
    if len(rows) == len(boxes):
        classes = labeled.objects.classes[rows]
        found["per_class"] = {
            c.name: round(possible_recall(boxes[classes == i], sizes[classes == i], flags, iou), 4)
            for i, c in enumerate(labeled.categories)
            if (classes == i).any()
        }
    found["taught"] = _taught(experiment, labeled)
    print(
        f"anchors: {found['recall']:.1%} of {found['boxes']} boxes have one of IoU {iou:g} at "
        f"--image_size={flags.image_size} --anchor_scale={flags.anchor_scale:g} (the best possible recall); "
        f"the matching gives {found['taught']:.1%} one of their own"
    )
    if found["recall"] < 1.0 and not anchor_warnings(experiment, found):
        print("         no other --anchor_scale or --image_size is worth it")
    return found


def _taught(experiment: Experiment, labeled: Source) -> float:
    """The share of boxes of some images that the training's matching gives an anchor."""
    flags, given, total = anchor_flags(experiment), 0, 0
    counts = labeled.objects.counts()
    images = np.flatnonzero(counts)
    for i in images[np.linspace(0, len(images) - 1, min(MATCHED_IMAGES, len(images))).astype(int)]:
        objects = labeled.objects.of(i)
        boxes = objects["boxes"][~objects["crowd"]][: experiment.data.max_boxes]
        total += int((~objects["crowd"]).sum())
        if len(boxes):
            placed = in_network(
                boxes, np.repeat(labeled.sizes[i : i + 1], len(boxes), axis=0), flags.image_size
            )
            given += int(taught(placed, flags, experiment.loss.match_iou).sum())
    return round(given / max(1, total), 4)


# --- copies -----------------------------------------------------------------------------------------


def _duplicates(opened: dict[str, Source]) -> dict[str, Any]:
    """Which images are there twice, or look alike, in a set and between sets."""
    started = time.time()
    whole = {role: _whole(source) for role, source in opened.items()}
    looks = {role: similar_images.looks(source) for role, source in whole.items()}
    between, roles = {}, list(whole)
    for i, first in enumerate(roles):
        for second in roles[: i + 1]:
            pair = (looks[first], looks[second])
            between[f"{first} in {second}"] = similar_images.copies_between(whole[first], whole[second], pair)
    seconds = round(time.time() - started, 1)
    print(f"duplicates: {sum(map(len, whole.values()))} images compared in {seconds} s")
    for where, found in between.items():
        same, alike = found["same"]["count"], found["alike"]["count"]
        if same or alike:
            print(f"  {where}: {same} the same, {alike} alike, of {found['images']}")
    return {"seconds": seconds, "between": between}


def _whole(source: Source) -> Source:
    """One entry for every image; of those that were cut out of one, the first."""
    if source.cut_from is None:
        return source
    return source.subset(np.sort(np.unique(source.cut_from, return_index=True)[1]))


# --- sheets -----------------------------------------------------------------------------------------


def _sheets(experiment: Experiment, task: Task, opened: dict[str, Source]) -> dict[str, str]:
    """Images of every labelled set with their labels as read; paths by role."""
    found = {}
    for role in ("labeled", "eval"):
        source = opened.get(role)
        if source is None or not source.categories:
            continue
        drawings, captions = [], []
        for i, reason in telling_images(source).items():
            image = source.read_image(tf.constant(i, tf.int64)).numpy()
            drawings.append(task.draw(image, task.human_labels(source, i)))
            captions.append(f"{reason}: {source.short_name(i)}")
        path = os.path.join(experiment.runtime.model_dir, "drawings", f"check_{role}.png")
        found[role] = write_png(path, sheet(drawings, columns=6, captions=captions, legend=task.legend()))
    return found


def telling_images(source: Source) -> dict[int, str]:
    """Images to look at, and why: of every class, the fullest, the emptiest, those with extreme boxes, and
    others.
    """
    found: dict[int, str] = {}
    columns = source.annotations
    if columns is not None:
        counts, images = columns.counts(), np.repeat(np.arange(len(source)), columns.counts())
        found[int(np.argmax(counts))] = "most objects"
        found.setdefault(int(np.argmin(counts)), "fewest")
        area = (columns.boxes[:, 2:] - columns.boxes[:, :2]).prod(axis=1)
        if len(area):
            found.setdefault(int(images[np.argmin(area)]), "smallest box")
            found.setdefault(int(images[np.argmax(area)]), "largest box")
        for label, category in enumerate(source.categories):
            own = images[columns.classes == label]
            if len(own):
                found.setdefault(int(own[len(own) // 2]), category.name)
    elif source.image_classes is not None:
        for label, category in enumerate(source.categories):
            own = np.flatnonzero(source.image_classes == label)
            found.update({int(i): category.name for i in own[:2]})
    for i in np.linspace(0, len(source) - 1, min(SHOWN_IMAGES, len(source))).astype(int):
        found.setdefault(int(i), "one of many")
    return dict(list(found.items())[:SHOWN_IMAGES])


# --- time -------------------------------------------------------------------------------------------


def _time(
    experiment: Experiment, task: Task, strategy: tf.distribute.Strategy, opened: dict[str, Source]
) -> dict[str, float]:
    steps = experiment.serving.check_steps
    try:
        found = estimate(
            task, experiment, strategy, steps, opened["labeled"], opened.get("unlabeled"), opened.get("eval")
        )
    except FlagError as error:  # flags of another machine, or none: all else of the report stands
        print(f"time: not measured: {error}")
        return {}
    parts = ", ".join(
        f"{name} {_clock(found[name])}"
        for name in ("teacher", "labels", "student", "control", "evaluation")
        if name in found
    )
    print(
        f"time: about {_clock(found['total'])} ({parts}), from {steps} steps of "
        f"{found['seconds_per_teacher_step']:.2f} s"
    )
    return found


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
