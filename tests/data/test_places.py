"""Which file a name means: relative paths, links, equal names, masks beside photos, lists, words with
commas.
"""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official.data.formats.image_folder import TWICE
from official.data.image_files import inspect_image
from official.data.image_places import holds_labels, safe_join, walk
from official.data.input_report import DataError
from official.data.source import listed_subset
from official.data.sources import ReadOptions, open_source, parse_word
from official.data.text_lists import read_id_list, read_split
from official.jobs.opening import open_labeled
from tests import tiny


def write_image(path, color=100, size=(40, 30), **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color, color, color)).save(path, **save)


def color_of(source, i):
    return int(source.read_image(tf.constant(i, tf.int64)).numpy()[0, 0, 0])


def xml(path, file_name, name="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{file_name}</filename><object><name>{name}</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>10</xmax>"
        "<ymax>12</ymax></bndbox></object></annotation>"
    )


def coco(tmp_path, *names):
    images = [{"id": i, "file_name": n} for i, n in enumerate(names, 1)]
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 5, 5], "area": 25}
        for i in range(1, len(names) + 1)
    ]
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "x"}]})
    )
    return path


# --- links ------------------------------------------------------------------------------------------


def test_links_to_folders_and_files_are_followed_and_loops_are_not(tmp_path):
    write_image(tmp_path / "far" / "deep" / "1.png")
    write_image(tmp_path / "cache" / "5f3a", format="PNG")
    (tmp_path / "data").mkdir()
    write_image(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "data" / "blob.png").symlink_to(tmp_path / "cache" / "5f3a")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "far" / "deep" / "back").symlink_to(tmp_path / "data")
    assert open_source(f"folder:{tmp_path}/data", labeled=False).ids.tolist() == [
        "0.png",
        "blob.png",
        "linked/deep/1.png",
    ]


def test_a_folder_that_is_reached_twice_is_read_once(tmp_path):
    """By its own name where it has one, else by the first link; two links to one file stay two images."""
    write_image(tmp_path / "data" / "z" / "deep" / "1.png")
    write_image(tmp_path / "far" / "2.png")
    for link, target in {"a": "data/z", "b": "far", "c": "far"}.items():
        (tmp_path / "data" / link).symlink_to(tmp_path / target)
    (tmp_path / "data" / "same.png").symlink_to(tmp_path / "far" / "2.png")
    source = open_source(f"folder:{tmp_path}/data", labeled=False)
    assert source.ids.tolist() == ["same.png", "b/2.png", "z/deep/1.png"]
    assert source.report.counts == {TWICE: 2} and source.report.skipped_images == 0
    classes = open_source(
        f"folder:{tmp_path}/data", ReadOptions(label_kind="classes", max_skipped_fraction=0.5)
    )
    assert [c.name for c in classes.categories] == [
        "a",
        "b",
        "c",
        "z",
    ]  # a class each: whose is it is not ours to say


def test_links_that_lead_round_in_a_circle_are_missed_and_said(tmp_path):
    """From file to file, to itself, and between two folders."""
    write_image(tmp_path / "a" / "1.png")
    for link, target in (
        ("2.png", "3.png"),
        ("3.png", "2.png"),
        ("self.png", "self.png"),
        ("folder", "folder"),
    ):
        (tmp_path / "a" / link).symlink_to(tmp_path / "a" / target)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    source = open_source(f"folder:{tmp_path}/a", ReadOptions(max_skipped_fraction=0.8), labeled=False)
    assert source.ids.tolist() == ["1.png"] and source.report.counts == {"file is absent": 3}


def test_a_link_to_nowhere_is_missed_and_said(tmp_path):
    write_image(tmp_path / "0.png")
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match="1 of 2 images cannot be used: 1 x file is absent"):
        open_source(f"folder:{tmp_path}", labeled=False)


def test_a_link_inside_may_lead_out_and_a_name_may_not(tmp_path):
    write_image(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").symlink_to(tmp_path / "secret.png")
    assert len(open_source(f"coco:{coco(tmp_path, '1.png')},{tmp_path}/images")) == 1
    for name in ("../secret.png", str(tmp_path / "secret.png"), "x/../../secret.png", "..", ""):
        assert safe_join(str(tmp_path / "images"), name) is None
        with pytest.raises(DataError, match="leaves the image folder"):
            open_source(f"coco:{coco(tmp_path, name)},{tmp_path}/images")


def test_names_that_are_not_utf8_are_read_and_spelled_out(tmp_path):
    write_image(tmp_path / "a.png", 10)
    os.rename(tmp_path / "a.png", os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    write_image(tmp_path / "b.png", 20)
    source = open_source(f"folder:{tmp_path}", labeled=False)
    assert source.ids.tolist() == ["b.png", "caf\\xe9.png"] and [color_of(source, i) for i in (0, 1)] == [
        20,
        10,
    ]
    "".join(source.file_names).encode("utf-8")


# --- VOC --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file_name", ["frame_001.png", "frame_001", "", "C:\\Users\\me\\frame_001.png", "/home/me/frame_001.png"]
)
def test_equal_names_in_sub_folders_stay_apart(tmp_path, file_name):
    for number, folder in enumerate(("cam1", "cam2"), 1):
        xml(tmp_path / folder / "frame_001.xml", file_name)
        write_image(tmp_path / folder / "frame_001.png", 50 * number)
    source = open_source(f"voc:{tmp_path}")
    assert source.ids.tolist() == ["cam1/frame_001", "cam2/frame_001"]
    assert [color_of(source, i) for i in (0, 1)] == [50, 100]


def test_equal_names_mirrored_below_annotations_and_jpegimages(tmp_path):
    for number, folder in enumerate(("cam1", "cam2"), 1):
        xml(tmp_path / "Annotations" / folder / "1.xml", "1.jpg")
        write_image(tmp_path / "JPEGImages" / folder / "1.jpg", 50 * number)
    source = open_source(f"voc:{tmp_path}")
    assert source.ids.tolist() == ["cam1/1", "cam2/1"] and [color_of(source, i) for i in (0, 1)] == [50, 100]


def test_a_name_that_fits_two_files_is_an_error_that_names_both(tmp_path):
    xml(tmp_path / "xml" / "1.xml", "1.jpg")
    write_image(tmp_path / "day" / "1.jpg")
    write_image(tmp_path / "night" / "1.jpg")
    with pytest.raises(DataError, match="may be day/1.jpg or night/1.jpg"):
        open_source(f"voc:{tmp_path}")
    xml(tmp_path / "xml" / "1.xml", "night/1.jpg")
    assert len(open_source(f"voc:{tmp_path}")) == 1


@pytest.mark.parametrize(
    "masks, photos",
    [
        ("Masks", "Images"),
        ("seg", "img"),
        ("z_masks", "a_images"),
        ("a_masks", "z_images"),
        ("SegmentationClass", "JPEGImages"),
        ("visualizations", "photos"),
        ("GroundTruth", "x"),
    ],
)
@pytest.mark.parametrize("file_name", ["img0", "img0.jpg", "", "renamed.jpg"])
def test_masks_beside_are_never_taken_for_the_photo(tmp_path, masks, photos, file_name):
    xml(tmp_path / "Annotations" / "img0.xml", file_name)
    write_image(tmp_path / masks / "img0.png", 1)
    write_image(tmp_path / photos / "img0.jpg", 200)
    assert color_of(open_source(f"voc:{tmp_path}"), 0) == pytest.approx(200, abs=2)


@pytest.mark.parametrize(
    "path, labels",
    [
        ("a/Masks/1.png", True),
        ("gtFine/x.png", True),
        ("SegmentationObject/1.png", True),
        ("my_masks_2/1.png", True),
        ("images/1.png", False),
        ("damask/1.png", False),
        ("1.png", False),
        ("visitors/1.png", False),
    ],
)
def test_folders_of_labels(path, labels):
    assert holds_labels(path) is labels


def test_two_images_beside_each_other_that_differ_in_their_endings_are_named(tmp_path):
    xml(tmp_path / "1.xml", "1")
    write_image(tmp_path / "1.png")
    write_image(tmp_path / "1.jpg")
    with pytest.raises(DataError, match=r"1 may be .*1\.jpg or .*1\.png"):
        open_source(f"voc:{tmp_path}")


def test_list_entries_without_xml_count(tmp_path):
    for i in range(10):
        write_image(tmp_path / "JPEGImages" / f"a{i}.jpg")
    for i in range(3):
        xml(tmp_path / "Annotations" / f"a{i}.xml", f"a{i}.jpg")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("".join(f"a{i}\n" for i in range(10)))
    with pytest.raises(DataError, match="7 of 10 images cannot be used: 7 x entry of the list has no XML"):
        open_source(f"voc:{tmp_path},split=train")
    source = open_source(f"voc:{tmp_path},split=train", ReadOptions(max_skipped_fraction=0.7))
    assert len(source) == 3 and source.report.skipped_images == 7
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("z\n")
    with pytest.raises(DataError, match="1 of 1 images"):
        open_source(f"voc:{tmp_path},split=train", ReadOptions(max_skipped_fraction=1.0))


@pytest.mark.parametrize(
    "source, xmin, first",
    [
        ("", 2, 1),
        ("<source><database>Unknown</database></source>", 2, 2),
        ("", 0, 0),
        ("<source><database>The VOC2007 Database</database></source>", 2, 1),
    ],
)
def test_labelimg_counts_pixels_from_zero_and_pascal_voc_from_one(tmp_path, source, xmin, first):
    xml(tmp_path / "1.xml", "1.png")
    text = (
        (tmp_path / "1.xml")
        .read_text()
        .replace("<object>", source + "<object>")
        .replace("<xmin>2<", f"<xmin>{xmin}<")
    )
    (tmp_path / "1.xml").write_text(text)
    write_image(tmp_path / "1.png")
    assert open_source(f"voc:{tmp_path}").annotations.boxes[0].tolist()[1::2] == [first, 10]
    for said in (0, 1):
        x1 = open_source(f"voc:{tmp_path},first_pixel={said}").annotations.boxes[0, 1]
        assert x1 == xmin - said
    with pytest.raises(DataError, match="first_pixel=2"):
        open_source(f"voc:{tmp_path},first_pixel=2")


# --- COCO -------------------------------------------------------------------------------------------


def test_coco_names_are_relative_paths_or_the_one_file_of_that_name(tmp_path):
    write_image(tmp_path / "images" / "cam1" / "1.png", 50)
    write_image(tmp_path / "images" / "cam2" / "1.png", 100)
    write_image(tmp_path / "images" / "cam2" / "2.png", 150)
    source = open_source(f"coco:{coco(tmp_path, 'cam1/1.png', 'cam2/1.png', '2.png')},{tmp_path}/images")
    assert [color_of(source, i) for i in range(3)] == [50, 100, 150]
    with pytest.raises(DataError, match="1.png may be cam1/1.png or cam2/1.png"):
        open_source(f"coco:{coco(tmp_path, '1.png')},{tmp_path}/images")


# --- lists and words ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_ids_are_a_line_each_with_their_spaces(tmp_path, encoding):
    for name in ("IMG 001.png", "IMG 002.png", "IMG 003.png"):
        write_image(tmp_path / "images" / name)
    word = f"coco:{coco(tmp_path, 'IMG 001.png', 'IMG 002.png', 'IMG 003.png')}"
    listed = tmp_path / "ids.txt"
    listed.write_text("IMG 001.png\r\n\n  IMG 003.png \n", encoding=encoding)
    chosen, rest, _ = open_labeled(
        tiny.experiment(labeled_data=word, labeled_ids=str(listed), model_dir=str(tmp_path / "run"))
    )
    assert chosen.ids.tolist() == ["1", "3"] and rest.ids.tolist() == ["2"]
    listed.write_bytes("Gerät".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_id_list(str(listed))


def test_listed_names_that_fit_two_images_are_refused(tmp_path):
    for folder in ("cam1", "cam2"):
        write_image(tmp_path / folder / "1.png")
    source = open_source(f"folder:{tmp_path}", labeled=False)
    with pytest.raises(DataError, match="1.png.*cam1/1.png.*cam2/1.png"):
        listed_subset(source, ["1.png"])
    assert listed_subset(source, ["cam2/1.png"])[0].ids.tolist() == ["cam2/1.png"]


def test_split_lists_keep_spaces_and_take_flags(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("IMG 1\nIMG 2\n")
    assert read_split(str(path), "list") == [
        "IMG 1",
        "IMG 2",
    ]  # two images of which one could be a flag, were it alone
    path.write_text("2007_000027 -1\n2007_000032  1\n")
    assert read_split(str(path), "list") == ["2007_000027", "2007_000032"]


@pytest.mark.parametrize("name", ["a,b", "a=b", "a+b", "images=x", "a,b,c", "split=1,x"])
def test_words_with_commas_in_their_paths(tmp_path, name):
    for folder, color in ((name, 30), ("other", 60)):
        write_image(tmp_path / folder / "i,j" / "1.png", color)
        path = coco(tmp_path / folder, "1.png")
        source = open_source(f"coco:{path},{tmp_path}/{folder}/i,j")
        assert color_of(source, 0) == color
    assert open_source(f"folder:{tmp_path}/{name}", labeled=False).ids.tolist() == ["i,j/1.png"]


def test_words_with_backslashes():
    assert parse_word("coco:/no/a\\,b.json,/no/c\\=d") == ("coco", "/no/a,b.json", {"images": "/no/c=d"})
    assert parse_word("voc:/no/x,split=val,masks=m") == ("voc", "/no/x", {"split": "val", "masks": "m"})
    with pytest.raises(DataError, match="said twice"):
        parse_word("coco:/no/a,b.json,c")


def test_records_with_a_plus_in_their_name(tmp_path):
    from official.data.formats.tfrecord import write_tfrecords

    source = tiny.scenes_source(count=2)
    write_tfrecords(source.subset(np.array([0])), str(tmp_path / "a+b" / "x"), 1)
    write_tfrecords(source.subset(np.array([1])), str(tmp_path / "c" / "x"), 1)
    assert len(open_source(f"tfrecord:{tmp_path}/a+b/x-*")) == 1
    escaped = f"{tmp_path}/a\\+b/x-*+{tmp_path}/c/x-*"
    assert len(open_source(f"tfrecord:{escaped}")) == 2


# --- image files ------------------------------------------------------------------------------------


def test_git_lfs_pointers_are_called_so(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (tmp_path / "a.jpg").write_text(pointer)
    (tmp_path / "a.xml").write_text(pointer)
    assert "git lfs pull" in inspect_image(str(tmp_path / "a.jpg"))
    with pytest.raises(DataError, match="Git LFS pointer"):
        open_source(f"voc:{tmp_path}")


@pytest.mark.parametrize(
    "name, mode, how",
    [
        ("x.webp", "RGB", {"lossless": True}),
        ("x.webp", "RGBA", {"lossless": True}),
        ("x.tif", "RGB", {}),
        ("x.tiff", "L", {"compression": "tiff_lzw"}),
        ("x.tif", "RGBA", {"compression": "tiff_deflate"}),
        ("x.TIF", "P", {}),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_webp_and_tiff_are_read(tmp_path, name, mode, how, full):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / name, **how)
    write_image(tmp_path / "y.png", 9)
    source = open_source(f"folder:{tmp_path}", ReadOptions(full_check=full), labeled=False)
    assert source.ids.tolist() == [name, "y.png"] and color_of(source, 1) == 9
    expected = pixels if mode in ("RGB", "RGBA") else np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(source.read_image(tf.constant(0, tf.int64)), expected)


def test_sixteen_bit_tiffs_become_eight_and_floats_are_refused(tmp_path):
    values = (np.arange(1200).reshape(30, 40) * 50).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif")
    source = open_source(f"folder:{tmp_path}", labeled=False)
    np.testing.assert_array_equal(source.read_image(tf.constant(0, tf.int64))[..., 1], values >> 8)
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "b.tif")
    assert "not supported" in inspect_image(str(tmp_path / "b.tif"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["webp", "tif"])
def test_webp_and_tiff_are_turned_upright(tmp_path, orientation, ending):
    from PIL import ImageOps

    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(
        tmp_path / f"x.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {})
    )
    plain = Image.fromarray(pixels)
    plain.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain))
    source = open_source(f"folder:{tmp_path}", labeled=False)
    np.testing.assert_array_equal(source.read_image(tf.constant(0, tf.int64)), expected)
    assert tuple(source.sizes[0]) == expected.shape[:2]


def test_pngs_without_an_end_are_found_by_the_decoder_that_reads_them(tmp_path):
    write_image(tmp_path / "a.png", size=(200, 200))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-12])
    found = inspect_image(str(tmp_path / "a.png"))
    decodes = True
    try:
        tf.io.decode_image(data[:-12])
    except tf.errors.InvalidArgumentError:
        decodes = False
    assert isinstance(found, str) is not decodes
    assert "truncated" in inspect_image(str(tmp_path / "a.png"), full=False)


def test_bitmaps_of_sixteen_bits_are_refused(tmp_path):
    """TensorFlow reads 8, 24 and 32 bits; Pillow this one too."""
    header = b"BM" + (54 + 8 * 4 * 2).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    info = (
        (40).to_bytes(4, "little")
        + (8).to_bytes(4, "little")
        + (4).to_bytes(4, "little")
        + (1).to_bytes(2, "little")
        + (16).to_bytes(2, "little")
        + bytes(24)
    )
    (tmp_path / "a.bmp").write_bytes(header + info + bytes(8 * 4 * 2))
    with Image.open(tmp_path / "a.bmp") as image:
        image.load()
    for full in (True, False):
        assert "does not decode" in inspect_image(str(tmp_path / "a.bmp"), full=full)


def test_gifs_whose_canvas_is_not_their_frame_are_refused(tmp_path):
    Image.new("P", (20, 10)).save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = (25).to_bytes(2, "little") + (15).to_bytes(2, "little")  # the canvas, not the frame
    (tmp_path / "a.gif").write_bytes(bytes(data))
    found = inspect_image(str(tmp_path / "a.gif"))
    shape = tf.io.decode_image(bytes(data), expand_animations=False).shape
    assert isinstance(found, str) == (tuple(shape[:2]) != (15, 25))


def test_walks_are_sorted_and_skip_hidden_copies(tmp_path):
    for name in ("b/2.png", "a/1.PNG", "c.png", ".ipynb_checkpoints/c.png", "a/._1.png", "notes.txt"):
        write_image(tmp_path / name) if name.lower().endswith("png") else (tmp_path / name).write_text("x")
    assert list(walk(str(tmp_path))) == ["c.png", "a/1.PNG", "b/2.png"]
