"""What flags choose by a name: tasks, jobs, and formats that labels are written in.

An entry here makes a new one known to the flags, to `--help` and to the program. Nothing of it is imported to
know the names, so that a misspelt one is refused before TensorFlow is loaded.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

# Where the class of a task is.
TASKS = {
    "detection": ".tasks.detection:DetectionTask",
    "segmentation": ".tasks.segmentation:SegmentationTask",
    "classification": ".tasks.classification:ClassificationTask",
    "contrastive": ".tasks.contrastive:ContrastiveTask",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """What `--job` names.

    Attributes:
      function: where it is; it takes an `Experiment` and returns what its `summary.json` says.
      about: a line of `--help`.
      on_a_run: it uses a finished run: flags that are not given are those of the run folder.
      rehearsed: --dry_run says its plan.
      alone: it has the run folder to itself.
    """

    function: str
    about: str
    on_a_run: bool = False
    rehearsed: bool = False
    alone: bool = False


JOBS = {
    "self_train": Job(
        ".jobs.training:self_train",
        "teacher -> pseudo labels -> student (-> control), evaluation, export",
        rehearsed=True,
        alone=True,
    ),
    "train": Job(
        ".jobs.training:train",
        "the teacher alone (task=contrastive: the pre-training)",
        rehearsed=True,
        alone=True,
    ),
    "control": Job(
        ".jobs.training:control", "the control of a run alone, beside the process that trains the rest"
    ),
    "linear_eval": Job(
        ".jobs.training:linear_eval", "a linear classifier on the frozen features of --init", alone=True
    ),
    "pseudo_label": Job(".jobs.on_model:pseudo_label", "label a source with a trained model", on_a_run=True),
    "inspect_labels": Job(
        ".jobs.on_model:inspect_labels",
        "numbers, a sheet of images and a COCO JSON of a label store",
        on_a_run=True,
    ),
    "review_labels": Job(
        ".jobs.review_labels:review_labels",
        "the images worth a person's minute, with their pseudo labels, for a labelling tool",
        on_a_run=True,
    ),
    "evaluate": Job(
        ".jobs.on_model:evaluate", "score a model, or an existing COCO results file", on_a_run=True
    ),
    "predict": Job(".jobs.on_model:predict", "detect on a folder of images", on_a_run=True),
    "export": Job(".jobs.on_model:export", ".keras, SavedModel, TFLite", on_a_run=True),
    "import_checkpoint": Job(
        ".jobs.importing:import_checkpoint",
        "somebody's backbone weights as a file for --init, or a whole released network as a run",
        alone=True,
    ),
    "classify_check": Job(
        ".jobs.classify_check:classify_check",
        "top-1 and top-5 of imported weights with their own head: is the import right?",
    ),
    "model_stats": Job(".jobs.on_model:model_stats", "parameters and multiply-adds"),
    "check_data": Job(
        ".jobs.check_data:check_data",
        "before a run: what is there, what does not fit, what is there twice, how long it takes",
    ),
    "gallery": Job(".jobs.on_data:gallery", "one sheet of every augmentation"),
    "write_scenes": Job(".jobs.on_data:write_scenes_job", "the embedded data set as files in COCO format"),
    "write_tfrecords": Job(".jobs.on_data:write_tfrecords_job", "any source as TFRecord shards"),
    "study": Job(
        ".jobs.studies:study",
        "the runs of a study file over seeds, shared where they can be, and a report",
    ),
    "report": Job(
        ".jobs.studies:report",
        "tables, figures and a page of runs that exist, grouped by what they differ in",
    ),
    "export_labels": Job(
        ".jobs.exporting:export_labels_job",
        "pseudo labels, predictions or human labels, with their images, for COCO, YOLO and other tools",
        on_a_run=True,
    ),
}
ON_A_RUN = tuple(name for name, job in JOBS.items() if job.on_a_run)

# Where the writer of a format is: an instance of `official.data.formats.writers.Format`.
FORMATS = {
    "coco": ".data.formats.writers:COCO",
    "yolo": ".data.formats.writers:YOLO",
    "voc": ".data.formats.writers:VOC",
    "cvat": ".data.formats.writers:CVAT",
    "labelme": ".data.formats.writers:LABELME",
    "labelstudio": ".data.formats.writers:LABEL_STUDIO",
}


def load(place: str) -> Any:
    """What a place of these tables names, e.g. ".tasks.detection:DetectionTask"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module, __package__), name)
