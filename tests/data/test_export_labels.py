"""Labels written for other tools: read by the formats' own rules, and read back by us, equal."""

import dataclasses
import json
import os
import signal
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tensorflow as tf
import yaml
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from official.data.formats import export
from official.data.formats.contours import regions
from official.data.formats.export import CUT, FORMATS, NO_PLACE, SAYS_NOTHING, UNREADABLE_NAME, export_labels
from official.data.input_report import DataError
from official.data.scenes_source import open_scenes
from official.data.source import Category
from official.data.sources import ReadOptions, open_source
from official.jobs.exporting import export_labels_job
from tests import tiny

WORDS = {
    "coco": "coco:{}/annotations.json", "yolo": "yolo:{}/data.yaml", "voc": "voc:{}", "cvat": "cvat:{}/annotations.xml",
    "labelme": "labelme:{}", "labelstudio": "labelstudio:{}/tasks.json",
}  # fmt: skip
IMAGES = {"voc": "JPEGImages", "labelme": ""}
SIZES = {"a/1.jpg": (40, 30), "a/1.png": (33, 27), "b/Ä 2.png": (20, 50)}  # width, height
BOXES = {  # x, y, width, height
    "a/1.jpg": [(3, [10.1, 6.3, 20.7, 8.9]), (11, [0, 0, 40, 30])],
    "a/1.png": [],
    "b/Ä 2.png": [(7, [1.25, 2.5, 3.3, 7])],
}
NAMES = {7: "cat & <dog>", 3: "zebra", 11: 'été: "x"'}


@pytest.fixture(scope="module")
def human(tmp_path_factory):
    """Three images in two folders, one without an object; category ids with gaps."""
    folder = tmp_path_factory.mktemp("human")
    images, annotations = [], []
    for i, (name, size) in enumerate(SIZES.items(), 1):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (40 * i, 9, 9)).save(folder / "images" / name)
        images.append({"id": 10 * i, "file_name": name, "width": size[0], "height": size[1]})
        for label, box in BOXES[name]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 * i,
                    "category_id": label,
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in NAMES.items()]
    (folder / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return open_source(f"coco:{folder}/a.json,{folder}/images")


def read_back(kind, folder, **options):
    return open_source(WORDS[kind].format(folder), ReadOptions(**options))


def table(source):
    """{pixels' sum: [(class name, box, crowd)]}: ids and names of files differ from format to format."""
    found = {}
    for i in range(len(source)):
        objects = source.annotations.of(i)
        names = [source.categories[c].name for c in objects["classes"]]
        found[int(source.read_image(tf.constant(i, tf.int64)).numpy().astype(int).sum())] = sorted(
            (name, box, crowd)
            for name, box, crowd in zip(names, objects["boxes"].tolist(), objects["crowd"].tolist())
        )
    return found


@pytest.fixture(scope="module")
def written(human, tmp_path_factory):
    """{format: (its folder, what was changed)}."""
    root = tmp_path_factory.mktemp("out")
    return {
        kind: (f"{root}/{kind}", export_labels(human, kind, f"{root}/{kind}", scored=False)) for kind in WORDS
    }


@pytest.mark.parametrize("kind", list(WORDS))
def test_it_comes_back_equal_through_our_reader(written, human, kind):
    folder, report = written[kind]
    back = read_back(kind, folder)
    assert report.counts == ({UNREADABLE_NAME: 1} if kind == "voc" else {})  # the name with a colon
    assert len(back) == 3 and back.report.skipped_images == back.report.lost_objects == 0
    expected, found = table(human), table(back)
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        assert [r[0] for r in found[key]] == [r[0] for r in rows]
        for (_, box, _), (_, other, _) in zip(rows, found[key]):
            np.testing.assert_allclose(other, box, atol=1e-5 if kind in ("yolo", "voc") else 0)
    in_file = {"coco": [3, 7, 11], "yolo": [1, 2, 3], "cvat": [1, 2, 3]}
    if kind in in_file:
        assert [c.id for c in back.categories] == in_file[kind] and [c.name for c in back.categories] == [
            NAMES[i] for i in (3, 7, 11)
        ]


@pytest.mark.parametrize("kind", list(WORDS))
def test_images_are_copied_byte_for_byte_and_no_two_labels_have_one_name(written, human, kind):
    folder, _ = written[kind]
    root = os.path.join(folder, IMAGES.get(kind, "images"))
    names = [os.path.relpath(os.path.join(p, f), root) for p, _, files in os.walk(root) for f in files]
    images = sorted(n for n in names if n.endswith((".jpg", ".png")))
    assert images == ["a/1.jpg.jpg", "a/1.png.png", "b/Ä 2.png"]  # a/1.txt would be of both
    contents = {open(os.path.join(root, n), "rb").read() for n in images}
    assert contents == {open(n, "rb").read() for n in human.file_names}
    text = b"".join(
        open(os.path.join(p, f), "rb").read()
        for p, _, fs in os.walk(folder)
        for f in fs
        if not f.endswith(("jpg", "png"))
    )
    assert folder.encode() not in text and os.path.dirname(str(human.file_names[0])).encode() not in text


# --- by the formats' own rules ------------------------------------------------------------------------


def test_coco_by_pycocotools(written, human, capsys):
    folder, _ = written["coco"]
    coco = COCO(f"{folder}/annotations.json")
    assert sorted(coco.getCatIds()) == [3, 7, 11] and sorted(coco.getImgIds()) == [10, 20, 30]
    by_box = {tuple(np.round(a["bbox"], 3)): a for a in coco.loadAnns(coco.getAnnIds())}
    for image_id, name in zip((10, 20, 30), SIZES):
        image = coco.loadImgs(image_id)[0]
        assert (
            Image.open(f"{folder}/images/{image['file_name']}").size
            == (image["width"], image["height"])
            == SIZES[name]
        )
        for label, (x, y, width, height) in BOXES[name]:
            found = by_box[x, y, width, height]
            assert (
                found["category_id"] == label
                and found["image_id"] == image_id
                and found["iscrowd"] == 0
                and "score" not in found
            )
            assert abs(found["area"] - width * height) < 1e-3
            mask = coco.annToMask(found)  # the box's corners
            assert abs(int(mask.sum()) - width * height) < 2 * (width + height)


def test_yolo_by_ultralytics_rules(written):
    """`img2label_paths`, `verify_image_label` and `check_det_dataset` as published."""
    folder, _ = written["yolo"]
    content = yaml.safe_load(open(f"{folder}/data.yaml", encoding="utf-8"))
    assert content["names"] == {i: NAMES[k] for i, k in enumerate((3, 7, 11))} and content["nc"] == 3
    for split in ("train", "val"):
        assert os.path.isdir(os.path.join(folder, content[split]))
    index = {3: 0, 7: 1, 11: 2}
    for name, stem in zip(SIZES, ("a/1.jpg.jpg", "a/1.png.png", "b/Ä 2.png")):
        image = os.path.join(folder, content["train"], stem)
        label = "/labels/".join(image.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
        rows = np.array(
            [line.split() for line in open(label).read().strip().splitlines()], np.float32
        ).reshape(-1, 5)
        assert rows.min(initial=0) >= 0 and rows[:, 1:].max(initial=0) <= 1 and rows[:, 0].max(initial=0) < 3
        width, height = SIZES[name]
        expected = [
            [index[c], (x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            for c, (x, y, w, h) in BOXES[name]
        ]
        np.testing.assert_allclose(rows, np.reshape(expected, (-1, 5)), atol=1e-6)


def test_voc_by_its_own_rules(written):
    folder, _ = written["voc"]
    stems = open(f"{folder}/ImageSets/Main/default.txt", encoding="utf-8").read().split("\n")[:-1]
    assert stems == ["a/1.jpg", "a/1.png", "b/Ä 2"]
    for name, stem in zip(SIZES, stems):
        root = ElementTree.parse(f"{folder}/Annotations/{stem}.xml").getroot()
        assert os.path.basename(stem) == os.path.splitext(root.findtext("filename"))[0]
        assert (int(root.findtext("size/width")), int(root.findtext("size/height"))) == SIZES[name]
        found = []
        for item in root.findall("object"):
            corners = [float(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
            found.append((item.findtext("name"), corners, item.findtext("difficult")))
        expected = [(NAMES[c], [x + 1, y + 1, x + w, y + h], "0") for c, (x, y, w, h) in BOXES[name]]
        assert [f[0] for f in found] == [e[0] for e in expected] and [f[2] for f in found] == [
            e[2] for e in expected
        ]
        np.testing.assert_allclose(
            [f[1] for f in found], [e[1] for e in expected], atol=1e-5
        ) if expected else None
    assert "<xmin>1</xmin>" in open(f"{folder}/Annotations/a/1.jpg.xml").read()  # whole numbers have no point
    lines = open(f"{folder}/labelmap.txt", encoding="utf-8").read().splitlines()
    assert (
        lines[0].startswith("# label:color_rgb")
        and lines[1] == "zebra:0,0,0::"
        and lines[2] == "cat & <dog>:128,0,0::"
    )


def test_cvat_by_its_own_rules(written):
    root = ElementTree.parse(f"{written['cvat'][0]}/annotations.xml").getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.find("meta/task/labels")] == [
        NAMES[i] for i in (3, 7, 11)
    ]
    for number, (image, name) in enumerate(zip(root.findall("image"), SIZES)):
        assert (
            int(image.get("id")) == number
            and (int(image.get("width")), int(image.get("height"))) == SIZES[name]
        )
        found = [
            [b.get("label"), *(float(b.get(k)) for k in ("xtl", "ytl", "xbr", "ybr"))]
            for b in image.findall("box")
        ]
        for row, (label, (x, y, w, h)) in zip(found, BOXES[name], strict=True):
            assert row[0] == NAMES[label] and row[1:] == pytest.approx([x, y, x + w, y + h], abs=1e-5)


def test_labelme_by_its_own_rules(written):
    folder, _ = written["labelme"]
    for name, stem in zip(SIZES, ("a/1.jpg", "a/1.png", "b/Ä 2")):
        content = json.load(open(f"{folder}/{stem}.json", encoding="utf-8"))
        image = Image.open(os.path.join(os.path.dirname(f"{folder}/{stem}.json"), content["imagePath"]))
        assert (
            image.size == (content["imageWidth"], content["imageHeight"]) == SIZES[name]
            and content["imageData"] is None
        )
        assert {"version", "flags", "shapes"} <= set(content)
        for shape, (label, (x, y, w, h)) in zip(content["shapes"], BOXES[name], strict=True):
            assert (
                shape["label"] == NAMES[label]
                and shape["shape_type"] == "rectangle"
                and shape["group_id"] is None
            )
            np.testing.assert_allclose(shape["points"], [[x, y], [x + w, y + h]], atol=1e-5)


def test_label_studio_by_its_own_rules(written):
    folder, _ = written["labelstudio"]
    text = open(f"{folder}/label_config.xml", encoding="utf-8").read()
    assert text.startswith(
        "<View>"
    )  # lxml, where it is pasted into, refuses a text that declares its encoding
    config = ElementTree.fromstring(text)
    labels = config.find("RectangleLabels")
    assert [label.get("value") for label in labels] == [NAMES[i] for i in (3, 7, 11)]
    for task, name in zip(json.load(open(f"{folder}/tasks.json", encoding="utf-8")), SIZES):
        assert (
            task["data"]["image"].startswith("/data/local-files/?d=labelstudio/images/")
            and task["predictions"] == []
        )
        assert os.path.isfile(os.path.join(os.path.dirname(folder), task["data"]["image"].split("?d=")[1]))
        width, height = SIZES[name]
        for region, (label, (x, y, w, h)) in zip(task["annotations"][0]["result"], BOXES[name], strict=True):
            value = region["value"]
            assert region["from_name"] == labels.get("name") and region["to_name"] == labels.get(
                "toName"
            ) == config.find("Image").get("name")
            assert value["rectanglelabels"] == [NAMES[label]] and region["type"] == "rectanglelabels"
            percent = [100 * x / width, 100 * y / height, 100 * w / width, 100 * h / height]
            np.testing.assert_allclose([value[k] for k in ("x", "y", "width", "height")], percent, atol=1e-4)


# --- what a format has no place for -------------------------------------------------------------------


@pytest.fixture(scope="module")
def predicted(human):
    """The same with scores, a crowd, and a box that reaches outside."""
    boxes = human.annotations.boxes.copy()
    boxes[0] = [-3, -2, 10, 12.5]
    crowd = np.array([False, True, False])
    annotations = dataclasses.replace(
        human.annotations, boxes=boxes, crowd=crowd, scores=np.float32([0.25, 0.75, 0.5])
    )
    return human.with_annotations(annotations, human.categories)


@pytest.mark.parametrize("kind", list(WORDS))
def test_crowds_scores_and_boxes_that_reach_outside(predicted, tmp_path, kind):
    report = export_labels(predicted, kind, str(tmp_path / "out"), scored=True)
    back = (
        read_back(kind, tmp_path / "out")
        if kind != "labelstudio"
        else open_source(WORDS[kind].format(tmp_path / "out") + ",which=predictions")
    )
    form = FORMATS[kind]
    expected = {} if form.crowd else {NO_PLACE: 1}
    expected.update({} if form.outside else {CUT: 1}, **({UNREADABLE_NAME: 1} if kind == "voc" else {}))
    assert report.counts == expected
    assert back.annotations.crowd.sum() == int(form.crowd) and len(back.annotations.boxes) == 2 + form.crowd
    first = next(box for box in back.annotations.boxes.tolist() if box[3] == pytest.approx(12.5, abs=1e-4))
    np.testing.assert_allclose(first, [-3, -2, 10, 12.5] if form.outside else [0, 0, 10, 12.5], atol=1e-5)
    if kind == "coco":
        scores = sorted(
            a["score"] for a in json.load(open(tmp_path / "out" / "annotations.json"))["annotations"]
        )
        assert scores == [0.25, 0.5, 0.75]
    elif form.scores:
        assert sorted(back.annotations.scores.tolist()) == [0.25, 0.5]
    else:
        assert back.annotations.scores.tolist() == [1.0] * len(back.annotations.scores)


def test_a_models_labels_are_predictions_for_label_studio(predicted, tmp_path):
    export_labels(predicted, "labelstudio", str(tmp_path / "out"), scored=True)
    tasks = json.load(open(tmp_path / "out" / "tasks.json"))
    assert all(task["annotations"] == [] and len(task["predictions"]) == 1 for task in tasks)
    assert [task["predictions"][0].get("score") for task in tasks] == [0.25, None, 0.5]


def test_classes_of_images_are_refused(human, tmp_path):
    with pytest.raises(DataError, match="classes of images"):
        export_labels(
            human.with_classes([0, 0, 0], human.categories), "coco", str(tmp_path / "out"), scored=False
        )


# --- masks --------------------------------------------------------------------------------------------


def rendered(polygons, shape):
    canvas = np.zeros(shape, bool)
    for polygon in polygons:
        canvas |= mask_api.decode(mask_api.frPyObjects([polygon], *shape))[..., 0].astype(bool)
    return canvas


def test_regions_give_the_same_pixels_back_and_are_connected():
    rng = np.random.default_rng(0)
    for _trial in range(60):
        mask = rng.random(rng.integers(1, 12, 2)) < rng.random()
        found = list(regions(mask))
        parts = [rendered(polygons, mask.shape) for polygons in found]
        np.testing.assert_array_equal(np.sum(parts, axis=0) if parts else 0 * mask, mask)  # each pixel once
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    (polygons,) = regions(ring)
    assert len(polygons) == 2  # cut at the hole
    diagonal = np.eye(2, dtype=bool)
    assert list(regions(diagonal)) == [[[0, 0, 1, 0, 1, 1, 0, 1]], [[1, 1, 2, 1, 2, 2, 1, 2]]]


@pytest.fixture(scope="module")
def masks(human):
    """Two classes and a background: a ring with an island in it, and pixels that touch at corners."""
    maps = []
    for width, height in SIZES.values():
        canvas = np.zeros((height, width), np.uint8)
        canvas[3:15, 2:14] = 1
        canvas[5:12, 4:12] = 0
        canvas[7:9, 6:9] = 2
        canvas[16, 16] = canvas[17, 17] = 2
        maps.append(canvas)
    table = [tf.constant(m) for m in maps]
    categories = [Category(0, "background"), Category(1, "ring"), Category(2, "dot")]
    return human.with_masks(lambda index: table[int(index)], categories)


@pytest.mark.parametrize("kind", list(WORDS))
def test_masks_come_back_equal(masks, tmp_path, kind):
    report = export_labels(masks, kind, str(tmp_path / "out"), scored=False)
    back = read_back(kind, tmp_path / "out", label_kind="masks")
    names = [c.name for c in back.categories]
    assert not report.counts and sorted(names) == ["background", "dot", "ring"] and names[0] == "background"
    sizes = {tuple(m.shape): m for m in (masks.read_mask(i).numpy() for i in range(3))}
    lookup = np.array([0, names.index("ring"), names.index("dot")])
    for i in range(3):
        found = back.read_mask(tf.constant(i, tf.int64)).numpy()
        np.testing.assert_array_equal(found, lookup[sizes[found.shape]])


@pytest.mark.parametrize(
    "kind, parts", [("coco", 1), ("cvat", 1), ("labelme", 1), ("yolo", 2), ("labelstudio", 2)]
)
def test_a_region_with_a_hole_is_one_object_where_the_format_can_say_so(masks, tmp_path, kind, parts):
    export_labels(masks, kind, str(tmp_path / "out"), scored=False)
    back = read_back(kind, tmp_path / "out")
    rings = [
        box
        for box, c in zip(back.annotations.boxes.tolist(), back.annotations.classes)
        if back.categories[c].name == "ring"
    ]
    assert len(rings) == 3 * parts and (parts == 2 or rings == [[3, 2, 15, 14]] * 3)


def test_objects_of_masks_by_pycocotools(masks, tmp_path):
    export_labels(masks, "coco", str(tmp_path / "out"), scored=False)
    coco = COCO(str(tmp_path / "out" / "annotations.json"))
    first = coco.loadAnns(coco.getAnnIds(imgIds=[10]))
    assert sorted((a["category_id"], a["area"], *a["bbox"]) for a in first) == [
        (1, 88, 2, 3, 12, 12), (2, 1, 16, 16, 1, 1), (2, 1, 17, 17, 1, 1), (2, 6, 6, 7, 3, 2),
    ]  # fmt: skip
    ring = coco.annToMask(next(a for a in first if a["category_id"] == 1))
    np.testing.assert_array_equal(ring, (masks.read_mask(0).numpy() == 1).astype(np.uint8))


def test_pixels_that_say_nothing_are_said_or_kept(masks, tmp_path):
    def silent(index):
        return tf.tensor_scatter_nd_update(masks.read_mask(index), [[0, 0]], [255])

    source = masks.with_masks(silent, masks.categories)
    assert export_labels(source, "yolo", str(tmp_path / "yolo"), scored=True).counts == {SAYS_NOTHING: 3}
    assert not export_labels(source, "voc", str(tmp_path / "voc"), scored=True).counts
    back = read_back("voc", tmp_path / "voc", label_kind="masks")
    assert back.read_mask(tf.constant(0, tf.int64)).numpy()[0, 0] == 255
    with Image.open(tmp_path / "voc" / "SegmentationClass" / "a" / "1.jpg.png") as image:
        assert image.mode == "P" and image.convert("RGB").getpixel((0, 0)) == (224, 224, 192)
        assert image.convert("RGB").getpixel((3, 3)) == (128, 0, 0)


# --- whole or not there -------------------------------------------------------------------------------


def test_links_share_the_file_and_drawn_images_are_written_as_png(human, tmp_path, monkeypatch):
    export_labels(human, "coco", str(tmp_path / "linked"), scored=False, image_files="link")
    assert os.path.samefile(tmp_path / "linked" / "images" / "b" / "Ä 2.png", human.file_names[2])
    scenes = open_scenes("train", 2, size=32)
    monkeypatch.chdir(tmp_path)  # where a file of the same name and size is another image
    Image.new("RGB", (32, 32)).save(tmp_path / str(scenes.file_names[1]))
    export_labels(scenes, "yolo", str(tmp_path / "drawn"), scored=False)
    back = read_back("yolo", tmp_path / "drawn")
    np.testing.assert_array_equal(
        back.read_image(tf.constant(1, tf.int64)), scenes.read_image(tf.constant(1, tf.int64))
    )
    np.testing.assert_allclose(back.annotations.boxes, scenes.annotations.boxes, atol=1e-5)


def test_boxes_are_of_the_image_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "1.jpg", exif=exif)  # shown 20 wide and 40 high
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 20}], "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 4], "area": 40}],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    source = open_source(f"coco:{tmp_path}/a.json")
    for kind in WORDS:
        export_labels(source, kind, str(tmp_path / kind), scored=False)
        back = read_back(kind, tmp_path / kind)
        np.testing.assert_allclose(back.annotations.boxes, [[0, 16, 10, 20]], atol=1e-5)
        np.testing.assert_array_equal(back.sizes, [[40, 20]])


def test_what_exists_is_not_overwritten_and_an_error_leaves_nothing(human, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(DataError, match="exists; name a new folder"):
        export_labels(human, "coco", str(tmp_path / "full"), scored=False)
    (tmp_path / "empty").mkdir()
    export_labels(human, "coco", str(tmp_path / "empty"), scored=False)
    monkeypatch.setattr(export, "write_image", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_labels(human, "coco", str(tmp_path / "new"), scored=False)
    assert sorted(os.listdir(tmp_path)) == ["empty", "full"]


def test_kill_9_leaves_nothing_half(human, tmp_path, monkeypatch):
    def killed(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(export, "_out_images", killed)  # after the images, before the labels
    child = os.fork()
    if not child:
        try:
            export_labels(human, "yolo", str(tmp_path / "out"), scored=False)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["out.unfinished"] and os.listdir(
        tmp_path / "out.unfinished" / "out" / "images"
    )
    with pytest.raises(DataError, match="out.unfinished is of an export that was stopped"):
        export_labels(human, "yolo", str(tmp_path / "out"), scored=False)


def test_human_labels_are_those_that_a_run_would_train_on(tmp_path):
    """Half of sixteen; those that a list names; all of them by default."""
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(tiny.scenes_source().ids[[3, 8]]))
    for k, (flags, count) in enumerate(
        [({}, 16), ({"labeled_fraction": 0.5}, 8), ({"labeled_ids": str(listed)}, 2)]
    ):
        options = {
            "job": "export_labels",
            "labels": "human",
            "format": "coco",
            "output": str(tmp_path / f"out{k}"),
        }
        found = export_labels_job(tiny.experiment(model_dir=str(tmp_path / f"run{k}"), **options, **flags))
        assert found["exported"]["images"] == count
