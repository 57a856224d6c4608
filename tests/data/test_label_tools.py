"""Files of labelling tools, written as the tools document them: what every kind of shape is, and which image
it is of.
"""

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from official.data.formats.label_studio import decode_brush
from official.data.image_places import local_names
from official.data.input_report import DataError
from official.data.sources import ReadOptions, open_source

WIDTH, HEIGHT = 40, 20


def write_image(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(word, **options):
    return open_source(word, ReadOptions(**{"max_skipped_fraction": 0.99, **options}))


def objects(source, i=0):
    """(class, box as rounded yxyx) of every object, sorted."""
    found = source.annotations.of(i)
    names = [source.categories[c].name for c in found["classes"]]
    return sorted((name, np.round(box, 3).tolist()) for name, box in zip(names, found["boxes"].astype(float)))


def mask_of(source, i=0):
    return source.read_mask(i).numpy()


# --- LabelMe ------------------------------------------------------------------------------------------


def labelme(path, *shapes, image="1.png", **more):
    shapes = [
        {"label": "cat", "group_id": None, "flags": {}, "shape_type": "rectangle", **shape}
        for shape in shapes
    ]
    content = {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
    return write(path, {**content, "imageHeight": HEIGHT, "imageWidth": WIDTH, **more})


def test_labelme_shapes(tmp_path):
    write_image(tmp_path / "1.png")
    png = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 1], [0, 0, 1]], bool)).save(png, "PNG")
    labelme(
        tmp_path / "1.json",
        {"points": [[30, 14], [10, 6]]},
        {"label": "dog", "shape_type": "polygon", "points": [[2, 3], [8, 3], [5, 9.5]]},
        {"label": "dog", "shape_type": "circle", "points": [[20, 10], [23, 14]]},
        {"shape_type": "mask", "points": [[4, 5], [6, 6]], "mask": base64.b64encode(png.getvalue()).decode()},
        {"shape_type": "line", "points": [[1, 1], [5, 5]]},
        {"label": "__ignore__", "points": [[1, 1], [5, 5]]},
        {"points": [[1, 1]]},
        {"points": [[1, "x"], [2, 2]]},
        {"label": None, "points": [[1, 1], [5, 5]]},
        {"shape_type": "mask", "points": [[4, 5], [6, 6]], "mask": "AAAA"},
        {"points": [["1", 1], [5, 5]], "flags": {"difficult": True}},
    )
    source = read(f"labelme:{tmp_path}")
    assert objects(source) == [
        ("cat", [1, 1, 5, 5]), ("cat", [5, 5, 7, 7]), ("cat", [6, 10, 14, 30]), ("dog", [3, 2, 9.5, 8]), ("dog", [5, 15, 15, 25]),
    ]  # fmt: skip
    assert (
        source.annotations.crowd.sum() == 1
        and source.report.lost_objects == 5
        and source.report.objects == 10
    )
    assert source.ids.tolist() == ["1"] and [(c.id, c.name) for c in source.categories] == [
        (1, "cat"),
        (2, "dog"),
    ]
    assert (
        source.report.counts["shape without an area"] == 1
        and source.report.counts["shape that is marked as no class: left out"] == 1
    )


def test_labelme_groups_are_one_object_and_masks_are_rendered(tmp_path):
    write_image(tmp_path / "1.png")
    part = {"shape_type": "polygon", "group_id": 3}
    labelme(
        tmp_path / "1.json",
        {**part, "points": [[0, 0], [5, 0], [5, 5], [0, 5]]},
        {**part, "points": [[10, 0], [15, 0], [15, 5], [10, 5]]},
        {**part, "label": "dog", "points": [[20, 0], [25, 0], [25, 5], [20, 5]]},
    )
    assert objects(read(f"labelme:{tmp_path}")) == [("cat", [0, 0, 5, 15]), ("dog", [0, 20, 5, 25])]
    mask = mask_of(read(f"labelme:{tmp_path}", label_kind="masks"))
    assert (
        (mask[:5, :5] == 1).all()
        and (mask[:5, 10:15] == 1).all()
        and (mask[:5, 20:25] == 2).all()
        and (mask > 0).sum() == 75
    )


def test_labelme_images_by_their_paths_and_others_are_not_taken_for_empty(tmp_path):
    for folder in ("a", "b"):
        write_image(tmp_path / "images" / folder / "1.png")
        labelme(
            tmp_path / "json" / folder / "1.json",
            {"points": [[1, 1], [5, 5]]},
            image=f"..\\..\\images\\{folder}\\1.png",
        )
    write_image(tmp_path / "images" / "c" / "2.png")
    source = read(f"labelme:{tmp_path}/json,{tmp_path}/images")
    assert source.ids.tolist() == ["a/1", "b/1"] and [name[-7:] for name in source.file_names] == [
        "a/1.png",
        "b/1.png",
    ]
    assert source.report.counts == {"image without a JSON: nobody says that it is empty, left out": 1}


def test_labelme_jsons_that_cannot_be_used_are_counted(tmp_path):
    write_image(tmp_path / "1.png")
    labelme(tmp_path / "1.json")
    labelme(tmp_path / "2.json", image="2.png", imageData="abc")
    labelme(tmp_path / "3.json", image="3.png")
    labelme(tmp_path / "4.json", image="1.png", imageHeight=99)
    write(tmp_path / "5.json", "{")
    write(tmp_path / "6.json", {"a": 1})
    source = read(f"labelme:{tmp_path}")
    assert source.ids.tolist() == ["1"] and len(source.annotations.boxes) == 0
    assert sorted(source.report.counts.items()) == [
        ("JSON cannot be read", 1), ("another size is stated than the image has", 1), ("image is absent", 1),
        ("image is only inside the JSON; `labelme_export_json` writes it out", 1), (("not a JSON of " "LabelMe"), 1),
    ]  # fmt: skip


# --- CVAT ---------------------------------------------------------------------------------------------

CVAT_LABELS = "<meta><task><labels><label><name>dog</name></label><label><name>cat</name></label></labels></task></meta>"


def cvat(tmp_path, inside, meta=CVAT_LABELS, name="sub/1.png"):
    write_image(tmp_path / "images" / "sub" / "1.png")
    image = f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}">{inside}</image>'
    path = write(
        tmp_path / "annotations.xml",
        f'<?xml version="1.0" encoding="utf-8"?><annotations>{meta}{image}</annotations>',
    )
    return f"cvat:{path}"


def test_cvat_shapes(tmp_path):
    word = cvat(
        tmp_path,
        '<box label="cat" xtl="10.0" ytl="6.0" xbr="30.0" ybr="14.0" occluded="0"/>'
        # about (15, 10): 13..17 by 5..15
        '<box label="cat" xtl="10" ytl="8" xbr="20" ybr="12" rotation="90.0"/>'
        '<polygon label="dog" points="2.00,3.00;8.00,3.00;5.00,9.50"/>'
        '<ellipse label="dog" cx="20" cy="10" rx="5" ry="3"/>'
        '<mask label="cat" rle="1, 2, 2, 1" left="4" top="5" width="3" height="2"/>'
        '<polyline label="cat" points="1,1;2,2"/><tag label="cat"/>'
        '<box label="bird" xtl="1" ytl="1" xbr="3" ybr="3"/>'
        '<box label="cat" xtl="1" ytl="1" xbr="x" ybr="3"/>'
        '<polygon label="dog" points="2,3;8,3;5"/>'
        '<mask label="cat" rle="1, 2" left="4" top="5" width="3" height="2"/>'
        '<mask label="cat" rle="1" left="4" top="5" width="1e300" height="2"/>'
        '<box label="cat" xtl="1" ytl="1" xbr="3" ybr="3"><attribute name="is_crowd">true</attribute></box>',
    )
    source = read(word)
    assert objects(source) == [
        ("cat", [1, 1, 3, 3]), ("cat", [5, 5, 7, 7]), ("cat", [5, 13, 15, 17]), ("cat", [6, 10, 14, 30]), ("dog", [3, 2, 9.5, 8]),
        ("dog", [7, 15, 13, 25]),
    ]  # fmt: skip
    assert [c.name for c in source.categories] == ["dog", "cat"] and source.ids.tolist() == ["sub/1.png"]
    assert (
        source.report.lost_objects == 6
        and source.report.objects == 12
        and source.annotations.crowd.sum() == 1
    )
    assert source.report.counts["turned rectangle: the box around it is taken"] == 1


def test_cvat_tracks_beside_images_are_counted(tmp_path):
    """One box of two is outside its frame: it is no object."""
    boxes = "".join(f'<box frame="{i}" xtl="1" ytl="1" xbr="3" ybr="3" outside="{i}"/>' for i in range(2))
    track = f'<track id="0" label="cat">{boxes}</track>'
    word = cvat(tmp_path, '<box label="cat" xtl="10" ytl="6" xbr="30" ybr="14"/>', CVAT_LABELS + track)
    source = read(word)
    assert (
        objects(source) == [("cat", [6, 10, 14, 30])]
        and source.report.lost_objects == 1
        and source.report.objects == 2
    )
    assert any("video's track" in reason for reason in source.report.counts)
    assert not read(word, max_skipped_fraction=0.5).report.skipped_images
    with pytest.raises(DataError, match="video's track"):
        read(word, max_skipped_fraction=0.4)


def test_a_negative_radius_is_no_ellipse(tmp_path):
    shapes = (
        '<ellipse label="dog" cx="20" cy="10" rx="-5" ry="3"/><ellipse label="dog" cx="20" cy="10" '
        'rx="5" ry="-3"/>'
    )
    source = read(cvat(tmp_path / "cvat", shapes + '<ellipse label="dog" cx="20" cy="10" rx="5" ry="3"/>'))
    assert objects(source) == [("dog", [7, 15, 13, 25])] and source.report.lost_objects == 2
    regions = [region({"name": "circle", "cx": 20, "cy": 10, "r": radius}) for radius in (-5, 5)]
    source = read(via(tmp_path / "via", regions))
    assert objects(source) == [("cat", [5, 15, 15, 25])] and source.report.lost_objects == 1


def test_cvat_groups_masks_and_labels_that_are_not_listed(tmp_path):
    square = '<polygon label="cat" group_id="{}" points="{},0;{},0;{},5;{},5"/>'
    word = cvat(
        tmp_path,
        square.format(1, 0, 5, 5, 0) + square.format(1, 10, 15, 15, 10) + square.format(0, 20, 25, 25, 20) + square.format(0, 30, 32, 32, 30)
        + '<mask label="ant" rle="0, 6" left="30" top="5" width="3" height="2"/>',
        meta="",
    )  # fmt: skip
    source = read(word)
    assert objects(source) == [
        ("ant", [5, 30, 7, 33]),
        ("cat", [0, 0, 5, 15]),
        ("cat", [0, 20, 5, 25]),
        ("cat", [0, 30, 5, 32]),
    ]
    mask = mask_of(read(word, label_kind="masks"))
    assert (mask[5:7, 30:33] == 1).all() and (mask == 1).sum() == 6 and (mask == 2).sum() == 85


def test_cvat_files_that_are_not_images_say_so(tmp_path):
    write_image(tmp_path / "1.png")
    video = write(
        tmp_path / "v.xml", '<annotations><track id="0" label="cat"><box frame="0"/></track></annotations>'
    )
    with pytest.raises(DataError, match="tracks of a video; export it as `CVAT for images 1.1`"):
        read(f"cvat:{video}")
    with pytest.raises(DataError, match="is not XML"):
        read(f"cvat:{write(tmp_path / 'x.xml', '<a>')}")
    voc = write(tmp_path / "voc.xml", "<annotation/>")
    with pytest.raises(DataError, match="looks like Pascal VOC's XML: voc:FOLDER"):
        read(f"cvat:{voc}")
    with pytest.raises(
        DataError, match="cvat:.*its images are not beside it; say where with cvat:.*,IMAGE_FOLDER"
    ):
        read(cvat(tmp_path, "", name="gone.png"))


# --- VIA ----------------------------------------------------------------------------------------------


def via(tmp_path, regions, project=True, name="1.png"):
    write_image(tmp_path / "1.png")
    content = {f"{name}-1": {"filename": name, "size": -1, "regions": regions, "file_attributes": {}}}
    return f"via:{write(tmp_path / 'via.json', {'_via_settings': {}, '_via_img_metadata': content} if project else content)}"


def region(shape, label="cat", attribute="class"):
    return {"shape_attributes": shape, "region_attributes": {attribute: label} if attribute else {}}


RECT = {"name": "rect", "x": 10, "y": 6, "width": 20, "height": 8}


@pytest.mark.parametrize("project", [True, False])
def test_via_shapes(tmp_path, project):
    turned = {"name": "ellipse", "cx": 20, "cy": 10, "rx": 5, "ry": 3, "theta": math.pi / 2}
    regions = [
        region(RECT),
        region({"name": "polygon", "all_points_x": [2, 8, 5], "all_points_y": [3, 3, 9.5]}, "dog"),
        region({"name": "circle", "cx": 20, "cy": 10, "r": 5}, {"dog": True, "cat": False}),
        region(turned, "dog"),
        region({"name": "point", "cx": 1, "cy": 1}),
        region({"name": "polygon", "all_points_x": [2, 8, 5], "all_points_y": [3, 3]}),
        region(RECT, {"dog": True, "cat": True}),
        {"shape_attributes": RECT},
        None,
    ]
    source = read(via(tmp_path, regions, project))
    assert objects(source) == [
        ("cat", [6, 10, 14, 30]), ("dog", [3, 2, 9.5, 8]), ("dog", [5, 15, 15, 25]), ("dog", [5, 17, 15, 23]),
    ]  # fmt: skip
    assert source.report.lost_objects == 5 and source.report.objects == 9 and source.ids.tolist() == ["1.png"]


def test_via_regions_of_version_1_are_a_dict(tmp_path):
    assert objects(read(via(tmp_path, {"0": region(RECT)}))) == [("cat", [6, 10, 14, 30])]


def test_which_attribute_of_via_is_the_class(tmp_path):
    two = [{"shape_attributes": RECT, "region_attributes": {"colour": "red", "size": "big"}}]
    with pytest.raises(DataError, match="'colour', 'size'.*,attribute=NAME"):
        read(via(tmp_path, two))
    assert objects(read(via(tmp_path, two) + ",attribute=size"))[0][0] == "big"
    with pytest.raises(DataError, match="no region has an attribute 'weight'"):
        read(via(tmp_path, two) + ",attribute=weight")
    two[0]["region_attributes"]["Label"] = "cat"
    assert objects(read(via(tmp_path, two)))[0][0] == "cat"
    source = read(via(tmp_path, [region(RECT, attribute=None)]))
    assert objects(source)[0][0] == "object" and len(source.report.counts) == 1


# --- Label Studio -------------------------------------------------------------------------------------


def result(value, kind="rectanglelabels", labels=("cat",), **more):
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {
        **size,
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "value": {**value, kind: list(labels)},
        **more,
    }


PERCENT = {"x": 25.0, "y": 30.0, "width": 50.0, "height": 40.0, "rotation": 0}


def studio(tmp_path, *results, image="/data/upload/1/0a1b2c3d-my%20photo.png", **task):
    write_image(tmp_path / "images" / "my photo.png")
    annotation = {"id": 7, "was_cancelled": False, "result": list(results)}
    content = {"id": 5, "data": {"image": image}, "annotations": [annotation], "predictions": [], **task}
    return f"labelstudio:{write(tmp_path / 'export.json', [content])}"


def test_label_studio_shapes(tmp_path):
    word = studio(
        tmp_path,
        result(PERCENT),
        result({"points": [[5, 15], [20, 15], [12.5, 47.5]], "closed": True}, "polygonlabels", ["dog"]),
        result({"x": 50, "y": 50, "radiusX": 12.5, "radiusY": 15, "rotation": 0}, "ellipselabels", ["dog"]),
        # A quarter turn clockwise about the top left corner (20, 10): 10 wide and 4 high becomes 4 wide and
        # 10 high, to the left.
        result({"x": 50, "y": 50, "width": 25, "height": 20, "rotation": 90}),
        result({"x": 5, "y": 5, "width": 1}, "keypointlabels"),  # the width of its dot
        result(PERCENT, labels=["cat", "dog"]),
        result({**PERCENT, "x": "no"}),
        {"type": "choices", "value": {"choices": ["indoor"]}},
        {"type": "relation"},
    )
    source = read(word)
    assert objects(source) == [
        ("cat", [6, 10, 14, 30]), ("cat", [10, 16, 20, 20]), ("dog", [3, 2, 9.5, 8]), ("dog", [7, 15, 13, 25]),
    ]  # fmt: skip
    assert source.ids.tolist() == ["5"] and source.report.lost_objects == 3 and source.report.objects == 7
    assert source.report.counts["turned rectangle: the box around it is taken"] == 1


def test_label_studio_labels_in_a_second_result_and_json_min(tmp_path):
    shape = {
        "id": "a",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "type": "rectangle",
        "value": PERCENT,
    }
    both = [shape, {**shape, "type": "labels", "value": {**PERCENT, "labels": ["dog"]}}]
    assert objects(read(studio(tmp_path, *both))) == [("dog", [6, 10, 14, 30])]
    region = {**PERCENT, "rectanglelabels": ["cat"], "original_width": WIDTH, "original_height": HEIGHT}
    task = {"image": "/data/upload/1/0a1b2c3d-my%20photo.png", "id": 5, "label": [region], "annotator": 1}
    path = write(tmp_path / "min.json", [task])
    assert objects(read(f"labelstudio:{path}")) == [("cat", [6, 10, 14, 30])]


def test_which_annotation_of_label_studio_counts(tmp_path):
    def annotation(number, label, **more):
        return {
            "id": number,
            "created_at": f"2024-01-0{number}",
            "result": [result(PERCENT, labels=[label])],
            **more,
        }

    several = [annotation(1, "old"), annotation(3, "gone", was_cancelled=True), annotation(2, "new")]
    source = read(studio(tmp_path, annotations=several))
    assert objects(source)[0][0] == "new" and len(source.report.counts) == 1
    several.append(annotation(0, "truth", ground_truth=True))
    assert objects(read(studio(tmp_path, annotations=several)))[0][0] == "truth"
    word = studio(
        tmp_path, annotations=[], predictions=[{"result": [result(PERCENT, score=0.25)], "score": 0.25}]
    )
    with pytest.raises(DataError, match="holds no image"):
        read(word)
    predicted = read(word + ",which=predictions")
    assert objects(predicted) == [("cat", [6, 10, 14, 30])] and predicted.annotations.scores.tolist() == [
        0.25
    ]
    with pytest.raises(DataError, match="which=all is neither"):
        read(word + ",which=all")


def packed(values, sizes=(3, 4, 8, 16)):
    """@thi.ng/rle-pack by hand: the longest runs of equal values, one by one where they differ."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    place = 0
    while place < len(values):
        end = place + 1
        while end < len(values) and values[end] == values[place] and end - place < 256:
            end += 1
        which = next(i for i, size in enumerate(sizes) if end - place <= 2**size)
        bits += f"{int(end - place > 1)}{which:02b}{end - place - 1:0{sizes[which]}b}{values[place]:08b}"
        place = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_label_studio_brush_strokes(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:7, 4:9] = 255
    mask[6, 4] = 0
    colours = np.stack([mask] * 4, axis=-1).ravel().tolist()
    word = studio(tmp_path, result({"format": "rle", "rle": packed(colours)}, "brushlabels"))
    assert objects(read(word)) == [("cat", [5, 4, 7, 9])]
    np.testing.assert_array_equal(mask_of(read(word, label_kind="masks")), mask // 255)
    for broken in ([], [0] * 40, [1, 2, 300], packed(colours)[:40], packed(colours + [0])):
        source = read(
            studio(tmp_path, result(PERCENT), result({"format": "rle", "rle": broken}, "brushlabels"))
        )
        assert source.report.counts == {"brush stroke that cannot be read": 1}


def test_brush_strokes_of_different_values():
    np.testing.assert_array_equal(
        decode_brush(np.array(packed([1, 2, 2, 2, 250]), np.uint8), 5), [1, 2, 2, 2, 250]
    )
    run_of_three = (
        f"{3:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "00" + "010" + f"{7:08b}{8:08b}{9:08b}"
    )
    data = [int(run_of_three[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(run_of_three), 8)]
    np.testing.assert_array_equal(decode_brush(np.array(data, np.uint8), 3), [7, 8, 9])


def test_label_studio_images_of_another_size_or_turned_are_counted(tmp_path):
    turned = read(studio(tmp_path, result(PERCENT), result(PERCENT, image_rotation=90)))
    assert turned.report.counts == {"region of an image that was turned in Label Studio": 1}
    with pytest.raises(DataError, match="another size is stated"):
        read(studio(tmp_path, result(PERCENT, original_width=37)))


# --- names of files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, local",
    [
        ("/data/upload/1/0a1b2c3d-a.png", ["data/upload/1/0a1b2c3d-a.png", "0a1b2c3d-a.png", "a.png"]),
        (
            "/data/upload/my%20a.png",
            ["data/upload/my%20a.png", "data/upload/my a.png", "my%20a.png", "my a.png"],
        ),
        ("/data/local-files/?d=set%2Fsub/a.png", ["set/sub/a.png", "a.png"]),
        ("https://host.org/x/a.png?token=1/2", ["x/a.png", "a.png"]),
        ("s3://bucket/x/a.png", ["x/a.png", "a.png"]),
        ("images\\train\\a.png", ["images/train/a.png", "a.png"]),
        ("..\\a.png", ["a.png"]),
        ("../../etc/a.png", ["a.png"]),
        ("a?b.png", ["a?b.png"]),
        ("..", []),
    ],
)
def test_names_of_other_machines(name, local):
    assert local_names(name) == local


def coco(tmp_path, names, categories=({"id": 1, "name": "cat"},), category=1):
    images = [
        {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names, 1)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": category, "bbox": [10, 6, 20, 8]}
        for i in range(1, len(names) + 1)
    ]
    content = {"images": images, "annotations": boxes, "categories": list(categories)}
    return f"coco:{write(tmp_path / 'result.json', content)}"


@pytest.mark.parametrize("folder", ["images", ""])
@pytest.mark.parametrize(
    "name",
    [
        "/data/upload/1/0a1b2c3d-a.png",
        "https://host/0a1b2c3d-a.png",
        "images\\0a1b2c3d-a.png",
        "/data/local-files/?d=b/a.png",
    ],
)
def test_label_studios_coco_by_bare_names(tmp_path, name, folder):
    write_image(tmp_path / "images" / ("a.png" if "local" in name else "0a1b2c3d-a.png"))
    word = coco(tmp_path, [name]) + (f",{tmp_path / folder}" if folder else "")
    assert objects(read(word)) == [("cat", [6, 10, 14, 30])]


def test_a_file_of_a_labelling_server_that_is_not_there_is_counted_and_nothing_outside_is_read(tmp_path):
    write_image(tmp_path / "images" / "1.png")
    write_image(tmp_path / "secret.png")
    source = read(
        coco(tmp_path, ["1.png", "/data/upload/2.png", "../secret.png", str(tmp_path / "secret.png")])
        + f",{tmp_path}/images"
    )
    assert (
        source.report.counts["file is absent"] == 1 and len(source) == 1 and source.report.skipped_images == 3
    )


def test_roboflows_category_0_is_no_class(tmp_path):
    write_image(tmp_path / "images" / "1.png")
    dummy = {"id": 0, "name": "cats", "supercategory": "none"}
    cat, dog = ({"id": i, "name": n, "supercategory": "cats"} for i, n in ((1, "cat"), (2, "dog")))
    source = read(coco(tmp_path, ["1.png"], [dummy, cat, dog]))
    assert [(c.id, c.name) for c in source.categories] == [(1, "cat"), (2, "dog")] and len(
        source.report.counts
    ) == 2
    source = read(coco(tmp_path, ["1.png"], [{**dummy, "name": "cat"}, cat]))
    assert [(c.id, c.name) for c in source.categories] == [(1, "cat")] and objects(source)[0][0] == "cat"
    used = read(coco(tmp_path, ["1.png"], [dummy, cat], category=0))
    assert [c.id for c in used.categories] == [0, 1]
    alone = read(coco(tmp_path, ["1.png"], [dummy, {"id": 1, "name": "cat", "supercategory": "animal"}]))
    assert [c.id for c in alone.categories] == [0, 1]
    with pytest.raises(DataError, match="'cat' occurs more than once"):
        read(coco(tmp_path, ["1.png"], [{**dummy, "name": "cat"}, cat], category=0))


# --- what is not read ---------------------------------------------------------------------------------

UNREAD = {
    "createml.json": ([{"image": "1.png", "annotations": [{"label": "cat", "coordinates": {}}]}], "CreateML"),
    "labelbox.ndjson": (
        '{"data_row": {"id": 1}, "projects": {}}\n{"data_row": {"id": 2}, "projects": {}}\n',
        "labelformat convert",
    ),
    "labelbox.json": ([{"Labeled Data": "x", "Label": {}}], "labelformat convert"),
    "supervisely.json": ({"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely"),
    "open_images.csv": ("ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n", "tfds:open_images_v4"),
    "boxes.csv": ("filename,width,height,class,xmin,ymin,xmax,ymax\n", "a CSV of boxes"),
    "obj.data": ("classes = 2\ntrain = train.txt\nnames = obj.names\nbackup = b\n", "write a data.yaml"),
    "1.tfrecord": ("x", "tfrecord:GLOB"),
    "kitti.txt": ("Car 0 0 0 1 1 2 2 1 1 1 0 0 0 0\n", "KITTI"),
    "datumaro.json": ({"infos": {}, "categories": {}, "items": []}, "datum convert -if datumaro"),
    "vott.json": ({"asset": {}, "regions": []}, "VoTT"),
    "results.json": ([{"image_id": 1, "category_id": 1, "bbox": [], "score": 1}], "--detections=FILE.json"),
    "bdd.json": ([{"name": "a", "labels": []}], "bdd100k.label.to_coco"),
    "manifest.json": ('{"source-ref": "s3://a"}\n{"source-ref": "s3://b"}', "SageMaker"),
    "via3.json": ({"project": {}, "metadata": {}, "view": {}}, "VIA 3"),
    "labelme.json": ({"shapes": [], "imagePath": "a"}, "labelme:FOLDER"),
    "via.json": ({"a-1": {"filename": "a", "regions": []}}, "via:FILE.json"),
    "studio.json": ([{"id": 1, "data": {"image": "a"}, "annotations": []}], "labelstudio:FILE.json"),
    "city.json": ({"imgHeight": 1, "imgWidth": 1, "objects": []}, "masks:IMAGES,MASKS"),
}


@pytest.mark.parametrize("name", sorted(UNREAD))
def test_other_formats_are_recognised_and_say_what_to_do(tmp_path, name):
    content, advice = UNREAD[name]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        read(f"coco:{path}")
    assert advice in str(caught.value)
    with pytest.raises(DataError) as caught:
        read(str(path))  # no kind at all
    assert advice in str(caught.value)


def test_folders_and_names_of_other_formats_are_recognised(tmp_path):
    write(tmp_path / "darknet" / "obj.data", "")
    write(tmp_path / "super" / "meta.json", "{}")
    (tmp_path / "super" / "set" / "ann").mkdir(parents=True)
    write(tmp_path / "records" / "1.tfrecord", "")
    for folder, kind, advice in (
        ("darknet", "yolo", "Darknet"),
        ("super", "labelme", "app `Export to COCO`"),
        ("records", "voc", "tfrecord:GLOB"),
    ):
        with pytest.raises(DataError) as caught:
            read(f"{kind}:{tmp_path}/{folder}")
        assert advice in str(caught.value)
    write(
        tmp_path / "roboflow" / "_annotations.coco.json", {"images": [], "annotations": [], "categories": []}
    )
    with pytest.raises(
        DataError, match="no COCO file .*roboflow. It looks like a COCO JSON: coco:FILE.json,IMAGE_FOLDER"
    ):
        read(f"coco:{tmp_path}/roboflow")
    with pytest.raises(DataError, match="unknown kind 'open-images'.*tfds:open_images_v4"):
        read("open-images:somewhere")
    with pytest.raises(DataError, match=r"unknown kind 'x'; choose one of .*\(KIND:PLACE\)$"):
        read("x:somewhere")
