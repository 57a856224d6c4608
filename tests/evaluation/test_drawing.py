"""What is drawn can be read: labels beside each other and inside the image, colours that differ, legends
outside.
"""

import itertools

import numpy as np
import pytest

from official.evaluation import drawing
from official.evaluation.drawing import class_color, draw_boxes, draw_mask, free_place, sheet, with_legend


def test_labels_cover_no_other_and_are_not_cut():
    """Eighty boxes in a crowd, some at and beyond the border: every label that is placed is inside, and none
    overlap.
    """
    generator, taken = np.random.default_rng(0), []
    for _ in range(80):
        y1, x1 = generator.uniform(-20, 190, 2)
        place = free_place(np.array([y1, x1, y1 + 40, x1 + 30]), (45.0, 12.0), (200, 200), taken)
        taken += [place] if place else []
    assert 10 < len(taken) < 80  # not all have room
    for left, top, right, bottom in taken:
        assert (
            0 <= left
            and right <= 200
            and 0 <= top
            and bottom <= 200
            and abs(right - left - 45) + abs(bottom - top - 12) < 1e-6
        )
    for a, b in itertools.combinations(taken, 2):
        assert a[2] <= b[0] + 1e-6 or b[2] <= a[0] + 1e-6 or a[3] <= b[1] + 1e-6 or b[3] <= a[1] + 1e-6, (
            a,
            b,
        )


def test_a_label_is_above_its_box_where_there_is_room():
    assert free_place(np.array([50.0, 20, 90, 80]), (30, 10), (100, 100), []) == (20, 40, 50, 50)
    assert free_place(np.array([2.0, 20, 90, 80]), (30, 10), (100, 100), []) == (
        20,
        0,
        50,
        10,
    )  # moved into the image
    assert free_place(np.array([50.0, 20, 90, 80]), (30, 10), (100, 100), [(20, 40, 50, 50)]) == (
        50,
        40,
        80,
        50,
    )
    assert free_place(np.array([50.0, 20, 90, 80]), (30, 10), (100, 100), [(0, 0, 100, 100)]) is None


def pixels(drawn, label):
    return int((drawn == class_color(label)).all(axis=-1).sum())


def test_in_a_crowd_only_the_surest_have_a_text():
    """Two boxes of two classes with room for both labels; one label is asked for, and the surer box has
    it.
    """
    image = np.full((120, 240, 3), 30, np.uint8)
    objects = {
        "boxes": np.array([[60.0, 10, 110, 60], [60.0, 150, 110, 200]]),
        "classes": np.array([0, 1]),
        "scores": np.array([0.3, 0.8]),
    }
    lines, one, both = (draw_boxes(image, objects, ["aa", "bb"], most_labels=most) for most in (0, 1, 2))
    assert pixels(one, 0) == pixels(lines, 0) > 0 and pixels(one, 1) > pixels(lines, 1) + 20
    assert pixels(both, 0) > pixels(lines, 0) + 20
    short = draw_boxes(image, objects, ["aa", "bb"], scores=False)
    assert pixels(lines, 1) < pixels(short, 1) < pixels(both, 1)  # the names alone


def test_a_crowd_has_five_labels():
    """Twenty boxes far apart have a label each; with one more only the five surest of them have."""
    place = np.stack(np.meshgrid(np.arange(7) * 60.0 + 30, np.arange(3) * 100.0 + 20), axis=-1).reshape(-1, 2)
    image = np.zeros((450, 320, 3), np.uint8)

    def labels(count):
        boxes = np.concatenate([place, place + 20], axis=1)[:count]
        objects = {"boxes": boxes, "classes": np.zeros(count, int), "scores": np.linspace(1, 0, count)}
        return pixels(draw_boxes(image, objects, ["a"]), 0) - pixels(
            draw_boxes(image, objects, ["a"], most_labels=0), 0
        )

    each = labels(1)
    assert (
        each > 50
        and labels(20) == pytest.approx(20 * each, rel=0.1)
        and labels(21) == pytest.approx(5 * each, rel=0.1)
    )


def test_a_line_is_seen_on_a_photo_of_its_own_colour():
    image = np.tile(np.uint8(class_color(3)), (120, 120, 1))
    drawn = draw_boxes(image, {"boxes": np.array([[20.0, 20, 100, 100]]), "classes": np.array([3])}, [""] * 4)
    changed = (drawn != image).any(axis=-1)
    assert changed[19, 20:100].all() and changed[20:100, 19].all() and changed[100, 20:100].all()
    assert np.abs(drawn[changed].astype(int) - class_color(3)).sum(axis=1).min() > 150


def linear(color):
    channels = np.array(color) / 255.0
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


# Viénot, Brettel and Mollon 1999, "Digital video colourmaps for checking the legibility of displays by
# dichromats".
DICHROMATS = {
    "protan": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deutan": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


def test_the_first_colours_differ_for_colour_blind_eyes():
    """In linear light the nearest two of the first seven, as a dichromat sees them, still differ by a visible
    amount.
    """
    for matrix in [np.eye(3), *map(np.array, DICHROMATS.values())]:
        seen = [np.clip(matrix @ linear(class_color(k)), 0, 1) ** (1 / 2.2) for k in range(7)]
        assert min(np.abs(a - b).max() for a, b in itertools.combinations(seen, 2)) > 0.08
    colors = {class_color(k) for k in range(60)}
    assert len(colors) == 60 and all(0 <= channel <= 255 for color in colors for channel in color)


def test_a_legend_is_outside_the_drawing():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    shown = with_legend(image, [(f"class {k}", class_color(k)) for k in range(9)])
    np.testing.assert_array_equal(shown[:60], image)
    assert shown.shape[0] > 100 and shown.shape[1] == 90  # several lines
    assert all((shown[60:] == class_color(k)).all(axis=-1).any() for k in range(9))
    assert with_legend(image, []) is image


def test_the_rim_of_a_class_is_its_colour():
    """A square of class 2 in the background: its outermost pixels are the plain colour, what is inside is
    mixed with the photo.
    """
    image, mask = np.full((50, 50, 3), 10, np.uint8), np.zeros((50, 50), np.uint8)
    mask[10:30, 10:30] = 2
    drawn = draw_mask(image, mask)
    plain = (drawn == class_color(2)).all(axis=-1)
    assert (
        plain.sum() == 4 * 19
        and plain[10, 10:30].all()
        and plain[10:30, 29].all()
        and not plain[11:29, 11:29].any()
    )
    assert (drawn[mask == 0] == 10).all()


def test_captions_are_cut_in_the_middle_to_their_cell():
    blank = np.zeros((20, 100, 3), np.uint8)
    name = "a_name_that_is_much_longer_than_a_cell_of_a_hundred_pixels_0017.png"
    grid = sheet([blank, blank], columns=2, cell=100, captions=[name, ""])
    assert grid.shape == (37, 200, 3)
    assert (grid[:17, :98] != 24).any() and (grid[:17, 100:] == 24).all()  # nothing in the next cell

    class Pen:
        def textlength(self, text, font):
            return len(text)

    assert (
        drawing._cut("abcdefghij", 5, Pen(), None) == "ab…ij" and drawing._cut("abc", 5, Pen(), None) == "abc"
    )
