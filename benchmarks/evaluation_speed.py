"""The scorer beside pycocotools: seconds of the same results, once each in turn, and the greatest difference.

python -m benchmarks.evaluation_speed --images 2000 --found 100 --classes 80
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from official.evaluation import coco_metrics
from tests.evaluation.pycocotools_oracle import evaluated


def results(images: int, found: int, classes: int, objects: int = 7) -> tuple[dict, list[dict]]:
    """A random set as COCO's: `objects` an image, `found` detections of which half are near one of them."""
    rng = np.random.default_rng(0)
    annotations, detections = [], []
    for image in range(1, images + 1):
        low, extent = (
            rng.uniform(0, 400, (objects, 2)),
            np.exp(rng.uniform(np.log(8), np.log(240), (objects, 2))),
        )
        boxes, labels = np.concatenate([low, extent], 1), rng.integers(1, classes + 1, objects)
        for box, label, crowd in zip(boxes.tolist(), labels.tolist(), rng.random(objects) < 0.01):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                }
            )
        near = rng.integers(0, objects, found)
        moved = boxes[near] * (1 + rng.normal(0, 0.08, (found, 4)))
        guessed = np.where(rng.random(found) < 0.5, labels[near], rng.integers(1, classes + 1, found))
        for box, label, score in zip(moved.tolist(), guessed.tolist(), rng.random(found).tolist()):
            detections.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    truth = {
        "images": [{"id": i, "width": 640, "height": 640} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, classes + 1)],
        "annotations": annotations,
    }
    return truth, detections


def main() -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--found", type=int, default=100)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    truth, detections = results(options.images, options.found, options.classes)
    seconds: dict[str, list[float]] = {"ours": [], "pycocotools": []}
    for _ in range(options.turns):
        before = time.process_time()
        ours = coco_metrics.score(truth, detections)["coco_stats"]
        between = time.process_time()
        oracle = evaluated(truth, detections).stats
        seconds["ours"].append(between - before)
        seconds["pycocotools"].append(time.process_time() - between)
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["pycocotools"]))
    times = ", ".join(f"{name} {statistics.median(values):.2f} s" for name, values in seconds.items())
    print(
        f"{options.images} images, {len(detections)} detections, {options.classes} classes (CPU seconds): "
        f"{times}"
    )
    print(
        f"{ratio:.1f} x; greatest difference of the twelve numbers "
        f"{np.abs(np.array(ours) - oracle).max():.1e}"
    )


if __name__ == "__main__":
    main()
