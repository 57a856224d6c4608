"""Post-processing against a plain NumPy implementation over all anchors."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from official.models.anchors import anchor_generator, anchors_by_level, decode_boxes
from official.models.decoding import DetectionDecoder

SIZE = 64


def iou(a, b):
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    overlap = height * width
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def plain_decode(boxes, logits, threshold, nms_iou, limit):
    """Greedy class-wise NMS over every anchor."""
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    found = []
    for label in range(logits.shape[1]):
        kept = []
        for a in np.argsort(-scores[:, label], kind="stable"):
            if scores[a, label] >= threshold and all(iou(boxes[a], boxes[k]) <= nms_iou for k in kept):
                kept.append(a)
        found += [(scores[a, label], label, a) for a in kept]
    return sorted(found, reverse=True)[:limit]


@pytest.fixture(scope="module")
def outputs():
    generator = np.random.default_rng(0)
    levels = anchors_by_level(anchor_generator(3, 5, anchor_scale=2.0), SIZE)
    total = sum(level.shape[0] for level in levels)
    logits = generator.normal(-2.5, 1.5, (2, total, 3)).astype(np.float32)
    codes = generator.normal(0, 0.3, (2, total, 4)).astype(np.float32)
    return levels, {"box": tf.constant(codes), "classification": tf.constant(logits)}


def test_equals_exhaustive_nms(outputs):
    """With a top-k that holds every candidate nothing is lost; keras-cv walks all anchors instead."""
    levels, raw = outputs
    extents = tf.constant([[64.0, 64.0], [40.0, 64.0]])
    found = DetectionDecoder(score_threshold=0.3, top_k=5000, max_detections=40)(raw, levels, extents)
    flat = tf.concat(levels, 0)
    for i in range(2):
        boxes = decode_boxes(raw["box"][i], flat).numpy()
        boxes = np.clip(boxes, 0, [*extents[i].numpy(), *extents[i].numpy()])
        logits = np.where(
            ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))[:, None],
            raw["classification"][i],
            -99,
        )
        expected = plain_decode(boxes, logits, 0.3, 0.5, 40)
        count = int(found["count"][i])
        assert count == len(expected)
        np.testing.assert_allclose(found["scores"][i, :count], [e[0] for e in expected], atol=1e-5)
        np.testing.assert_array_equal(found["classes"][i, :count], [e[1] for e in expected])
        np.testing.assert_allclose(found["boxes"][i, :count], boxes[[e[2] for e in expected]], atol=1e-3)


def test_the_score_threshold_is_where_it_is_said_to_be(outputs):
    """Without NMS and limits: the pairs whose probability reaches it, no more and no fewer."""
    levels, raw = outputs
    apart = {**raw, "box": tf.zeros_like(raw["box"])}
    scores = 1 / (1 + np.exp(-raw["classification"][0].numpy().astype(np.float64)))
    for threshold in (0.4, 0.6):
        decoder = DetectionDecoder(
            score_threshold=threshold, nms_iou_threshold=1.0, top_k=5000, max_detections=2000
        )
        found = decoder(apart, levels, tf.fill([2, 2], 1e3))
        inside = (decode_boxes(apart["box"][0], tf.concat(levels, 0)).numpy()[:, 2:] > 0).all(1)
        assert int(found["count"][0]) == (scores[inside] >= threshold).sum() > 20


def test_top_k_keeps_the_best_pairs_of_each_level(outputs):
    levels, raw = outputs
    decoder = DetectionDecoder(score_threshold=0.0, nms_iou_threshold=1.0, top_k=7, max_detections=100)
    found = decoder({**raw, "box": tf.zeros_like(raw["box"])}, levels, tf.fill([2, 2], 64.0))
    start, expected = 0, []
    for level in levels:
        part = raw["classification"][0, start : start + level.shape[0]].numpy().ravel()
        expected += sorted(1 / (1 + np.exp(-part)), reverse=True)[:7]
        start += level.shape[0]
    count = int(found["count"][0])
    assert count == 21
    np.testing.assert_allclose(found["scores"][0, :count], sorted(expected, reverse=True), atol=1e-6)


@pytest.mark.parametrize("static", [False, True])
def test_soft_nms_decays_instead_of_dropping(static):
    """By hand, sigma 0.3: every better box kept multiplies a score by exp(-iou^2 / (2 * 0.3)).

    `left` meets `first` with IoU 1/2: 0.6 exp(-0.25 / 0.6) = 0.39554. `wide` meets `first` with IoU 0.8 and
    `left` with 30 / (80 + 50 - 30) = 0.3: 0.8 exp(-(0.64 + 0.09) / 0.6) = 0.8 * 0.29622 = 0.23697.
    The Soft-NMS paper's exp(-iou^2 / sigma) would leave them 0.26076 and 0.07019.
    """
    first, wide, apart, left = [0.0, 0, 10, 10], [0.0, 0, 10, 8], [30.0, 30, 40, 40], [0.0, 5, 10, 10]
    scores = np.array([0.9, 0.8, 0.5, 0.6])
    logits = tf.constant(np.log(scores / (1 - scores)), tf.float32)[None, :, None]
    raw = {"box": tf.zeros([1, 4, 4]), "classification": logits}
    level = tf.constant([first, wide, apart, left])
    decoder = DetectionDecoder(soft_nms_sigma=0.3, max_detections=5, static=static)
    found = decoder(raw, [level], tf.constant([[64.0, 64.0]]))
    assert int(found["count"][0]) == 4
    np.testing.assert_allclose(found["boxes"][0, :4], [first, apart, left, wide], atol=1e-4)
    np.testing.assert_allclose(found["scores"][0, :4], [0.9, 0.5, 0.39554, 0.23697], atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("by_xla", [False, True])
def test_what_a_tpu_runs_is_the_same(outputs, sigma, by_xla):
    """The steps of plain operations choose what TensorFlow's op does, in its order.

    Also of candidates with equal scores, but under XLA, whose top_k takes those as it likes.
    """
    levels, raw = outputs
    if not by_xla:
        raw = {**raw, "classification": tf.round(raw["classification"])}
    extents = tf.constant([[64.0, 64.0], [40.0, 64.0]])
    decoder = DetectionDecoder(score_threshold=0.2, max_detections=60, soft_nms_sigma=sigma, top_k=300)
    expected = decoder(raw, levels, extents)
    static = dataclasses.replace(decoder, static=True)
    run = tf.function(
        lambda *values: static(values[0], levels, values[1]), jit_compile=by_xla, autograph=False
    )
    found = run(raw, extents)
    assert found["boxes"].shape == (2, 60, 4) and 20 < int(expected["count"][1])
    for name in ("count", "classes"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-4)
    none = {**raw, "classification": tf.fill(raw["classification"].shape, -20.0)}
    assert run(none, extents)["count"].numpy().tolist() == [0, 0]


def test_nothing_above_the_threshold(outputs):
    levels, raw = outputs
    raw = {**raw, "classification": tf.fill(raw["classification"].shape, -20.0)}
    found = DetectionDecoder()(raw, levels, tf.fill([2, 2], 64.0))
    assert found["count"].numpy().tolist() == [0, 0]
    assert (found["classes"].numpy() == -1).all() and (found["boxes"].numpy() == 0).all()


def test_a_batch_of_one_without_a_loop_is_the_same(outputs):
    levels, raw = outputs
    first = {name: value[:1] for name, value in raw.items()}
    decoder, extents = DetectionDecoder(score_threshold=0.2), tf.fill([1, 2], 64.0)
    for name, value in decoder.single(first, levels, extents).items():
        np.testing.assert_array_equal(value, decoder(first, levels, extents)[name])


def test_legacy_decoding_ends_at_the_last_pixel():
    """The original cuts boxes off at 63 of an input of 64; an image that ends before that has its own end."""
    level = tf.constant([[-8.0, -8.0, 80.0, 80.0]])
    raw = {"box": tf.zeros([2, 1, 4]), "classification": tf.ones([2, 1, 1])}
    extents = tf.constant([[64.0, 64.0], [64.0, 40.0]])
    boxes = DetectionDecoder(legacy_size=64)(raw, [level], extents)["boxes"]
    np.testing.assert_array_equal(boxes[:, 0], [[0, 0, 63, 63], [0, 0, 63, 40]])
    np.testing.assert_array_equal(
        DetectionDecoder()(raw, [level], extents)["boxes"][:, 0], [[0, 0, 64, 64], [0, 0, 64, 40]]
    )
