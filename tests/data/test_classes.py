"""Sources with a class per image: folders, objects cut out of boxes, TFDS."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official.data.crops import object_crops
from official.data.pipeline import example_reader
from official.data.source import Annotations, Category, DataError, Source
from official.data.sources import ReadOptions, open_source

CLASSES = ReadOptions(label_kind="classes", max_skipped_fraction=0.5)


def save(path, value, size=(20, 24)):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for name, value in (("cat/a.png", 10), ("cat/deep/b.png", 20), ("dog/a.png", 30), ("stray.png", 40)):
        save(str(tmp_path / name), value)
    (tmp_path / "dog" / "broken.jpg").write_bytes(b"no image")
    return tmp_path


def test_a_folder_per_class(folder):
    source = open_source(f"folder:{folder}", CLASSES)
    assert [c.name for c in source.categories] == ["cat", "dog"]
    assert dict(zip(source.ids, source.image_classes)) == {
        "cat/a.png": 0,
        "cat/deep/b.png": 0,
        "dog/a.png": 1,
    }
    assert source.report.counts["image outside the class folders"] == 1 and source.report.skipped_images == 2
    example = example_reader(source)(tf.constant(2, tf.int64))
    assert int(example["class"]) == 1 and int(example["image"][0, 0, 0]) == 30 and "boxes" not in example


def test_without_labels_the_same_folder_is_flat(folder):
    source = open_source(f"folder:{folder}", CLASSES, labeled=False)
    assert len(source) == 4 and source.image_classes is None and source.categories == ()


def test_images_without_class_folders(tmp_path):
    save(str(tmp_path / "a.png"), 1)
    with pytest.raises(DataError, match="give every class a folder"):
        open_source(f"folder:{tmp_path}", CLASSES)


def test_classes_follow_subsets_and_other_orders(folder):
    source = open_source(f"folder:{folder}", CLASSES)
    assert source.subset(np.array([2, 0, 2])).image_classes.tolist() == [1, 0, 1]
    moved = source.aligned_to([Category(1, "dog"), Category(2, "cow"), Category(3, "cat")])
    assert moved.image_classes.tolist() == [2, 2, 0]
    unknown = source.with_classes([-1, 0, 1], source.categories).aligned_to(moved.categories)
    assert unknown.image_classes.tolist() == [-1, 2, 0]
    with pytest.raises(DataError, match="not among"):
        source.aligned_to([Category(1, "dog")])


def boxed(boxes, crowd=None):
    """One image of 50 x 40 whose pixels say their row and column."""
    rows, columns = np.mgrid[0:50, 0:40]
    pixels = tf.constant(np.stack([rows, columns, rows], -1), tf.uint8)
    image = {"boxes": np.array(boxes, np.float32), "classes": np.arange(len(boxes)) % 2}
    if crowd is not None:
        image["crowd"] = np.array(crowd)
    return Source(
        word="test", ids=np.array(["p"]), sizes=np.array([[50, 40]], np.int32), read_image=lambda i: pixels,
        categories=(Category(1, "a"), Category(2, "b")), annotations=Annotations.from_images([image]),
    )  # fmt: skip


def test_objects_are_cut_out_with_a_margin():
    """A box of 10 x 20 at (10, 10): centre (15, 20), side 1.2 * 20 = 24: rows 3..27, columns 8..32."""
    found = object_crops(boxed([[10, 10, 20, 30], [40, 30, 50, 40]]))
    assert found.ids.tolist() == ["p#0", "p#1"] and found.image_classes.tolist() == [0, 1]
    first = found.read_image(tf.constant(0, tf.int64)).numpy()
    assert first[0, 0].tolist() == [3, 8, 3] and first[-1, -1].tolist() == [26, 31, 26]
    # The other reaches outside: centre (45, 35), half a side 6: rows 39..50, columns 29..40.
    second = found.read_image(tf.constant(1, tf.int64)).numpy()
    assert second[0, 0].tolist() == [39, 29, 39] and second.shape == (11, 11, 3)
    assert found.sizes.tolist() == [[24, 24], [11, 11]]


def test_crowds_and_specks_are_left_out_and_counted():
    source = boxed([[0, 0, 20, 20], [0, 0, 5, 5], [0, 0, 30, 30]], crowd=[False, False, True])
    found = object_crops(source)
    assert found.ids.tolist() == ["p#0"] and source.report.counts["object too small to be cut out"] == 1
    with pytest.raises(DataError, match="no object of at least 8 pixels"):
        object_crops(boxed([[0, 0, 5, 5]]))


def test_every_word_with_boxes_gives_crops():
    boxes = open_source("scenes:train,count=5", ReadOptions(scenes_size=64))
    crops = open_source("scenes:train,count=5", ReadOptions(scenes_size=64, label_kind="classes"))
    assert len(crops) == sum((b[2:] - b[:2]).max() >= 8 for b in boxes.annotations.boxes)
    assert [c.name for c in crops.categories] == [c.name for c in boxes.categories]


def test_tfds_with_classes(tmp_path):
    """A builder named and shaped like TFDS' own `imagenet2012`, prepared by the test on disk."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("imagenet2012", data_dir=str(tmp_path), try_gcs=False)
    os.makedirs(builder.data_dir)
    writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=4)
    writer.initialize_splits(["train"])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3)).astype(np.uint8)
    labels = [3, 999, 0, 3, 17, 5]
    writer.add_examples(
        {
            "train": [
                {"image": p, "label": k, "file_name": f"n{i}.jpeg"}
                for i, (p, k) in enumerate(zip(pixels, labels))
            ]
        }
    )
    writer.close_all()
    source = open_source("tfds:imagenet2012:train", ReadOptions(label_kind="classes", data_dir=str(tmp_path)))
    names = builder.info.features["label"].names
    assert len(source) == 6 and len(source.categories) == 1000
    for image_id, label in zip(source.ids, source.image_classes):
        assert source.categories[label].name == names[labels[int(image_id[1])]]
    with pytest.raises(DataError, match="has no boxes"):
        open_source("tfds:imagenet2012:train", ReadOptions(data_dir=str(tmp_path)))
    assert (
        open_source(
            "tfds:imagenet2012:train", ReadOptions(data_dir=str(tmp_path)), labeled=False
        ).image_classes
        is None
    )


def test_a_word_without_classes_is_refused(tmp_path):
    save(str(tmp_path / "i" / "a.png"), 0)
    os.makedirs(tmp_path / "m")
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "m" / "a.png")
    with pytest.raises(DataError, match="has no classes"):
        open_source(f"masks:{tmp_path}/i,{tmp_path}/m", CLASSES)
