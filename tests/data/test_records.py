"""TFRecords and TFDS: checksums, marks, contradictions, wrong lengths, and features chosen by name."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official.data.formats.coco_classes import COCO_CATEGORIES
from official.data.formats.tfrecord import write_tfrecords
from official.data.input_report import DataError
from official.data.sources import ReadOptions, open_source
from tests import tiny
from tests.data.test_object_columns import prepare_tfds

PNG = tf.io.encode_png(np.full((20, 40, 3), 99, np.uint8)).numpy()
BOX = {"ymin": [0.1], "xmin": [0.25], "ymax": [0.6], "xmax": [0.5]}  # [2, 10, 12, 20] of 20 x 40


def example(encoded=PNG, labels=(1,), box=BOX, name="a", **more):
    """Bytes of a TF Example; `more` by the last part of its key."""

    def feature(values):
        values = list(values)
        if values and isinstance(values[0], (bytes, str)):
            values = [v if isinstance(v, bytes) else v.encode() for v in values]
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if values and isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {"image/encoded": feature([encoded]), "image/source_id": feature([name])}
    features.update({f"image/object/bbox/{k}": feature(v) for k, v in box.items()})
    features["image/object/class/label"] = feature(labels)
    features.update({f"image/object/{k.replace('__', '/')}": feature(v) for k, v in more.items()})
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def records(tmp_path, *payloads, name="x.tfrecord"):
    path = str(tmp_path / name)
    with tf.io.TFRecordWriter(path) as writer:
        for payload in payloads:
            writer.write(payload)
    return f"tfrecord:{path}"


@pytest.mark.parametrize("at", [4, 9, 60, -3])
def test_a_changed_byte_anywhere_is_found(tmp_path, at):
    """In the length, its checksum, the payload, the payload's checksum."""
    word = records(tmp_path, example())
    path = word.split(":")[1]
    data = bytearray(open(path, "rb").read())
    data[at] ^= 1
    open(path, "wb").write(bytes(data))
    with pytest.raises(DataError, match="damaged: record 0 at byte 0") as caught:
        open_source(word)
    assert path in str(caught.value)


def test_a_file_that_changes_after_it_was_opened_is_found(tmp_path):
    word = records(tmp_path, example())
    source, path = open_source(word), word.split(":")[1]
    data = bytearray(open(path, "rb").read())
    data[len(data) // 2] ^= 1
    open(path, "wb").write(bytes(data))
    with pytest.raises(Exception, match="has changed since it was opened"):
        source.read_image(tf.constant(0, tf.int64))


def test_compressed_files_are_called_so(tmp_path):
    path = str(tmp_path / "x.tfrecord")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        writer.write(example())
    with pytest.raises(DataError, match="is compressed; unpack it"):
        open_source(f"tfrecord:{path}")


@pytest.mark.parametrize("mark", ["is_crowd", "difficult", "group_of"])
def test_every_mark_is_a_crowd(tmp_path, mark):
    word = records(tmp_path, example(**{mark: [1]}), example(name="b", **{mark: [0]}))
    assert open_source(word).annotations.crowd.tolist() == [True, False]
    assert not open_source(word, ReadOptions(crowd="objects")).annotations.crowd.any()


@pytest.mark.parametrize(
    "label, text, said", [(1, "dog", "class 1 is 'dog'"), (2, "cat", "class 2 is 'cat'")]
)
def test_two_label_maps_joined_are_refused(tmp_path, label, text, said):
    records(tmp_path, example(class__text=["cat"]), name="a")
    records(tmp_path, example(name="b", labels=[label], class__text=[text]), name="b")
    with pytest.raises(DataError, match=f"{said}.*two label maps"):
        open_source(f"tfrecord:{tmp_path}/*")


def test_label_maps_that_agree_are_joined(tmp_path):
    records(tmp_path, example(class__text=["cat"]), example(name="c"), name="a")
    records(tmp_path, example(name="b", labels=[2], class__text=["dog"]), name="b")
    assert [c.name for c in open_source(f"tfrecord:{tmp_path}/*").categories] == ["cat", "dog"]


@pytest.mark.parametrize(
    "more",
    [
        {"box": {**BOX, "ymax": [0.6, 0.7]}},
        {"labels": [1, 2]},
        {"area": [1.0, 2.0]},
        {"is_crowd": [0, 1]},
        {"class__text": ["a", "b"]},
        {"score": [0.5, 0.5]},
        {"difficult": [1, 1, 1]},
    ],
)
def test_wrong_lengths_name_the_file_and_the_record(tmp_path, more):
    word = records(tmp_path, example(name="good"), example(**more))
    with pytest.raises(
        DataError, match=r"x\.tfrecord: record 1 \(byte \d+\) has \d labels but other counts of"
    ):
        open_source(word)


def test_wrong_types_name_the_field(tmp_path):
    with pytest.raises(
        DataError, match="record 0.*image/object/class/label is a float_list, it should be a int64_list"
    ):
        open_source(records(tmp_path, example(labels=[1.0])))


def test_pixels_are_checked_as_is_said(tmp_path):
    photo = tf.io.encode_jpeg(
        np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    ).numpy()
    word = records(tmp_path, example(), example(photo[: len(photo) // 2], name="cut"))
    for full in (True, False):
        with pytest.raises(DataError, match="1 of 2 images cannot be used"):
            open_source(word, ReadOptions(full_check=full))
        assert open_source(word, ReadOptions(full_check=full, max_skipped_fraction=0.5)).ids.tolist() == ["a"]


def test_webp_in_records_is_read(tmp_path):
    import io

    pixels = np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    source = open_source(records(tmp_path, example(buffer.getvalue()), example(name="b")))
    np.testing.assert_array_equal(source.read_image(tf.constant(0, tf.int64)), pixels)
    assert source.read_image(tf.constant(1, tf.int64))[0, 0, 0] == 99


def test_lost_boxes_in_records_count(tmp_path):
    outside = {**BOX, "ymin": [2.0], "ymax": [3.0]}
    with pytest.raises(DataError, match="1 of 2 objects cannot be used: 1 x box outside its image"):
        open_source(records(tmp_path, example(), example(name="b", box=outside)))


def test_written_records_come_back_after_the_checks(tmp_path):
    source = tiny.scenes_source(count=3)
    path = write_tfrecords(source, str(tmp_path / "data"), 1)[0]
    np.testing.assert_allclose(
        open_source(f"tfrecord:{path}").annotations.boxes, source.annotations.boxes, atol=1e-3
    )


# --- TFDS -------------------------------------------------------------------------------------------


def test_cifar100_has_a_hundred_classes_by_default_and_twenty_by_name(tmp_path):
    images = [
        {"id": f"{k}", "image": np.full((32, 32, 3), k, np.uint8), "label": 50 + k, "coarse_label": k}
        for k in range(3)
    ]
    prepare_tfds("cifar100", tmp_path, images)
    options = ReadOptions(label_kind="classes", data_dir=str(tmp_path))
    found = open_source("tfds:cifar100:train", options)
    assert len(found.categories) == 100 and sorted(found.image_classes) == [50, 51, 52]
    coarse = open_source("tfds:cifar100:train,feature=coarse_label", options)
    assert len(coarse.categories) == 20 and sorted(coarse.image_classes) == [0, 1, 2]
    with pytest.raises(DataError, match="feature 'image' holds no classes"):
        open_source("tfds:cifar100:train,feature=image", options)


def test_coco_through_tfds_keeps_its_ids(tmp_path):
    import tensorflow_datasets as tfds

    objects = [
        {
            "area": 60,
            "id": 1,
            "is_crowd": False,
            "label": label,
            "bbox": tfds.features.BBox(0.1, 0.2, 0.5, 0.6),
        }
        for label in (0, 79)
    ]
    prepare_tfds(
        "coco/2017",
        tmp_path,
        [
            {
                "image": np.zeros((20, 40, 3), np.uint8),
                "image/filename": "a.jpg",
                "image/id": 5,
                "objects": objects,
            }
        ],
    )
    found = open_source("tfds:coco/2017:train", ReadOptions(data_dir=str(tmp_path)))
    assert found.categories == COCO_CATEGORIES
    assert [found.categories[c].id for c in found.annotations.classes] == [1, 90]


def test_damaged_tfds_files_are_found(tmp_path):
    images = [
        {"id": f"{k}", "image": np.full((32, 32, 3), k, np.uint8), "label": k, "coarse_label": k}
        for k in range(2)
    ]
    builder = prepare_tfds("cifar100", tmp_path, images)
    path = next(
        os.path.join(builder.data_dir, n) for n in sorted(os.listdir(builder.data_dir)) if "tfrecord" in n
    )
    data = bytearray(open(path, "rb").read())
    data[len(data) // 2] ^= 1
    open(path, "wb").write(bytes(data))
    with pytest.raises(DataError, match="damaged"):
        open_source("tfds:cifar100:train", ReadOptions(label_kind="classes", data_dir=str(tmp_path)))
