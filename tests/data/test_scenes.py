"""The embedded data set: same seed, same image; boxes and masks agree."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from official.data import scenes
from official.data.formats.coco import open_coco
from official.data.scenes import CLASSES, SPLITS, draw_scene
from official.data.scenes_source import open_scenes, write_scenes


@pytest.fixture(scope="module")
def drawn():
    return [draw_scene(seed=3, split="train", index=i) for i in range(150)]


def test_deterministic_per_seed_split_and_index():
    def digest(**kwargs):
        return hashlib.sha256(
            draw_scene(**{"seed": 0, "split": "train", "index": 5, **kwargs}).image.tobytes()
        ).hexdigest()

    assert digest() == digest()
    others = {digest(seed=1), digest(split="val"), digest(index=6), digest(split="unlabeled")}
    assert len(others | {digest()}) == 5


def test_boxes_are_tight_around_visible_pixels(drawn):
    for scene in drawn:
        for box, mask in zip(scene.boxes.astype(int), scene.masks):
            y1, x1, y2, x2 = box
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0
            assert mask[y1].any() and mask[y2 - 1].any() and mask[:, x1].any() and mask[:, x2 - 1].any()


def test_masks_never_overlap(drawn):
    for scene in drawn:
        assert len(scene.masks) == len(scene.boxes) == len(scene.classes)
        assert not len(scene.masks) or scene.masks.sum(axis=0).max() <= 1


def test_sizes_span_cocos_small_medium_and_large(drawn):
    areas = np.concatenate([scene.masks.sum(axis=(1, 2)) for scene in drawn])
    shares = [(areas < 32**2).mean(), ((areas >= 32**2) & (areas < 96**2)).mean(), (areas >= 96**2).mean()]
    assert shares[0] > 0.3 and shares[1] > 0.2 and shares[2] > 0.005


def test_every_class_and_some_empty_images(drawn):
    counts = np.bincount(np.concatenate([scene.classes for scene in drawn]), minlength=len(CLASSES))
    assert counts.min() > 0.6 * counts.mean()
    assert 0 < sum(len(scene.classes) == 0 for scene in drawn) < 20


def test_colour_does_not_give_the_class_away(drawn):
    """Mean object colour by class differs by less than two standard errors times a margin."""
    colours, classes = [], []
    for scene in drawn:
        for mask, label in zip(scene.masks, scene.classes):
            colours.append(scene.image[mask].mean(axis=0))
            classes.append(label)
    colours, classes = np.array(colours), np.array(classes)
    for label in range(len(CLASSES)):
        own = colours[classes == label]
        error = colours.std(axis=0) / np.sqrt(len(own))
        assert (abs(own.mean(axis=0) - colours.mean(axis=0)) < 4 * error).all()


def test_unlabelled_images_are_shifted(monkeypatch):
    """Other ground colours, more noise, more clutter, other contrast; each alone in what it is measured
    by.
    """
    strokes = []
    monkeypatch.setattr(
        scenes,
        "_draw_clutter",
        lambda rng, canvas, draw=scenes._draw_clutter: strokes.append(1) or draw(rng, canvas),
    )

    def measured(split):
        strokes.clear()
        images = [
            draw_scene(seed=0, split=split, index=i, size=64, empty_fraction=1.0).image.astype(float)
            for i in range(60)
        ]
        ground = np.std([image.mean(axis=(0, 1)) for image in images], axis=0).mean()
        noise = np.mean([np.median(np.abs(np.diff(image, axis=0))) for image in images])
        return ground, noise, len(strokes) / 60

    shifted, plain = measured("unlabeled"), measured("train")
    assert shifted[0] > 1.2 * plain[0] and shifted[1] > 1.3 * plain[1]
    assert 3.5 < plain[2] < 4.5 and 5.2 < shifted[2] < 6.8  # 2 to 6, 3 to 9

    def contrasts(look):
        """Of a chequered card of 88 and 168, on which uneven light cancels out."""
        bright = np.indices((32, 32)).sum(0) % 2 == 1
        card = np.where(bright[..., None], 168.0, 88.0).repeat(3, -1).astype(np.float32)
        images = [scenes._photograph(np.random.default_rng(k), card, look).astype(float) for k in range(60)]
        return np.array([(image[bright].mean() - image[~bright].mean()) / 80 for image in images])

    plain, shifted = (contrasts(scenes._LOOKS[name]) for name in ("labeled", "unlabeled"))
    assert 0.8 < plain.min() and plain.max() < 1.15 and shifted.min() < 0.75 and shifted.max() > 1.15


def test_noisy_labels_are_displaced_misnamed_or_missing():
    """One in ten missing, one in ten of another class, an eighth of their sides away: over 4,000 draws."""
    mask = np.zeros((1, 200, 200), bool)
    mask[0, 80:120, 90:110] = True  # 40 high, 20 wide
    rng, named, moves = np.random.default_rng(0), [], []
    for _ in range(4000):
        masks, classes = scenes._carelessly(rng, mask, np.array([3]))
        assert len(masks) == len(classes) <= 1
        if len(masks):
            rows, columns = np.nonzero(masks[0])
            assert len(rows) == 800  # moved as a whole
            moves.append((rows.min() - 80, columns.min() - 90))
            named.append(classes[0])
    assert 0.085 < 1 - len(named) / 4000 < 0.115
    shares = np.bincount(named, minlength=len(CLASSES)) / len(named)
    assert 0.885 < shares[3] < 0.915 and (np.delete(shares, 3) > 0.015).all()
    np.testing.assert_allclose(np.std(moves, axis=0), [0.12 * 40, 0.12 * 20], rtol=0.06)
    np.testing.assert_allclose(np.mean(moves, axis=0), 0.0, atol=0.25)


def test_noisy_scenes_look_as_labelled_ones_and_keep_the_rules_of_labels(monkeypatch):
    found = [draw_scene(seed=3, split="noisy", index=i, size=64) for i in range(60)]
    for scene in found:
        assert len(scene.boxes) == len(scene.classes) == len(scene.masks)
        assert scene.masks.sum(axis=0).max(initial=0) <= 1  # they never overlap
        for box, mask in zip(scene.boxes, scene.masks):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    monkeypatch.setattr(scenes, "_carelessly", lambda rng, masks, classes: (masks, classes))
    exact = [draw_scene(seed=3, split="noisy", index=i, size=64) for i in range(60)]
    same = [a.image.tobytes() == b.image.tobytes() for a, b in zip(found, exact)]
    assert all(same) and sum(len(a.boxes) for a in found) < sum(len(b.boxes) for b in exact)
    # Other splits are what they were before there was this one.
    assert draw_scene(seed=3, split="unlabeled", index=0, size=64).image.sum() == 1598478


def test_written_as_coco_and_read_back(tmp_path):
    counts = dict.fromkeys(SPLITS, 3)
    paths = write_scenes(str(tmp_path), seed=1, size=64, counts=counts)
    source = open_coco(paths[0])
    drawn = open_scenes("train", 3, seed=1, size=64)
    np.testing.assert_allclose(source.annotations.boxes, drawn.annotations.boxes)
    np.testing.assert_array_equal(source.annotations.classes, drawn.annotations.classes)
    np.testing.assert_array_equal(source.read_image(0), drawn.read_image(0))
    assert [c.name for c in source.categories] == list(CLASSES)
    mask = np.asarray(Image.open(tmp_path / "train" / "masks" / "train-1-000000.png"))
    scene = draw_scene(seed=1, split="train", index=0, size=64)
    for number, label in enumerate(scene.classes):
        assert (mask[scene.masks[number]] == label + 1).all()
    assert (mask == 0).sum() == 64 * 64 - scene.masks.sum()
    areas = [a["area"] for a in json.load(open(paths[0]))["annotations"]]
    np.testing.assert_allclose(areas, drawn.annotations.area)


def test_unknown_split():
    with pytest.raises(ValueError, match="unlabeled"):
        draw_scene(seed=0, split="nope", index=0)
