"""What can be said about opened data before a run: the quick part, which every training job prints, decodes
no image.
"""

from __future__ import annotations

import itertools
import os
from typing import Any, Mapping

import numpy as np

from official.data.holdout import class_counts
from official.data.input_report import shown
from official.data.set_statistics import FEW, repeated_objects
from official.data.shared_images import shared_images
from official.data.source import Source
from official.experiment import Experiment
from official.files import write_json
from official.models.anchor_fit import AnchorFlags, proposals
from official.screen import note
from official.tasks.registry import task_class

SAMPLED_BOXES = 50_000
QUICKLY_SAMPLED = 5_000
_SAID = {"labeled": "labelled", "unlabeled": "unlabelled", "eval": "evaluation"}


def quick_checks(experiment: Experiment, sources: Mapping[str, Source | None]) -> list[str]:
    """Warnings about data that a run is about to use, in the order of their weight.

    Args:
      sources: by role: "labeled", "unlabeled", "eval"; None where there is none.
    """
    opened = {role: source for role, source in sources.items() if source is not None}
    found = shared_warnings(opened)
    if task_class(experiment.model.task).has_anchors:
        labeled = opened["labeled"]
        report = anchor_report(experiment, labeled, QUICKLY_SAMPLED)
        found += anchor_warnings(experiment, report) + crowded_warnings(experiment, opened)
    for role in ("labeled", "eval"):
        if role in opened and opened[role].categories:
            found += class_warnings(role, opened[role])
    return found


def keep_warnings(folder: str, warnings: list[str]) -> None:
    """Prints warnings, and keeps them in `data/warnings.json`."""
    if warnings:
        note("\n".join(f"WARNING: {line}" for line in warnings))
    write_json(os.path.join(folder, "data", "warnings.json"), warnings)


def shared_warnings(opened: Mapping[str, Source]) -> list[str]:
    """Which images two roles share."""
    found = []
    for first, second in itertools.combinations(opened, 2):
        a, b = opened[first], opened[second]
        small, large = (first, second) if len(a) <= len(b) else (second, first)
        count, examples = shared_images(opened[small], opened[large])
        if count:
            harm = (
                "scores are too good"
                if "eval" in (first, second)
                else "the teacher labels what it has learnt"
            )
            found.append(
                f"{count} of {len(opened[small])} {_SAID[small]} images are {_SAID[large]} images too "
                f"({harm}): {shown(examples, 3)}"
            )
    return found


def anchor_report(experiment: Experiment, labeled: Source, most: int = SAMPLED_BOXES) -> dict[str, Any]:
    """The best possible recall of the labelled boxes, and what would raise it; see
    `official.models.anchor_fit`.
    """
    boxes, sizes = sampled_boxes(labeled, most)
    return {
        "boxes": len(boxes),
        **proposals(boxes, sizes, anchor_flags(experiment), experiment.loss.match_iou),
    }


def anchor_flags(experiment: Experiment) -> AnchorFlags:
    """The run's."""
    options = experiment.model
    return AnchorFlags(
        options.image_size, options.min_level, options.max_level, options.anchor_scale, options.num_scales
    )


def sampled_boxes(source: Source, most: int = SAMPLED_BOXES) -> tuple[np.ndarray, np.ndarray]:
    """At most so many boxes that are no crowds, and the sizes of their images; evenly spaced."""
    rows = np.flatnonzero(~source.objects.crowd)
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
    images = np.repeat(np.arange(len(source)), source.objects.counts())
    return source.objects.boxes[rows], source.sizes[images[rows]]


def anchor_warnings(experiment: Experiment, report: Mapping[str, Any]) -> list[str]:
    """What is lost to anchors that do not fit, and the flags that get it back."""
    options, remedies = experiment.model, []
    if "anchor_scale" in report:
        found = report["anchor_scale"]
        remedies.append(f"--anchor_scale={found['value']:g} makes it {found['recall']:.1%}")
    if "image_size" in report:
        found = report["image_size"]
        cost = (found["value"] / options.image_size) ** 2
        remedies.append(
            f"--image_size={found['value']} makes it {found['recall']:.1%} at about {cost:.1f} times the cost"
        )
    if not remedies:
        return []
    return [
        f"only {report['recall']:.1%} of the labelled boxes have an anchor of IoU "
        f"{experiment.loss.match_iou:g} at --image_size={options.image_size} "
        f"--anchor_scale={options.anchor_scale:g} (the others learn from one badly fitting anchor); "
        + "; ".join(remedies)
    ]


def crowded_warnings(experiment: Experiment, opened: Mapping[str, Source]) -> list[str]:
    """Images with more objects than are learnt or found."""
    found = []
    limits = {
        "labeled": ("max_boxes", experiment.data.max_boxes, "learnt"),
        "eval": ("max_detections", experiment.decoding.max_detections, "found"),
    }
    for role, (flag, limit, what) in limits.items():
        if role not in opened:
            continue
        columns = opened[role].objects
        images = np.repeat(np.arange(len(opened[role])), columns.counts())[~columns.crowd]
        counts = np.bincount(images, minlength=1)
        if counts.max() > limit:
            left_out = int(np.maximum(counts - limit, 0).sum())
            found.append(
                f"{(counts > limit).sum()} {_SAID[role]} images hold more than --{flag}={limit} objects, "
                f"{left_out} of which are never {what}; --{flag}={counts.max()} takes all"
            )
    return found


def class_warnings(role: str, source: Source) -> list[str]:
    """Classes with few or no objects, and objects that are written twice."""
    counts = class_counts(source)
    few = [f"{c.name} ({n})" for c, n in zip(source.categories, counts) if n < FEW]
    found = []
    if few:
        what = "are hardly learnt" if role == "labeled" else "are hardly evaluated"
        found.append(
            (
                f"{len(few)} of {len(counts)} classes have fewer than {FEW} {_SAID[role]} objects and "
                f"{what}: {', '.join(few[:8])}"
            )
            + (" …" if len(few) > 8 else "")
        )
    twice = repeated_objects(source) if source.annotations is not None else 0
    if twice:
        found.append(f"{twice} {_SAID[role]} objects are written twice: the same class and box in one image")
    return found
