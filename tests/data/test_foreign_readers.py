"""Exported labels opened by the readers of the formats themselves; skipped without an environment that has
them.

requirements-interop.txt says how to make it; SELF_TRAINING_INTEROP_PYTHON is its interpreter.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official.data.formats.export import FORMATS, export_labels
from official.data.source import Category
from official.data.sources import open_source

PYTHON = os.environ.get("SELF_TRAINING_INTEROP_PYTHON", "")
SCRIPT = pathlib.Path(__file__).with_name("foreign_readers.py")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="SELF_TRAINING_INTEROP_PYTHON is not set: see requirements-interop.txt for the readers"
)
SIZES = {"a/1.jpg": (40, 30), "a/2.png": (33, 27), "b/Ä 2.png": (20, 50)}  # width, height
NAMES = {3: "zebra", 7: "cat & <dog>", 11: 'été "x"'}
BOXES = {  # category id, x1, y1, x2, y2
    "a/1.jpg": [(3, 10.1, 6.3, 30.8, 15.2), (11, 0, 0, 40, 30)],
    "a/2.png": [],
    "b/Ä 2.png": [(7, 1.25, 2.5, 4.55, 9.5)],
}


@pytest.fixture(scope="module")
def human(tmp_path_factory):
    folder = tmp_path_factory.mktemp("human")
    images, annotations = [], []
    for i, (name, size) in enumerate(SIZES.items(), 1):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (40 * i, 9, 9)).save(folder / "images" / name)
        images.append({"id": i, "file_name": name, "width": size[0], "height": size[1]})
        for label, x1, y1, x2, y2 in BOXES[name]:
            box = {
                "id": len(annotations) + 1,
                "image_id": i,
                "category_id": label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            annotations.append(box)
    categories = [{"id": i, "name": name} for i, name in NAMES.items()]
    (folder / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return open_source(f"coco:{folder}/a.json,{folder}/images")


@pytest.fixture(scope="module")
def masks(human):
    """A rectangle and an L, whose areas are known by hand; without holes, which readers close each in its own
    way.
    """
    maps = []
    for width, height in SIZES.values():
        canvas = np.zeros((height, width), np.uint8)
        canvas[3:9, 4:16] = 1
        canvas[10:25, 6:12] = canvas[19:25, 6:18] = 2
        maps.append(tf.constant(canvas))
    categories = [Category(0, "background"), Category(1, "zebra"), Category(2, "cat & <dog>")]
    return human.with_masks(lambda index: tf.stack(maps[int(index)]), categories)


def foreign(source, root, kinds, scored=False):
    """{format: {reader: what it found}}, in one process."""
    for kind in kinds:
        export_labels(source, kind, f"{root}/{kind}", scored=scored)
    words = [f"{kind}={root}/{kind}" for kind in kinds]
    done = subprocess.run([PYTHON, str(SCRIPT), *words], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def of_boxes(human, tmp_path_factory):
    return foreign(human, tmp_path_factory.mktemp("boxes"), list(FORMATS))


@pytest.fixture(scope="module")
def of_masks(masks, tmp_path_factory):
    return foreign(masks, tmp_path_factory.mktemp("masks"), list(FORMATS))


@pytest.mark.parametrize("kind", list(FORMATS))
def test_boxes_classes_and_sizes_are_what_was_written(of_boxes, kind):
    for reader, found in of_boxes[kind].items():
        own_origin = (kind, reader) == (
            "voc",
            "datumaro",
        )  # it leaves VOC's corners counted from 1, and drops folders
        key = os.path.basename if own_origin else str
        assert {os.path.splitext(n)[0] for n in found["images"]} == {
            key(os.path.splitext(n)[0]) for n in SIZES
        }
        for name, size in SIZES.items():
            image = next(
                v
                for n, v in found["images"].items()
                if os.path.splitext(n)[0] == key(os.path.splitext(name)[0])
            )
            if image["size"] != [None, None]:  # Label Studio says no size of an image without an object
                assert image["size"] == [size[1], size[0]]
            expected = sorted([NAMES[label], box] for label, *box in BOXES[name])
            assert [row[0] for row in sorted(image["objects"])] == [row[0] for row in expected]
            for (_, box, _), (_, wanted) in zip(sorted(image["objects"]), expected):
                shift = np.array([1, 1, 0, 0]) * own_origin
                np.testing.assert_allclose(box, np.array(wanted) + shift, atol=1e-4)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_regions_of_masks_are_what_was_written(of_masks, kind):
    """By box and area. Readers that fill polygons with OpenCV count the pixels of the border line as well."""
    expected = [["cat & <dog>", [6, 10, 18, 25], 126.0], ["zebra", [4, 3, 16, 9], 72.0]]
    borders = {"cat & <dog>": 28, "zebra": 19}  # of half the outline, and a corner
    for reader, found in of_masks[kind].items():
        assert len(found["images"]) == 3
        for image in found["images"].values():
            rows = sorted(row for row in image["objects"] if row[0] != "background")
            assert [row[0] for row in rows] == [row[0] for row in expected]
            for (name, box, area), (_, wanted, exact) in zip(rows, expected):
                np.testing.assert_allclose(box, wanted, atol=1e-4)
                drawn = reader in ("supervision", "labelme")
                assert area == pytest.approx(exact + borders[name] * drawn, abs=1e-3)


def test_label_studio_takes_a_models_labels_with_their_scores(human, tmp_path):
    """Its validator raises in the script if it refuses one; the converter reads human labels alone."""
    found = foreign(human, tmp_path, ["labelstudio"], scored=True)["labelstudio"]["label_studio_sdk"]
    assert all(not image["objects"] for image in found["images"].values())
