"""Masks from every kind of source, and what is wrong with them."""

import json
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official.data.formats.mask_files import read_class_map, sized_class_map, stored_limit, stored_score
from official.data.formats.tfrecord import write_tfrecords
from official.data.source import DataError
from official.data.sources import ReadOptions, open_source
from official.evaluation.drawing import VOC_PALETTE
from tests import tiny

MASKS = ReadOptions(label_kind="masks", max_skipped_fraction=0.95)


def mask_of(source, i):
    return source.read_mask(tf.constant(i, tf.int64)).numpy()


def write_mask(path, values, palette=True):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        image = image.convert("P")
        image.putpalette(VOC_PALETTE)
        image = Image.frombytes("P", image.size, np.asarray(values, np.uint8).tobytes())
        image.putpalette(VOC_PALETTE)
    image.save(path)


def write_image(path, height=6, width=8):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(path)


VALUES = np.array([[0, 1, 15, 255] * 2] * 6, np.uint8)


@pytest.fixture
def voc(tmp_path):
    for name in ("a", "b", "c"):
        write_image(str(tmp_path / "JPEGImages" / f"{name}.jpg"))
    for name in ("a", "b"):
        write_mask(str(tmp_path / "SegmentationClass" / f"{name}.png"), VALUES)
    write_mask(str(tmp_path / "SegmentationClassAug" / "c.png"), VALUES, palette=False)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "trainaug.txt").write_text(
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/c.jpg /SegmentationClassAug/c.png\n"
    )
    return tmp_path


def test_voc_palettes_splits_and_ignore(voc):
    train = open_source(f"voc:{voc},split=train", MASKS)
    assert (
        train.ids.tolist() == ["a", "b"]
        and [c.name for c in train.categories][15] == "person"
        and len(train.categories) == 21
    )
    np.testing.assert_array_equal(mask_of(train, 0), VALUES)
    assert open_source(f"voc:{voc},split=trainaug", MASKS).ids.tolist() == ["a", "c"]
    assert len(open_source(f"voc:{voc}", MASKS)) == 3
    unlabelled = open_source(f"voc:{voc},split=trainaug", MASKS, labeled=False)
    assert unlabelled.read_mask is None and len(unlabelled) == 2
    with pytest.raises(DataError, match="no split list"):
        open_source(f"voc:{voc},split=nowhere", MASKS)


def test_folders_and_class_names(tmp_path):
    write_image(str(tmp_path / "images" / "deep" / "x.png"))
    write_mask(str(tmp_path / "masks" / "deep" / "x.png"), np.minimum(VALUES, 2), palette=False)
    found = open_source(f"masks:{tmp_path}/images,{tmp_path}/masks", MASKS)
    assert found.ids.tolist() == [os.path.join("deep", "x.png")] and [c.name for c in found.categories] == [
        "0",
        "1",
        "2",
    ]
    (tmp_path / "names.txt").write_text("ground\ncell\nwall\n")
    named = open_source(f"masks:{tmp_path}/images,{tmp_path}/masks,classes={tmp_path}/names.txt", MASKS)
    assert [c.name for c in named.categories] == ["ground", "cell", "wall"]
    (tmp_path / "names.txt").write_text("ground\ncell\n")
    with pytest.raises(DataError, match="unknown label 2; there are 2 classes"):
        open_source(f"masks:{tmp_path}/images,{tmp_path}/masks,classes={tmp_path}/names.txt", MASKS)


def test_bad_masks_are_skipped_counted_and_named(tmp_path):
    good = np.zeros((6, 8), np.uint8)
    for name in ("good", "colour", "deep", "small", "broken", "absent"):
        write_image(str(tmp_path / "i" / f"{name}.png"))
    write_mask(str(tmp_path / "m" / "good.png"), good, palette=False)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "m" / "colour.png")
    Image.fromarray(np.full((6, 8), 700, np.uint16)).save(tmp_path / "m" / "deep.png")
    write_mask(str(tmp_path / "m" / "small.png"), good[:3], palette=False)
    (tmp_path / "m" / "broken.png").write_bytes(b"no image")
    found = open_source(f"masks:{tmp_path}/i,{tmp_path}/m", MASKS)
    assert len(found) == 1
    reasons = " | ".join(entry["reason"] for entry in found.report.entries)
    for part in (
        "colour image",
        "label 700",
        "3 x 8, its image 6 x 8",
        "not a readable PNG",
        "mask is absent",
    ):
        assert part in reasons
    with pytest.raises(DataError, match="5 of 6 images cannot be used"):
        open_source(f"masks:{tmp_path}/i,{tmp_path}/m", ReadOptions(label_kind="masks"))


def test_sixteen_bits_within_range_are_read(tmp_path):
    Image.fromarray(np.full((2, 2), 254, np.uint16)).save(tmp_path / "m.png")
    assert read_class_map(str(tmp_path / "m.png")).tolist() == [[254, 254], [254, 254]]


def test_coco_is_rendered_small_over_large_and_crowds_ignored(tmp_path):
    write_image(str(tmp_path / "images" / "x.png"), 10, 10)
    square = lambda a, b: [[a, a, b, a, b, b, a, b]]  # noqa: E731
    annotations = [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 9,
            "bbox": [2, 2, 2, 2],
            "area": 4,
            "iscrowd": 0,
            "segmentation": square(2, 4),
        },
        {
            "id": 2,
            "image_id": 1,
            "category_id": 5,
            "bbox": [1, 1, 6, 6],
            "area": 36,
            "iscrowd": 0,
            "segmentation": square(1, 7),
        },
        {
            "id": 3,
            "image_id": 1,
            "category_id": 5,
            "bbox": [8, 0, 2, 10],
            "iscrowd": 1,
            "segmentation": {"size": [10, 10], "counts": [80, 20]},
        },
        {"id": 4, "image_id": 1, "category_id": 5, "bbox": [0, 0, 1, 1], "iscrowd": 0, "segmentation": []},
    ]
    data = {
        "images": [{"id": 1, "file_name": "x.png", "height": 10, "width": 10}],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "five"}, {"id": 9, "name": "nine"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(data))
    found = open_source(f"coco:{tmp_path}/a.json", MASKS)
    assert [c.name for c in found.categories] == ["background", "five", "nine"]
    expected = np.zeros((10, 10), int)
    expected[1:7, 1:7], expected[2:4, 2:4], expected[:, 8:], expected[0, 0] = 1, 2, 255, 255
    np.testing.assert_array_equal(mask_of(found, 0), expected)
    assert sum("without a usable outline" in reason for reason in found.report.counts) == 1


def test_scenes_and_tfrecords_round_trip(tmp_path):
    source = tiny.scenes_source(count=4, task="segmentation")
    assert [c.name for c in source.categories][:2] == ["background", "disc"]
    write_tfrecords(source, str(tmp_path / "data"), 2)
    found = open_source(f"tfrecord:{tmp_path}/data-*", MASKS)
    assert sorted(found.ids) == sorted(source.ids) and [c.name for c in found.categories] == [
        c.name for c in source.categories
    ]
    place = {image_id: i for i, image_id in enumerate(found.ids)}
    for i, image_id in enumerate(source.ids):
        np.testing.assert_array_equal(mask_of(found, place[image_id]), mask_of(source, i))


def test_labels_move_with_the_models_classes():
    source = tiny.scenes_source(count=2, task="segmentation")
    turned = source.aligned_to(tuple(reversed(source.categories)))
    np.testing.assert_array_equal(mask_of(turned, 0), 5 - mask_of(source, 0))


def test_sources_without_masks_are_refused(tmp_path):
    write_image(str(tmp_path / "x.png"))
    with pytest.raises(DataError, match="has no masks"):
        open_source(f"folder:{tmp_path}", MASKS)


def test_stored_scores_keep_thresholds_exactly():
    """0.5 is 128 of 256: a probability of exactly 0.5 stays, the float below it goes."""
    scores = stored_score(
        np.array([0.0, np.nextafter(np.float32(0.5), np.float32(0)), 0.5, 0.999, 1.0], np.float32)
    )
    assert scores.tolist() == [0, 127, 128, 255, 255]
    assert (scores >= stored_limit(0.5)).tolist() == [False, False, True, True, True]
    assert stored_limit(0.0) == 0 and stored_limit(1.0) == 256


def test_tfds_masks(tmp_path):
    """oxford_iiit_pet as TFDS shapes it, prepared by the test on disk."""
    import tensorflow_datasets as tfds

    source = tiny.scenes_source(count=3, task="segmentation")
    builder = tfds.builder("oxford_iiit_pet", data_dir=str(tmp_path), try_gcs=False)
    os.makedirs(builder.data_dir)
    writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=2)
    writer.initialize_splits(["train"])
    for i in range(len(source)):
        image = source.read_image(tf.constant(i, tf.int64)).numpy()
        values = {
            "image": image,
            "label": 0,
            "species": 0,
            "file_name": f"{i}.jpg",
            "segmentation_mask": mask_of(source, i)[..., None],
        }
        known = {name: values.get(name, np.zeros(4, np.float32)) for name in builder.info.features}
        if "head_bbox" in known:
            known["head_bbox"] = tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
        writer.add_examples({"train": [builder.info.features.encode_example(known)]})
    writer.close_splits(["train"])
    found = open_source("tfds:oxford_iiit_pet:train", ReadOptions(label_kind="masks", data_dir=str(tmp_path)))
    assert (
        len(found) == 3 and len(found.categories) == max(int(mask_of(source, i).max()) for i in range(3)) + 1
    )
    for i in range(3):
        np.testing.assert_array_equal(mask_of(found, i), mask_of(source, int(found.ids[i].split(".")[0])))


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF", "PPM"])
def test_a_mask_is_a_png_whatever_its_name(tmp_path, kind):
    """Pillow would open them all, and some of its decoders are seldom looked at."""
    path = str(tmp_path / "a.png")
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(path, format=kind)
    assert "not a readable PNG" in read_class_map(path)


def test_a_mask_of_another_size_is_not_decoded():
    """A header that claims 9,000 x 9,000 over no pixels at all: its size is the reason, not its end."""
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    assert (
        sized_class_map(b"\x89PNG\r\n\x1a\n" + b"".join(parts), (6, 8))
        == "mask has another size than its image (9000 x 9000, its image 6 x 8)"
    )
