"""Self-training on two small sets of photos, from random and from ImageNet weights, over several seeds.

    python -m benchmarks.own_photos --data=FOLDER --out=runs/own_photos [--sets=aquarium,bccd]
        [--inits=random,imagenet] [--seeds=0,1,2] [--config=your_own_images_cpu] [--table_only] [-- FLAGS]

FOLDER holds `aquarium` and `bccd`, each with its images somewhere below `images/` and COCO files
`annotations/instances_*.json`. Evaluated is `instances_test.json`; where there is none, a third of the
images, the same for every seed, that no run sees. Of the others a seed labels one in five. Runs that are
finished are not repeated, one that was stopped goes on; the table shows what is there. FLAGS replace the
config's.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

from official.files import write_json

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TEST_SHARE, LABELED_SHARE = 1 / 3, 0.2
SUMMARY = "summary_self_train.json"


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
    return tuple(
        _part(content, [n for n in names if (n in test) == evaluated]) for evaluated in (False, True)
    )


def _part(content: dict[str, Any], names: list[str]) -> dict[str, Any]:
    images = [image for image in content["images"] if image["file_name"] in set(names)]
    ids = {image["id"] for image in images}
    rows = [row for row in content["annotations"] if row["image_id"] in ids]
    return {**content, "images": images, "annotations": rows}


def labeled(content: dict[str, Any], seed: int) -> list[str]:
    """The names, without folders, of the files that a seed labels."""
    names = sorted(image["file_name"] for image in content["images"])
    order = np.random.default_rng(seed).permutation(len(names))
    return sorted(os.path.basename(names[i]) for i in order[: round(LABELED_SHARE * len(names))])


def prepare(data: str, out: str, name: str, seeds: list[int]) -> None:
    """Writes the split of a set."""
    train, test = split(*read_set(os.path.join(data, name)))
    folder = os.path.join(out, name)
    write_json(os.path.join(folder, "train.json"), train)
    write_json(os.path.join(folder, "test.json"), test)
    for seed in seeds:
        write_json(os.path.join(folder, f"labeled_seed{seed}.json"), labeled(train, seed))
    print(f"{name}: {len(train['images'])} images to learn from, {len(test['images'])} to evaluate on")


def run(options: argparse.Namespace, name: str, init: str, seed: int) -> None:
    """Runs, or goes on with, one row."""
    folder, images = os.path.join(options.out, name), os.path.join(options.data, name, "images")
    place = os.path.join(folder, f"{init}_seed{seed}")
    if os.path.isfile(os.path.join(place, SUMMARY)):
        return
    flags = {
        "flagfile": os.path.join("configs", f"{options.config}.cfg"),
        "labeled_data": f"coco:{folder}/train.json,{images}",
        "labeled_ids": f"{folder}/labeled_seed{seed}.json",
        "unlabeled_data": "rest",
        "eval_data": f"coco:{folder}/test.json,{images}",
        "init": init,
        "seed": seed,
        "model_dir": place,
    }
    command = [sys.executable, "main.py", *(f"--{n}={v}" for n, v in flags.items()), *options.flags]
    subprocess.run(command, cwd=ROOT, check=True)


def table(out: str, sets: list[str], inits: list[str], seeds: list[int]) -> str:
    """Markdown: AP (AP50) of teacher, control and student, the mean over the seeds that are finished."""
    lines = [
        (
            "| set | start | seeds | teacher | control | student | student - teacher | student - control | "
            "hours |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sets:
        for init in inits:
            found = [_row(os.path.join(out, name, f"{init}_seed{seed}", SUMMARY)) for seed in seeds]
            rows = np.array([row for row in found if row])
            if len(rows):
                ap, ap50, hours = rows[:, :3], rows[:, 3:6], rows[:, 6]
                cells = [f"{a:.3f} ({b:.3f})" for a, b in zip(ap.mean(0), ap50.mean(0))]
                for other in (0, 1):
                    gains = ap[:, 2] - ap[:, other]
                    cells.append(
                        f"{gains.mean():+.3f} ± {gains.std(ddof=1) if len(gains) > 1 else np.nan:.3f}"
                    )
                row = [name, init, str(len(rows)), *cells, f"{hours.mean():.2f}"]
                lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _row(path: str) -> list[float]:
    """AP and AP50 of teacher, control and student, and hours; empty if the run is not finished."""
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8") as file:
        summary = json.load(file)
    phases = ("teacher", "control", "student")
    numbers = [summary.get(phase, {}).get(metric, np.nan) for metric in ("AP", "AP50") for phase in phases]
    return [*numbers, summary["seconds"]["total"] / 3600]


def main() -> None:
    """Prepares the sets, runs the rows one after the other, and prints the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", default="runs/own_photos")
    parser.add_argument("--sets", default="aquarium,bccd")
    parser.add_argument("--inits", default="random,imagenet")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--config", default="your_own_images_cpu")
    parser.add_argument("--table_only", action="store_true")
    parser.add_argument("flags", nargs="*", help="after --: flags of main.py")
    options = parser.parse_args()
    options.data, options.out = os.path.abspath(options.data), os.path.abspath(options.out)
    sets, inits = options.sets.split(","), options.inits.split(",")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for name in [] if options.table_only else sets:
        prepare(options.data, options.out, name, seeds)
    for seed in [] if options.table_only else seeds:
        for name in sets:
            for init in inits:
                run(options, name, init, seed)
                print(table(options.out, sets, inits, seeds))
    print(table(options.out, sets, inits, seeds))


if __name__ == "__main__":
    main()
