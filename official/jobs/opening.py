"""Opens what a job needs, from its options: sources, the trained model, the clock."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Iterator

import tensorflow as tf

from official.data.source import DataError, Source, labeled_subset, listed_subset
from official.data.sources import ReadOptions, open_source
from official.experiment import Experiment
from official.self_training.loop import load_weights
from official.tasks.registry import TASKS, build_task
from official.tasks.task import Task
from official.training.distribution import set_up_runtime
from official.training.recovery import checkpoint_steps
from official.training.run_folder import RunFolder


def read_options(experiment: Experiment) -> ReadOptions:
    """The data options as the sources want them."""
    data = experiment.data
    return ReadOptions(
        data_dir=data.data_dir,
        scenes_seed=data.scenes_seed,
        scenes_size=data.scenes_size,
        full_check=data.check_images == "full",
        max_image_pixels=data.max_image_pixels,
        max_skipped_fraction=data.max_skipped_fraction,
        masks=TASKS[experiment.model.task].label_kind == "masks",
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
    return open_source(experiment.data.eval_data, read_options(experiment)).aligned_to(task.categories)


@contextlib.contextmanager
def timed(folder: RunFolder, name: str) -> Iterator[None]:
    """Adds the seconds of a part of a job to the summary."""
    started = time.time()
    yield
    folder.seconds[name] = round(time.time() - started, 2)


def trained_checkpoint(experiment: Experiment) -> str:
    """--checkpoint, or the run's last student, else teacher, checkpoint.

    Raises:
      ValueError: nothing has been trained in the run folder.
    """
    if experiment.handover.checkpoint:
        return experiment.handover.checkpoint
    for phase in ("student", "teacher"):
        folder = os.path.join(experiment.runtime.model_dir, phase, "checkpoints")
        steps = checkpoint_steps(folder)
        if steps:
            return os.path.join(folder, f"step_{steps[-1]:08d}")
    raise ValueError(f"no checkpoint in {experiment.runtime.model_dir}; train first, or give --checkpoint")


def open_model(experiment: Experiment) -> tuple[RunFolder, Task, tf.keras.Model, str]:
    """The run folder, its task, its trained model, and the checkpoint that the model is from."""
    folder = RunFolder(experiment)
    set_up_runtime(experiment.runtime)
    task = build_task(experiment, folder.categories())
    checkpoint = trained_checkpoint(experiment)
    return folder, task, load_weights(task, checkpoint), checkpoint
