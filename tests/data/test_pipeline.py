"""Order and draws are pure functions of (seed, step)."""

import numpy as np
import pytest
import tensorflow as tf

import augment
from augment.jitter import resize_and_crop
from official import hashing
from official.data import example as example_lib
from official.data import pipeline
from official.data.pipeline import Worker
from tests import tiny


def batches(source, count, **kwargs):
    prepare = pipeline.placing(augment.policy("s1"), image_size=64, max_boxes=8)
    options = dict(prepare=prepare, batch_size=8, replica_batch_size=8, seed=3, stream="human")
    dataset = pipeline.training_dataset(source, **{**options, **kwargs})
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(a, b):
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_later_start_is_the_same_stream(scenes):
    whole, later = batches(scenes, 5), batches(scenes, 2, start_step=3)
    for a, b in zip(whole[3:], later):
        assert_equal(a, b)


def test_threads_do_not_matter(scenes):
    for a, b in zip(batches(scenes, 3, threads=1), batches(scenes, 3, threads=4)):
        assert_equal(a, b)


def test_replicas_and_workers_share_the_same_global_batch(scenes):
    whole = batches(scenes, 2)
    halves = batches(scenes, 4, replica_batch_size=4)
    workers = [batches(scenes, 2, replica_batch_size=4, worker=Worker(w, 2)) for w in range(2)]
    for step in range(2):
        for name, value in whole[step].items():
            np.testing.assert_array_equal(
                value, np.concatenate([h[name] for h in halves[2 * step : 2 * step + 2]])
            )
            np.testing.assert_array_equal(value, np.concatenate([w[step][name] for w in workers]))


@pytest.mark.parametrize("parts", [1, 2])
def test_order_and_keys_are_what_every_image_has_by_itself(scenes, parts):
    """A step's are computed together; here one by one. In two parts, two replicas of two images: the first parts
    of both, then the second ones.
    """

    def noted(example, key):
        return {"index": example["index"], "step": example["step"], "key": key}

    found = pipeline.training_dataset(
        scenes,
        prepare=noted,
        batch_size=8,
        replica_batch_size=2,
        seed=5,
        stream="human",
        start_step=3,
        parts=parts,
    )
    found = {name: np.concatenate([batch[name] for batch in found.take(16).as_numpy_iterator()]) for name in ("index", "step", "key")}  # fmt: skip
    seed, expected = pipeline.stream_seed(5, "human"), []
    for step in range(3, 7):
        for place in (0, 1, 4, 5, 2, 3, 6, 7) if parts == 2 else range(8):
            epoch, offset = divmod(step * 8 + place, 16)
            image = hashing.permuted(tf.constant(offset, tf.int64), 16, seed, tf.constant(epoch, tf.int64))
            halves = [int(hashing.hashed(seed, tf.constant(epoch, tf.int64), image, half)) for half in (0, 1)]
            expected.append((int(image), step, *np.uint32(halves).view(np.int32).tolist()))
    assert list(zip(found["index"].tolist(), found["step"].tolist(), *found["key"].T.tolist())) == expected


def test_every_epoch_is_another_permutation(scenes):
    found = np.concatenate([b["index"] for b in batches(scenes, 6)]).reshape(3, 16)
    for epoch in found:
        assert sorted(epoch) == list(range(16))
    assert len({tuple(epoch) for epoch in found}) == 3


def test_seeds_and_streams_differ(scenes):
    a, b, c = batches(scenes, 1)[0], batches(scenes, 1, seed=4)[0], batches(scenes, 1, stream="pseudo")[0]
    assert (a["index"] != b["index"]).any() and (a["index"] != c["index"]).any()


def test_the_same_image_is_augmented_anew_each_epoch(scenes):
    one = scenes.subset(np.array([0]))
    images = batches(one, 1)[0]["images"]
    assert len({image.tobytes() for image in images}) >= 6


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_permutation_covers_any_size(size):
    found = [int(pipeline.permuted(tf.constant(p, tf.int64), size, 9)[1]) for p in range(min(size, 50))]
    assert len(set(found)) == len(found) and 0 <= min(found) <= max(found) < size


def test_crowds_are_not_trained_on(scenes):
    import dataclasses

    crowd = dataclasses.replace(scenes.annotations, crowd=np.ones_like(scenes.annotations.crowd))
    source = dataclasses.replace(scenes, annotations=crowd)
    assert (batches(source, 1)[0]["classes"] == -1).all()


def test_static_shapes_and_padding(scenes):
    batch = batches(scenes, 1)[0]
    assert batch["images"].shape == (8, 64, 64, 3) and batch["images"].dtype == np.float32
    assert batch["boxes"].shape == (8, 8, 4) and batch["classes"].shape == (8, 8)
    padding = batch["classes"] < 0
    assert (batch["boxes"][padding] == -1).all()
    real = batch["boxes"][~padding]
    assert (real[:, 2] > real[:, 0]).all() and (real[:, 3] > real[:, 1]).all()
    assert real.min() >= 0 and real.max() <= 64


def test_inference_is_in_order_and_fills_the_last_batch(scenes):
    dataset = pipeline.inference_dataset(scenes, prepare=pipeline.fitting(64), batch_size=6, first=3, last=13)
    found = list(dataset.as_numpy_iterator())
    assert np.concatenate([b["index"] for b in found]).tolist() == [*range(3, 13), -1, -1]
    assert all(b["images"].shape == (6, 64, 64, 3) for b in found)
    pixels = scenes.read_image(tf.constant(3, tf.int64)).numpy()
    expected = (pixels / 255 - np.array(example_lib.IMAGENET_MEAN)) / np.array(example_lib.IMAGENET_STD)
    np.testing.assert_allclose(found[0]["images"][0], expected, atol=1e-5)
    np.testing.assert_array_equal(example_lib.denormalize(found[0]["images"][0]), pixels)


def test_normalisation_by_hand():
    pixel = {"image": tf.constant([[[255, 0, 128]]], tf.uint8)}
    placed = resize_and_crop(pixel, None, output_size=2, normalization=example_lib.NORMALIZATION)[
        "image"
    ].numpy()
    np.testing.assert_allclose(
        placed[0, 0], [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225], rtol=1e-5
    )


def test_padding_becomes_the_mean_colour(scenes):
    small = tiny.scenes_source(count=1)
    prepare = pipeline.placing(augment.policy("s1", jitter_min=0.5, jitter_max=0.5), image_size=64)
    batch = batches(small, 1, prepare=prepare, batch_size=1, replica_batch_size=1)[0]
    np.testing.assert_allclose(batch["images"][0, 40:, 40:], 0.0, atol=1e-5)


def test_pad_rows():
    rows = tf.constant([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(example_lib.pad_rows(rows, 2, -1.0), [[1], [2]])
    np.testing.assert_array_equal(example_lib.pad_rows(rows, 4, -1.0), [[1], [2], [3], [-1]])
    np.testing.assert_array_equal(example_lib.pad_rows(rows[:0], 2, -1.0), [[-1], [-1]])
