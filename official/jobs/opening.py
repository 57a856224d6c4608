"""Opens what a job needs, from its options: sources, the trained model, the clock."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from typing import Iterator

import tensorflow as tf

from official.data import holdout
from official.data.formats.image_folder import open_folder
from official.data.input_report import DataError, InputReport, UnusableData
from official.data.labels import require_objects
from official.data.source import Source, labeled_subset, listed_subset, needs_python
from official.data.sources import ReadOptions, open_source
from official.data.text_lists import read_id_list
from official.experiment import Experiment, Runtime
from official.files import read_json, sweep_tree, write_json
from official.lock import folder_lock
from official.screen import note
from official.tasks.registry import task_class
from official.tasks.task import Task
from official.trained_model import TrainedModel, adopted
from official.training.distribution import is_chief_process, local_strategy, remote_hosts, set_up_runtime
from official.training.loading import find_model, load_model
from official.training.recovery import last_checkpoint
from official.training.run_folder import RunFolder


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
        crowd=data.crowd,
        stated_size=data.stated_size,
        classes_file=_classes_file(experiment),
        index_dir=index_folder(experiment),
        label_kind=label_kind or task_class(experiment.model.task).label_kind,
    )


def index_folder(experiment: Experiment) -> str:
    """Where indexes of data sets are kept: --index_dir, or else in the run folder."""
    run = experiment.runtime.model_dir
    return experiment.data.index_dir or (os.path.join(run, "data", "index") if run else "")


@contextlib.contextmanager
def alone_in_folder(runtime: Runtime) -> Iterator[None]:
    """Has the run folder to itself for a `with` block, without what dead processes were writing there.

    Workers that follow a chief come in with it.

    Raises:
      Locked: another process trains in the folder.
    """
    if not is_chief_process(runtime):
        yield
        return
    with folder_lock(runtime.model_dir):
        sweep_tree(runtime.model_dir)
        yield


def _classes_file(experiment: Experiment) -> str:
    """--classes; of a run folder that is used elsewhere, without the file that it was trained with, the model
    knows them.
    """
    path = experiment.serving.classes
    return path if "classes" in experiment.given or os.path.isfile(path) else ""


@contextlib.contextmanager
def listing(folder: str, reports: dict[str, InputReport]) -> Iterator[None]:
    """Prints what was repaired and skipped, a line a kind, and keeps the list in the run folder, by role.

    Args:
      folder: empty where there is no run folder; then nothing is kept.
      reports: filled inside; where the data is refused, the list of it is kept all the same.
    """
    try:
        yield
    except UnusableData as error:
        if not folder:
            raise
        path = os.path.join(folder, "data", "refused.json")
        write_json(path, error.report.content(str(error)))
        raise DataError(f"{error} All are listed in {path}.") from error
    for role, report in reports.items():
        if report.counts:
            place = os.path.join(folder, "data", f"{role}_skipped.json") if folder else ""
            note(
                "\n".join(
                    [
                        *report.lines(role),
                        f"{role}: {_left_out(report)}" + (f", all are listed in {place}" if place else ""),
                    ]
                )
            )
            if place:
                write_json(place, report.content(role))


def _left_out(report: InputReport) -> str:
    """What is not used of a data set, in words."""
    lost = [f"{report.skipped_images} images"] if report.skipped_images else []
    lost += [f"{report.lost_objects} objects"] if report.lost_objects else []
    return f"{' and '.join(lost)} left out" if lost else "nothing is left out for it"


def opened(
    experiment: Experiment, role: str, word: str, *, labeled: bool = True, label_kind: str = ""
) -> Source:
    """Opens a source for a job: says what was repaired or skipped, and lists it in the run folder.

    Args:
      role: "labeled", "unlabeled", "eval" or "joint", which names the list.

    Raises:
      DataError: see `open_source`.
    """
    reports: dict[str, InputReport] = {}
    with listing(experiment.runtime.model_dir if is_chief_process(experiment.runtime) else "", reports):
        options = read_options(experiment, label_kind)
        options = dataclasses.replace(options, split="val" if role == "eval" else options.split)
        source = open_source(word, options, labeled=labeled)
        reports[role] = source.report
    if remote_hosts(experiment.runtime) and needs_python(source):
        raise DataError(
            f"{word}: its images or masks are read by Python, which the hosts of "
            f"--tpu={experiment.runtime.tpu} cannot run; write it with --job=write_tfrecords "
            "--output=gs://BUCKET/FOLDER, and give tfrecord:gs://BUCKET/FOLDER/data-* (docs/tpu.md)"
        )
    return source


def open_images(experiment: Experiment, folder: RunFolder) -> Source:
    """The images below --images, without labels; what was skipped is listed in the run folder."""
    options = read_options(experiment)
    reports: dict[str, InputReport] = {}
    with listing(folder.path, reports):
        source = open_folder(
            experiment.serving.images,
            full_check=options.full_check,
            max_pixels=options.max_image_pixels,
            max_skipped_fraction=options.max_skipped_fraction,
        )
        reports["images"] = source.report
    return source


def open_labeled(experiment: Experiment) -> tuple[Source, Source, Source | None]:
    """The labelled images to train on, the rest of --labeled_data, and what --eval_fraction holds out of the
    labelled ones.

    Raises:
      DataError: see `open_source`; both --eval_data and --eval_fraction.
    """
    data = experiment.data
    if data.eval_data and data.eval_fraction:
        raise DataError(
            f"--eval_data={data.eval_data} and --eval_fraction={data.eval_fraction}: give one of them"
        )
    if not data.labeled_data:
        raise DataError("--labeled_data is needed, for example coco:train.json,images or scenes")
    source = opened(experiment, "labeled", data.labeled_data)
    if data.labeled_ids:
        labeled, rest = listed_subset(source, read_id_list(data.labeled_ids))
    else:
        labeled, rest = labeled_subset(source, data.labeled_fraction, data.split_seed)
    if not data.eval_fraction:
        return labeled, rest, None
    labeled, held_out = holdout.held_out_images(labeled, data.eval_fraction, data.split_seed)
    return labeled, rest, held_out


def open_training(experiment: Experiment) -> tuple[Source, Source | None, Source | None]:
    """What the teacher is trained on, the rest of --labeled_data, and what is held out; see `open_labeled`.

    A task without need of labels takes --labeled_data (its classes are for the linear evaluation
    beside training), or else --unlabeled_data.
    """
    data = experiment.data
    if task_class(experiment.model.task).needs_labels or data.labeled_data:
        return open_labeled(experiment)
    if data.unlabeled_data == "rest":
        raise DataError(
            f"--task={experiment.model.task} needs images: --unlabeled_data=folder:…, or --labeled_data"
        )
    if data.eval_fraction:
        raise DataError("--eval_fraction holds out labelled images: it needs --labeled_data")
    return opened(experiment, "unlabeled", data.unlabeled_data, labeled=False), None, None


def open_joint(experiment: Experiment) -> Source | None:
    """The images with classes of joint training, None without it.

    Raises:
      DataError: a weight without data, or data without a weight.
    """
    word, weight = experiment.data.joint_data, experiment.loss.joint_weight
    if bool(word) != (weight > 0.0):
        raise DataError(
            f"joint training needs both --joint_data and --joint_weight; they are {word!r} and {weight}"
        )
    if not word:
        return None
    if task_class(experiment.model.task).whole_images:
        raise DataError(
            f"--joint_data is for detection and segmentation, not for --task={experiment.model.task}"
        )
    return opened(experiment, "joint", word, label_kind="classes")


def open_unlabeled(experiment: Experiment, rest: Source | None) -> Source:
    """The images to pseudo-label."""
    word = experiment.data.unlabeled_data
    if word != "rest":
        return opened(experiment, "unlabeled", word, labeled=False)
    if rest is None or len(rest) == 0:
        raise DataError(
            "--unlabeled_data=rest, but every image of --labeled_data is used with its label; "
            "lower --labeled_fraction, or name unlabelled data"
        )
    return rest.without_labels()


def open_eval(experiment: Experiment, task: Task, held_out: Source | None = None) -> Source | None:
    """The evaluation data, with the model's class indices; None if there is none.

    Args:
      held_out: what `open_labeled` held out, where it has been called already.

    Raises:
      DataError: see `open_source`; not one object to score against; other images than the run held out.
    """
    data = experiment.data
    if data.eval_data:
        source = opened(
            experiment, "eval", data.eval_data, labeled=task.needs_labels or bool(task.categories)
        )
    elif data.eval_fraction:
        source = held_out or _held_out_again(experiment)
    else:
        return None
    if source.annotations is not None:
        require_objects(source.word, source.annotations)
    return source.aligned_to(task.categories)


def _held_out_again(experiment: Experiment) -> Source:
    """What a finished run held out.

    Raises:
      DataError: --labeled_data is not what it was: another part would be held out, which the model was
        trained on.
    """
    held_out = open_labeled(experiment)[2]
    assert held_out is not None  # --eval_fraction
    path = os.path.join(experiment.runtime.model_dir, "data", "eval_ids.json")
    if os.path.isfile(path) and read_json(path) != [str(i) for i in held_out.ids]:
        raise DataError(
            f"--labeled_data={experiment.data.labeled_data} is not what it was when "
            f"{experiment.runtime.model_dir} held out a part of "
            f"it ({path} lists that part); evaluate with --eval_fraction=0 --eval_data=…"
        )
    return held_out


@contextlib.contextmanager
def timed(folder: RunFolder, name: str) -> Iterator[None]:
    """Adds the seconds of a part of a job to the summary."""
    started = time.time()
    try:
        yield
    finally:
        folder.spend(name, time.time() - started)


def trained_model(experiment: Experiment, phase: str = "") -> TrainedModel:
    """What --checkpoint names, or else what the run itself has trained; see `find_checkpoint`.

    Args:
      phase: of the run itself, that is taken where it has been trained.
    """
    named, run = experiment.serving.checkpoint, experiment.runtime.model_dir
    if not named and phase and last_checkpoint(os.path.join(run, phase)):
        run = os.path.join(run, phase)
    take = experiment.training.take if "take" in experiment.given else ""
    return find_model(named or run, "--checkpoint" if named else "--model_dir", take)


def open_model(
    experiment: Experiment, *, all_devices: bool = True
) -> tuple[RunFolder, Task, tf.keras.Model, TrainedModel]:
    """The run folder, the task and the network of the trained model, and its description.

    Args:
      all_devices: builds the model for all the devices that the options name.

    Raises:
      ValueError: nothing trained, or another network than the flags that were given describe.
    """
    folder = RunFolder(experiment)
    strategy = local_strategy(experiment.runtime) if all_devices else tf.distribute.get_strategy()
    set_up_runtime(experiment.runtime)
    found = trained_model(experiment)
    experiment = adopted(experiment, found, because=found.path)
    with strategy.scope():
        task, model = load_model(found, experiment, resized=True)
    return folder, task, model, found
