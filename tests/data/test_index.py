"""The index of a data set: the same source from it as from the files, made anew where these have changed,
kept when killed.
"""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf

from official import jobs
from official.data import image_files, index
from official.data.formats import tfrecord
from official.data.formats.tfrecord import read_in_graph, write_tfrecords
from official.data.image_index import ImageIndex
from official.data.input_report import DataError
from official.data.source import needs_python
from official.data.sources import ReadOptions, open_source
from official.jobs.opening import opened
from tests import tiny
from tests.data.test_records import example, records


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three files of records, one of them unusable, and options with an index."""
    monkeypatch.setattr(index, "SMALL", 0)
    for number in range(3):
        payloads = [
            example(name=f"{number}{i}", labels=[1 + i % 2], class__text=[f"c{i % 2}"], area=[3.5])
            for i in range(4)
        ]
        payloads += [example(b"no image", name="broken")] * (number == 1)
        records(tmp_path, *payloads, name=f"{number}.tfrecord")
    return f"tfrecord:{tmp_path}/*.tfrecord", ReadOptions(index_dir=str(tmp_path / "index"))


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose records have been read since it was last emptied."""
    found, records_of = [], tfrecord.records

    def noted(path):
        found.append(os.path.basename(path))
        return records_of(path)

    monkeypatch.setattr(tfrecord, "records", noted)
    return found


def content(source):
    """All that a source holds, but functions."""
    kept = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    columns = {name: np.asarray(kept[name]).tolist() for name in ("ids", "sizes", "file_names")}
    objects = (
        {k: np.asarray(v).tolist() for k, v in vars(source.annotations).items()} if source.annotations else {}
    )
    images = [source.read_image(tf.constant(i, tf.int64)).numpy().tolist() for i in range(len(source))]
    return {
        **columns,
        **objects,
        "images": images,
        "categories": source.categories,
        "report": source.report.content(""),
    }


def test_the_second_start_reads_no_record(files, read):
    word, options = files
    plain = content(open_source(word))
    assert sorted(read) == ["0.tfrecord", "1.tfrecord", "2.tfrecord"] and plain["report"]["counts"]
    assert content(open_source(word, options)) == plain
    read.clear()
    assert content(open_source(word, options)) == plain and read == []


def test_what_has_changed_is_read_anew_and_nothing_else(files, read, tmp_path):
    word, options = files
    open_source(word, options)
    read.clear()
    records(tmp_path, example(name="new", class__text=["c0"]), name="2.tfrecord")
    assert open_source(word, options).ids[-1] == "new" and read == ["2.tfrecord"]
    read.clear()
    path = tmp_path / "0.tfrecord"
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1))
    open_source(word, options)
    assert read == ["0.tfrecord"]
    read.clear()
    open_source(word, dataclasses.replace(options, full_check=False))
    assert sorted(read) == ["0.tfrecord", "1.tfrecord", "2.tfrecord"]


def test_a_damaged_part_is_made_anew(files, read, tmp_path):
    word, options = files
    plain = content(open_source(word, options))
    for number, name in enumerate(sorted(os.listdir(tmp_path / "index"))):
        path = tmp_path / "index" / name
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if number else b"")
    read.clear()
    assert content(open_source(word, options)) == plain and len(read) == 3


def test_a_building_that_is_killed_goes_on(files, read, monkeypatch):
    """As Ctrl-C: the parts that are done stay, and no half of one is there."""
    word, options = files
    parse = tfrecord._parse

    def interrupted(payload, path, number, offset):
        if path.endswith("2.tfrecord") and number == 2:
            raise KeyboardInterrupt
        return parse(payload, path, number, offset)

    monkeypatch.setattr(tfrecord, "_parse", interrupted)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        open_source(word, options)
    assert len(os.listdir(options.index_dir)) == 2
    monkeypatch.setattr(tfrecord, "_parse", parse)
    read.clear()
    assert len(open_source(word, options)) == 12 and read == ["2.tfrecord"]


def test_a_small_data_set_keeps_none(files, monkeypatch):
    word, options = files
    monkeypatch.setattr(index, "SMALL", 10**6)
    open_source(word, options)
    assert not os.path.exists(options.index_dir)


def test_image_files_are_checked_once(tmp_path, monkeypatch):
    """Those that have changed, and new ones, again; what is wrong with a file is told every time."""
    monkeypatch.setattr(image_files, "QUIET_COUNT", 0)
    folder, options = (
        tmp_path / "images",
        ReadOptions(index_dir=str(tmp_path / "index"), max_skipped_fraction=0.9),
    )
    for name, size in (("a.png", 8), ("b/c.png", 9), ("b/d.png", 10)):
        os.makedirs((folder / name).parent, exist_ok=True)
        tf.io.write_file(str(folder / name), tf.io.encode_png(np.zeros([size, size + 1, 3], np.uint8)))
    (folder / "b" / "broken.png").write_bytes(b"nothing")
    looked, inspect = [], image_files.inspect_image
    monkeypatch.setattr(
        image_files,
        "inspect_image",
        lambda path, **more: looked.append(os.path.basename(path)) or inspect(path, **more),
    )
    first = open_source(f"folder:{folder}", options, labeled=False)
    assert sorted(looked) == ["a.png", "broken.png", "c.png", "d.png"]
    looked.clear()
    again = open_source(f"folder:{folder}", options, labeled=False)
    assert looked == [] and content(again) == content(first) and sum(again.report.counts.values()) == 1
    tf.io.write_file(str(folder / "b/c.png"), tf.io.encode_png(np.zeros([20, 21, 3], np.uint8)))
    tf.io.write_file(str(folder / "b/e.png"), tf.io.encode_png(np.zeros([5, 5, 3], np.uint8)))
    third = open_source(f"folder:{folder}", options, labeled=False)
    assert sorted(looked) == ["c.png", "e.png"]
    assert dict(zip(third.ids, third.sizes.tolist())) == {
        "a.png": [8, 9],
        "b/c.png": [20, 21],
        "b/d.png": [10, 11],
        "b/e.png": [5, 5],
    }


def test_two_sets_in_one_folder_share_a_part(tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b", "c")]
    for path in paths:
        open(path, "w").close()
    with index.kept_in(str(tmp_path / "index")):
        for own in (paths[:2], paths[1:]):
            known = ImageIndex(own, {}, kept=True)
            known.entries = [f"entry of {os.path.basename(path)}" for path in own]
            known.keep(range(2))
        assert ImageIndex(paths, {}, kept=True).entries == ["entry of a", "entry of b", "entry of c"]
        assert ImageIndex(paths, {"full": False}, kept=True).entries == [None] * 3


# --- without Python -------------------------------------------------------------------------------


@pytest.fixture
def in_graph():
    read_in_graph(True)
    yield
    read_in_graph(False)


def test_records_are_read_without_python(files, tmp_path, in_graph):
    """The same images; damage and another length are noticed."""
    word, _ = files
    source = open_source(word)
    assert not needs_python(source)
    read_in_graph(False)
    plain = open_source(word)
    assert needs_python(plain)
    for i in (0, 5, 11):
        place = tf.constant(i, tf.int64)
        np.testing.assert_array_equal(source.read_image(place), plain.read_image(place))
    path = tmp_path / "0.tfrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 8] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(tf.errors.DataLossError):
        source.read_image(tf.constant(0, tf.int64))
    records(tmp_path, example(name="another"), name="0.tfrecord")
    with pytest.raises(tf.errors.InvalidArgumentError, match="has changed since it was opened"):
        source.read_image(tf.constant(0, tf.int64))


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_every_source_can_be_written_for_machines_without_python(task, tmp_path, in_graph):
    """As records it is the same, and no Python reads it."""
    source = tiny.scenes_source(count=3, task=task)
    write_tfrecords(source, str(tmp_path / "data"), 2)
    kind = {"detection": "boxes", "segmentation": "masks", "classification": "classes"}[task]
    written = open_source(f"tfrecord:{tmp_path}/data-*", ReadOptions(label_kind=kind))
    assert not needs_python(written)
    assert sorted(written.ids) == sorted(source.ids)
    for i, name in enumerate(source.ids):
        here, there = (tf.constant(k, tf.int64) for k in (i, written.ids.tolist().index(name)))
        np.testing.assert_array_equal(written.read_image(there), source.read_image(here))
        if task == "segmentation":
            np.testing.assert_array_equal(written.read_mask(there), source.read_mask(here))
        if task == "classification":
            assert (
                written.categories[written.image_classes[int(there)]]
                == source.categories[source.image_classes[i]]
            )


def test_what_the_hosts_of_a_pod_cannot_read_is_refused(files, tmp_path):
    """With the command that converts it, which also takes images without labels."""
    experiment = tiny.experiment(labeled_data=files[0], tpu="my-pod", model_dir=str(tmp_path / "run"))
    with pytest.raises(
        DataError, match="hosts of --tpu=my-pod cannot run; write it with --job=write_tfrecords"
    ):
        opened(experiment, "labeled", files[0])
    local = opened(experiment.with_flags({"tpu": "local"}), "labeled", files[0])
    read_in_graph(True)
    try:
        assert opened(experiment, "labeled", files[0]).ids.tolist() == local.ids.tolist()
    finally:
        read_in_graph(False)
    flags = dict(
        labeled_data="",
        unlabeled_data="scenes:unlabeled,count=3",
        output=str(tmp_path / "pool"),
        output_shards=1,
    )
    jobs.run(tiny.experiment(job="write_tfrecords", model_dir=str(tmp_path / "written"), **flags))
    assert len(open_source(f"tfrecord:{tmp_path}/pool/data-*", labeled=False)) == 3


def test_classes_of_whole_images_come_before_boxes(tmp_path):
    def with_class(name, number, text):
        message = tf.train.Example.FromString(example(name=name))
        message.features.feature["image/class/label"].int64_list.value.append(number)
        message.features.feature["image/class/text"].bytes_list.value.append(text.encode())
        return message.SerializeToString()

    word = records(tmp_path, with_class("a", 7, "owl"), example(name="b"), with_class("c", 3, "cat"))
    source = open_source(word, ReadOptions(label_kind="classes"))
    assert source.image_classes.tolist() == [1, -1, 0] and [(c.id, c.name) for c in source.categories] == [
        (3, "cat"),
        (7, "owl"),
    ]
    assert open_source(word).annotations.counts().tolist() == [1, 1, 1]
    word = records(tmp_path, with_class("a", 7, "owl"), with_class("c", 7, "cat"))
    with pytest.raises(DataError, match="class 7 is 'cat', but before that 7 was 'owl'"):
        open_source(word, ReadOptions(label_kind="classes"))
