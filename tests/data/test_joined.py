"""Words joined by a plus: one data set, distinct ids, classes by name, every image read by its own reader."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official.data.input_report import DataError
from official.data.joined import read_classes
from official.data.sources import ReadOptions, open_source, split_word
from official.jobs.opening import opened
from tests import tiny


def write_image(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), (color,) * 3).save(path)


def coco(folder, names=("cat", "dog"), colors=(10, 20), ids=(1, 2), first_id=1, **more):
    """A set of an image per colour, image i with one box of class i, one pixel further right each."""
    for i, color in zip(ids, colors):
        write_image(folder / "images" / f"{i}.png", color)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", **more} for i in ids],
        "annotations": [
            {
                "id": n + 1,
                "image_id": i,
                "category_id": first_id + n % len(names),
                "bbox": [n, 2, 10, 8],
                "area": 7.0 + n,
            }
            for n, i in enumerate(ids)
        ],
        "categories": [{"id": first_id + n, "name": name} for n, name in enumerate(names)],
    }
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text(json.dumps(content))
    return f"coco:{folder}/a.json,{folder}/images"


def yolo(folder, names=("dog", "cat"), color=200):
    write_image(folder / "images" / "1.png", color)
    (folder / "labels").mkdir(parents=True)
    (folder / "labels" / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.5 0.5\n")
    (folder / "data.yaml").write_text(f"train: images\nnames: {list(names)}\n")
    return f"yolo:{folder}/data.yaml"


def read(word, **options):
    return open_source(word, ReadOptions(**options))


def test_joined_sources_are_their_parts_one_after_the_other(tmp_path):
    first, second = coco(tmp_path / "a"), yolo(tmp_path / "b")
    joined = read(f"{first}+{second}")
    assert joined.ids.tolist() == ["1", "2", "2:1.png"] and joined.coco_image_ids() == [1, 2, 3]
    assert [c.name for c in joined.categories] == ["cat", "dog"] and joined.annotations.classes.tolist() == [
        0,
        1,
        1,
        0,
    ]
    np.testing.assert_array_equal(joined.annotations.row_splits, [0, 1, 2, 4])
    np.testing.assert_allclose(joined.annotations.boxes[2:], [[5, 10, 15, 30], [0, 0, 10, 20]], atol=1e-5)
    np.testing.assert_allclose(joined.annotations.area, [7, 8, 200, 200], atol=1e-3)
    read_image = tf.function(joined.read_image)
    assert [int(read_image(tf.constant(i, tf.int64))[0, 0, 0]) for i in range(3)] == [10, 20, 200]
    assert joined.word == f"{first}+{second}" and [name[-8:] for name in joined.file_names] == [
        "es/1.png",
        "es/2.png",
        "es/1.png",
    ]
    taken = joined.subset(np.array([2, 0]))
    assert (
        taken.ids.tolist() == ["2:1.png", "1"]
        and int(taken.read_image(tf.constant(0, tf.int64))[0, 0, 0]) == 200
    )


def test_equal_ids_stay_apart_and_frames_are_kept(tmp_path):
    first, second = coco(tmp_path / "a"), coco(tmp_path / "b", colors=(30, 40), width=20, height=10)
    joined = read(f"{first}+{second}", stated_size="scale")
    assert joined.ids.tolist() == ["1", "2", "2:1", "2:2"]
    np.testing.assert_allclose(joined.annotations.boxes[[1, 3]], [[2, 1, 10, 11], [4, 2, 20, 22]])
    np.testing.assert_array_equal(joined.frames.sizes, [[20, 40], [20, 40], [10, 20], [10, 20]])
    assert joined.report.counts["boxes of another scale are scaled to the image"] == 2
    assert read(f"{first}+{second}+{first}", stated_size="scale").ids.tolist()[4:] == ["3:1", "3:2"]


def test_losses_of_all_parts_are_reported(tmp_path):
    first, second = coco(tmp_path / "a"), yolo(tmp_path / "b")
    (tmp_path / "b" / "labels" / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n0 0.5")
    report = read(f"{first}+{second}", max_skipped_fraction=0.6).report
    assert report.lost_objects == 1 and report.objects == 4 and len(report.entries) == 1
    with pytest.raises(
        DataError, match=f"yolo:{tmp_path}/b/data.yaml: 1 of 2 objects"
    ):  # each part has to be good on its own
        read(f"{first}+{second}", max_skipped_fraction=0.4)


def test_other_classes_are_refused_unless_a_file_names_all(tmp_path):
    word = f"{coco(tmp_path / 'a')}+{yolo(tmp_path / 'b', ('dog', 'bird'))}"
    with pytest.raises(
        DataError, match="the classes differ: 'cat' only in coco:.*, 'bird' only in yolo:.*--classes=FILE"
    ):
        read(word)
    with pytest.raises(
        DataError, match="the classes differ: 'cat' only in"
    ):  # its cats, if any, would be background
        read(f"{coco(tmp_path / 'a')}+{yolo(tmp_path / 'c', ('dog',))}", max_skipped_fraction=0.6)
    (tmp_path / "classes.txt").write_text("\ufeffbird\ndog\n\ncat \n", encoding="utf-8")
    joined = read(word, classes_file=str(tmp_path / "classes.txt"))
    assert [(c.id, c.name) for c in joined.categories] == [(1, "bird"), (2, "dog"), (3, "cat")]
    assert joined.annotations.classes.tolist() == [2, 1, 1, 0]
    (tmp_path / "few.txt").write_text("bird\ncat\n")
    with pytest.raises(DataError, match="'dog'.*, which --classes names"):
        read(word, classes_file=str(tmp_path / "few.txt"))
    assert len(open_source(word, labeled=False)) == 3  # images have no classes


def test_the_order_of_classes_can_be_said_of_one_source_too(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "classes.json").write_text(
        '{"categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}]}'
    )
    source = read(coco(tmp_path / "a"), classes_file=str(tmp_path / "classes.json"))
    assert [(c.id, c.name) for c in source.categories] == [
        (4, "dog"),
        (9, "cat"),
    ] and source.annotations.classes.tolist() == [1, 0]
    assert source.own_category_ids() == (2, 1)  # results carry the file's


@pytest.mark.parametrize(
    "text, message",
    [("", "needs different names"), ("a\na\n", "needs different names"), (None, "No such file")],
)
def test_files_of_classes_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_classes(str(path))


def test_masks_are_joined_and_the_background_stays_in_front(tmp_path):
    first, second = yolo(tmp_path / "a"), yolo(tmp_path / "b", ("cat", "dog"), color=7)
    for folder in ("a", "b"):
        (tmp_path / folder / "labels" / "1.txt").write_text("0 0 0 0.5 0 0.5 1 0 1\n")
    joined = read(f"{first}+{second}", label_kind="masks")
    masks = [joined.read_mask(tf.constant(i, tf.int64)).numpy() for i in range(2)]
    assert [c.name for c in joined.categories] == ["background", "dog", "cat"]
    assert (masks[0][:, :20] == 1).all() and (masks[1][:, :20] == 2).all() and (masks[1][:, 20:] == 0).all()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    ordered = read(f"{first}+{second}", label_kind="masks", classes_file=str(tmp_path / "classes.txt"))
    assert [c.name for c in ordered.categories] == ["background", "cat", "dog"]
    assert ordered.read_mask(tf.constant(0, tf.int64)).numpy()[0, 0] == 2


def test_classes_of_images_are_joined(tmp_path):
    for folder, color in (("a/x", 1), ("a/y", 2), ("b/y", 3), ("b/x", 4)):
        write_image(tmp_path / folder / "1.png", color)
    joined = read(f"folder:{tmp_path}/a+folder:{tmp_path}/b", label_kind="classes")
    assert joined.image_classes.tolist() == [0, 1, 0, 1] and joined.ids.tolist() == [
        "x/1.png",
        "y/1.png",
        "2:x/1.png",
        "2:y/1.png",
    ]
    boxes = read(f"{coco(tmp_path / 'c')}+{yolo(tmp_path / 'd')}", label_kind="classes")
    assert len(boxes) == 4 and len(set(boxes.cut_from)) == 3 and boxes.cut_from[2] == "2:1.png"


def test_a_plus_of_a_path_joins_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_word("coco:a+b.json,img+yolo:c") == ["coco:a+b.json,img", "yolo:c"]
    assert split_word("tfrecord:a*+b*+coco:c") == ["tfrecord:a*+b*", "coco:c"]
    assert split_word("coco:a\\+yolo:b") == ["coco:a\\+yolo:b"]
    assert split_word("coco:a\\\\b+yolo:b\\,c") == ["coco:a\\\\b", "yolo:b\\,c"]
    (tmp_path / "img,1+yolo:c,2").mkdir()
    assert split_word("coco:a.json,img,1+yolo:c,2+voc:d") == ["coco:a.json,img,1+yolo:c,2", "voc:d"]
    coco(tmp_path / "x+yolo:y")
    for word in ("coco:x+yolo:y/a.json", "coco:x\\+yolo:y/a.json,x\\+yolo:y/images"):
        assert len(read(word)) == 2


def test_a_job_takes_the_classes_flag_and_a_run_that_moved_does_without_its_file(tmp_path):
    (tmp_path / "a").mkdir()
    word, path = coco(tmp_path / "a"), tmp_path / "classes.txt"
    path.write_text("dog\ncat\n")
    assert [c.name for c in opened(tiny.experiment(classes=str(path)), "labeled", word).categories] == [
        "dog",
        "cat",
    ]
    path.unlink()
    experiment = tiny.experiment(classes=str(path))
    with pytest.raises(DataError, match="--classes file"):
        opened(experiment, "labeled", word)
    moved = dataclasses.replace(experiment, given=frozenset())
    assert [c.name for c in opened(moved, "labeled", word).categories] == ["cat", "dog"]
