"""Sources agree with each other: COCO, VOC, TFRecord and TFDS hold the same images and boxes."""

import dataclasses
import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from official.data.formats.coco import to_coco
from official.data.formats.tfrecord import records, write_tfrecords
from official.data.scenes_source import write_scenes
from official.data.source import Category, DataError, labeled_subset, listed_subset
from official.data.sources import ReadOptions, open_source
from tests import tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(str(folder), size=64, counts=dict.fromkeys(("train", "val", "test", "unlabeled"), 6))
    return folder


@pytest.fixture(scope="module")
def coco(files):
    return open_source(f"coco:{files}/train/annotations.json")


def assert_same(a, b, *, ids=True, names=True, pixel_error=0.0):
    assert len(a) == len(b)
    if ids:
        np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.sizes, b.sizes)
    np.testing.assert_allclose(a.annotations.boxes, b.annotations.boxes, atol=1e-4)
    np.testing.assert_allclose(a.annotations.area, b.annotations.area, rtol=1e-5)
    if names:
        found, expected = ([s.categories[c].name for c in s.annotations.classes] for s in (a, b))
        assert found == expected
    else:
        np.testing.assert_array_equal(a.annotations.classes, b.annotations.classes)
    for i in range(len(a)):
        pixels = [s.read_image(tf.constant(i, tf.int64)).numpy().astype(float) for s in (a, b)]
        assert np.abs(pixels[0] - pixels[1]).mean() <= pixel_error


def test_tfrecord_round_trip(coco, tmp_path):
    paths = write_tfrecords(coco, str(tmp_path / "data"), 2)
    assert [os.path.basename(p) for p in paths] == [
        "data-00000-of-00002.tfrecord",
        "data-00001-of-00002.tfrecord",
    ]
    found = open_source(f"tfrecord:{tmp_path}/data-*")
    order = [found.ids.tolist().index(i) for i in coco.ids]
    assert_same(coco, found.subset(np.array(order)))


def test_tfrecord_keys_are_the_originals(coco, tmp_path):
    paths = write_tfrecords(coco, str(tmp_path / "data"), 1)
    record = next(tf.data.TFRecordDataset(paths).as_numpy_iterator())
    feature = tf.train.Example.FromString(record).features.feature
    assert feature["image/source_id"].bytes_list.value[0].decode() == coco.ids[0]
    assert feature["image/height"].int64_list.value[0] == 64
    boxes = coco.annotations.of(0)["boxes"]
    np.testing.assert_allclose(
        feature["image/object/bbox/ymin"].float_list.value, boxes[:, 0] / 64, rtol=1e-6
    )
    np.testing.assert_array_equal(
        feature["image/object/class/label"].int64_list.value, coco.annotations.of(0)["classes"] + 1
    )


def test_tfrecords_keep_category_ids_with_gaps(coco, tmp_path):
    ids = (3, 7, 11, 12, 90)
    gapped = dataclasses.replace(
        coco, categories=tuple(Category(i, c.name) for i, c in zip(ids, coco.categories))
    )
    write_tfrecords(gapped, str(tmp_path / "data"), 1)
    found = open_source(f"tfrecord:{tmp_path}/data-*")
    used = np.unique(coco.annotations.classes)
    assert [(c.id, c.name) for c in found.categories] == [(ids[i], coco.categories[i].name) for i in used]
    record = next(tf.data.TFRecordDataset(tf.io.gfile.glob(f"{tmp_path}/data-*")).as_numpy_iterator())
    labels = tf.train.Example.FromString(record).features.feature["image/object/class/label"].int64_list.value
    assert list(labels) == [ids[c] for c in coco.annotations.of(0)["classes"]]


def test_tfrecord_of_the_original_with_stored_size_minus_one(tmp_path):
    """Ids and areas are optional there, sizes may be -1, labels are 1-based."""
    encoded = tf.io.encode_jpeg(np.full((20, 40, 3), 99, np.uint8)).numpy()
    floats = lambda *v: tf.train.Feature(float_list=tf.train.FloatList(value=v))
    ints = lambda *v: tf.train.Feature(int64_list=tf.train.Int64List(value=v))
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "image/height": ints(-1),
        "image/width": ints(-1),
        "image/object/bbox/ymin": floats(0.1),
        "image/object/bbox/xmin": floats(0.25),
        "image/object/bbox/ymax": floats(0.6),
        "image/object/bbox/xmax": floats(0.5),
        "image/object/class/label": ints(17),
    }
    path = str(tmp_path / "x.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    source = open_source(f"tfrecord:{path}")
    np.testing.assert_allclose(source.annotations.boxes, [[2, 10, 12, 20]], atol=1e-5)
    np.testing.assert_allclose(source.annotations.area, [100], atol=1e-3)
    assert source.categories == (Category(17, "17"),)
    assert source.ids[0].isdigit()


def test_truncated_tfrecord(coco, tmp_path):
    path = write_tfrecords(coco, str(tmp_path / "data"), 1)[0]
    data = open(path, "rb").read()
    open(path, "wb").write(data[:-5])
    with pytest.raises(DataError, match="truncated"):
        list(records(path))


def test_not_examples(tmp_path):
    path = str(tmp_path / "x.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"\xff\xff\xff not a proto")
    with pytest.raises(DataError, match="not a TF Example"):
        open_source(f"tfrecord:{path}")
    with pytest.raises(DataError, match="no file matches"):
        open_source("tfrecord:/nowhere/*")


def test_tfds(coco, tmp_path):
    """A builder named and shaped like TFDS' own `coco`, prepared by the test on disk."""
    import tensorflow_datasets as tfds

    _prepare_tfds(tfds, coco, str(tmp_path))
    options = ReadOptions(data_dir=str(tmp_path))
    found = open_source("tfds:coco/2017:train", options)
    order = [found.ids.tolist().index(str(i)) for i in range(len(coco))]
    assert_same(
        coco, found.subset(np.array(order)), ids=False, names=False, pixel_error=10.0
    )  # stored as JPEG
    part = open_source("tfds:coco/2017:train[:50%]", options)
    assert part.ids.tolist() == found.ids.tolist()[:3]
    assert open_source("tfds:coco/2017:train", options, labeled=False).annotations is None
    with pytest.raises(DataError, match="no split"):
        open_source("tfds:coco/2017:nope", options)


def _prepare_tfds(tfds, coco, data_dir):
    builder = tfds.builder("coco/2017", data_dir=data_dir, try_gcs=False)
    features = builder.info.features
    os.makedirs(builder.data_dir)
    split_writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=4)
    split_writer.initialize_splits(["train"])
    for i in range(len(coco)):
        objects = coco.annotations.of(i)
        annotations = [
            {
                "area": int(area), "id": k, "is_crowd": False, "label": int(label),
                "bbox": tfds.features.BBox(*(float(v) / 64 for v in box)),
            }
            for k, (box, label, area) in enumerate(zip(objects["boxes"], objects["classes"], objects["area"]))
        ]  # fmt: skip
        image = coco.read_image(tf.constant(i, tf.int64)).numpy()
        example = {"image": image, "image/filename": f"{i}.png", "image/id": i, "objects": annotations}
        split_writer.add_examples({"train": [features.encode_example(example)]})
    split_writer.close_splits(["train"])


def test_tfds_not_prepared(tmp_path):
    with pytest.raises(DataError, match="tfds build"):
        open_source("tfds:voc/2007:train", ReadOptions(data_dir=str(tmp_path)))
    with pytest.raises(DataError, match="TFDS does not know"):
        open_source("tfds:no_such_set:train", ReadOptions(data_dir=str(tmp_path)))


def test_voc_and_coco_agree(coco, tmp_path):
    for i in range(len(coco)):
        objects = coco.annotations.of(i)
        items = "".join(
            f"<object><name>{coco.categories[c].name}</name><bndbox><xmin>{b[1] + 1}</xmin><ymin>{b[0] + 1}</ymin>"
            f"<xmax>{b[3]}</xmax><ymax>{b[2]}</ymax></bndbox></object>"
            for b, c in zip(objects["boxes"], objects["classes"])
        )
        name = os.path.basename(coco.file_names[i])
        (tmp_path / name.replace(".png", ".xml")).write_text(
            f"<annotation><filename>{name}</filename>{items}</annotation>"
        )
    folder = os.path.dirname(coco.file_names[0])
    found = open_source(f"voc:{tmp_path},{folder}").aligned_to(coco.categories)
    np.testing.assert_allclose(found.annotations.boxes, coco.annotations.boxes)
    np.testing.assert_array_equal(found.annotations.classes, coco.annotations.classes)


def test_aligned_to_refuses_unknown_classes(coco):
    with pytest.raises(DataError, match="cross"):
        coco.aligned_to([c for c in coco.categories if c.name != "cross"])


def test_labeled_fraction_is_fixed_nested_and_complete():
    source = tiny.scenes_source(count=40)
    parts = {f: labeled_subset(source, f, 0) for f in (0.2, 0.5, 1.0)}
    fifth, half = set(parts[0.2][0].ids), set(parts[0.5][0].ids)
    assert len(fifth) == 8 and len(half) == 20 and fifth < half
    assert fifth | set(parts[0.2][1].ids) == set(source.ids)
    assert set(labeled_subset(source, 0.2, 1)[0].ids) != fifth
    # The same on every machine: pinned once.
    assert sorted(fifth)[:3] == PINNED
    shuffled = source.subset(np.random.default_rng(0).permutation(40))
    assert set(labeled_subset(shuffled, 0.2, 0)[0].ids) == fifth


PINNED = ["train-0-000020", "train-0-000022", "train-0-000025"]


@pytest.mark.parametrize("fraction", [0.0, 1.5, 0.001])
def test_bad_fraction(fraction):
    with pytest.raises(DataError):
        labeled_subset(tiny.scenes_source(), fraction, 0)


def test_listed_subset():
    source = tiny.scenes_source()
    listed, rest = listed_subset(source, ["train-0-000003.png", "train-0-000001"])
    assert listed.ids.tolist() == ["train-0-000001", "train-0-000003"] and len(rest) == 14
    with pytest.raises(DataError, match="gone.png"):
        listed_subset(source, ["gone.png"])


def test_subset_keeps_images_and_boxes_together(scenes):
    part = scenes.subset(np.array([5, 2]))
    np.testing.assert_array_equal(
        part.read_image(tf.constant(0, tf.int64)), scenes.read_image(tf.constant(5, tf.int64))
    )
    np.testing.assert_array_equal(part.annotations.of(1)["boxes"], scenes.annotations.of(2)["boxes"])


def test_coco_dict_round_trip(coco):
    data = to_coco(coco)
    assert len(data["annotations"]) == len(coco.annotations.boxes)
    first = data["annotations"][0]
    y1, x1, y2, x2 = coco.annotations.boxes[0]
    assert first["bbox"] == [x1, y1, x2 - x1, y2 - y1]


def test_what_is_cut_out_of_one_image_stays_together():
    """Four images of 5, 1, 3 and 1 crops: no share divides one, and the nearest share is taken."""
    wholes = np.array(["a"] * 5 + ["b"] + ["c"] * 3 + ["d"])
    crops = dataclasses.replace(tiny.scenes_source(), cut_from=None).subset(np.arange(10))
    crops = dataclasses.replace(crops, cut_from=wholes)
    for seed in range(5):
        before = set()
        for fraction in (0.1, 0.3, 0.5, 0.8):
            labeled, rest = labeled_subset(crops, fraction, seed)
            assert not set(labeled.cut_from) & set(rest.cut_from) and len(labeled) + len(rest) == 10
            assert before <= set(labeled.ids)
            before = set(labeled.ids)
            possible = {sum(s) for k in range(5) for s in itertools.combinations((5, 1, 3, 1), k)} - {0}
            assert len(labeled) in possible
    assert len(labeled_subset(crops, 1.0, 0)[0]) == 10
