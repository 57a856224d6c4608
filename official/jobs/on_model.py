"""Jobs on a trained model or on the labels it made."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from typing import Any, Mapping, Sequence

from official.data.input_report import InputReport
from official.data.source import Category, DataError, Source
from official.data.sources import parse_word, split_word
from official.data.unreadable import naming_unreadable
from official.errors import FlagError, UserError
from official.evaluation import coco_metrics
from official.evaluation.drawing import write_png
from official.evaluation.evaluated import EvaluatedBoxes
from official.experiment import Experiment
from official.jobs.afterwards import report_evaluation
from official.jobs.export_folder import export_once
from official.jobs.opening import (
    listing,
    open_eval,
    open_images,
    open_model,
    timed,
    trained_model,
)
from official.jobs.quantizing import quantize
from official.jobs.reviewed import unlabeled_pool
from official.models.statistics import model_statistics
from official.screen import counted, note
from official.self_training import inspect_labels as inspection
from official.self_training.label_store import LabelStore
from official.self_training.loop import SelfTraining
from official.self_training.thresholds import AUTO, in_use
from official.tasks.detection import DetectionTask
from official.tasks.registry import build_task, paper_categories
from official.trained_model import adopted
from official.training.distribution import local_strategy, set_up_runtime
from official.training.recovery import weights_sha256
from official.training.run_folder import RunFolder


def pseudo_label(experiment: Experiment) -> dict[str, Any]:
    """Labels `--unlabeled_data` with the run's teacher (or --checkpoint)."""
    folder = RunFolder(experiment)
    strategy = local_strategy(experiment.runtime)
    set_up_runtime(experiment.runtime)
    teacher = trained_model(experiment, "teacher")
    experiment = adopted(experiment, teacher, because=teacher.path)
    source = unlabeled_pool(experiment)
    if not experiment.pseudo_labels.label_store:  # a store elsewhere may be of other images than the run's
        folder.note_source("unlabeled", source)
    loop = SelfTraining(
        build_task(experiment, teacher.categories), experiment, strategy, source, source, None
    )
    with timed(folder, "pseudo_label"):
        if experiment.pseudo_labels.engine == "beam":
            manifest = _by_beam(experiment, teacher.path, loop.label_store().folder)
        else:
            manifest = loop.make_labels(teacher.path)
    numbers: dict[str, Any] = {"finished": manifest is not None}
    if manifest is None:
        note("this worker's shards are done; the manifest is written when the others' are")
    elif experiment.pseudo_labels.score_threshold == AUTO:
        stored = {name: manifest[name] for name in ("images", "boxes", "skipped")}
        numbers = {**stored, "threshold": "auto: chosen when the student begins", **numbers}
        print(f"labels: {loop.label_store().folder}: {numbers}")
    else:
        numbers = {**loop.read_labels()[1], **numbers}
        print(f"labels: {loop.label_store().folder}: {numbers}")
    return folder.summarize(
        {"pseudo_labels": numbers, "skipped_inputs": {"unlabeled": dict(source.report.counts)}}
    )


def _by_beam(experiment: Experiment, teacher_path: str, folder: str) -> dict[str, Any] | None:
    try:
        from official.jobs.beam_labels import label_with_beam
    except ImportError as error:
        raise FlagError(
            f"--engine=beam needs Apache Beam: pip install -r requirements-beam.txt ({error})"
        ) from error
    return label_with_beam(experiment, os.path.abspath(teacher_path), os.path.abspath(folder))


def inspect_labels(experiment: Experiment) -> dict[str, Any]:
    """Prints counts per class and threshold; writes a sheet of images and a COCO JSON."""
    folder = RunFolder(experiment)
    place = experiment.pseudo_labels.label_store or os.path.join(folder.path, "pseudo_labels")
    store = LabelStore(place)
    manifest = store.manifest()
    options = experiment.pseudo_labels
    thresholds = in_use(experiment, store.categories())
    limits = store.limits(*thresholds)
    print(inspection.describe(store, limits))
    output = experiment.serving.output or os.path.join(folder.path, "drawings")
    os.makedirs(output, exist_ok=True)
    exported = store.export(output, *thresholds)
    source = unlabeled_pool(experiment)
    task = build_task(experiment, store.categories())
    sheet_drawing = inspection.draw_sheet(store, source, task, options.drawn_from, limits)
    drawing = write_png(os.path.join(output, "pseudo_labels.png"), sheet_drawing)
    own = f" ({options.class_thresholds})" if options.class_thresholds else ""
    print(f"drawings: {drawing}\nlabels at score >= {options.score_threshold}{own}: {exported}")
    content = {name: manifest[name] for name in ("images", "boxes", "pixels", "skipped") if name in manifest}
    return folder.summarize({"pseudo_labels": content, "drawings": drawing, "exported": exported})


def evaluate(experiment: Experiment) -> dict[str, Any]:
    """Scores the trained model, or with --detections an existing COCO results file."""
    if experiment.serving.detections:
        return _evaluate_files(experiment)
    folder, task, model, found = open_model(experiment)
    source = open_eval(task.experiment, task)
    if source is None:
        raise DataError("--eval_data is needed")
    with timed(folder, "evaluate"), naming_unreadable(source):
        metrics = task.evaluate(model, source, os.path.join(folder.path, "evaluation"), "evaluating")
    print(_scores(metrics, task.metrics))
    summary = folder.summarize(
        {
            "evaluation": metrics,
            "checkpoint": found.path,
            "weights_sha256": weights_sha256(model.variables),
            "skipped_inputs": {"eval": dict(source.report.counts)},
        }
    )
    note(report_evaluation(folder, task, summary, source=source))
    return summary


def _evaluate_files(experiment: Experiment) -> dict[str, Any]:
    folder = RunFolder(experiment)
    kind, _, place = experiment.data.eval_data.partition(":")
    if kind != "coco" or not place or len(split_word(experiment.data.eval_data)) > 1:
        raise DataError("--detections needs --eval_data=coco:GROUND_TRUTH.json, one file")
    serving = experiment.serving
    reports: dict[str, InputReport] = {}
    with listing(folder.path, reports):
        truth, found = coco_metrics.read_files(
            parse_word(experiment.data.eval_data)[1],
            serving.detections,
            serving.iou_type,
            max_skipped_fraction=experiment.data.max_skipped_fraction,
            crowd=experiment.data.crowd,
            reports=reports,
        )
    metrics = coco_metrics.score(truth, found, serving.iou_type)
    print(_scores(metrics, coco_metrics.STATS[:6]))
    skipped = {role: dict(report.counts) for role, report in reports.items()}
    summary = folder.summarize({"evaluation": metrics, "skipped_inputs": skipped})
    task = DetectionTask(
        experiment, tuple(Category(c["id"], str(c.get("name", c["id"]))) for c in truth["categories"])
    )
    note(
        report_evaluation(
            folder, task, summary, evaluated=lambda: EvaluatedBoxes(truth, found, serving.iou_type)
        )
    )
    return summary


def _scores(metrics: Mapping[str, Any], names: Sequence[str]) -> str:
    """An evaluation as text: a line of JSON, and the first metric of every class ("-": no such object was
    there).
    """
    lines = [json.dumps({name: round(metrics[name], 4) for name in names})]
    per_class = metrics.get("per_class", {})
    width = max(map(len, per_class), default=0)
    lines += [f"{'':<{width}}  {names[0]}"] if per_class else []
    return "\n".join(
        lines
        + [f"{name:<{width}}  {'-' if value < 0 else f'{value:.3f}'}" for name, value in per_class.items()]
    )


def _found(images: int, numbers: Mapping[str, Any], output: str, threshold: float) -> str:
    """Predictions as text: what was found of every class, and where it lies."""
    tables = {name: values for name, values in numbers.items() if isinstance(values, dict)}
    names = list(next(iter(tables.values()), {}))
    width = max(map(len, names), default=0)
    lines = [
        f"{images} images"
        + "".join(f", {value} {name}" for name, value in numbers.items() if name not in tables)
    ]
    lines[0] += f" at score >= {threshold:g} (--eval_score_threshold)" if "boxes" in numbers else ""
    heads = [name.removesuffix("_per_class") for name in tables]
    lines.append(f"{'':<{width}}" + "".join(f"{head:>10}" for head in heads))
    lines += [
        f"{name:<{width}}" + "".join(f"{values[name]:>10}" for values in tables.values()) for name in names
    ]
    return "\n".join([*lines, f"{', '.join(sorted(os.listdir(output)))} in {output}"])


def predict(experiment: Experiment) -> dict[str, Any]:
    """Detects on a folder: a COCO results JSON and the images with boxes drawn."""
    if not experiment.serving.images:
        raise DataError("--images is needed: a folder of images")
    folder, task, model, trained = open_model(experiment)
    source = open_images(experiment, folder)
    own = os.path.join(folder.path, "predictions")
    output = experiment.serving.output or own
    if output == own and not _any_below(own, source):
        for earlier in ("drawn", "masks"):  # of other images, perhaps
            shutil.rmtree(os.path.join(own, earlier), ignore_errors=True)
    source = dataclasses.replace(source, categories=task.categories)
    with timed(folder, "predict"), naming_unreadable(source):
        found = counted(task.predict(model, source, 0, len(source)), "predicting", len(source), "images")
        numbers = task.write_predictions(source, found, output)
    print(_found(len(source), numbers, output, task.experiment.decoding.eval_score_threshold))
    content = {"images": len(source), **numbers, "output": output, "checkpoint": trained.path}
    return folder.summarize(
        {"predictions": content, "skipped_inputs": {"images": dict(source.report.counts)}}
    )


def _any_below(folder: str, source: Source) -> bool:
    """Whether an image of the source lies in a folder."""
    names = () if source.file_names is None else source.file_names
    return any(os.path.realpath(str(name)).startswith(os.path.realpath(folder) + os.sep) for name in names)


def export(experiment: Experiment) -> dict[str, Any]:
    """Writes the run's model as .keras, SavedModel and, with --tflite, TFLite."""
    if experiment.serving.quantize != "none" and not experiment.serving.tflite:
        raise FlagError(f"--quantize={experiment.serving.quantize} is of TFLite: it needs --tflite")
    folder, task, model, found = open_model(experiment, all_devices=False)
    paths, _ = export_once(task.experiment, weights_sha256(model.variables), lambda: (task, model))
    summary: dict[str, Any] = {"export": paths, "checkpoint": found.path}
    if experiment.serving.quantize != "none":
        summary["quantized"] = quantize(task, model, os.path.dirname(paths["keras"]))
        paths = {**paths, **summary["quantized"]["paths"]}
    print("\n".join(f"{kind:<14} {path}" for kind, path in paths.items()))
    return folder.summarize(summary)


def model_stats(experiment: Experiment) -> dict[str, Any]:
    """Prints parameters and multiply-adds of the network that the flags describe; nothing needs to be
    trained.
    """
    folder = RunFolder(experiment)
    set_up_runtime(experiment.runtime)
    try:
        categories = folder.categories()
    except UserError:  # a new folder: the paper's numbers of classes
        categories = paper_categories(experiment.model.task)
    model = build_task(experiment, categories).build_model()
    found = model_statistics(model, experiment.model.image_size)
    unused = ""
    if found["unused_head_parameters"]:
        whole = found["parameters"] + found["unused_head_parameters"]
        unused = f" ({whole / 1e6:.2f} M with EfficientNet's unused classification head, as the paper counts)"
    print(
        f"{experiment.model.backbone}, {len(categories)} classes, {experiment.model.image_size} px: "
        f"{found['parameters'] / 1e6:.2f} M trainable parameters{unused}, {found['multiply_adds'] / 1e9:.1f} "
        f"B multiply-adds"
    )
    return folder.summarize({"model": found})
