"""Numbers of data sets that were counted by hand, and images that two sets share."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from official.data.formats.image_folder import open_folder
from official.data.set_statistics import repeated_objects, set_statistics, table
from official.data.shared_images import shared_images
from official.data.source import Annotations, Category
from tests import tiny

TWO = (Category(1, "cat"), Category(2, "dog"))


def boxed(scenes, images):
    return scenes.subset(range(len(images))).with_annotations(Annotations.from_images(images), TWO)


def test_objects_are_counted_by_class(scenes):
    """Two images; a crowd; one box written twice; one image empty."""
    first = {
        "boxes": [[0, 0, 10, 10], [0, 0, 40, 40], [0, 0, 10, 10], [5, 5, 60, 60]],
        "classes": [0, 1, 0, 1],
        "crowd": [False, False, False, True],
    }
    found = set_statistics(boxed(scenes, [first, {"boxes": [], "classes": []}]))
    assert found["images"] == 2 and found["images_without_objects"] == 1
    assert found["objects"] == 3 and found["crowds"] == 1 and found["repeated_objects"] == 1
    assert found["objects_per_image"]["100 %"] == 3 and found["longer_side"]["50 %"] == 64
    cat, dog = found["classes"]["cat"], found["classes"]["dog"]
    assert (cat["images"], cat["objects"], cat["crowds"], cat["small_medium_large"]) == (1, 2, 0, [2, 0, 0])
    assert (dog["images"], dog["objects"], dog["crowds"], dog["small_medium_large"]) == (1, 1, 1, [0, 1, 0])
    assert dog["side"]["50 %"] == 40.0
    lines = table("labeled", found)
    assert "3 objects" in lines[0] and "at most 3" in lines[0]
    assert lines[3].split() == ["dog", "1", "1", "40", "40", "40", "0/1/0"]


def test_repeated_objects_share_class_and_box_and_are_no_crowds(scenes):
    boxes, classes, crowd = (
        [[0, 0, 9, 9]] * 6 + [[0, 0, 9, 8]],
        [0, 0, 0, 1, 1, 1, 1],
        [False] * 4 + [True] * 2 + [False],
    )
    objects = {"boxes": boxes, "classes": classes, "crowd": crowd}
    assert repeated_objects(boxed(scenes, [objects, {"boxes": boxes[:1], "classes": [0]}])) == 2


def test_sets_without_labels_and_of_classes(scenes):
    assert "classes" not in set_statistics(scenes.without_labels())
    crops = tiny.scenes_source(task="classification")
    found = set_statistics(crops)
    assert {name: row["objects"] for name, row in found["classes"].items()} == {
        c.name: int((crops.image_classes == i).sum()) for i, c in enumerate(crops.categories)
    }
    masks = set_statistics(tiny.scenes_source(count=2, task="segmentation"))
    assert masks["classes"]["background"]["images"] == 2


@pytest.fixture
def folders(tmp_path):
    """Five images in `a`; `b` has a link to one, a hard link, a copy, one of the same length, and one of its
    own.
    """
    for name in "ab":
        os.mkdir(tmp_path / name)
    for i in range(5):
        Image.fromarray(np.full((4, 4, 3), 9 * i, np.uint8)).save(tmp_path / "a" / f"{i}.bmp")
    os.symlink(tmp_path / "a" / "0.bmp", tmp_path / "b" / "link.bmp")
    os.link(tmp_path / "a" / "1.bmp", tmp_path / "b" / "hard.bmp")
    shutil.copy(tmp_path / "a" / "2.bmp", tmp_path / "b" / "copy.bmp")
    Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).save(tmp_path / "b" / "same_length.bmp")
    Image.fromarray(np.full((9, 9, 3), 1, np.uint8)).save(tmp_path / "b" / "own.bmp")
    return open_folder(str(tmp_path / "a")), open_folder(str(tmp_path / "b"))


def test_files_are_shared_by_link_and_by_content(folders):
    a, b = folders
    count, examples = shared_images(b, a)
    assert count == 3 and {os.path.basename(e) for e in examples} == {"link.bmp", "hard.bmp", "copy.bmp"}
    assert shared_images(a, b)[0] == 3 and shared_images(a, a)[0] == 5
    assert shared_images(a.subset([3, 4]), b) == (0, [])


def test_many_contents_are_sampled_and_scaled_up(folders, monkeypatch):
    monkeypatch.setattr("official.data.shared_images.SAMPLED", 1)
    a, b = folders
    assert shared_images(b.subset([0]), a)[0] == 1  # of links none is lost
    assert shared_images(a, b)[0] in (
        2,
        5,
    )  # 2 links, and none or all of the three that have the length of a file there


def test_scenes_are_shared_by_id(scenes):
    assert shared_images(scenes.subset([1, 2]), scenes)[0] == 2
    assert shared_images(tiny.scenes_source("val", 4), scenes) == (0, [])
