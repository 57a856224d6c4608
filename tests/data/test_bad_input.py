"""Every kind of bad input is an error that names it, or skipped, counted and listed."""

import dataclasses
import json
import math
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from official.data import sources
from official.data.formats.coco import load_coco_json, open_coco
from official.data.formats.image_folder import open_folder
from official.data.formats.voc import open_voc
from official.data.source import DataError
from official.data.sources import open_source


def write_image(path, mode="RGB", size=(40, 30), **save):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **save)
    return pixels


def coco(tmp_path, images=None, annotations=(), categories=({"id": 1, "name": "a"}, {"id": 7, "name": "b"})):
    images = images if images is not None else [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}]
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps({"images": images, "annotations": list(annotations), "categories": list(categories)})
    )
    return str(path)


def box(bbox, category=1, image=1, **more):
    return {"id": 1, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="nowhere.json"):
        open_coco(str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    "text", ["not json", "[]", '{"images": []}', '{"images": [], "annotations": {}, "categories": []}']
)
def test_not_coco(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match="x.json"):
        load_coco_json(str(path))


def test_repeated_image_id(tmp_path):
    path = coco(tmp_path, [{"id": 5, "file_name": "a"}, {"id": 5, "file_name": "b"}])
    with pytest.raises(DataError, match="image id 5 occurs more than once"):
        load_coco_json(path)


def test_bad_boxes_are_dropped_and_counted(tmp_path):
    write_image(tmp_path / "images" / "1.jpg")
    bad = [[1, 2, 0, 5], [1, 2, 5, -3], [math.nan, 2, 5, 5], [100, 100, 5, 5], [1, 2, 3], "no", None]
    good = [[1, 2, 10, 12], [35, 25, 20, 20]]  # the second reaches outside and is kept
    path = coco(
        tmp_path,
        annotations=[box(b) for b in bad + good]
        + [box([1, 1, 5, 5], category=99), box([1, 1, 5, 5], image=77)],
    )
    with pytest.raises(DataError, match="9 of 11 objects cannot be used: 4 x box with a coordinate"):
        open_coco(path)
    source = open_coco(path, max_skipped_fraction=0.9)
    np.testing.assert_allclose(source.annotations.boxes, [[2, 1, 14, 11], [25, 35, 45, 55]])
    assert source.report.counts == {
        "box with zero or negative width or height": 2,
        "box with a coordinate that is not a number": 4,
        "box outside its image": 1,
        "unknown category": 1,
        "annotation of an image that is not listed": 1,
        "area is missing or not positive: that of the box is taken": 2,
        "annotation id is missing, 0 or repeated: annotations are numbered anew": 1,
    }
    assert all("1.jpg" in e["file"] for e in source.report.entries if "box" in e["reason"])


def test_gaps_in_category_ids(tmp_path):
    write_image(tmp_path / "images" / "1.jpg")
    source = open_coco(
        coco(tmp_path, annotations=[box([1, 1, 5, 5], category=7), box([1, 1, 5, 5], category=1)])
    )
    assert source.annotations.classes.tolist() == [1, 0]
    assert [c.id for c in source.categories] == [1, 7]


def test_image_without_boxes_stays(tmp_path):
    write_image(tmp_path / "images" / "1.jpg")
    source = open_coco(coco(tmp_path))
    assert len(source) == 1 and source.annotations.counts().tolist() == [0]


def test_absent_truncated_and_foreign_files_are_skipped_and_listed(tmp_path):
    folder = tmp_path / "images"
    write_image(folder / "good.jpg")
    write_image(folder / "cut.jpg")
    data = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.png").write_bytes(b"")
    names = [
        "good.jpg",
        "cut.jpg",
        "text.jpg",
        "empty.png",
        "gone.jpg",
        "../annotations.json",
        "/etc/hostname",
    ]
    path = coco(tmp_path, [{"id": i, "file_name": n} for i, n in enumerate(names)])
    with pytest.raises(DataError, match="6 of 7 images cannot be used"):
        open_coco(path)
    source = open_coco(path, max_skipped_fraction=0.9)
    assert source.ids.tolist() == ["0"]
    assert source.report.skipped_images == 6
    listed = {e["image_id"]: e["reason"] for e in source.report.entries}
    assert "absent" in listed["4"] and "leaves the image folder" in listed[5] and "leaves" in listed[6]


@pytest.mark.parametrize("full", [True, False])
def test_truncation_is_found_by_both_checks(tmp_path, full):
    for name in ("a.jpg", "b.png"):
        write_image(tmp_path / name, size=(200, 200))
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-2000])
    write_image(tmp_path / "c.jpg")
    source = open_folder(str(tmp_path), full_check=full, max_skipped_fraction=1.0)
    assert source.ids.tolist() == ["c.jpg"]


def test_nothing_usable_fails_at_once(tmp_path):
    (tmp_path / "a.jpg").write_text("no")
    with pytest.raises(DataError, match="1 of 1 images cannot be used"):
        open_folder(str(tmp_path), max_skipped_fraction=1.0)
    with pytest.raises(DataError, match="no folder"):
        open_folder(str(tmp_path / "x"))
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_folder(str(tmp_path / "void"))


def bomb(path):
    """A PNG whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_decompression_bomb(tmp_path):
    bomb(tmp_path / "bomb.png")
    write_image(tmp_path / "good.png")
    source = open_folder(str(tmp_path), max_skipped_fraction=0.5)
    assert source.ids.tolist() == ["good.png"]
    assert "header claims more than" in source.report.entries[0]["reason"]


@pytest.mark.parametrize(
    "name, mode, save",
    [
        ("grey.jpg", "L", {}),
        ("cmyk.jpg", "CMYK", {}),
        ("palette.png", "P", {}),
        ("alpha.png", "RGBA", {}),
        ("grey_alpha.png", "LA", {}),
        ("bits.png", "1", {}),
        ("still.gif", "P", {}),
        ("plain.bmp", "RGB", {}),
    ],
)
def test_other_pixel_formats_become_rgb(tmp_path, name, mode, save):
    write_image(tmp_path / name, mode, **save)
    image = open_folder(str(tmp_path)).read_image(0).numpy()
    assert image.shape == (30, 40, 3) and image.dtype == np.uint8
    expected = np.asarray(Image.open(tmp_path / name).convert("RGB"), float)
    assert np.abs(image - expected).mean() < 3.0, name


def test_sixteen_bits_become_eight(tmp_path):
    values = (np.arange(30 * 40).reshape(30, 40) * 50).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = open_folder(str(tmp_path)).read_image(0).numpy()
    assert np.abs(image[..., 0].astype(int) - (values >> 8)).max() <= 1


def test_animation_uses_its_first_frame_and_says_so(tmp_path):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    source = open_folder(str(tmp_path))
    assert source.report.counts == {"animated image: first frame used": 1}
    image = source.read_image(0).numpy()
    assert image.shape == (10, 20, 3) and image[0, 0, 0] > 200


def test_unsupported_format_says_what_to_do(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", format="PPM")
    write_image(tmp_path / "y.png")
    source = open_folder(str(tmp_path), max_skipped_fraction=0.5)
    assert "convert it to JPEG or PNG" in source.report.entries[0]["reason"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_what_a_viewer_shows(tmp_path, orientation):
    from PIL import ImageOps

    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:8, :8] = (250, 0, 0)
    pixels[:8, -8:] = (0, 250, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    source = open_folder(str(tmp_path))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "x.png")))
    np.testing.assert_array_equal(source.read_image(0), expected)
    assert tuple(source.sizes[0]) == expected.shape[:2]


def test_boxes_drawn_on_the_stored_orientation_are_turned_with_it(tmp_path):
    """Orientation 6 is a quarter turn clockwise: row y of 30 becomes column 29 - y."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "1.jpg", exif=exif)
    stored = open_coco(coco(tmp_path, annotations=[box([4, 5, 6, 8])]))
    assert tuple(stored.sizes[0]) == (40, 30) == stored.read_image(0).shape[:2]
    np.testing.assert_array_equal(stored.annotations.boxes, [[4, 30 - 5 - 8, 4 + 6, 30 - 5]])
    shown = open_coco(coco(tmp_path, [{"id": 1, "file_name": "1.jpg", "width": 30, "height": 40}]))
    assert tuple(shown.sizes[0]) == (40, 30) == shown.read_image(0).shape[:2]


def test_voc_with_a_broken_xml_and_a_missing_image(tmp_path):
    def xml(name, objects):
        (tmp_path / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
        )

    item = "<object><name>cat</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object>"
    xml("good", item.format(0, 1) + item.format(1, 1) + item.format(0, "oops"))
    xml("lonely", item.format(0, 1))
    (tmp_path / "broken.xml").write_text("<annotation>")
    write_image(tmp_path / "good.jpg")
    with pytest.raises(DataError, match="2 of 3 images cannot be used"):
        open_voc(str(tmp_path))
    source = open_voc(str(tmp_path), max_skipped_fraction=0.7)
    np.testing.assert_allclose(source.annotations.boxes, [[1, 0, 12, 10]] * 2)  # 1-based inclusive -> 0-based
    assert source.annotations.crowd.tolist() == [False, True]
    assert source.report.counts["box with a coordinate that is not a number"] == 1


@pytest.mark.parametrize(
    "word, words",
    [
        ("nope:x", "unknown kind 'nope'"),
        ("coco:", "say where it is"),
        ("scenes:nope", "no split 'nope'"),
        ("scenes:train,size=3", "scenes does not take .'size'"),
        ("scenes:train,count=0", "at least one image"),
        ("scenes:train,count=many", "'many' is no number of images"),
        ("coco:a.json,images,split=train", "coco does not take .'split'"),
        ("folder:some,more", "folder does not take .'images'"),
    ],
)
def test_malformed_words(word, words, monkeypatch):
    """Before anything is drawn or read."""
    for kind in ("scenes", "coco", "folder"):
        if "does not take" in words:
            monkeypatch.setitem(
                sources._KINDS, kind, dataclasses.replace(sources._KINDS[kind], open=lambda *_: 1 / 0)
            )
    with pytest.raises(DataError, match=words):
        open_source(word)


def test_every_kind_and_what_it_takes_is_told():
    """Help and errors send people to the head of the module: every kind begins a line there."""
    parts = re.split(r"^    (\w+)[:\[]", sources.__doc__.split("Words that are joined")[0], flags=re.M)
    told = dict(zip(parts[1::2], parts[2::2]))
    assert list(told) == list(sources._KINDS)
    told["voc"] += told["masks"]  # "with the values below"
    for name, kind in sources._KINDS.items():
        assert all(value == "images" or f"{value}=" in told[name] for value in kind.takes), name


def test_unlabelled_kind_as_labels(tmp_path):
    write_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="unlabeled_data only"):
        open_source(f"folder:{tmp_path}")
