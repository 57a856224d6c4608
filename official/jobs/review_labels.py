"""Writes the pseudo-labelled images that are worth a person's minute, with their labels, for any labelling
tool.
"""

from __future__ import annotations

import collections
import os
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from official.data.formats.class_folders import write_class_folders
from official.data.formats.export import FORMATS, export_labels, image_names, refuse_existing
from official.data.pseudo_labels import BoxLabels, ClassLabels, ImageLabels
from official.data.source import Annotations, DataError, Source
from official.experiment import Experiment
from official.files import write_json
from official.jobs.opening import trained_model
from official.jobs.reviewed import unlabeled_pool
from official.screen import note
from official.self_training import review
from official.self_training.label_store import LabelStore
from official.self_training.thresholds import in_use
from official.tasks.task import Task
from official.trained_model import SIZE, TrainedModel
from official.training.distribution import set_up_runtime
from official.training.loading import load_model
from official.training.recovery import weights_sha256
from official.training.run_folder import RunFolder

COMPARED = 4  # times --review_images: how many images are looked at mirrored and smaller
SMALLER = 0.75  # times the network's input


_HOW = "Correct them, keep every image that was looked at (also without a box)"
_HOW_CLASSES = "Move every image that is of another class into that class's folder, and remove those of none"


def review_labels(experiment: Experiment) -> dict[str, Any]:
    """Chooses images of a finished run's label store (official/self_training/review.py) and writes them with
    their labels.

    They are written in --format, as job=export_labels does, or, for classes of images, as a folder per class,
    with `review.manifest` (JSON: which image is which and why) beside them.
    """
    folder = RunFolder(experiment)
    set_up_runtime(experiment.runtime)
    store = LabelStore(experiment.pseudo_labels.label_store or os.path.join(folder.path, "pseudo_labels"))
    manifest = store.manifest()
    output = experiment.serving.output or os.path.join(folder.path, "review")
    refuse_existing(output)
    pool = unlabeled_pool(experiment)
    chosen = _chosen(experiment, store, manifest, pool)
    labelled = _labelled(experiment, store, pool.subset(np.array(list(chosen))))
    word = _write(experiment, labelled, pool.word, list(chosen.values()), output)
    counts = collections.Counter(first for first, *_ in chosen.values())
    print(
        f"{len(chosen)} of {len(pool)} images to review: "
        + ", ".join(f"{n} {reason}" for reason, n in counts.items())
    )
    how = _HOW_CLASSES if labelled.image_classes is not None else _HOW
    print(f"images       {output}\n{how}, and train on with --reviewed={word}")
    return folder.summarize(
        {"review": {"images": len(chosen), "reasons": dict(counts), "output": output, "reviewed": word}}
    )


def _write(experiment: Experiment, labelled: Source, pool: str, reasons: list[list[str]], output: str) -> str:
    """Writes images, labels and the list of them; returns the word that reads them when they are corrected.

    Classes of images are folders, whatever --format says.
    """
    serving = experiment.serving
    if labelled.image_classes is not None:
        files = write_class_folders(labelled, output, serving.image_files)
        word = f"folder:{output}"
    else:
        report = export_labels(labelled, serving.format, output, scored=True, image_files=serving.image_files)
        if report.counts:
            note("\n".join(report.lines("review")))
        form = FORMATS[serving.format]
        files = [os.path.join(form.images, name) for name in image_names(labelled)]
        word = form.word.format(output=output)
    write_json(os.path.join(output, review.MANIFEST), _listed(labelled, pool, reasons, files))
    return word


def _limits(experiment: Experiment, store: LabelStore) -> np.ndarray:
    return store.limits(*in_use(experiment, store.categories()))


def _chosen(
    experiment: Experiment, store: LabelStore, manifest: dict[str, Any], pool: Source
) -> dict[int, list[str]]:
    """Places in the pool, and why they were chosen.

    Raises:
      DataError: no image is worth a look.
    """
    limits = _limits(experiment, store)
    if store.kind().name in ("boxes", "classes"):
        stored = _in_order(store, pool, lambda labels: labels)
        boxes = store.kind().name == "boxes"
        found = review.worth(stored, limits) if boxes else review.worth_of_classes(stored, len(limits))
        _compare_views(experiment, store, manifest, pool, stored, limits, found)
    else:
        found = review.worth_of_masks(
            _in_order(store, pool, lambda labels: review.unsure_shares(labels, limits))
        )
    chosen = review.choose(found, experiment.serving.review_images, [c.name for c in store.categories()])
    if not chosen:
        raise DataError(
            f"{store.folder}: not one label is uncertain; lower --score_floor when labelling, or raise "
            f"--score_threshold"
        )
    return chosen


def _in_order(store: LabelStore, pool: Source, kept: Callable[[Any], Any]) -> list[Any]:
    """What is `kept` of the stored labels of the images, in their order."""
    wanted = set(map(str, pool.ids))
    rows = {row.id: kept(row.labels) for row in store.rows() if row.id in wanted}
    missing = [i for i in pool.ids if str(i) not in rows]
    if missing:
        raise DataError(f"{store.folder} has no labels for {len(missing)} images, the first is {missing[0]}")
    return [rows[str(i)] for i in pool.ids]


def _compare_views(
    experiment: Experiment,
    store: LabelStore,
    manifest: Mapping[str, Any],
    pool: Source,
    stored: Sequence[ImageLabels],
    limits: np.ndarray,
    found: review.Worth,
) -> None:
    """Adds the reason "views" to `found`, where the network that made the labels is there."""
    try:
        teacher = trained_model(experiment, "teacher")
    except ValueError as error:
        note(f"views are not compared: {error}")
        return
    task, model = load_model(teacher, experiment)
    if weights_sha256(model.variables) != manifest["teacher_sha256"]:
        note(f"views are not compared: {teacher.path} did not make {store.folder}")
        return
    places = review.candidates(found, COMPARED * experiment.serving.review_images)
    some = pool.subset(places)
    values = np.zeros(len(pool))
    kind, own = store.kind(), [stored[i] for i in places]
    for view in (_mirrored(task, model, some), _smaller(teacher, experiment, some)):
        for i, labels, other in zip(places, own, view):
            if isinstance(labels, ClassLabels) and isinstance(other, ClassLabels):
                values[i] += int(labels.label != other.label)
            else:
                values[i] += review.disagreement(kind.at(labels, limits), kind.at(other, limits))
    found.reasons["views"] = values


def _mirrored(task: Task, model: tf.keras.Model, source: Source) -> Iterator[ImageLabels]:
    found = task.label(model, review.mirrored(source), 0, len(source))
    for i, labels in enumerate(found):
        width = int(source.sizes[i][1])
        yield review.unmirrored(labels, width) if isinstance(labels, BoxLabels) else labels


def _smaller(teacher: TrainedModel, experiment: Experiment, source: Source) -> Iterable[ImageLabels]:
    """The labels at the next smaller input that the pyramid takes, or at the next larger one where there is
    none.
    """
    own = teacher.flags[SIZE]
    stride = 2 ** teacher.flags["max_level"]
    side = max(1, round(SMALLER * own / stride)) * stride
    side = side if side < own else own + stride
    task, model = load_model(teacher, experiment.with_flags({SIZE: side}), resized=True)
    return task.label(model, source, 0, len(source))


def _labelled(experiment: Experiment, store: LabelStore, chosen: Source) -> Source:
    """The images with the labels in use; of masks, pixels that are not sure say nothing."""
    kind, limits = store.kind(), _limits(experiment, store)
    if kind.name == "classes":  # the likeliest of each, sure or not: somebody looks at it
        rows = _in_order(store, chosen, lambda labels: labels.label)
        return chosen.with_classes(np.array(rows, np.int32), store.categories())
    if kind.name == "masks":
        return kind.read(store, chosen, limits)[0]
    rows = _in_order(store, chosen, lambda labels: kind.at(labels, limits))
    return chosen.with_annotations(Annotations.from_images(rows), store.categories())


def _listed(source: Source, word: str, reasons: list[list[str]], files: list[str]) -> dict[str, Any]:
    """What `review.MANIFEST` says: of every written file the image that it shows, why it was chosen, and its
    labels.
    """
    entries = []
    for i, file in enumerate(files):
        entry: dict[str, Any] = {"file": file, "id": str(source.ids[i]), "reasons": reasons[i]}
        entry["boxes"] = None if source.annotations is None else _boxes(source, i)
        if source.image_classes is not None:
            entry["class"] = source.categories[source.image_classes[i]].name
        entries.append(entry)
    return {"data": word, "images": entries}


def _boxes(source: Source, i: int) -> list[list[Any]]:
    objects = source.objects.of(i)
    return [
        [source.categories[c].name, *np.rint(b).tolist()]
        for b, c in zip(objects["boxes"], objects["classes"])
    ]
