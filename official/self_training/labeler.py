"""Labels a source with a teacher, shard by shard, and can stop and go on at any shard."""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Iterator

import tensorflow as tf

from official.data.pseudo_labels import Row
from official.data.source import Source
from official.data.unreadable import naming_unreadable
from official.experiment import Experiment
from official.screen import Bar, duration, stamped
from official.self_training.label_store import LabelStore, ids_digest
from official.tasks.task import Task
from official.training.stopping import StopRequest

# Flags that decide what a label is, so that a store made with others is refused.
DECISIVE_OPTIONS = (
    "score_floor",
    "nms_iou",
    "soft_nms_sigma",
    "max_detections",
    "pre_nms_top_k",
    "image_size",
    "legacy_resize",
    "legacy_decoding",
    "precision",
    "label_shard_size",
    "label_scales",
    "label_flip",
    "label_temperature",
)


def label_source(
    task: Task,
    model: tf.keras.Model,
    source: Source,
    store: LabelStore,
    experiment: Experiment,
    teacher_sha256: str,
    network: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Writes the labels of every image of `source` that this worker is responsible for.

    Shards that are there already are left alone, so a killed job goes on where it was. Workers
    share the shards by `shard_index` and `num_shards`; whoever finds all of them writes the manifest.

    Args:
      experiment: the teacher's, see `TrainedModel.experiment`.
      teacher_sha256: fingerprint of the teacher's weights.
      network: what else decides the teacher's outputs, see `TrainedModel.deciding`.

    Returns:
      The manifest, or None while other workers' shards are missing.

    Raises:
      LabelError: the store was made in another way.
      Interrupted: a signal came; finished shards are kept.
    """
    options, size = experiment.pseudo_labels, experiment.pseudo_labels.label_shard_size
    shards = shard_count(source, experiment)
    store.start(plan_of(task, source, experiment, teacher_sha256, network))
    mine = range(options.shard_index, shards, options.num_shards)
    began = time.monotonic()
    bar = Bar("labelling", sum(_length(source, s, size) for s in mine), "images")
    with bar, naming_unreadable(source), StopRequest("image") as stop:
        for shard in mine:

            def labelled(shard=shard):
                bar.advance()
                stop.check(f"labelling saved up to shard {shard}")

            if not store.has_shard(shard):
                label_shard(task, model, source, store, experiment, shard, labelled)
            else:
                bar.skip(_length(source, shard, size))
            stop.check(f"labelling saved up to shard {shard + 1} of {shards}")
    if bar.new:
        stamped(f"labelling: {bar.new} images in {duration(time.monotonic() - began)}")
    return store.finish(shards, dict(source.report.counts))


def shard_count(source: Source, experiment: Experiment) -> int:
    """How many shards the labels of a source are."""
    return math.ceil(len(source) / experiment.pseudo_labels.label_shard_size)


def plan_of(
    task: Task,
    source: Source,
    experiment: Experiment,
    teacher_sha256: str,
    network: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What makes the labels; see `LabelStore.start` and, of the arguments, `label_source`."""
    flags = experiment.flags()
    return {
        "task": task.name,
        "kind": task.label_kind,
        "teacher_sha256": teacher_sha256,
        "network": network or {},
        "flags": {name: flags[name] for name in DECISIVE_OPTIONS},
        "data": source.word,
        "images_to_label": len(source),
        "ids_sha256": ids_digest(source.ids),
        "categories": [{"id": c.id, "name": c.name} for c in task.categories],
    }


def label_shard(
    task: Task,
    model: tf.keras.Model,
    source: Source,
    store: LabelStore,
    experiment: Experiment,
    shard: int,
    labelled: Callable[[], None] = lambda: None,
) -> None:
    """Writes the labels of one shard; calls `labelled` after every image."""
    rows = _rows(task, model, source, shard, experiment.pseudo_labels.label_shard_size, labelled)
    store.write_shard(shard, rows, [category.name for category in task.categories])


def _length(source: Source, shard: int, size: int) -> int:
    return min(len(source), (shard + 1) * size) - shard * size


def _rows(
    task: Task, model: tf.keras.Model, source: Source, shard: int, size: int, labelled: Callable[[], None]
) -> Iterator[Row]:
    first = shard * size
    last = min(len(source), first + size)
    for i, labels in enumerate(task.label(model, source, first, last), start=first):
        file_name = str(source.file_names[i]) if source.file_names is not None else ""
        height, width = (int(v) for v in source.sizes[i])
        yield Row(str(source.ids[i]), file_name, (height, width), labels)
        labelled()
