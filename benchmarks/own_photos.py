"""Two small sets of photos as the study `photos` reads them.

    python -m benchmarks.own_photos --data=FOLDER
    python main.py --job=study --study=photos --model_dir=runs/studies

FOLDER holds `aquarium` and `bccd`, each with its images somewhere below `images/` and COCO files
`annotations/instances_*.json`. What is written to `photos/<set>/`: `train.json`, `test.json` and `images`, a
link. Evaluated is `instances_test.json`; where there is none, a third of the images, the same for every seed,
that no run sees.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
from typing import Any

import numpy as np

from official.files import write_json

TEST_SHARE = 1 / 3


def read_set(folder: str) -> tuple[dict[str, Any], set[str]]:
    """One COCO dict of all the parts, file names relative to `images/`, and the names of the part `test`."""
    merged: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    test, images = set(), os.path.join(folder, "images")
    places = {os.path.basename(p): p for p in glob.glob(f"{images}/**/*.*", recursive=True)}
    for path in sorted(glob.glob(os.path.join(folder, "annotations", "instances_*.json"))):
        part = os.path.basename(path).removeprefix("instances_").removesuffix(".json")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        moved = {image["id"]: len(merged["images"]) + i for i, image in enumerate(content["images"])}
        for image in content["images"]:
            name = os.path.relpath(places[os.path.basename(image["file_name"])], images)
            merged["images"].append({**image, "id": moved[image["id"]], "file_name": name})
            if part == "test":
                test.add(name)
        for row in content["annotations"]:
            number = len(merged["annotations"]) + 1
            merged["annotations"].append({**row, "id": number, "image_id": moved[row["image_id"]]})
        merged["categories"] = content["categories"]
    return merged, test


def split(content: dict[str, Any], test: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What runs see, and what they are evaluated on."""
    names = sorted(image["file_name"] for image in content["images"])
    if not test:
        order = np.random.default_rng(0).permutation(len(names))
        test = {names[i] for i in order[: round(TEST_SHARE * len(names))]}
    seen = [_part(content, {n for n in names if (n in test) == evaluated}) for evaluated in (False, True)]
    return seen[0], seen[1]


def _part(content: dict[str, Any], names: set[str]) -> dict[str, Any]:
    images = [image for image in content["images"] if image["file_name"] in names]
    ids = {image["id"] for image in images}
    rows = [row for row in content["annotations"] if row["image_id"] in ids]
    return {**content, "images": images, "annotations": rows}


def main() -> None:
    """Writes the splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", default="photos")
    parser.add_argument("--sets", default="aquarium,bccd")
    options = parser.parse_args()
    for name in options.sets.split(","):
        source, folder = os.path.join(os.path.abspath(options.data), name), os.path.join(options.out, name)
        train, test = split(*read_set(source))
        write_json(os.path.join(folder, "train.json"), train)
        write_json(os.path.join(folder, "test.json"), test)
        if not os.path.lexists(os.path.join(folder, "images")):
            os.symlink(os.path.join(source, "images"), os.path.join(folder, "images"))
        print(f"{name}: {len(train['images'])} images to learn from, {len(test['images'])} to evaluate on")


if __name__ == "__main__":
    main()
