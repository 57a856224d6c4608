"""The smallest experiment that has every part: used by tests and, as flags, by their subprocesses."""

from __future__ import annotations

import contextlib
import json
import os
from unittest import mock

import tensorflow as tf

from official.data.crops import object_crops
from official.data.scenes_source import open_scenes
from official.experiment import Experiment, experiment_from
from official.files import read_json
from official.trained_model import described
from official.training.recovery import META, Checkpoints, seal
from tests import tiny_backbone as tiny_backbone

FLAGS = dict(
    labeled_data="scenes:train,count=16",
    unlabeled_data="scenes:unlabeled,count=16",
    eval_data="scenes:val,count=8",
    scenes_size=64,
    image_size=64,
    backbone="tiny",  # see tests/tiny_backbone.py
    survival_probability=0.8,
    max_level=5,
    fpn_filters=16,
    head_filters=16,
    head_convs=1,
    anchor_scale=2.5,
    max_boxes=16,
    learning_rate=0.02,
    warmup_steps=2,
    batch_size=8,
    pseudo_batch_size=8,
    teacher_steps=12,
    student_steps=12,
    checkpoint_every=4,
    label_shard_size=4,
    score_threshold=0.01,
    score_floor=0.01,
    eval_batch_size=4,
    drawn_images=2,
    clip_norm=1.0,
)

# The smallest EfficientNets: what the program offers, where that matters; B0 also squeezes and excites.
LITE = dict(backbone="efficientnet-lite0", backbone_width=0.25, backbone_depth=0.25)
SQUEEZING = {**LITE, "backbone": "efficientnet-b0"}

# What other tasks change.
TASKS = {
    "detection": {},
    "segmentation": dict(
        task="segmentation", pyramid="fpn", segmentation_convs=1, batch_norm_epsilon=1e-3, label_scales="1,2", learning_rate=0.1,
    ),
    "classification": dict(
        task="classification", image_size=32, dropout=0.2, label_smoothing=0.1, weight_average=0.9, soft_labels=True,
    ),
    "contrastive": dict(task="contrastive", image_size=32, job="train", weight_average=0.9),
}  # fmt: skip
SELF_TRAINED = ("detection", "segmentation", "classification")  # the tasks with pseudo labels


def experiment(**overrides) -> Experiment:
    """The tiny experiment of a task with some options replaced."""
    return experiment_from({**FLAGS, **TASKS[overrides.get("task", "detection")], **overrides})


def command_line(**overrides) -> list[str]:
    """The same as flags."""
    named = {**FLAGS, **TASKS[overrides.get("task", "detection")], **overrides}
    return [f"--{name}={value}" for name, value in experiment(**overrides).flags().items() if name in named]


@contextlib.contextmanager
def without_export():
    """A context, or a decorator of a test, in which training jobs end without an exported model and without a
    page: a third of a tiny run.

    What a run exports and reports is looked at in test_jobs.py.
    """
    with mock.patch("official.jobs.training.export_once", lambda *_: ({}, False)):
        with mock.patch("official.jobs.training.report", lambda *_: "report"):
            yield


def scenes_source(split: str = "train", count: int = 16, *, task: str = "detection", **kwargs):
    """Images of 64 pixels, labelled as the task wants them."""
    source = open_scenes(split, count, size=64, masks=task == "segmentation", **kwargs)
    return object_crops(source) if task in ("classification", "contrastive") else source


def teacher_result(folder, of: Experiment, categories, model=None) -> dict:
    """What `train_teacher` returns of a teacher that was not trained: a described checkpoint, of a model or
    of none.
    """
    steps = of.training.teacher_steps
    described_as = described(
        of, categories, phase="teacher", step=steps, steps=steps, averaged=False, total_steps=steps,
        origin={"init": of.training.init, "init_checkpoint": ""},
    )  # fmt: skip
    keeper = Checkpoints(
        str(folder), {"model": model} if model is not None else {"nothing": tf.Variable(0.0)}
    )
    return {"checkpoint": keeper.save(steps, description=described_as.to_json()), "weights_sha256": "t"}


def edit_checkpoint(folder: str, name: str, **changes) -> None:
    """Changes a JSON file of a checkpoint, and its checksums with it, as if it had been written so."""
    place, meta = os.path.join(folder, name), read_json(os.path.join(folder, META))
    content = {**read_json(place), **changes}
    if name == META:
        return seal(folder, content)
    with open(place, "w", encoding="utf-8") as file:
        json.dump(content, file)
    seal(folder, meta)
