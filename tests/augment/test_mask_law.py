"""One law for everything that moves pixels: an image painted by its mask still shows its mask afterwards.

Eight classes are painted in binary, one bit a channel (40 or 220), so that a pixel says its class even
after interpolation, but where two regions meet. What comes from outside is 128 in the image.
"""

import numpy as np
import pytest
import tensorflow as tf

import augment
from augment import ops
from augment.geometry import Settings
from augment.jitter import flip, random_flip, resize_and_crop
from official.data import pipeline
from official.data.example import IMAGENET_MEAN, IMAGENET_STD

DARK, BRIGHT, CELL = 40, 220, 12


def painted(height, width, cell=CELL):
    """A mask of random squares, and its image."""
    rows, columns = -(-height // cell), -(-width // cell)
    cells = np.random.default_rng(0).integers(0, 8, (rows, columns))
    mask = cells.repeat(cell, 0).repeat(cell, 1)[:height, :width].astype(np.uint8)
    bits = (mask[..., None] >> np.arange(3)) & 1
    return {"image": tf.constant(np.where(bits, BRIGHT, DARK).astype(np.uint8)), "mask": tf.constant(mask)}


def shown(image):
    """The classes that an image shows."""
    return ((np.asarray(image) > 130) * (1 << np.arange(3))).sum(-1)


def agreement(image, mask):
    """Share of the labelled pixels that show their label."""
    labelled = np.asarray(mask) != 255
    return (shown(image) == np.asarray(mask))[labelled].mean() if labelled.any() else 1.0


def test_the_law_notices_one_pixel():
    """Of regions 12 pixels wide a shift by one pixel spoils a twelfth, of which 1 in 8 is right by chance."""
    example = painted(60, 84)
    assert agreement(example["image"], example["mask"]) == 1.0
    for axis in (0, 1):
        moved = np.roll(example["mask"], 1, axis)
        assert 0.90 < agreement(example["image"], moved) < 0.95
    assert agreement(example["image"], np.asarray(example["mask"])[:, ::-1]) < 0.3


def test_flip():
    example = painted(30, 55)
    found = flip(example)
    assert (
        agreement(found["image"], found["mask"]) == 1.0 and (found["mask"] != example["mask"]).numpy().any()
    )
    turned = 0
    for k in range(8):
        found = random_flip(example, tf.constant([3, k]))
        assert agreement(found["image"], found["mask"]) == 1.0
        turned += int((found["mask"] != example["mask"]).numpy().any())
    assert 0 < turned < 8


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_whole_images(name):
    """Every labelled pixel shows its label; a pixel is unlabelled if and only if it came from outside."""
    example = painted(70, 90)
    settings = Settings(translate_const=60.0)
    run = tf.function(lambda key, level: ops.apply(example, name, level=level, key=key, settings=settings))
    moved = 0
    for level in (3.0, 10.0):
        for k in range(6):
            found = run(tf.constant([5, k]), level)
            image, mask = found["image"].numpy(), found["mask"].numpy()
            assert agreement(image, mask) == 1.0
            np.testing.assert_array_equal(mask == 255, (image == 128).all(-1))
            moved += int((mask != example["mask"].numpy()).mean() > 0.05)
    assert moved >= 8


@pytest.mark.parametrize(
    "name", [n for n in ops.DECIDES_ITSELF if n.startswith(("Rotate", "Shear", "Translate", "Flip"))]
)
def test_inside_boxes(name):
    boxes = tf.constant([[5, 10, 45, 50], [30, 20, 69, 89]], tf.float32)
    example = {**painted(70, 90), "boxes": boxes, "classes": tf.constant([0, 1])}
    run = tf.function(lambda key: ops.apply(example, name, level=4.0, key=key, probability=3.0))
    for k in range(3):
        found = run(tf.constant([6, k]))
        image, mask = found["image"].numpy(), found["mask"].numpy()
        assert agreement(image, mask) == 1.0 and (mask != example["mask"].numpy()).mean() > 0.02
        np.testing.assert_array_equal(mask == 255, (image == 128).all(-1))


# TF1's bilinear kernel looks half a source pixel away from its nearest one, so more of the borders differ.
@pytest.mark.parametrize("legacy, least", [(False, 0.98), (True, 0.94)], ids=["half-pixel", "legacy"])
@pytest.mark.parametrize("height, width", [(70, 90), (110, 50)])
def test_scale_jitter_crop_and_pad(height, width, legacy, least):
    """And the labelled part is exactly the extent: rows and columns beyond it are padding and unlabelled."""
    example = painted(height, width, cell=24)

    @tf.function
    def run(key):
        return resize_and_crop(
            example, key, output_size=64, jitter_min=0.8, jitter_max=2.0, legacy_resize=legacy
        )

    found = [run(tf.constant([7, k])) for k in range(12)]
    for one in found:
        rows, columns = (int(side) for side in one["extent"].numpy())
        mask = one["mask"].numpy()
        assert (
            (mask[:rows, :columns] < 8).all()
            and (mask[rows:] == 255).all()
            and (mask[:, columns:] == 255).all()
        )
    assert np.mean([agreement(one["image"], one["mask"]) for one in found]) > least
    sides = np.concatenate([one["extent"].numpy() for one in found])
    assert sides.min() < 64 == sides.max()  # padded as well as cropped
    if not legacy:  # no shift by a pixel fits better
        for axis, by in ((0, 1), (0, -1), (1, 1), (1, -1)):
            rolled = [agreement(one["image"], np.roll(one["mask"], by, axis)) for one in found]
            assert max(rolled) < 0.98 and all(
                r < agreement(one["image"], one["mask"]) for r, one in zip(rolled, found)
            )


def denormalised(images):
    return (images * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)) * 255


def source_of(example):
    """A source of one image."""
    from official.data.source import Category, Source

    source = Source(
        word="painted",
        ids=np.array(["p"]),
        sizes=np.array([example["mask"].shape], np.int32),
        read_image=lambda i: example["image"],
    )
    return source.with_masks(lambda i: example["mask"], [Category(i, str(i)) for i in range(8)])


def test_what_the_networks_are_given():
    """Through the whole pipeline, for training (flip, jitter, crop, pad) and for evaluating (fitted)."""
    source = source_of(painted(90, 70, cell=24))
    prepare = pipeline.placing(augment.policy("s1", jitter_min=0.8, jitter_max=2.0), image_size=64)
    options = dict(batch_size=8, replica_batch_size=8, seed=1, stream="human")
    batch = next(iter(pipeline.training_dataset(source, prepare=prepare, **options).as_numpy_iterator()))
    fitted = pipeline.inference_dataset(source, prepare=pipeline.fitting(64), batch_size=1, masks=True)
    for found in (batch, next(iter(fitted.as_numpy_iterator()))):
        for image, mask in zip(denormalised(found["images"]), found["masks"]):
            assert agreement(image, mask) > 0.97 and (mask < 8).mean() > 0.3
    assert len({mask.tobytes() for mask in batch["masks"]}) > 4
