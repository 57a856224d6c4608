"""The jobs: what `--job` names, each a list of steps that ends with `summary.json`.

self_train       teacher -> pseudo labels -> student (-> control), evaluation, export
train            the teacher alone (task=contrastive: the pre-training)
control          the control of a run alone, beside the process that trains the rest
linear_eval      a linear classifier on the frozen features of --init
pseudo_label     label a source with a trained model
inspect_labels   numbers, a sheet of images and a COCO JSON of a label store
review_labels    the images worth a person's minute, with their pseudo labels, for a labelling tool
evaluate         score a model, or an existing COCO results file
predict          detect on a folder of images
export           .keras, SavedModel, TFLite
import_checkpoint  somebody's backbone weights as a file for --init, or a whole released network as a run
classify_check   top-1 and top-5 of imported weights with their own head: is the import right?
model_stats      parameters and multiply-adds
check_data       before a run: what is there, what does not fit, what is there twice, how long it takes
gallery          one sheet of every augmentation
write_scenes     the embedded data set as files in COCO format
write_tfrecords  any source as TFRecord shards
study            the runs of a study file over seeds, shared where they can be, and a report
report           tables, figures and a page of runs that exist, grouped by what they differ in
export_labels    pseudo labels, predictions or human labels, with their images, for COCO, YOLO and other tools
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable

from official.experiment import Experiment
from official.jobs.check_data import check_data
from official.jobs.classify_check import classify_check
from official.jobs.exporting import export_labels_job
from official.jobs.importing import import_checkpoint
from official.jobs.on_data import gallery, write_scenes_job, write_tfrecords_job
from official.jobs.on_model import evaluate, export, inspect_labels, model_stats, predict, pseudo_label
from official.jobs.opening import alone_in_folder
from official.jobs.preparing import rehearse
from official.jobs.review_labels import review_labels
from official.jobs.studies import report, study
from official.jobs.training import control, linear_eval, self_train, train

JOBS: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    "self_train": self_train,
    "train": train,
    "control": control,
    "linear_eval": linear_eval,
    "pseudo_label": pseudo_label,
    "inspect_labels": inspect_labels,
    "review_labels": review_labels,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "import_checkpoint": import_checkpoint,
    "model_stats": model_stats,
    "gallery": gallery,
    "check_data": check_data,
    "classify_check": classify_check,
    "write_scenes": write_scenes_job,
    "write_tfrecords": write_tfrecords_job,
    "export_labels": export_labels_job,
    "study": study,
    "report": report,
}
# Jobs that use a finished run: flags that are not given are those of the run folder.
USES_RUN = (
    "pseudo_label",
    "inspect_labels",
    "review_labels",
    "evaluate",
    "predict",
    "export",
    "export_labels",
)
# Jobs that --dry_run says the plan of.
REHEARSED = ("self_train", "train")
# Jobs that have the run folder to themselves.
ALONE = ("self_train", "train", "linear_eval", "import_checkpoint")


def run(experiment: Experiment) -> dict[str, Any]:
    """Runs the experiment's job and returns its summary.

    Raises:
      Locked: another process trains in the folder.
    """
    runtime = experiment.runtime
    if experiment.serving.dry_run and runtime.job in REHEARSED:
        return rehearse(experiment)
    with alone_in_folder(runtime) if runtime.job in ALONE and runtime.model_dir else contextlib.nullcontext():
        return JOBS[runtime.job](experiment)
