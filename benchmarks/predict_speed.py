"""Seconds that `--job=predict` takes for photos, without starting: detecting, drawing and writing, by the
quickstart's network.

    python -m benchmarks.predict_speed [--images=FOLDER] [--count=500] [--task=detection]

The network is untrained and finds 100 boxes an image, which is as much drawing as there can be.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import photos
from benchmarks.our_step import QUICKSTART
from official.data.formats.image_folder import open_folder
from official.data.source import Category
from official.experiment import experiment_from
from official.tasks.registry import build_task

SEGMENTER = dict(
    backbone_width=0.25,
    backbone_depth=0.25,
    survival_probability=1.0,
    pyramid_repeats=1,
    fpn_filters=32,
    separable_pyramid=False,
    segmentation_convs=1,
)


def quickstart_task(task: str = "detection", classes: int = 5, **flags):
    """The task of configs/quickstart*.cfg over so many classes."""
    own = QUICKSTART if task == "detection" else SEGMENTER
    experiment = experiment_from({"task": task, "image_size": 128, "eval_batch_size": 50, **own, **flags})
    return build_task(experiment, tuple(Category(i, f"class {i}") for i in range(classes)))


def main() -> None:
    """Prints wall and CPU seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--task", default="detection")
    options = parser.parse_args()
    flags = dict(eval_score_threshold=0.0) if options.task == "detection" else {}
    task = quickstart_task(options.task, **flags)
    model = task.build_model()
    with tempfile.TemporaryDirectory() as folder:
        source = open_folder(options.images or photos.make(os.path.join(folder, "photos"), options.count))
        source = source.subset(np.arange(min(options.count, len(source))))
        source = dataclasses.replace(source, categories=task.categories)
        wall, cpu = time.perf_counter(), time.process_time()
        numbers = task.write_predictions(
            source, task.predict(model, source, 0, len(source)), os.path.join(folder, "out")
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{options.task}, {len(source)} photos: {wall:.1f} s, {cpu:.1f} CPU seconds ({numbers})")


if __name__ == "__main__":
    main()
