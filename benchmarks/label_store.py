"""Seconds and memory to read a label store of a million images, boxes or whole job: checksums, columns,
thresholds.

    python -m benchmarks.label_store [--images=1000000] [--boxes=8] [--folder=KEPT]

The store is made first (records of one template with their own ids and scores), read by a process of its own,
whose memory is measured from what it had before reading: TensorFlow's imports and the list of images are not
the store's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from official.data.pseudo_labels import BoxLabels, Row
from official.data.source import Category, Source
from official.files import file_sha256
from official.self_training.label_kinds import BoxKind
from official.self_training.label_store import LabelStore

CLASSES = tuple(Category(i + 1, f"class {i}") for i in range(80))
TEMPLATES = 500


def image_id(number: int) -> str:
    """Ten letters, as COCO's names have twelve."""
    return f"{number:010d}"


def make(folder: str, images: int, boxes: int, shard_size: int) -> None:
    """Writes a finished store."""
    store, names, rng = LabelStore(folder), [c.name for c in CLASSES], np.random.default_rng(0)
    shards = -(-images // shard_size)
    store.start(
        {
            "kind": "boxes",
            "teacher_sha256": "0",
            "data": "benchmark",
            "images_to_label": images,
            "categories": [{"id": c.id, "name": c.name} for c in CLASSES],
            "flags": {"score_floor": 0.05},
        }
    )
    templates = []
    for _ in range(TEMPLATES):
        count, low = rng.integers(0, 2 * boxes + 1), rng.uniform(0, 400, (2 * boxes, 2))
        labels = BoxLabels(
            boxes=np.concatenate([low, low + rng.uniform(5, 80, low.shape)], 1)[:count].astype(np.float32),
            scores=np.sort(rng.uniform(0.05, 1, count).astype(np.float32))[::-1],
            classes=rng.integers(0, len(CLASSES), count).astype(np.int32),
        )
        row = Row(image_id(0), image_id(0) + ".jpg", (480, 640), labels)
        templates.append((BoxKind().encode(row, names).SerializeToString(deterministic=True), int(count)))
    for shard in range(shards):
        path, first, last = store.shard_path(shard), shard * shard_size, min(images, (shard + 1) * shard_size)
        total = 0
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(first, last):
                record, count = templates[number % TEMPLATES]
                writer.write(record.replace(image_id(0).encode(), image_id(number).encode()))
                total += count
        with open(path + ".json", "w", encoding="utf-8") as file:
            json.dump({"images": last - first, "boxes": total, "sha256": file_sha256(path)}, file)
    store.finish(shards, {})


def measure(folder: str, images: int) -> None:
    """Reads it and prints what it took."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    source = Source(
        word="benchmark",
        ids=np.array([image_id(i) for i in range(images)]),
        sizes=np.tile(np.int32([[480, 640]]), (images, 1)),
        read_image=lambda index: index,
    )
    tf.constant(0)
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    labelled, any_label, numbers = LabelStore(folder).read(source, 0.5)
    read = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    LabelStore(folder).manifest()  # what the rest of a job asks for; checksums are known by then
    job = {
        "seconds_of_the_job": time.perf_counter() - wall,
        "megabytes": peak() - before,
        "megabytes_before": before,
    }
    content = {
        **{k: round(v, 1) for k, v in {**read, **job}.items()},
        **numbers,
        "all_labelled": int(any_label.sum()),
    }
    print(
        json.dumps(
            {
                **content,
                "columns_megabytes": round(
                    sum(
                        getattr(labelled.annotations, n).nbytes
                        for n in ("boxes", "classes", "crowd", "area", "scores", "row_splits")
                    )
                    / 2**20
                ),
            }
        )
    )


def main() -> None:
    """Makes the store, then measures in another process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--boxes", type=int, default=8, help="an image, on average")
    parser.add_argument("--shard_size", type=int, default=1000)
    parser.add_argument("--folder", default="")
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    if options.measure:
        return measure(options.folder, options.images)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or os.path.join(temporary, "labels")
        if not os.path.isdir(folder):
            make(folder, options.images, options.boxes, options.shard_size)
        command = [
            sys.executable,
            "-m",
            "benchmarks.label_store",
            "--measure",
            f"--folder={folder}",
            f"--images={options.images}",
        ]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
