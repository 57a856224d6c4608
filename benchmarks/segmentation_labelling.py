"""Labelling of photos at six scales beside six bare passes of the network over images that are ready.

    python -m benchmarks.segmentation_labelling [--images=FOLDER] [--count=400] [--backbone=b0 --size=256]

Without a backbone it is the network of the segmentation quickstart. Both sides take turns on one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks import photos
from benchmarks.predict_speed import quickstart_task
from official.data.formats.image_folder import open_folder
from official.data.source import Category
from official.experiment import experiment_from
from official.models.replicas import logits_function
from official.tasks.registry import build_task

SCALES = "0.5,0.75,1,1.25,1.5,1.75"


def main() -> None:
    """Prints the ratio of CPU seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--backbone", default="")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    flags = dict(label_scales=SCALES, image_size=options.size, eval_batch_size=options.batch, threads=1)
    if options.backbone:
        experiment = experiment_from(
            {"task": "segmentation", "backbone": f"efficientnet-{options.backbone}", **flags}
        )
        task = build_task(experiment, tuple(Category(i, f"class {i}") for i in range(21)))
    else:
        task = quickstart_task("segmentation", **flags)
    model = task.build_model()
    multiple = 2**task.experiment.model.max_level
    sides = [round(float(s) * options.size) for s in SCALES.split(",")]
    ready = [tf.random.normal([options.batch, *[side + -side % multiple] * 2, 3]) for side in sides]
    logits = logits_function(model)
    with tempfile.TemporaryDirectory() as folder:
        source = open_folder(options.images or photos.make(os.path.join(folder, "photos"), options.count))
        source = source.subset(np.arange(min(options.count, len(source)) // options.batch * options.batch))

        def label():
            for _ in task.label(model, source, 0, len(source)):
                pass

        def bare():
            for _ in range(len(source) // options.batch):
                for images in ready:
                    logits(images).numpy()

        times = {"labelling": [], "bare passes": []}
        for _turn in range(options.turns + 1):
            for name, side in (("labelling", label), ("bare passes", bare)):
                started = time.process_time()
                side()
                times[name].append(time.process_time() - started)
        for values in times.values():
            del values[0]  # compiling
    ratio = statistics.median(a / b for a, b in zip(*times.values()))
    print(
        ", ".join(
            f"{name} {statistics.median(v) / len(source) * 1e3:.1f} ms an image" for name, v in times.items()
        )
    )
    print(
        f"{options.backbone or 'quickstart'} {options.size} px, {len(source)} photos, six scales: "
        f"{ratio:.2f} x"
    )


if __name__ == "__main__":
    main()
