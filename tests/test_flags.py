"""Every flag is named in a test, and those that say what is opened do."""

import dataclasses
import glob
import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from official import jobs
from official.data.source import labeled_subset
from official.data.sources import ReadOptions
from official.experiment import GROUPS, NOT_FINGERPRINTED, Experiment, experiment_from
from official.jobs import opening
from tests import tiny

HERE = os.path.dirname(os.path.abspath(__file__))
# Flags that no test names, each with the reason. None of them decides a number.
UNNAMED = {
    "tpu": "no TPU on a machine that runs the tests",
    "summary_every": "how often a curve has a point",
    "keep_checkpoints": "how many old folders stay; what is kept is tested on Checkpoints itself",
}


def named_words():
    """Every word of the tests but this one."""
    paths = [
        p
        for p in glob.glob(os.path.join(HERE, "**", "test_*.py"), recursive=True)
        if not p.endswith("test_flags.py")
    ]
    text = "\n".join(open(path, encoding="utf-8").read() for path in paths)
    return set(re.findall(r"\w+", text))


def test_every_flag_is_named_in_a_test():
    """As an option, a field or a word; that it is heeded is what the mutants of tests/mutants.txt are for."""
    mine = {
        "check_images",
        "max_image_pixels",
        "split_seed",
        "labeled_fraction",
        "iou_type",
        "scenes_size",
        "scenes_seed",
        "data_dir",
    }
    flags = {field.name for group in GROUPS.values() for field in dataclasses.fields(group)}
    missing = sorted(flags - named_words() - mine - set(UNNAMED))
    assert not missing, f"no test names {missing}"
    assert set(UNNAMED) <= flags and not set(UNNAMED) - NOT_FINGERPRINTED


def test_how_sources_are_opened():
    options = dict(
        data_dir="d", scenes_seed=3, scenes_size=48, check_images="header", max_image_pixels=77,
        max_skipped_fraction=0.25, task="segmentation",
    )  # fmt: skip
    found = opening.read_options(experiment_from(options))
    expected = ReadOptions(
        data_dir="d", scenes_seed=3, scenes_size=48, full_check=False, max_image_pixels=77,
        max_skipped_fraction=0.25, label_kind="masks",
    )  # fmt: skip
    assert found == expected
    assert (
        opening.read_options(Experiment()).full_check
        and opening.read_options(Experiment(), "classes").label_kind == "classes"
    )


def test_which_part_of_the_labels_is_used():
    """The fraction and the seed of the flags, and images of the size and the seed that they say."""
    source = tiny.scenes_source()
    for fraction, seed in ((0.5, 0), (0.5, 3), (0.25, 3)):
        labeled, rest, _ = opening.open_labeled(tiny.experiment(labeled_fraction=fraction, split_seed=seed))
        assert labeled.ids.tolist() == labeled_subset(source, fraction, seed)[0].ids.tolist()
        assert len(labeled) == 16 * fraction and len(rest) == 16 - len(labeled)
    other = opening.open_labeled(
        tiny.experiment(scenes_seed=5, scenes_size=48, labeled_data="scenes:train,count=2")
    )[0]
    assert other.ids[0].startswith("train-5-") and other.sizes.tolist() == [[48, 48]] * 2


@pytest.mark.parametrize("kind", ["coco", "voc", "folder", "masks", "tfrecord"])
def test_large_and_broken_images_are_found_by_every_reader(tmp_path, kind):
    """One of 8 x 8, one of 30 x 40 pixels; at most 1,000 pixels are allowed, then 10,000."""
    for name, size in (("a", (8, 8)), ("b", (30, 40))):
        for folder in ("images", "masks"):
            os.makedirs(tmp_path / folder, exist_ok=True)
        Image.new("RGB", size[::-1]).save(tmp_path / "images" / f"{name}.png")
        Image.new("L", size[::-1]).save(tmp_path / "masks" / f"{name}.png")
        corners = "<xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax>"
        item = f"<object><name>x</name><bndbox>{corners}</bndbox></object>"
        (tmp_path / "images" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename>{item}</annotation>"
        )
    images = [{"id": i, "file_name": f"{n}.png"} for i, n in enumerate("ab")]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]})
    )
    word = {
        "coco": f"coco:{tmp_path}/a.json", "voc": f"voc:{tmp_path}/images",
        "folder": f"folder:{tmp_path}/images", "masks": f"masks:{tmp_path}/images,{tmp_path}/masks",
        "tfrecord": f"tfrecord:{tmp_path}/t*",
    }[kind]  # fmt: skip
    if kind == "tfrecord":
        from official.data.formats.tfrecord import write_tfrecords
        from official.data.sources import open_source

        write_tfrecords(open_source(f"folder:{tmp_path}/images", labeled=False), str(tmp_path / "t"), 1)

    def count(**options):
        experiment = experiment_from({"unlabeled_data": word, "max_skipped_fraction": 0.5, **options})
        return len(opening.open_unlabeled(experiment, None))

    assert count() == 2 and count(max_image_pixels=1000) == 1
    with pytest.raises(ValueError, match="1 of 2 images cannot be used"):
        count(max_image_pixels=1000, max_skipped_fraction=0.1)


def test_what_only_the_full_check_finds(tmp_path):
    """A BMP, which has no mark at its end, without its last rows."""
    for name in "ab":
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / f"{name}.bmp")
    (tmp_path / "b.bmp").write_bytes((tmp_path / "b.bmp").read_bytes()[:-2000])
    word = dict(unlabeled_data=f"folder:{tmp_path}", max_skipped_fraction=0.5)
    assert len(opening.open_unlabeled(experiment_from(word), None)) == 1
    assert len(opening.open_unlabeled(experiment_from({**word, "check_images": "header"}), None)) == 2


def test_boxes_or_masks_of_a_results_file(tmp_path):
    """A result with the right mask in the wrong box scores 1 by masks and 0 by boxes."""
    pixels = np.zeros((50, 60), np.uint8)
    pixels[10:30, 10:40] = 1
    code = mask.encode(np.asfortranarray(pixels))
    code["counts"] = code["counts"].decode()
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 3,
        "bbox": [10, 10, 30, 20],
        "area": 600,
        "iscrowd": 0,
        "segmentation": code,
    }
    truth = {
        "images": [{"id": 1, "width": 60, "height": 50}],
        "annotations": [annotation],
        "categories": [{"id": 3, "name": "x"}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    found = [{"image_id": 1, "category_id": 3, "segmentation": code, "bbox": [0, 0, 5, 5], "score": 0.7}]
    (tmp_path / "dt.json").write_text(json.dumps(found))
    for kind, expected in (("segm", 1.0), ("bbox", 0.0)):
        flags = dict(
            job="evaluate",
            eval_data=f"coco:{tmp_path}/gt.json",
            detections=str(tmp_path / "dt.json"),
            iou_type=kind,
        )
        assert jobs.run(experiment_from({**flags, "model_dir": str(tmp_path / kind)}))["evaluation"][
            "AP"
        ] == pytest.approx(expected)
