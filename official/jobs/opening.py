"""Opens what a job needs, from its options: sources, the trained model, the clock."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from typing import Iterator

import tensorflow as tf

from official.data.source import DataError, Source, labeled_subset, listed_subset
from official.data.sources import ReadOptions, open_source
from official.experiment import Experiment
from official.models.backbones import build_backbone
from official.models.import_checkpoint import normalization_of
from official.self_training.loop import load_weights
from official.tasks.registry import TASKS, build_task
from official.tasks.task import Task
from official.training.distribution import local_strategy, set_up_runtime
from official.training.recovery import find_checkpoint
from official.training.run_folder import RunFolder, saved_flags


def read_options(experiment: Experiment, label_kind: str = "") -> ReadOptions:
    """The data options as the sources want them; `label_kind` replaces the task's."""
    data = experiment.data
    return ReadOptions(
        data_dir=data.data_dir,
        scenes_seed=data.scenes_seed,
        scenes_size=data.scenes_size,
        full_check=data.check_images == "full",
        max_image_pixels=data.max_image_pixels,
        max_skipped_fraction=data.max_skipped_fraction,
        label_kind=label_kind or TASKS[experiment.model.task].label_kind,
    )


def open_labeled(experiment: Experiment) -> tuple[Source, Source]:
    """The labelled pictures whose labels are used, and the rest."""
    data = experiment.data
    if not data.labeled_data:
        raise DataError("--labeled_data is needed, for example coco:train.json,images or scenes")
    source = open_source(data.labeled_data, read_options(experiment))
    if data.labeled_ids:
        return listed_subset(source, read_id_list(data.labeled_ids))
    return labeled_subset(source, data.labeled_fraction, data.split_seed)


def open_training(experiment: Experiment) -> tuple[Source, Source | None]:
    """What the teacher is trained on, and the rest of --labeled_data.

    A task without need of labels takes --labeled_data (its classes are for the linear evaluation
    beside training), or else --unlabeled_data.
    """
    data = experiment.data
    if TASKS[experiment.model.task].needs_labels or data.labeled_data:
        return open_labeled(experiment)
    if data.unlabeled_data == "rest":
        raise DataError(f"--task={experiment.model.task} needs pictures: --unlabeled_data=folder:…, or --labeled_data")
    return open_source(data.unlabeled_data, read_options(experiment), labeled=False), None


def open_joint(experiment: Experiment) -> Source | None:
    """The pictures with classes of joint training, None without it.

    Raises:
      DataError: a weight without data, or data without a weight.
    """
    word, weight = experiment.data.joint_data, experiment.loss.joint_weight
    if bool(word) != (weight > 0.0):
        raise DataError(f"joint training needs both --joint_data and --joint_weight; they are {word!r} and {weight}")
    if not word:
        return None
    if experiment.model.task in ("classification", "contrastive"):
        raise DataError(f"--joint_data is for detection and segmentation, not for --task={experiment.model.task}")
    return open_source(word, read_options(experiment, "classes"))


def settled(experiment: Experiment) -> Experiment:
    """The experiment with the scale of the pixels that its starting weights want.

    A run folder that exists has settled it already.
    """
    if experiment.model.input_normalization != "auto":
        return experiment
    scale = saved_flags(experiment.runtime.model_dir).get("input_normalization")
    if scale in (None, "auto"):
        training = experiment.training
        scale = "imagenet"
        if training.init != "random" and not training.init_checkpoint:
            backbone = build_backbone(experiment.model)
            scale = normalization_of(training.init, training.weights_dir, backbone, experiment.model.backbone)
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, input_normalization=scale))


def read_id_list(path: str) -> list[str]:
    """Ids from a text file (one a line) or a JSON list, or a JSON dict's "labeled" list."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        content = json.loads(text) if path.endswith(".json") else text.split()
        return [str(i) for i in (content["labeled"] if isinstance(content, dict) else content)]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"--labeled_ids={path}: not a list of ids ({error})") from error


def open_unlabeled(experiment: Experiment, rest: Source | None) -> Source:
    """The pictures to pseudo-label."""
    word = experiment.data.unlabeled_data
    if word != "rest":
        return open_source(word, read_options(experiment), labeled=False)
    if rest is None or len(rest) == 0:
        raise DataError(
            "--unlabeled_data=rest, but every picture of --labeled_data is used with its label; "
            "lower --labeled_fraction, or name unlabelled data"
        )
    return rest.without_labels()


def open_eval(experiment: Experiment, task: Task) -> Source | None:
    """The evaluation data, with the model's class indices; None if there is none."""
    if not experiment.data.eval_data:
        return None
    source = open_source(experiment.data.eval_data, read_options(experiment), labeled=task.needs_labels or bool(task.categories))
    return source.aligned_to(task.categories)


@contextlib.contextmanager
def timed(folder: RunFolder, name: str) -> Iterator[None]:
    """Adds the seconds of a part of a job to the summary."""
    started = time.time()
    yield
    folder.seconds[name] = round(time.time() - started, 2)


def trained_checkpoint(experiment: Experiment) -> str:
    """The checkpoint folder of --checkpoint, or of the run itself; see `find_checkpoint`."""
    return find_checkpoint(experiment.handover.checkpoint or experiment.runtime.model_dir)


def open_model(experiment: Experiment, *, all_devices: bool = True) -> tuple[RunFolder, Task, tf.keras.Model, str]:
    """The run folder, its task, its trained model, and the checkpoint that the model is from.

    Args:
      all_devices: builds the model for all the devices that the options name.
    """
    folder = RunFolder(experiment)
    strategy = local_strategy(experiment.runtime) if all_devices else tf.distribute.get_strategy()
    set_up_runtime(experiment.runtime)
    task = build_task(experiment, folder.categories())
    checkpoint = trained_checkpoint(experiment)
    with strategy.scope():
        model = load_weights(task, checkpoint)
    return folder, task, model, checkpoint
