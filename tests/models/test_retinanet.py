"""The detector: pieces that keras-cv has differently, saving, compiling."""

import numpy as np
import pytest
import tensorflow as tf

from official.models.anchors import encode_targets
from official.models.decoding import DetectionDecoder
from official.models.backbones.efficientnet import build_efficientnet
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
    assert feeder("fpn_relu_7") == "fpn_conv_6" and model.get_layer("fpn_relu_7").activation is keras.activations.relu


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


def test_keras_fit_is_refused(model):
    with pytest.raises(TypeError, match="Trainer"):
        model.compile(optimizer="sgd")
