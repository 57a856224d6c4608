"""Columns give what every record says by itself, whatever the order of the images, and damage is noticed once
it is there.
"""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf

from official.data.pseudo_labels import BoxLabels, Row
from official.data.source import Category, Source
from official.self_training import label_columns, label_store
from official.self_training.label_columns import batches, indices_of
from official.self_training.label_kinds import BoxKind
from official.self_training.label_store import LabelError, LabelStore

CLASSES = tuple(Category(3 * i + 1, name) for i, name in enumerate("abc"))
IMAGES = 23


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Twenty-three images with up to six boxes each in shards of five, read four at a time."""
    monkeypatch.setattr(label_columns, "RECORDS_AT_ONCE", 4)
    rng, kept = np.random.default_rng(0), LabelStore(str(tmp_path / "labels"))
    kept.start(
        {
            "kind": "boxes",
            "teacher_sha256": "t",
            "data": "d",
            "categories": [{"id": c.id, "name": c.name} for c in CLASSES],
        }
    )
    for shard in range(5):
        kept.write_shard(
            shard,
            [_row(rng, i) for i in range(5 * shard, min(IMAGES, 5 * shard + 5))],
            [c.name for c in CLASSES],
        )
    kept.finish(5, {})
    return kept


def _row(rng, number):
    count, low = rng.integers(0, 7), rng.uniform(0, 100, (6, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 50, (6, 2))], axis=1)[:count].astype(np.float32)
    scores = rng.choice(np.float32([0.2, 0.4, 0.5, 0.7]), count)  # many that are at a threshold exactly
    size = (int(rng.integers(90, 700)), int(rng.integers(90, 700)))
    labels = BoxLabels(boxes, scores, rng.integers(0, 3, count).astype(np.int32))
    return Row(f"ä{number * 7 % IMAGES}", f"{number}.jpg", size, labels)


def by_record(store):
    """Every image's labels by its own record, as Python's protocol buffers read it."""
    found = {}
    for path in store.shard_paths():
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            height, width = (feature[f"image/{side}"].int64_list.value[0] for side in ("height", "width"))
            corners = [
                feature[f"image/object/bbox/{k}"].float_list.value for k in ("ymin", "xmin", "ymax", "xmax")
            ]
            found[feature["image/source_id"].bytes_list.value[0].decode()] = {
                "size": (height, width),
                "boxes": np.array(corners, np.float32).T.reshape(-1, 4)
                * np.float32([height, width, height, width]),
                "classes": np.array(feature["image/object/class/label"].int64_list.value, np.int32) - 1,
                "scores": np.array(feature["image/object/score"].float_list.value, np.float32),
            }
    return found


def source_of(ids):
    return Source("s", np.array(ids), np.ones((len(ids), 2), np.int32), read_image=lambda index: index)


def test_rows_are_what_every_record_says(store):
    oracle, rows = by_record(store), list(store.rows())
    assert [row.id for row in rows] == list(oracle) and len(rows) == IMAGES
    assert [row.file_name for row in rows] == [f"{i}.jpg" for i in range(IMAGES)]
    for row in rows:
        expected = oracle[row.id]
        assert row.size == expected["size"]
        for name, found in dataclasses.asdict(row.labels).items():
            np.testing.assert_array_equal(found, expected[name])
            assert found.dtype == expected[name].dtype


@pytest.mark.parametrize("ignore_above", (1.0, 0.4))
@pytest.mark.parametrize("chosen", (slice(None), slice(None, None, -1), slice(3, 20, 2)))
def test_a_source_gets_its_own_labels_in_its_order(store, chosen, ignore_above):
    """The store's order, the reverse, and some of the images; sure boxes before those that are ignored."""
    oracle, limits = by_record(store), np.float32([0.5, 0.7, 0.4])
    ids = list(oracle)[chosen]
    labelled, any_label, numbers = store.read(source_of(ids), limits, ignore_above=ignore_above)
    sure_boxes = uncertain = 0
    for i, image_id in enumerate(ids):
        row = oracle[image_id]
        sure = row["scores"] >= limits[row["classes"]]
        rest = ~sure & (row["scores"] >= np.float32(ignore_above))
        order = [*np.flatnonzero(sure), *(np.flatnonzero(rest) if ignore_above < 1 else [])]
        for name in ("boxes", "classes", "scores"):
            np.testing.assert_array_equal(labelled.annotations.of(i)[name], row[name][order])
        assert any_label[i] == sure.any()
        sure_boxes, uncertain = sure_boxes + sure.sum(), uncertain + len(order) - sure.sum()
    assert numbers["boxes"] == sure_boxes > 5 and numbers.get("uncertain_boxes", 0) == uncertain
    assert (uncertain > 0) == (ignore_above < 1) and numbers["images_with_boxes"] == any_label.sum()
    sides = labelled.annotations.boxes[:, 2:] - labelled.annotations.boxes[:, :2]
    np.testing.assert_array_equal(labelled.annotations.area, sides[:, 0] * sides[:, 1])


def test_images_without_labels_are_named(store):
    with pytest.raises(LabelError, match="no labels for 2 images, the first is ä99"):
        store.read(source_of(["ä0", "ä99", "ä5", "zzz"]), 0.1)


def test_places_by_hand():
    ids = np.array([b"b", "ä".encode(), b"c"])
    assert indices_of(ids, np.array(["ä", "b", "d", "", "c"])).tolist() == [1, 0, -1, -1, 2]
    assert indices_of(ids, np.array(["b", "ä", "c"])).tolist() == [0, 1, 2]
    assert (
        indices_of(ids[:0], np.array(["b"])).tolist() == [-1]
        and indices_of(ids, np.array([], str)).tolist() == []
    )


def test_a_record_with_a_score_too_few_is_refused(tmp_path):
    example = tf.train.Example.FromString(
        BoxKind().encode(_row(np.random.default_rng(3), 0), "abc").SerializeToString()
    )
    example.features.feature["image/object/score"].float_list.value.append(0.5)
    with tf.io.TFRecordWriter(str(tmp_path / "one")) as writer:
        writer.write(example.SerializeToString())
    with pytest.raises(ValueError, match="another number of"):
        list(batches([str(tmp_path / "one")]))


def test_checksums_are_computed_once_and_again_when_a_shard_changes(store, monkeypatch):
    computed, real = [], label_store.file_sha256
    monkeypatch.setattr(label_store, "file_sha256", lambda path: computed.append(path) or real(path))
    for _ in range(3):
        LabelStore(store.folder).manifest()
    assert len(computed) == len(set(computed)) == 5
    path = store.shard_path(2)
    content = bytearray(open(path, "rb").read())
    content[40] ^= 1
    before = os.stat(path)
    with open(path, "r+b") as file:  # the same file, of the same length, with its old time
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(LabelError, match="00002.tfrecord is missing or damaged"):
        LabelStore(store.folder).manifest()
