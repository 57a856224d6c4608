"""The detector: pieces that keras-cv has differently, saving, compiling."""

import keras_cv
import numpy as np
import pytest
import tensorflow as tf

from official.data.example import normalize
from official.models.anchors import encode_targets
from official.models.backbones.efficientnet import build_efficientnet
from official.models.decoding import DetectionDecoder
from official.models.keras_metrics import metric_values
from official.models.layers import SyncBatchNormalization
from official.models.retinanet import RetinaNet

keras = tf.keras


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    backbone = build_efficientnet("efficientnet-b0", width=0.25, depth=0.25, input_shape=(128, 128, 3))
    return RetinaNet(backbone, 5, image_size=128, fpn_filters=16, head_filters=24, head_convs=2)


def test_outputs_have_one_row_per_anchor(model):
    outputs = model({"images": tf.zeros([2, 128, 128, 3])})
    anchors = sum(level.shape[0] for level in model.anchors())
    assert anchors == 9 * (16**2 + 8**2 + 4**2 + 2**2 + 1)
    assert outputs["box"].shape == (2, anchors, 4)
    assert outputs["classification"].shape == (2, anchors, 5)


def test_class_prior(model):
    """Every class starts at about 1 %."""
    scores = tf.sigmoid(model({"images": tf.random.normal([1, 128, 128, 3])})["classification"])
    np.testing.assert_allclose(scores, 0.01, rtol=0.02)


def test_batch_norm_is_per_level_and_convolutions_are_shared(model):
    names = [layer.name for layer in model.layers]
    assert sum(name.startswith("box_bn_1_level") for name in names) == 5
    assert sum(name.startswith("box_conv_") for name in names) == 2
    norms = [l for l in model.layers if isinstance(l, SyncBatchNormalization)]
    assert {(n.momentum, n.epsilon) for n in norms} == {(0.997, 1e-4)}
    inner = [l for l in model.get_layer("backbone").layers if isinstance(l, SyncBatchNormalization)]
    assert {(n.momentum, n.epsilon) for n in inner} == {(0.99, 1e-3)}


def test_p6_comes_from_p5_and_p7_from_rectified_p6(model):
    """keras-cv takes P6 from C5."""

    def feeder(name):
        return model.get_layer(name).input._keras_history.layer.name

    assert feeder("fpn_conv_6") == "fpn_conv_5"
    assert feeder("fpn_conv_7") == "fpn_relu_7"
    assert (
        feeder("fpn_relu_7") == "fpn_conv_6"
        and model.get_layer("fpn_relu_7").activation is keras.activations.relu
    )


def test_initial_weights(model):
    assert np.std(model.get_layer("box_conv_0").kernel) == pytest.approx(0.01, rel=0.05)
    assert np.std(model.get_layer("classification_predictor").kernel) == pytest.approx(1e-5, rel=0.05)
    np.testing.assert_allclose(model.get_layer("classification_predictor").bias, -np.log(99), rtol=1e-6)
    assert not model.get_layer("box_predictor").bias.numpy().any()


def test_decoding_uses_the_encoders_coding(model):
    """A perfect network finds the very boxes; keras-cv decodes with other variances than its encoder's."""
    boxes = tf.constant([[[10.0, 20, 60, 90], [70, 5, 120, 40]]])
    classes = tf.constant([[3, 1]])
    targets = encode_targets(boxes, classes, tf.concat(model.anchors(), 0))
    logits = 12.0 * tf.one_hot(targets["class_targets"], 5) - 6.0
    found = model.decode_predictions({"box": targets["box_targets"], "classification": logits})
    assert found["num_detections"].numpy() == [2]
    order = np.argsort(-found["classes"][0, :2].numpy())
    np.testing.assert_allclose(found["boxes"].numpy()[0, :2][order], boxes[0], atol=1e-2)
    np.testing.assert_array_equal(found["classes"].numpy()[0, :2][order], [3, 1])


def test_config_keeps_every_argument(model):
    """keras-cv's get_config loses the pyramid and the anchors."""
    again = RetinaNet.from_config(model.get_config())
    again.set_weights(model.get_weights())
    images = tf.random.normal([1, 128, 128, 3])
    for name, value in model({"images": images}).items():
        np.testing.assert_array_equal(again({"images": images})[name], value)
    assert [v.name for v in again.variables] == [v.name for v in model.variables]


def test_saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    images = tf.random.normal([1, 128, 128, 3])
    np.testing.assert_array_equal(again({"images": images})["box"], model({"images": images})["box"])
    assert type(again) is RetinaNet


def test_forward_and_backward_compile(model):
    @tf.function(jit_compile=True)
    def step(images):
        with tf.GradientTape() as tape:
            outputs = model({"images": images}, training=True)
            loss = tf.add_n([tf.reduce_sum(value**2) for value in outputs.values()])
        return tape.gradient(loss, model.trainable_variables)

    assert all(g is not None for g in step(tf.zeros([1, 128, 128, 3])))


def test_a_custom_decoder_is_asked(model):
    outputs = model({"images": tf.random.normal([1, 128, 128, 3])})
    found = model.decode_predictions(outputs, decoder=DetectionDecoder(score_threshold=0.0, max_detections=3))
    assert found["boxes"].shape == (1, 3, 4)


def test_size_that_does_not_fit_the_levels():
    backbone = build_efficientnet("efficientnet-b0", width=0.25, depth=0.25, input_shape=(96, 96, 3))
    with pytest.raises(ValueError, match="use 128"):
        RetinaNet(backbone, 5, image_size=96)


# --- as keras-cv's users know it ------------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
class Body(keras.Model):
    """A backbone of five convolutions."""

    def __init__(self, **kwargs):
        x = images = keras.Input((64, 64, 3))
        for level in range(1, 6):
            x = keras.layers.Conv2D(
                8, 3, strides=2, padding="same", activation="relu", name=f"level_{level}"
            )(x)
        super().__init__(images, x, **kwargs)
        self.pyramid_level_inputs = {f"P{level}": f"level_{level}" for level in (3, 4, 5)}

    def get_config(self):
        return {"name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def small_net(box_format="xywh", **kwargs):
    """64 pixels, five classes; the same first weights each time."""
    tf.keras.utils.set_random_seed(0)
    return RetinaNet(
        Body(), 5, image_size=64, max_level=5, fpn_filters=16, head_filters=16, head_convs=1, anchor_scale=2.5,
        bounding_box_format=box_format, **kwargs,
    )  # fmt: skip


BOXES = np.array(
    [[[8, 8, 24, 24], [30, 30, 20, 20]], [[40, 10, 20, 30], [-1, -1, -1, -1]]], np.float32
)  # xywh
CLASSES = np.array([[1, 3], [0, -1]], np.float32)


def small_batch():
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    return {"images": images, "bounding_boxes": {"boxes": BOXES, "classes": CLASSES}}


@pytest.fixture(scope="module")
def fitted():
    """A network after one step of Keras' fit, compiled as keras-cv's; its history."""
    net = small_net()
    net.compile(
        classification_loss="focal", box_loss="smoothl1", optimizer=tf.keras.optimizers.SGD(0.01),
        metrics=[keras_cv.metrics.BoxCOCOMetrics("xywh", evaluate_freq=10**6)],
    )  # fmt: skip
    data = tf.data.Dataset.from_tensors(small_batch())
    return net, net.fit(data, validation_data=data, verbose=0).history


def test_fit_on_keras_cvs_dicts_is_the_sum_over_positives(fitted):
    """keras-cv's focal and SmoothL1 losses of the outputs before the step, divided by the positive anchors
    plus one.
    """
    net, history = fitted
    outputs = small_net()({"images": normalize(small_batch()["images"])}, training=True)
    corners = np.concatenate([BOXES[..., 1::-1], BOXES[..., 1::-1] + BOXES[..., :1:-1]], axis=-1)
    targets = encode_targets(
        tf.constant(corners), tf.constant(CLASSES.astype(np.int32)), tf.concat(net.anchors(), 0)
    )
    count = float(tf.reduce_sum(targets["positives"])) + 1
    assert count > 3
    probability = tf.sigmoid(outputs["classification"]).numpy()
    wanted = tf.one_hot(targets["class_targets"], 5).numpy()
    right = np.where(wanted > 0, probability, 1 - probability)
    focal = (np.where(wanted > 0, 0.25, 0.75) * (1 - right) ** 2 * -np.log(right)).sum() / count
    error = np.abs(outputs["box"].numpy() - targets["box_targets"].numpy())[
        targets["class_targets"].numpy() >= 0
    ]
    smooth = np.where(error < 1, error**2 / 2, error - 0.5).mean(axis=-1).sum() / count
    assert history["classification_loss"][0] == pytest.approx(focal, rel=1e-3)
    assert history["box_loss"][0] == pytest.approx(smooth, rel=1e-3)
    assert history["loss"][0] == pytest.approx(focal + smooth, rel=1e-3)
    assert {"val_loss", "val_box_loss", "val_MaP", "val_MaP@[IoU=50]"} <= set(
        history
    ) and "MaP" not in history


def test_coco_metrics_are_computed_in_the_end_whatever_their_frequency():
    """Every box found: MaP 1, though keras-cv would compute it every million images; of no image nothing."""
    metric = keras_cv.metrics.BoxCOCOMetrics("xywh", evaluate_freq=10**6)
    assert metric_values(metric, final=True) == {}
    truth = {"boxes": BOXES, "classes": CLASSES}
    metric.update_state(truth, {**truth, "confidence": np.ones_like(CLASSES)})
    found = metric_values(metric, final=True)
    assert float(found["MaP"]) == pytest.approx(1.0) == float(found["MaP@[IoU=75]"])


def test_predict_in_the_format_asked_for_and_by_keras_cvs_decoders(fitted):
    net, _ = fitted
    images = small_batch()["images"]
    net.prediction_decoder = keras_cv.layers.MultiClassNonMaxSuppression(
        "xywh", from_logits=True, confidence_threshold=0.0, max_detections=7
    )
    found = net.predict(images, verbose=0)
    assert {k: v.shape for k, v in found.items()} == {
        "boxes": (2, 7, 4), "classes": (2, 7), "confidence": (2, 7), "num_detections": (2,)
    }  # fmt: skip
    net.prediction_decoder = DetectionDecoder(score_threshold=0.0, max_detections=7)
    ours = net.predict(images, verbose=0)
    assert (ours["num_detections"] == 7).all() and (ours["boxes"][..., 2:] > 0).all()
    np.testing.assert_allclose(ours["confidence"], found["confidence"], rtol=1e-4)
    for a, b in zip(ours["boxes"], found["boxes"]):  # scores that are nearly equal may change places
        np.testing.assert_allclose(a[np.lexsort(a.round().T)], b[np.lexsort(b.round().T)], atol=0.05)
    raw = net(normalize(images), training=False)
    yxyx = DetectionDecoder(score_threshold=0.0, max_detections=7)(raw, net.anchors(), tf.fill([2, 2], 64.0))[
        "boxes"
    ].numpy()
    np.testing.assert_allclose(ours["boxes"][..., :2], yxyx[..., 1::-1], atol=1e-4)
    np.testing.assert_allclose(ours["boxes"][..., 2:], (yxyx[..., 2:] - yxyx[..., :2])[..., ::-1], atol=1e-4)


def test_keras_file_keeps_format_decoder_losses_and_optimizer(fitted, tmp_path):
    net, _ = fitted
    net.save(tmp_path / "net.keras")
    again = tf.keras.models.load_model(tmp_path / "net.keras")
    assert again.bounding_box_format == "xywh" and again.prediction_decoder == net.prediction_decoder
    assert (
        type(again.classification_loss) is type(net.classification_loss)
        and int(again.optimizer.iterations) == 1
    )
    for a, b in zip((*again.weights, *again.optimizer.variables), (*net.weights, *net.optimizer.variables)):
        np.testing.assert_array_equal(a, b)
    (metric,) = again._user_metrics
    assert (metric.bounding_box_format, metric.evaluate_freq) == ("xywh", 10**6)
    layered = small_net(
        prediction_decoder=keras_cv.layers.NonMaxSuppression("xywh", from_logits=True, max_detections=9)
    )
    assert RetinaNet.from_config(layered.get_config()).prediction_decoder.max_detections == 9


@pytest.mark.slow
def test_two_replicas_take_the_same_step(fitted):
    """keras-cv's own would take twice it."""
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        net = small_net()
        net.compile("sgd", classification_loss="focal", box_loss="smoothl1")
    net.fit(tf.data.Dataset.from_tensor_slices(small_batch()).batch(2, drop_remainder=True), verbose=0)
    for a, b in zip(net.trainable_variables, fitted[0].trainable_variables):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-5, err_msg=a.name)


def test_what_a_detector_is_not_trained_on(model):
    with pytest.raises(ValueError, match="box_loss= and classification_loss=; box_loss is missing"):
        model.compile("sgd", classification_loss="focal")
    with pytest.raises(ValueError, match='give it reduction="sum"'):
        model.compile("sgd", classification_loss="focal", box_loss=tf.keras.losses.Huber())
    with pytest.raises(ValueError, match=r"this network takes \[B, 128, 128, 3\]"):
        model.predict(np.zeros((1, 64, 64, 3)), verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="all in 0..1"):
        model._network_images(np.ones((1, 128, 128, 3), np.float32) * 0.5)
    with pytest.raises(ValueError, match="without sample weights"):
        model._unpacked((1, 2, 3))
    with pytest.raises(NotImplementedError, match="import_checkpoint"):
        RetinaNet.from_preset("retinanet_resnet50_pascalvoc")
    with pytest.raises(ValueError, match="two decoders"):
        small_net(
            decoder=DetectionDecoder(), prediction_decoder=keras_cv.layers.NonMaxSuppression("xywh", True)
        )
