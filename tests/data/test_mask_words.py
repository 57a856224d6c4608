"""What the values of masks mean: 0 and 255, colours, names of one's own, pairs of names, turned photos."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as mask_api

from official.data.formats.coco_masks import _decoded, outline
from official.data.formats.mask_palettes import read_palette, voc_color
from official.data.input_report import DataError
from official.data.sources import ReadOptions, open_source

MASKS = ReadOptions(label_kind="masks")
BOX = np.array([2.0, 3.0, 7.0, 8.0])


def save(path, values, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path, **how)


def write_image(path, size=(8, 6), **how):
    save(path, np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8), **how)


def mask_of(source, i=0):
    return source.read_mask(tf.constant(i, tf.int64)).numpy()


def names_of(source):
    return [category.name for category in source.categories]


HALVES = np.array([[0] * 4 + [255] * 4] * 6, np.uint8)


def pair(tmp_path, *masks, **how):
    """A word over as many images as masks."""
    for i, values in enumerate(masks):
        write_image(tmp_path / "i" / f"{i}.png")
        save(tmp_path / "m" / f"{i}.png", values, **how)
    return f"masks:{tmp_path}/i,{tmp_path}/m"


def test_masks_of_0_and_255_are_refused_with_the_remedy(tmp_path):
    word = pair(tmp_path, HALVES, np.zeros_like(HALVES))
    with pytest.raises(DataError, match="nothing but 0 and 255.*,foreground=255"):
        open_source(word, MASKS)
    (tmp_path / "names.txt").write_text("background\nlesion\n")
    with pytest.raises(DataError, match=",foreground=255"):
        open_source(f"{word},classes={tmp_path}/names.txt", MASKS)
    found = open_source(f"{word},foreground=255", MASKS)
    assert names_of(found) == ["background", "foreground"]
    np.testing.assert_array_equal(mask_of(found), HALVES // 255)
    named = open_source(f"{word},foreground=255,classes={tmp_path}/names.txt", MASKS)
    assert names_of(named) == ["background", "lesion"] and mask_of(named).max() == 1


def test_masks_of_255_alone_and_of_one_class_are_said(tmp_path):
    with pytest.raises(DataError, match="nothing but 255"):
        open_source(pair(tmp_path / "a", np.full_like(HALVES, 255)), MASKS)
    one = open_source(pair(tmp_path / "b", np.zeros_like(HALVES)), MASKS)
    assert one.report.counts["masks hold fewer than two classes"] == 1


def test_grey_levels_between_are_refused_where_two_values_are_said(tmp_path):
    blurred = HALVES.copy()
    blurred[0, 3] = 128
    with pytest.raises(
        DataError, match=r"1 of 1 images cannot be used: 1 x mask has other values than 0 and 255"
    ):
        open_source(pair(tmp_path, blurred) + ",foreground=255", MASKS)


def test_one_bit_masks_are_two_classes_with_and_without_the_option(tmp_path):
    word = pair(tmp_path, HALVES > 0)
    for options in ("", ",foreground=255"):
        np.testing.assert_array_equal(mask_of(open_source(word + options, MASKS)), HALVES // 255)


def test_another_value_may_say_nothing(tmp_path):
    values = np.array([[0, 1, 2, 3] * 2] * 6, np.uint8)
    found = open_source(pair(tmp_path, values) + ",ignore=3", MASKS)
    assert names_of(found) == ["0", "1", "2"]
    np.testing.assert_array_equal(mask_of(found), np.where(values == 3, 255, values))
    for bad in ("256", "-1", "x"):
        with pytest.raises(DataError, match="ignore="):
            open_source(f"masks:{tmp_path}/i,{tmp_path}/m,ignore={bad}", MASKS)


def test_a_named_class_that_never_occurs_is_said(tmp_path):
    (tmp_path / "names.txt").write_text("ground\ncell\nwall\n", encoding="utf-8-sig")
    found = open_source(pair(tmp_path, HALVES // 255) + f",classes={tmp_path}/names.txt", MASKS)
    assert names_of(found) == ["ground", "cell", "wall"]  # without the byte order mark
    assert [e["reason"] for e in found.report.entries] == ["class occurs in no mask (wall)"]


COLORS = np.zeros((6, 8, 3), np.uint8)
COLORS[:, 2:4], COLORS[:, 4:6], COLORS[:, 6:] = (250, 50, 83), (0, 128, 0), (10, 10, 10)
EXPECTED = np.array([[0, 0, 1, 1, 2, 2, 255, 255]] * 6)
LABEL_MAP = (
    "# label:color_rgb:parts:actions\nred "
    "one:250,50,83::\nbackground:0,0,0::\ngreen:0,128,0::\nvoid:10,10,10::\n"
)


@pytest.mark.parametrize(
    "text", [LABEL_MAP, "0 0 0 background\n250 50 83 red one\n0,128,0,green\n10 10 10 void\n"]
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_classes(tmp_path, text, mode):
    (tmp_path / "colours.txt").write_text(text)
    image = Image.fromarray(COLORS).convert(mode) if mode != "P" else Image.fromarray(COLORS).quantize(4)
    word = pair(tmp_path, COLORS)
    image.save(tmp_path / "m" / "0.png")
    if mode != "P":
        with pytest.raises(DataError, match="palette=FILE"):
            open_source(word, MASKS)
    found = open_source(f"{word},palette={tmp_path}/colours.txt", MASKS)
    assert names_of(found) == ["background", "red one", "green"]
    np.testing.assert_array_equal(mask_of(found), EXPECTED)


def test_colours_that_a_palette_lacks_are_named(tmp_path):
    (tmp_path / "colours.txt").write_text("0 0 0 background\n250 50 83 red\n0 128 0 green\n")
    with pytest.raises(DataError, match="colour that the palette lacks.*10 10 10"):
        open_source(f"{pair(tmp_path, COLORS)},palette={tmp_path}/colours.txt", MASKS)


@pytest.mark.parametrize("line", ["red", "1 2 red", "256 0 0 red", "red:1,2::", "1 2 3"])
def test_lines_that_are_no_colours_are_named(tmp_path, line):
    (tmp_path / "colours.txt").write_text(line + "\n")
    with pytest.raises(DataError, match="is neither"):
        read_palette(str(tmp_path / "colours.txt"))


def test_voc_colours():
    """From the devkit's documentation: aeroplane 128,0,0; bicycle 0,128,0; person 192,128,128; tvmonitor
    0,64,128.
    """
    assert [voc_color(i) for i in (0, 1, 2, 15, 20)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (192, 128, 128),
        (0, 64, 128),
    ]
    names, palette = read_palette("voc")
    assert names[palette[192, 128, 128]] == "person" and palette[224, 224, 192] == 255


def test_voc_folders_with_their_own_label_map_and_other_endings(tmp_path):
    for name, ending in (("a", ".png"), ("b 1", ".JPG"), ("c", ".jpeg")):
        write_image(tmp_path / "JPEGImages" / (name + ending))
        save(tmp_path / "SegmentationClass" / f"{name}.png", COLORS)
    (tmp_path / "labelmap.txt").write_text(LABEL_MAP)
    found = open_source(f"voc:{tmp_path}", MASKS)
    assert found.ids.tolist() == ["a", "b 1", "c"] and names_of(found) == ["background", "red one", "green"]
    np.testing.assert_array_equal(mask_of(found, 1), EXPECTED)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b 1\nc\ngone\n", encoding="utf-8-sig")
    with pytest.raises(DataError, match="1 of 3 images cannot be used: 1 x entry of the list has no image"):
        open_source(f"voc:{tmp_path},split=train", MASKS)


def test_voc_masks_with_class_names_of_ones_own(tmp_path):
    write_image(tmp_path / "JPEGImages" / "a.jpg")
    save(tmp_path / "SegmentationClass" / "a.png", HALVES // 255)
    (tmp_path / "names.txt").write_text("soil\nred beet\n")
    assert names_of(open_source(f"voc:{tmp_path},classes={tmp_path}/names.txt", MASKS)) == [
        "soil",
        "red beet",
    ]
    assert len(open_source(f"voc:{tmp_path}", MASKS).categories) == 21


def test_pairs_of_names_as_cityscapes_has_them(tmp_path):
    write_image(tmp_path / "leftImg8bit" / "train" / "aachen" / "aachen_000000_000019_leftImg8bit.png")
    save(
        tmp_path / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png",
        np.full((6, 8), 7, np.uint8),
    )
    save(
        tmp_path / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelTrainIds.png",
        HALVES // 255,
    )
    found = open_source(f"masks:{tmp_path}/leftImg8bit,{tmp_path}/gtFine", MASKS)
    np.testing.assert_array_equal(mask_of(found), HALVES // 255)  # train ids come first


def test_masks_among_the_images_are_no_images(tmp_path):
    write_image(tmp_path / "x.png")
    save(tmp_path / "masks" / "x.png", HALVES // 255)
    assert open_source(f"masks:{tmp_path},{tmp_path}/masks", MASKS).ids.tolist() == ["x.png"]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_mask_turns_with_the_photo(tmp_path, orientation):
    """Mask and photo are of the same stored pixels; a viewer turns the photo."""
    values = np.zeros((6, 8), np.uint8)
    values[:2, :3] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "i" / "0.png", np.repeat(255 * values[..., None], 3, axis=2), exif=exif)
    save(tmp_path / "m" / "0.png", values)
    found = open_source(f"masks:{tmp_path}/i,{tmp_path}/m", MASKS)
    pixels = found.read_image(tf.constant(0, tf.int64)).numpy()[..., 0]
    np.testing.assert_array_equal(mask_of(found), pixels // 255)
    if orientation >= 5:  # a mask that was drawn on the upright photo stays
        save(tmp_path / "m" / "0.png", pixels // 255)
        np.testing.assert_array_equal(
            mask_of(open_source(f"masks:{tmp_path}/i,{tmp_path}/m", MASKS)), pixels // 255
        )


# --- COCO's outlines --------------------------------------------------------------------------------


def coco(tmp_path, *segmentations, size=(10, 12), **image):
    """A word over one image of 12 x 10 with objects [3, 2, 5, 5] (x, y, width, height)."""
    write_image(tmp_path / "images" / "x.png", (12, 10))
    annotations = [
        {
            "id": n,
            "image_id": 1,
            "category_id": 1,
            "bbox": [3, 2, 5, 5],
            "area": 25,
            "iscrowd": 0,
            "segmentation": s,
        }
        for n, s in enumerate(segmentations, 1)
    ]
    images = [{"id": 1, "file_name": "x.png", "height": 10, "width": 12, **image}]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]})
    )
    return f"coco:{tmp_path}/a.json"


SQUARE = [3, 2, 8, 2, 8, 7, 3, 7]
OBJECT = np.zeros((10, 12), int)
OBJECT[2:7, 3:8] = 1


@pytest.mark.parametrize(
    "shape",
    [
        [SQUARE],
        SQUARE,
        [[3, 2], [8, 2], [8, 7], [3, 7]],
        [[[3, 2], [8, 2], [8, 7], [3, 7]]],
        [SQUARE, [1e8, 1e8, 1, 1, 0, 1e8]],
        [[str(v) for v in SQUARE]],
        [SQUARE, [1, 2]],
        [SQUARE, None],
    ],
)
def test_polygons_of_every_shape_are_painted(tmp_path, shape):
    np.testing.assert_array_equal(mask_of(open_source(coco(tmp_path, shape), MASKS)), OBJECT)


@pytest.mark.parametrize(
    "spoilt",
    [
        None,
        [],
        {},
        "x",
        [[1e8, 0, 1e8, 1e8, 0, 1e8]],
        [[float("nan")] * 6],
        [[1, 2, 3]],
        {"size": [10, 12], "counts": [1e9]},
        {"size": [10, 12], "counts": "zzzz"},
        {"size": [9, 9], "counts": [81]},
    ],
)
def test_an_object_without_an_outline_is_ignored_inside_its_box(tmp_path, spoilt):
    word = coco(tmp_path, spoilt)
    with pytest.raises(DataError, match="1 of 1 objects cannot be used: 1 x object without a usable outline"):
        open_source(word, MASKS)
    beside = open_source(
        coco(tmp_path, spoilt, [[0, 0, 2, 0, 2, 1, 0, 1]]),
        ReadOptions(label_kind="masks", max_skipped_fraction=0.5),
    )
    expected = 255 * OBJECT
    expected[0, :2] = 1
    np.testing.assert_array_equal(mask_of(beside), expected)


def test_outlines_stand_in_for_missing_boxes(tmp_path):
    path = coco(tmp_path, [SQUARE])[5:]
    data = json.load(open(path))
    del data["annotations"][0]["bbox"]
    json.dump(data, open(path, "w"))
    np.testing.assert_array_equal(mask_of(open_source(f"coco:{path}", MASKS)), OBJECT)


def test_masks_of_swapped_size_are_read_as_their_box_says():
    values = np.zeros((10, 12), np.uint8)
    values[2:7, 3:8] = 1
    values[2, 3] = 0
    true = mask_api.encode(np.asfortranarray(values))
    for code in (
        {**true, "size": [12, 10]},
        {**mask_api.encode(np.asfortranarray(values.T)), "size": [12, 10]},
    ):
        found, repair = outline(code, (10, 12), BOX)
        np.testing.assert_array_equal(mask_api.decode(found), values)
        assert "swapped" in repair
    assert outline({**true, "size": [12, 10]}, (10, 12), BOX + 3)[0] is None


def test_compressed_masks_are_decoded_as_pycocotools_does():
    generator = np.random.default_rng(0)
    for _ in range(30):
        values = (generator.uniform(size=(37, 53)) < generator.uniform(0, 1)).astype(np.uint8)
        code = mask_api.encode(np.asfortranarray(values))
        counts = _decoded(code["counts"])
        assert sum(counts) == values.size
        again = mask_api.frPyObjects({"size": [37, 53], "counts": counts}, 37, 53)
        assert again["counts"] == code["counts"]


def test_masks_of_a_file_of_another_scale_are_scaled(tmp_path):
    word = coco(tmp_path, [[2 * v for v in SQUARE]], height=20, width=24)
    data = json.load(open(word[5:]))
    data["annotations"][0]["bbox"] = [6, 4, 10, 10]
    json.dump(data, open(word[5:], "w"))
    with pytest.raises(DataError, match="--stated_size=scale"):
        open_source(word, MASKS)
    np.testing.assert_array_equal(
        mask_of(open_source(word, ReadOptions(label_kind="masks", stated_size="scale"))), OBJECT
    )


def test_masks_in_records_of_0_and_255_are_refused(tmp_path):
    from official.data.formats.tfrecord import write_tfrecords

    source = open_source(pair(tmp_path, HALVES) + ",foreground=255", MASKS)
    spoilt = source.with_masks(lambda index: tf.constant(HALVES), ())
    path = write_tfrecords(spoilt, str(tmp_path / "data"), 1)[0]
    with pytest.raises(DataError, match="nothing but 0 and 255"):
        open_source(f"tfrecord:{path}", MASKS)
    assert os.path.isfile(path)
