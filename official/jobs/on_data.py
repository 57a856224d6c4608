"""Jobs that write data sets."""

from __future__ import annotations

import os
from typing import Any

from official.data.formats.tfrecord import write_tfrecords
from official.data.scenes_source import write_scenes
from official.data.sources import open_source
from official.evaluation.gallery import draw_gallery
from official.experiment import Experiment
from official.jobs.opening import opened, read_options
from official.screen import warn
from official.training.run_folder import RunFolder


def write_scenes_job(experiment: Experiment) -> dict[str, Any]:
    """Writes the embedded data set as PNGs with COCO JSON."""
    folder = RunFolder(experiment)
    output = experiment.serving.output or os.path.join(folder.path, "scenes")
    paths = write_scenes(output, seed=experiment.data.scenes_seed, size=experiment.data.scenes_size)
    print("\n".join(paths))
    return folder.summarize({"written": paths})


def write_tfrecords_job(experiment: Experiment) -> dict[str, Any]:
    """Writes --labeled_data as TFRecord shards, with boxes, masks or classes as --task wants them; or
    --unlabeled_data without labels.
    """
    folder, data = RunFolder(experiment), experiment.data
    role = "labeled" if data.labeled_data or data.unlabeled_data == "rest" else "unlabeled"
    source = opened(experiment, role, data.labeled_data or data.unlabeled_data, labeled=role == "labeled")
    prefix = os.path.join(experiment.serving.output or os.path.join(folder.path, "tfrecords"), "data")
    paths = write_tfrecords(source, prefix, experiment.serving.output_shards)
    print(f"{len(source)} images in {len(paths)} files: {prefix}-*")
    if source.annotations is not None and any(category.id <= 0 for category in source.categories):
        warn(
            "a category has the id 0, which the original stack takes for background; this program reads it "
            "as a class"
        )
    return folder.summarize({"written": paths, "skipped_inputs": {role: dict(source.report.counts)}})


def gallery(experiment: Experiment) -> dict[str, Any]:
    """Draws every operation at two levels and every preset four times, on one image of --labeled_data."""
    folder = RunFolder(experiment)
    source = open_source(experiment.data.labeled_data or "scenes:train,count=60", read_options(experiment))
    output = experiment.serving.output or os.path.join(folder.path, "drawings")
    paths = draw_gallery(source, output, experiment.runtime.seed)
    print("\n".join(paths))
    return folder.summarize({"drawings": paths})
