"""The job that writes labels in the formats of labelling tools."""

from __future__ import annotations

import os
from typing import Any, Callable

import numpy as np

from official.data.formats.export import export_labels, refuse_existing
from official.data.formats.mask_files import encode_class_map, stored_mask_reader
from official.data.input_report import DataError
from official.data.source import Annotations, Source
from official.experiment import Experiment
from official.jobs.opening import open_images, open_labeled, open_model
from official.jobs.reviewed import unlabeled_pool
from official.screen import counted
from official.self_training.label_store import LabelStore, limits_of
from official.self_training.thresholds import in_use
from official.training.run_folder import RunFolder


def export_labels_job(experiment: Experiment) -> dict[str, Any]:
    """Writes --labels in --format to --output, with the images.

    Raises:
      DataError: no --output, or it exists; what cannot be opened; labels that are classes of images.
    """
    serving, folder = experiment.serving, RunFolder(experiment)
    if not serving.output:
        raise DataError("--output is needed: a new folder for the labels and their images")
    refuse_existing(serving.output)
    source = _OF[serving.labels](experiment)
    report = export_labels(
        source,
        serving.format,
        serving.output,
        scored=serving.labels != "human",
        image_files=serving.image_files,
    )
    print(
        "\n".join([*report.lines("export"), f"{len(source)} images with {_amount(source)}: {serving.output}"])
    )
    content = {
        "images": len(source),
        "format": serving.format,
        "output": serving.output,
        "changed": dict(report.counts),
    }
    if source.annotations is not None:
        content["boxes"] = len(source.annotations.boxes)
    return folder.summarize(
        {"exported": content, "skipped_inputs": {serving.labels: dict(source.report.counts)}}
    )


def _amount(source: Source) -> str:
    return "masks" if source.annotations is None else f"{len(source.annotations.boxes)} boxes"


def _unlabeled(experiment: Experiment) -> Source:
    return unlabeled_pool(experiment)


def _human(experiment: Experiment) -> Source:
    if not experiment.data.labeled_data:
        raise DataError("--labels=human needs --labeled_data")
    return open_labeled(experiment)[0]


def _pseudo(experiment: Experiment) -> Source:
    place = experiment.pseudo_labels.label_store or os.path.join(
        experiment.runtime.model_dir, "pseudo_labels"
    )
    store = LabelStore(place)
    store.manifest()  # before the images are looked at
    return store.read(_unlabeled(experiment), *in_use(experiment, store.categories()))[0]


def _predictions(experiment: Experiment) -> Source:
    folder, task, model, _ = open_model(experiment)
    limits = limits_of(task.categories, *in_use(experiment, task.categories))
    source = open_images(experiment, folder) if experiment.serving.images else _unlabeled(experiment)
    found = counted(task.predict(model, source, 0, len(source)), "predicting", len(source), "images")
    if task.label_kind == "masks":
        encoded = [encode_class_map(row["mask"]) for row in found]
        return source.with_masks(stored_mask_reader(encoded), task.categories)
    if task.label_kind != "boxes":
        raise DataError(
            f"--format={experiment.serving.format} holds boxes or masks, not what --task={task.name} finds"
        )
    rows = [_sure(row, limits) for row in found]
    return source.with_annotations(Annotations.from_images(rows), task.categories)


def _sure(row: dict[str, np.ndarray], limits: np.ndarray) -> dict[str, np.ndarray]:
    keep = row["scores"] >= limits[row["classes"]]
    return {name: values[keep] for name, values in row.items()}


_OF: dict[str, Callable[[Experiment], Source]] = {
    "human": _human,
    "pseudo": _pseudo,
    "predictions": _predictions,
}
