"""YOLO's layout: which images, which text files, and what every kind of line is."""

import math

import numpy as np
import pytest
from PIL import Image

from official.data.input_report import DataError
from official.data.sources import ReadOptions, open_source
from official.jobs.opening import opened
from tests import tiny

WIDTH, HEIGHT = 40, 20
YAML = "train: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
BOX = "0 0.5 0.5 0.5 0.4"  # x 10..30, y 6..14
BOX_YXYX = [6, 10, 14, 30]


def write_image(path, **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, **save)


def data(tmp_path, labels, yaml=YAML, split="train"):
    """A data set of one image per text; None: an image without a text file."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    (tmp_path / "data.yaml").write_text(yaml, encoding="utf-8")
    for number, text in enumerate(labels, 1):
        write_image(tmp_path / "images" / split / f"{number}.png")
        if text is not None:
            path = tmp_path / "labels" / split / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"yolo:{tmp_path}/data.yaml"


def read(word, **options):
    return open_source(word, ReadOptions(**{"max_skipped_fraction": 0.99, **options}))


def boxes(source, i=0):
    return source.annotations.of(i)["boxes"].tolist()


# --- lines --------------------------------------------------------------------------------------------


def test_boxes_and_polygons_and_images_without_objects(tmp_path):
    source = read(data(tmp_path, [f"{BOX}\n1 0.25 0.1 0.75 0.1 0.5 0.9\n\n", None, "", BOX]))
    assert source.ids.tolist() == ["1.png", "2.png", "3.png", "4.png"]
    np.testing.assert_allclose(boxes(source), [BOX_YXYX, [2, 10, 18, 30]], atol=1e-5)
    assert source.annotations.counts().tolist() == [2, 0, 0, 1] and source.annotations.classes.tolist() == [
        0,
        1,
        0,
    ]
    assert [(c.id, c.name) for c in source.categories] == [(1, "cat"), (2, "dog")]
    assert dict(source.report.counts) == {"boxes and polygons in one text file: each read as what it is": 1}


@pytest.mark.parametrize(
    "line, reason",
    [
        ("nan 0.5 0.5 0.5 0.5", "value that is not a number"),
        ("0 nan 0.5 0.5 0.5", "value that is not a number"),
        ("0 inf 0.5 0.5 0.5", "value that is not a number"),
        ("0 1e400 0.5 0.5 0.5", "value that is not a number"),
        ("0 0,5 0.5 0.5 0.5", "value that is not a number"),
        ("cat 0.5 0.5 0.5 0.5", "value that is not a number"),
        ("0", "neither a box"),
        ("0 0.5 0.5 0.5", "neither a box"),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9 0.1", "neither a box"),
        ("0 0.5 0.5 0.5 1.02", "not a fraction"),
        ("0 20 10 16 8", "not a fraction"),
        ("0 -0.02 0.5 0.5 0.5", "not a fraction"),
        ("0 0.1 0.1 1.5 0.1 0.5 0.5", "not a fraction"),
        ("0 0.5 0.5 0.5 0.5 1.5", "score outside"),
        ("2 0.5 0.5 0.5 0.5", "unknown category"),
        ("-1 0.5 0.5 0.5 0.5", "unknown category"),
        ("0.5 0.5 0.5 0.5 0.5", "unknown category"),
        ("0 0.5 0.5 0 0.5", "zero or negative width"),
        ("0 0.1 0.1 0.1 0.5 0.1 0.9", "zero or negative width"),
    ],
)
def test_a_bad_line_loses_its_object_alone_and_is_counted(tmp_path, line, reason):
    word = data(tmp_path, [f"{line}\n{BOX}"])
    source = read(word)
    np.testing.assert_allclose(boxes(source), [BOX_YXYX], atol=1e-5)
    assert source.report.lost_objects == 1 and source.report.objects == 2
    assert [kind for kind in source.report.counts if reason in kind], source.report.counts
    with pytest.raises(DataError, match="1 of 2 objects cannot be used"):
        read(word, max_skipped_fraction=0.4)


@pytest.mark.parametrize("line", ["0.0 0.5 0.5 0.5 0.4", " 0\t0.5  0.5 0.5 0.4 ", "0 0.5 0.5 5e-1 .4"])
def test_spellings_of_one_box(tmp_path, line):
    np.testing.assert_allclose(boxes(read(data(tmp_path, [line]))), [BOX_YXYX], atol=1e-5)


def test_a_byte_order_mark_and_windows_line_ends(tmp_path):
    source = read(data(tmp_path, [b"\xef\xbb\xbf" + f"{BOX}\r\n\r\n1 0.5 0.5 1 1\r\n".encode()]))
    np.testing.assert_allclose(boxes(source), [BOX_YXYX, [0, 0, 20, 40]], atol=1e-5)


def test_a_fraction_that_is_rounded_outside_is_kept(tmp_path):
    np.testing.assert_allclose(
        boxes(read(data(tmp_path, ["0 0.5 0.5 1.000001 1"]))), [[0, 0, 20, 40]], atol=1e-3
    )


def test_scores_repeated_lines_and_rotated_boxes(tmp_path):
    corners = "1 0.25 0.5 0.5 0.1 0.75 0.5 0.5 0.9"  # an oriented box is its four corners
    source = read(data(tmp_path, [f"{BOX} 0.25\n{BOX} 0.25\n{corners}"]))
    np.testing.assert_allclose(boxes(source), [BOX_YXYX, [2, 10, 18, 30]], atol=1e-5)
    assert source.annotations.scores.tolist() == [0.25, 1.0] and source.report.lost_objects == 0
    assert source.report.counts["line that repeats another: taken once"] == 1


def test_keypoints_are_left_out_where_the_yaml_says_that_there_are_some(tmp_path):
    source = read(data(tmp_path, [f"{BOX} 0.1 0.2 2 0.3 0.4 0"], YAML + "kpt_shape: [2, 3]\n"))
    np.testing.assert_allclose(boxes(source), [BOX_YXYX], atol=1e-5)
    with pytest.raises(DataError, match="kpt_shape"):
        read(data(tmp_path, [BOX], YAML + "kpt_shape: 17\n"))


def test_polygons_are_masks_for_segmentation_and_a_box_is_ignored_inside(tmp_path):
    source = read(data(tmp_path, [f"1 0 0 0.5 0 0.5 1 0 1\n{BOX}"]), label_kind="masks")
    mask = source.read_mask(0).numpy()
    assert (mask[:, :20] == 2).sum() + (mask[:, :20] == 255).sum() == 400
    assert (mask[6:14, 20:30] == 255).all() and (mask[:, 30:] == 0).all()
    assert [c.name for c in source.categories] == [
        "background",
        "cat",
        "dog",
    ] and source.report.lost_objects == 1


def test_boxes_are_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    word = data(tmp_path, [BOX])
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "images" / "train" / "1.png", exif=exif)
    np.testing.assert_allclose(boxes(read(word)), [BOX_YXYX], atol=1e-5)


@pytest.mark.parametrize(
    "text, reason", [(b"\xff\xfe0", "as UTF-8"), (b"version https://git-lfs.github.com/spec/v1", "Git LFS")]
)
def test_a_text_file_that_cannot_be_read_costs_its_image(tmp_path, text, reason):
    source = read(data(tmp_path, [text, BOX]))
    assert source.ids.tolist() == ["2.png"] and any(reason in kind for kind in source.report.counts)


# --- which files --------------------------------------------------------------------------------------


def test_a_text_file_without_its_image_counts_as_a_lost_image(tmp_path):
    word = data(tmp_path, [BOX, BOX, BOX])
    (tmp_path / "images" / "train" / "2.png").unlink()
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cat\ndog\n1 2 3 4 5")
    (tmp_path / "labels" / "train" / "empty.txt").write_text("")
    assert read(word).report.counts == {"text file without its image": 1}
    with pytest.raises(DataError, match="1 of 3 images cannot be used: 1 x text file without its image"):
        read(word, max_skipped_fraction=0.1)


def test_no_text_file_at_all_is_refused_but_the_images_can_be_unlabelled(tmp_path):
    word = data(tmp_path, [None, None])
    with pytest.raises(
        DataError, match="not one of the 2 images of train has a text file, for example .*labels/train/1.txt"
    ):
        read(word)
    assert len(open_source(word, labeled=False)) == 2


def test_text_files_beside_the_images(tmp_path):
    word = data(tmp_path, [BOX], "train: photos\nnames: [cat, dog]\n")
    write_image(tmp_path / "photos" / "a" / "1.jpg")
    (tmp_path / "photos" / "a" / "1.txt").write_text(BOX)
    source = read(word)
    assert source.ids.tolist() == ["a/1.jpg"]
    np.testing.assert_allclose(boxes(source), [BOX_YXYX], atol=1e-5)


def test_the_last_images_of_a_path_becomes_labels(tmp_path):
    source = read(data(tmp_path / "images" / "set", [BOX]))
    assert len(boxes(source)) == 1


@pytest.mark.parametrize(
    "yaml",
    [
        "path: {here}\ntrain: images/train\nnames: [cat, dog]",
        "path: .\ntrain: ./images/train/\nnames: [cat, dog]",
        "path: /content/another/machine\ntrain: images/train\nnames: [cat, dog]",
        "path: /content/machine\ntrain: /content/machine/images/train\nnames: [cat, dog]",
        "train: {here}/images/train\nnames: [cat, dog]\nnc: 2",
        "train: ../images/train\nnames: ['cat', 'dog']",  # Roboflow writes one `../` too many
        "train: [images/train]\nnames: [cat, dog]",
        "train: list.txt\nnames: [cat, dog]",
        "train: absolute.txt\nnames: [cat, dog]",
        "train: foreign.txt\nnames: [cat, dog]",
        "\ufefftrain: images/train\nnames: {{0: cat, 1: dog}}\ndownload: |\n  raise SystemExit",
        "train: images/train\nnames: {{1: dog, 0: cat}}",
    ],
)
def test_ways_to_say_where_the_images_are(tmp_path, yaml):
    word = data(tmp_path, [BOX, None], yaml.format(here=tmp_path))
    (tmp_path / "list.txt").write_text("./images/train/1.png\n\nimages/train/2.png\n")
    (tmp_path / "absolute.txt").write_text(f"{tmp_path}/images/train/1.png\n{tmp_path}/images/train/2.png\n")
    (tmp_path / "foreign.txt").write_text(
        "/home/me/set/images/train/1.png\nC:\\set\\images\\train\\2.png\n".replace("C:", "/C")
    )
    source = read(word)
    assert [i.rsplit("/", 1)[-1] for i in source.ids] == [
        "1.png",
        "2.png",
    ] and source.annotations.counts().tolist() == [1, 0]
    assert [c.name for c in source.categories] == ["cat", "dog"]


def test_several_folders_keep_equal_names_apart_and_a_file_is_read_once(tmp_path):
    data(tmp_path, [BOX], split="b")
    word = data(tmp_path, [BOX], "train: [images/a, images/b, images/a]\nnames: [cat, dog]", split="a")
    source = read(word)
    assert source.ids.tolist() == ["images/a/1.png", "images/b/1.png"]
    assert source.report.counts == {"image is listed more than once: read once": 1}


def test_a_listed_image_that_is_absent_is_counted(tmp_path):
    word = data(tmp_path, [BOX], "train: list.txt\nnames: [cat, dog]")
    (tmp_path / "list.txt").write_text("images/train/1.png\nimages/train/gone.png\n")
    assert read(word).report.counts == {"file is absent": 1}


def test_masks_among_the_images_are_left_out(tmp_path):
    word = data(tmp_path, [BOX])
    write_image(tmp_path / "images" / "train" / "masks" / "1.png")
    source = read(word)
    assert source.ids.tolist() == ["1.png"] and source.report.counts == {
        "image in a folder of masks or drawings: left out": 1
    }


def test_a_folder_stands_for_its_yaml_or_its_classes(tmp_path):
    data(tmp_path, [BOX])
    assert len(read(f"yolo:{tmp_path}")) == 1
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")  # Label Studio's export
    source = read(f"yolo:{tmp_path}")
    assert [c.name for c in source.categories] == ["cat", "dog"] and len(boxes(source)) == 1


def test_evaluation_data_is_the_val_split_unless_another_is_said(tmp_path):
    data(tmp_path, [BOX, BOX], split="val")
    word = data(tmp_path, [BOX])
    experiment = tiny.experiment()
    assert len(opened(experiment, "eval", word)) == 2 and len(opened(experiment, "labeled", word)) == 1
    assert len(opened(experiment, "eval", word + ",split=train")) == 1
    with pytest.raises(DataError, match="no split 'test', it has 'train', 'val'"):
        read(word + ",split=test")


@pytest.mark.parametrize(
    "yaml, message",
    [
        ("names: [cat", "is not YAML"),
        ("[" * 2000, "is not YAML"),
        ("train: images/train", "names: has no classes"),
        ("train: images/train\nnames: [cat, cat]", "a name of its own"),
        ("train: images/train\nnames: {0: cat, 0: dog}", "'0' is said twice"),
        ("train: images/train\nnames: {a: cat}", "needs a number"),
        ("train: images/train\nnames: {0: [cat]}", "a name of its own"),
        ("train: images/train\nnames: [cat]\nnc: 3", "nc: says 3 classes, names: has 1"),
        ("train: nowhere\nnames: [cat]", "nowhere is no folder and no list"),
        ("train: images/train/1.png\nnames: [cat]", "no folder and no list"),
        ("cat, dog", "is not a YOLO data.yaml"),
        ("a: 1", "is not a YOLO data.yaml"),
        ("#" * (1 << 20) + "#", "larger than"),
        ("version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ("path: [a]\ntrain: images/train\nnames: [cat]", "is no folder"),
    ],
)
def test_a_yaml_that_cannot_be_used_says_why(tmp_path, yaml, message):
    with pytest.raises(DataError, match=message):
        read(data(tmp_path, [BOX], yaml))


def test_names_are_text_whatever_yaml_takes_them_for_and_no_tag_is_obeyed(tmp_path):
    yaml = "train: images/train\nnames: [no, 1, 1.50, ~, !!python/object/apply:os.getcwd []]"
    with pytest.raises(DataError, match="a name of its own"):
        read(data(tmp_path, [BOX], yaml))
    source = read(data(tmp_path, [BOX], "train: images/train\nnames: [no, 1, 1.50, ~, 'null']"))
    assert [c.name for c in source.categories] == ["no", "1", "1.50", "~", "null"]


def test_the_number_of_classes_alone_names_them_and_numbers_may_have_gaps(tmp_path):
    assert [c.name for c in read(data(tmp_path, [BOX], "train: images/train\nnc: 2")).categories] == [
        "class_0",
        "class_1",
    ]
    source = read(data(tmp_path, [f"{BOX}\n7 0.5 0.5 1 1"], "train: images/train\nnames: {0: cat, 7: dog}"))
    assert [(c.id, c.name) for c in source.categories] == [
        (1, "cat"),
        (8, "dog"),
    ] and source.annotations.classes.tolist() == [0, 1]


def test_a_yolo_word_is_trained_on(tmp_path):
    """The whole way to a batch."""
    from official.data import pipeline

    source = read(data(tmp_path, [BOX]))
    assert math.isclose(float(source.annotations.area[0]), 160, rel_tol=1e-5)
    batches = pipeline.inference_dataset(source, prepare=pipeline.fitting(32), batch_size=1)
    assert next(iter(batches))["images"].shape == (1, 32, 32, 3)
