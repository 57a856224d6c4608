"""Every operation against the original's own outputs, at its levels, signs, centres and coins.

Origin, conventions and declared differences: tests/golden/original/README.md.
"""

import numpy as np
import pytest
import tensorflow as tf

from augment import ops
from augment.geometry import Settings
from tests.golden.vectors import forced, load

VECTORS, INDEX = load("augment_ops")
KEY = tf.constant([3, 4])
NAMES = sorted({case["op"] for case in INDEX["cases"]})
BOX_TOLERANCE = 1e-5  # pixels; float32 has steps of 4e-6 at 56


def sides(case):
    return np.array(VECTORS[f"image_{case['image']}"].shape[:2], np.float32)


def pixel_boxes(case, normalised):
    """Multiplied in float32, as the original does."""
    return normalised * np.tile(sides(case), 2)


def example_of(case):
    boxes = pixel_boxes(case, VECTORS[f"boxes_{case['image']}"])
    return {"image": tf.constant(VECTORS[f"image_{case['image']}"]), "boxes": tf.constant(boxes)}


def settings_of(case):
    constants = dict(INDEX["constants"][case["constants"]])
    assert not constants.pop("cutout_bbox_replace_with_mean")
    fraction, fill = constants.pop("cutout_max_pad_fraction"), INDEX["fill"]
    assert len(set(fill)) == 1
    return Settings(**constants, bbox_cutout_fraction=fraction, fill=fill[0])


def place(centre, low, high):
    """Draws that give these whole numbers of low..high: the middle of each one's share of [0, 1)."""
    low = np.asarray(low, np.float64)
    return list((np.asarray(centre) - low + 0.5) / (np.asarray(high) - low + 1))


def last_pixels(case):
    """First and last row and column of every box as BBox_Cutout takes them, not cut at the border."""
    return pixel_boxes(case, VECTORS[f"boxes_{case['image']}"]).astype(int)


def draws_of(case):
    """What our code draws, in its order, to do what the original did."""
    draws = [case["sign_coin"]] if "sign_coin" in case else []
    if "coins" in case:
        count = len(case["coins"])
        # Order of the boxes, and coins the other way round: ours are taken below a probability.
        draws.append([np.arange(count) / count, 1 - np.array(case["coins"])])
        patches = np.minimum(last_pixels(case), np.tile(sides(case), 2).astype(int) - 1)
        for box, row, column in case.get("centers_in_box", []):
            draws.append(place([row, column], [0, 0], patches[box, 2:] - patches[box, :2]))
    elif "box" in case:
        corners = last_pixels(case)
        picked = (case["box"] + 0.5) / len(corners)
        draws.append([picked, *place(case["center"], corners[case["box"], :2], corners[case["box"], 2:])])
    elif "center" in case:
        draws.append(place(case["center"], [0, 0], sides(case) - 1))
    return draws


def ours(case):
    with forced(*draws_of(case)):
        found = ops.apply(
            example_of(case), case["op"], level=float(case["level"]), key=KEY,
            probability=case["probability"], settings=settings_of(case),
        )  # fmt: skip
    return found["image"].numpy(), found["boxes"].numpy()


def theirs(case):
    image, boxes = (VECTORS[f"out_{kind}_{case['image']}"][case["row"]] for kind in ("image", "boxes"))
    return image, pixel_boxes(case, boxes)


def cases(name):
    return [case for case in INDEX["cases"] if case["op"] == name]


def whole_averages(image):
    """Bool [H, W, 3]: where the 3 x 3 average is whole and the original's float32 may fall below it."""
    pixels = np.pad(image.astype(int), ((1, 1), (1, 1), (0, 0)))
    height, width = image.shape[:2]
    total = 4 * image.astype(int) + sum(
        pixels[y : y + height, x : x + width] for y in range(3) for x in range(3)
    )
    whole = total % 13 == 0
    whole[[0, -1]] = whole[:, [0, -1]] = False
    return whole


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Sharpness"])
def test_every_pixel_and_every_box(name):
    """No pixel differs; boxes agree to 1e-5 pixels."""
    for case in cases(name):
        (image, boxes), (expected, expected_boxes) = ours(case), theirs(case)
        assert image.dtype == np.uint8
        wrong = (image != expected).any(-1)
        assert not wrong.any(), f"{wrong.sum()} pixels, the first at {np.argwhere(wrong)[0]}: {case}"
        np.testing.assert_allclose(boxes, expected_boxes, rtol=0, atol=BOX_TOLERANCE, err_msg=str(case))


def test_sharpness():
    """Equal but where the average is a whole number: there the original may lie one below it.

    Times 1 - factor that is one level; at level 15 (factor 2.8) up to two.
    """
    for case in cases("Sharpness"):
        (image, boxes), (expected, expected_boxes) = ours(case), theirs(case)
        difference, whole = (
            np.abs(image.astype(int) - expected),
            whole_averages(VECTORS[f"image_{case['image']}"]),
        )
        assert not difference[~whole].any(), case
        assert difference.max() <= (2 if case["level"] == 15 else 1), case
        np.testing.assert_allclose(boxes, expected_boxes, atol=BOX_TOLERANCE)


def test_every_output_of_the_file_is_compared():
    rows = {(case["image"], case["row"]) for case in INDEX["cases"]}
    stored = {
        (name, row) for name in ("noise", "ramp", "large") for row in range(len(VECTORS[f"out_image_{name}"]))
    }
    assert rows == stored and len(INDEX["cases"]) == len(rows)


GRAPH_NAMES = [name for name in NAMES if name not in ("Sharpness", "Cutout_Only_BBoxes")]


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_in_a_graph(name):
    """One strong case of every operation compiled for images of any size, as in an input pipeline.

    (Graph optimizers reorder float32 sums, and a source position on the border of two pixels notices.)
    Not Cutout_Only_BBoxes: one draw is traced for all boxes.
    """
    case = max(
        cases(name),
        key=lambda c: (
            c["image"] == "noise",
            c["level"] == 10,
            c["constants"] == "small",
            c.get("sign") == -1,
        ),
    )

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([None, 4])])
    def run(image, boxes):
        example = {"image": image, "boxes": boxes}
        with forced(*draws_of(case)):
            return ops.apply(example, name, level=float(case["level"]), key=KEY, settings=settings_of(case))

    before = example_of(case)
    after, (expected, expected_boxes) = run(before["image"], before["boxes"]), theirs(case)
    np.testing.assert_array_equal(after["image"], expected)
    np.testing.assert_allclose(after["boxes"], expected_boxes, rtol=0, atol=BOX_TOLERANCE)
