"""The jobs: what `--job` names, each a list of steps that ends with `summary.json`.

    self_train       teacher -> pseudo labels -> student (-> control), evaluation, export
    train            the teacher alone
    pseudo_label     label a source with a trained model
    inspect_labels   numbers, a sheet of pictures and a COCO JSON of a label store
    evaluate         score a model, or an existing COCO results file
    predict          detect on a folder of pictures
    export           .keras, SavedModel, TFLite
    write_scenes     the embedded data set as files in COCO format
    write_tfrecords  any source as TFRecord shards
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from typing import Any, Callable, Iterator

import numpy as np
import tensorflow as tf

from official import export as export_lib
from official.data.image_folder import open_folder
from official.data.scenes_source import write_scenes
from official.data.source import DataError, Source, labeled_subset, listed_subset
from official.data.sources import ReadOptions, open_source
from official.data.tfrecord import write_tfrecords
from official.evaluation import coco_metrics
from official.evaluation.drawing import sheet
from official.experiment import Experiment
from official.self_training import inspect_labels as inspection
from official.self_training.label_store import LabelStore
from official.self_training.loop import SelfTraining, load_weights
from official.tasks.registry import build_task
from official.tasks.task import Task
from official.training.distribution import build_strategy, is_chief, set_up_runtime
from official.training.recovery import checkpoint_steps, read_json, weights_sha256, write_json
from official.training.run_folder import RunFolder

AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def run(experiment: Experiment) -> dict[str, Any]:
    """Runs the experiment's job and returns its summary."""
    return JOBS[experiment.runtime.job](experiment)


# --- opening what a job needs ---------------------------------------------------------------------


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
    return dataclasses.replace(rest, annotations=None, categories=())


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


# --- training jobs --------------------------------------------------------------------------------


def _open_loop(experiment: Experiment, folder: RunFolder, *, unlabeled: bool) -> SelfTraining:
    strategy = build_strategy(experiment.runtime)
    set_up_runtime(experiment.runtime)
    folder.claim(chief=is_chief(strategy))
    with timed(folder, "open_data"):
        labeled, rest = open_labeled(experiment)
        task = build_task(experiment, labeled.categories)
        pool = open_unlabeled(experiment, rest) if unlabeled else None
        evaluation = open_eval(experiment, task)
    if labeled.annotations.counts().sum() == 0:
        raise DataError(f"{labeled.word}: none of the {len(labeled)} labelled images has a usable box")
    if is_chief(strategy):
        folder.note_categories(labeled.categories)
        for role, source in (("labeled", labeled), ("unlabeled", pool), ("eval", evaluation)):
            if source is not None:
                folder.note_source(role, source)
    print(
        f"labelled: {len(labeled)} images, {len(labeled.annotations.boxes)} boxes, {len(labeled.categories)} classes"
        + (f"; unlabelled: {len(pool)} images" if pool else "")
        + (f"; evaluation: {len(evaluation)} images" if evaluation else "")
    )
    return SelfTraining(task, experiment, strategy, labeled, pool, evaluation)


def self_train(experiment: Experiment) -> dict[str, Any]:
    """The whole loop."""
    folder = RunFolder(experiment)
    loop = _open_loop(experiment, folder, unlabeled=True)
    summary: dict[str, Any] = {"skipped_inputs": _skipped(loop)}
    with timed(folder, "teacher"):
        summary["teacher"] = loop.train_teacher()
    with timed(folder, "pseudo_label"):
        loop.make_labels(summary["teacher"]["checkpoint"])
        pseudo, summary["pseudo_labels"] = loop.read_labels()
    with timed(folder, "student"):
        summary["student"] = loop.train_student(pseudo, summary["teacher"]["checkpoint"])
    if experiment.training.control:
        with timed(folder, "control"):
            summary["control"] = loop.train_control()
    if is_chief(loop.strategy):
        with timed(folder, "hand_over"):
            student = load_weights(loop.task, summary["student"]["checkpoint"])
            summary["export"] = _export(experiment, loop.task, student)
            summary["pictures"] = _teacher_beside_student(loop, summary, student)
    return _end_of_training(folder, loop, summary)


def train(experiment: Experiment) -> dict[str, Any]:
    """The supervised teacher alone."""
    folder = RunFolder(experiment)
    loop = _open_loop(experiment, folder, unlabeled=False)
    summary: dict[str, Any] = {"skipped_inputs": _skipped(loop)}
    with timed(folder, "teacher"):
        summary["teacher"] = loop.train_teacher()
    if is_chief(loop.strategy):
        with timed(folder, "hand_over"):
            model = load_weights(loop.task, summary["teacher"]["checkpoint"])
            summary["export"] = _export(experiment, loop.task, model)
    return _end_of_training(folder, loop, summary)


def _end_of_training(folder: RunFolder, loop: SelfTraining, summary: dict[str, Any]) -> dict[str, Any]:
    phases = [name for name in ("teacher", "control", "student") if name in summary]
    summary["images_seen"] = sum(summary[name]["images_seen"] for name in phases)
    if not is_chief(loop.strategy):
        return summary
    if loop.evaluation is not None:
        summary["evaluation"] = {"coco_stats": summary[phases[-1]].get("coco_stats")}
    summary = folder.summarize(summary)
    print(table(summary))
    _explain_zero(summary, phases)
    return summary


def _skipped(loop: SelfTraining) -> dict[str, dict[str, int]]:
    sources = {"labeled": loop.labeled, "unlabeled": loop.unlabeled, "eval": loop.evaluation}
    return {role: dict(s.report.counts) for role, s in sources.items() if s is not None}


def table(summary: dict[str, Any]) -> str:
    """The result of a training job as text."""
    lines = ["", "           " + "".join(f"{name:>8}" for name in AP_COLUMNS) + "   steps  seconds"]
    for name in ("teacher", "control", "student"):
        row = summary.get(name)
        if row:
            values = "".join(f"{row[c]:8.3f}" if c in row else "       -" for c in AP_COLUMNS)
            lines.append(f"{name:<11}{values}{row['steps']:8d}{row['seconds']:9.0f}")
    labels = summary.get("pseudo_labels")
    if labels:
        lines.append(
            f"pseudo labels: {labels['boxes']} boxes at score >= {labels['threshold']} "
            f"on {labels['images_with_boxes']} of {labels['images']} images"
        )
    for name, path in {**summary.get("export", {}), "pictures": summary.get("pictures")}.items():
        if path:
            lines.append(f"{name:<12} {path}")
    return "\n".join(lines)


def _explain_zero(summary: dict[str, Any], phases: list[str]) -> None:
    for name in phases:
        if summary[name].get("AP", 1.0) <= 0.0:
            print(
                f"WARNING: {name} has AP {summary[name]['AP']}. Either it was trained too little (loss in "
                "TensorBoard), or training and evaluation data disagree about classes or boxes "
                "(look at the pictures `training_human` and `predictions` in TensorBoard)."
            )


def _export(experiment: Experiment, task: Task, model: tf.keras.Model) -> dict[str, str]:
    return export_lib.export_detector(
        model,
        os.path.join(experiment.runtime.model_dir, "export"),
        [category.name for category in task.categories],
        task.decoder(experiment.decoding.eval_score_threshold),
        legacy_resize=experiment.data.legacy_resize,
        tflite=experiment.handover.tflite,
    )


def _teacher_beside_student(loop: SelfTraining, summary: dict[str, Any], student: tf.keras.Model) -> str | None:
    """One sheet: ground truth, teacher and student on the same evaluation pictures."""
    if loop.evaluation is None:
        return None
    count = min(8, len(loop.evaluation))
    teacher = load_weights(loop.task, summary["teacher"]["checkpoint"])
    pictures, captions = [], []
    found = [list(loop.task.label(model, loop.evaluation, 0, count)) for model in (teacher, student)]
    for i in range(count):
        image = loop.evaluation.read_image(tf.constant(i, tf.int64)).numpy()
        truth = {k: v for k, v in loop.evaluation.annotations.of(i).items() if k != "scores"}
        rows = [truth] + [_sure(objects[i], loop.experiment) for objects in found]
        pictures += [loop.task.draw(image, row) for row in rows]
        captions += [f"{loop.evaluation.ids[i]}: human", "teacher", "student"]
    path = os.path.join(loop.experiment.runtime.model_dir, "pictures", "teacher_student.png")
    return _write_png(path, sheet(pictures, columns=6, captions=captions))


def _sure(objects: dict[str, np.ndarray], experiment: Experiment) -> dict[str, np.ndarray]:
    keep = objects["scores"] >= experiment.pseudo_labels.score_threshold
    return {name: column[keep] for name, column in objects.items()}


def _write_png(path: str, picture: np.ndarray) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    tf.io.write_file(path, tf.io.encode_png(picture))
    return path


# --- jobs on a trained model ----------------------------------------------------------------------


def _open_model(experiment: Experiment) -> tuple[RunFolder, Task, tf.keras.Model, str]:
    folder = RunFolder(experiment)
    set_up_runtime(experiment.runtime)
    task = build_task(experiment, folder.categories())
    checkpoint = trained_checkpoint(experiment)
    return folder, task, load_weights(task, checkpoint), checkpoint


def pseudo_label(experiment: Experiment) -> dict[str, Any]:
    """Labels `--unlabeled_data` with the run's teacher (or --checkpoint)."""
    teacher = os.path.join(experiment.runtime.model_dir, "teacher", "checkpoints")
    if not experiment.handover.checkpoint and checkpoint_steps(teacher):
        step = checkpoint_steps(teacher)[-1]
        handover = dataclasses.replace(experiment.handover, checkpoint=os.path.join(teacher, f"step_{step:08d}"))
        experiment = dataclasses.replace(experiment, handover=handover)
    folder = RunFolder(experiment)
    set_up_runtime(experiment.runtime)
    task = build_task(experiment, folder.categories())
    rest = open_labeled(experiment)[1] if experiment.data.unlabeled_data == "rest" else None
    source = open_unlabeled(experiment, rest)
    folder.note_source("unlabeled", source)
    loop = SelfTraining(task, experiment, tf.distribute.get_strategy(), source, source, None)
    with timed(folder, "pseudo_label"):
        manifest = loop.make_labels(trained_checkpoint(experiment))
    numbers: dict[str, Any] = {"finished": manifest is not None}
    if manifest is None:
        print("this worker's shards are done; the manifest is written when the others' are")
    else:
        numbers = {**loop.read_labels()[1], **numbers}
        print(f"labels: {loop.label_store().folder}: {numbers}")
    return folder.summarize({"pseudo_labels": numbers, "skipped_inputs": {"unlabeled": dict(source.report.counts)}})


def inspect_labels(experiment: Experiment) -> dict[str, Any]:
    """Prints counts per class and threshold; writes a sheet of pictures and a COCO JSON."""
    folder = RunFolder(experiment)
    place = experiment.pseudo_labels.label_store or os.path.join(folder.path, "pseudo_labels")
    store = LabelStore(place)
    manifest = store.manifest()
    print(inspection.describe(store))
    output = experiment.handover.output or os.path.join(folder.path, "pictures")
    os.makedirs(output, exist_ok=True)
    coco_path = os.path.join(output, "pseudo_labels_coco.json")
    store.export_coco(coco_path, threshold=experiment.pseudo_labels.score_threshold)
    picture = None
    rest = open_labeled(experiment)[1] if experiment.data.unlabeled_data == "rest" else None
    source = open_unlabeled(experiment, rest)
    task = build_task(experiment, store.categories())
    sheet_picture = inspection.draw_sheet(store, source, task, experiment.pseudo_labels.score_threshold)
    picture = _write_png(os.path.join(output, "pseudo_labels.png"), sheet_picture)
    print(f"pictures: {picture}\nCOCO JSON at score >= {experiment.pseudo_labels.score_threshold}: {coco_path}")
    content = {"images": manifest["images"], "boxes": manifest["boxes"], "skipped": manifest["skipped"]}
    return folder.summarize({"pseudo_labels": content, "pictures": picture, "coco": coco_path})


def evaluate(experiment: Experiment) -> dict[str, Any]:
    """Scores the trained model, or with --detections an existing COCO results file."""
    if experiment.handover.detections:
        return _evaluate_files(experiment)
    folder, task, model, checkpoint = _open_model(experiment)
    source = open_eval(experiment, task)
    if source is None:
        raise DataError("--eval_data is needed")
    with timed(folder, "evaluate"):
        metrics = task.evaluate(model, source, os.path.join(folder.path, "evaluation"), "evaluating")
    print(json.dumps({name: round(metrics[name], 4) for name in AP_COLUMNS}))
    return folder.summarize(
        {
            "evaluation": metrics,
            "checkpoint": checkpoint,
            "weights_sha256": weights_sha256(model.variables),
            "skipped_inputs": {"eval": dict(source.report.counts)},
        }
    )


def _evaluate_files(experiment: Experiment) -> dict[str, Any]:
    folder = RunFolder(experiment)
    kind, _, place = experiment.data.eval_data.partition(":")
    if kind != "coco" or not place:
        raise DataError("--detections needs --eval_data=coco:GROUND_TRUTH.json")
    handover = experiment.handover
    metrics = coco_metrics.evaluate_files(place.split(",")[0], handover.detections, handover.iou_type)
    print(json.dumps({name: round(metrics[name], 4) for name in AP_COLUMNS}))
    return folder.summarize({"evaluation": metrics, "skipped_inputs": {}})


def predict(experiment: Experiment) -> dict[str, Any]:
    """Detects on a folder: a COCO results JSON and the pictures with boxes drawn."""
    if not experiment.handover.images:
        raise DataError("--images is needed: a folder of pictures")
    folder, task, model, checkpoint = _open_model(experiment)
    options = read_options(experiment)
    source = open_folder(
        experiment.handover.images,
        full_check=options.full_check,
        max_pixels=options.max_image_pixels,
        max_skipped_fraction=options.max_skipped_fraction,
    )
    output = experiment.handover.output or os.path.join(folder.path, "predictions")
    os.makedirs(os.path.join(output, "drawn"), exist_ok=True)
    source = dataclasses.replace(source, categories=task.categories)
    threshold = experiment.decoding.eval_score_threshold
    found = []
    with timed(folder, "predict"):
        for i, objects in enumerate(task.predictions(model, source, 0, len(source), threshold)):
            image = source.read_image(tf.constant(i, tf.int64)).numpy()
            name = str(source.ids[i]).replace(os.sep, "__") + ".png"
            _write_png(os.path.join(output, "drawn", name), task.draw(image, _sure(objects, experiment)))
            found.append(objects)
    results = coco_metrics.results(source, found)
    write_json(os.path.join(output, "detections.json"), results)
    images = [{"id": i, "file_name": str(n)} for i, n in zip(source.coco_image_ids(), source.ids)]
    write_json(os.path.join(output, "images.json"), images)
    print(f"{len(results)} detections on {len(source)} images: {output}")
    content = {"images": len(source), "boxes": len(results), "output": output, "checkpoint": checkpoint}
    return folder.summarize({"predictions": content, "skipped_inputs": {"images": dict(source.report.counts)}})


def export(experiment: Experiment) -> dict[str, Any]:
    """Writes the run's model as .keras, SavedModel and, with --tflite, TFLite."""
    folder, task, model, checkpoint = _open_model(experiment)
    paths = _export(experiment, task, model)
    print("\n".join(f"{kind:<12} {path}" for kind, path in paths.items()))
    return folder.summarize({"export": paths, "checkpoint": checkpoint})


# --- jobs on data ---------------------------------------------------------------------------------


def write_scenes_job(experiment: Experiment) -> dict[str, Any]:
    """Writes the embedded data set as PNGs with COCO JSON."""
    folder = RunFolder(experiment)
    output = experiment.handover.output or os.path.join(folder.path, "scenes")
    paths = write_scenes(output, seed=experiment.data.scenes_seed, size=experiment.data.scenes_size)
    print("\n".join(paths))
    return folder.summarize({"written": paths})


def write_tfrecords_job(experiment: Experiment) -> dict[str, Any]:
    """Writes --labeled_data as TFRecord shards."""
    folder = RunFolder(experiment)
    source = open_source(experiment.data.labeled_data, read_options(experiment))
    prefix = os.path.join(experiment.handover.output or os.path.join(folder.path, "tfrecords"), "data")
    paths = write_tfrecords(source, prefix, experiment.handover.output_shards)
    print(f"{len(source)} images in {len(paths)} files: {prefix}-*")
    return folder.summarize({"written": paths, "skipped_inputs": {"labeled": dict(source.report.counts)}})


JOBS: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    "self_train": self_train,
    "train": train,
    "pseudo_label": pseudo_label,
    "inspect_labels": inspect_labels,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "write_scenes": write_scenes_job,
    "write_tfrecords": write_tfrecords_job,
}
# Jobs that use a finished run: flags that are not given are those of the run folder.
USES_RUN = ("pseudo_label", "inspect_labels", "evaluate", "predict", "export")
