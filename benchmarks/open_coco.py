"""How long and how much memory it takes to open a JSON of COCO's size: 118,287 images and 860,001 boxes.

    python benchmarks/open_coco.py                  # files in a temporary folder; a line of JSON
    python benchmarks/open_coco.py --outlines       # with polygons as COCO has them: four times the size
    python benchmarks/open_coco.py --images=1000 --boxes=7000

The images are links to one small JPEG, so what is timed is the reading and the cleaning of the labels and a
look at the header of every image, not the decoding of COCO's pixels. Opening runs in a process of its own,
whose peak memory is read.
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

import numpy as np
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LINKS = 30_000  # to one file
POINTS = 35  # of a polygon: COCO's own mean is near it


def make(folder: str, images: int, boxes: int, outlines: bool) -> str:
    """Writes the JSON and its images; returns the path of the JSON."""
    generator = np.random.default_rng(0)
    os.makedirs(os.path.join(folder, "images"))
    photo, first = Image.fromarray(generator.integers(0, 255, (48, 64, 3), np.uint8)), ""
    for i in range(1, images + 1):
        path = os.path.join(folder, "images", f"{i:012d}.jpg")
        if i % LINKS == 1:  # file systems limit the links to one file
            first = path
            photo.save(first)
        else:
            os.link(first, path)
    corners, sides = (
        generator.uniform(0, 40, (boxes, 2)).round(2),
        generator.uniform(1, 20, (boxes, 2)).round(2),
    )
    owners, labels = generator.integers(1, images + 1, boxes), generator.integers(1, 81, boxes)
    path = os.path.join(folder, "instances.json")
    with open(path, "w", encoding="utf-8") as file:
        records = (
            {"id": i, "file_name": f"{i:012d}.jpg", "height": 48, "width": 64} for i in range(1, images + 1)
        )
        file.write('{"images": [' + ", ".join(map(json.dumps, records)) + '], "annotations": [')
        for n in range(boxes):
            x, y, width, height = *corners[n].tolist(), *sides[n].tolist()
            entry = {
                "id": n + 1,
                "image_id": int(owners[n]),
                "category_id": int(labels[n]),
                "bbox": [x, y, width, height],
            }
            entry.update(area=round(width * height, 4), iscrowd=0)
            if outlines:
                entry["segmentation"] = [generator.uniform(0, 48, 2 * POINTS).round(2).tolist()]
            file.write((", " if n else "") + json.dumps(entry))
        categories = [{"id": c, "name": f"class {c}"} for c in range(1, 81)]
        file.write('], "categories": ' + json.dumps(categories) + "}")
    return path


def measure(path: str) -> None:
    """Opens it and prints what it took."""
    from official.data.formats.coco import open_coco
    from official.data.formats.coco_json import load_coco_json

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    before, started = peak(), time.time()
    load_coco_json(path, outlines=False)
    parsed = time.time() - started
    started = time.time()
    source = open_coco(path, full_check=False)
    found = {
        "images": len(source),
        "boxes": len(source.annotations.boxes),
        "megabytes": round(os.path.getsize(path) / 2**20),
        "seconds": round(time.time() - started, 1),
        "of_which_json": round(parsed, 1),
        "peak_gib": round(peak(), 2),
        "before_gib": round(before, 2),
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--outlines", action="store_true", help="with a polygon an object")
    parser.add_argument("--open", default="", help="measure this file, in this process")
    options = parser.parse_args()
    if options.open:
        return measure(options.open)
    with tempfile.TemporaryDirectory() as folder:
        path = make(folder, options.images, options.boxes, options.outlines)
        environment = {
            **os.environ,
            "PYTHONPATH": ROOT,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        subprocess.run(
            [sys.executable, os.path.abspath(__file__), f"--open={path}"], env=environment, check=True
        )


if __name__ == "__main__":
    main()
