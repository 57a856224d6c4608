"""Every option of networks, augmentation, losses and decoding reaches what it is about: none is ignored.

The other tests use few values; here each option has one that is not its default, and is read where it
acts: off the layers of a network, the parts of a policy, a loss of a few numbers.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from losses.contrastive import nt_xent
from losses.focal import BACKGROUND, IGNORED
from official.data.example import denormalize
from official.data.pipeline import example_reader
from official.data.source import Category
from official.errors import FlagError
from official.experiment import Experiment, Model, experiment_from
from official.models.backbones.input_scale import scale_of
from official.models.backbones.registry import build_backbone
from official.models.layers import Dropout, StochasticDepth, Swish, SyncBatchNormalization
from official.tasks import registry
from official.tasks.registry import build_task
from tests import tiny

CATEGORIES = tuple(Category(i, str(i)) for i in range(5))


def task_of(**options):
    return build_task(experiment_from(options), CATEGORIES)


def norms(model):
    return {
        (layer.momentum, layer.epsilon) for layer in model.layers if isinstance(layer, SyncBatchNormalization)
    }


def sizes(model, prefix):
    """Output channels of the layers whose names begin so."""
    return [layer.output.shape[-1] for layer in model.layers if layer.name.startswith(prefix)]


# --- networks ----------------------------------------------------------------------------------------

NETWORK = dict(
    backbone="efficientnet-b1", backbone_width=0.3, backbone_depth=0.4, survival_probability=0.7,
    image_size=64, fpn_filters=12, activation="swish", batch_norm_momentum=0.9, batch_norm_epsilon=0.02,
    backbone_batch_norm_momentum=0.8, input_normalization="unit",
)  # fmt: skip


def assert_backbone(backbone):
    assert backbone.get_config()["width"] == 0.3 and backbone.get_config()["depth"] == 0.4
    drops = [layer.survival_probability for layer in backbone.layers if isinstance(layer, StochasticDepth)]
    assert min(drops) == pytest.approx(0.76) and max(drops) < 1  # block 8 of 10: 1 - 0.3 * 0.8
    assert {momentum for momentum, _ in norms(backbone)} == {0.8} and scale_of(backbone) == "unit"


def test_detector():
    options = dict(
        min_level=4,
        max_level=6,
        head_filters=20,
        head_convs=2,
        anchor_scale=3.0,
        num_scales=2,
        eval_score_threshold=0.3,
    )
    model = task_of(**NETWORK, **options).build_model()
    assert_backbone(model.backbone)
    assert norms(model) == {(0.9, 0.02)}
    assert sizes(model, "fpn_bn_") == [12] * 3 and [
        layer.name for layer in model.layers if layer.name.startswith("fpn_bn")
    ] == ["fpn_bn_4", "fpn_bn_5", "fpn_bn_6"]
    assert [layer.filters for layer in model.layers if layer.name.startswith("box_conv_")] == [20, 20]
    assert {layer.activation.__name__ for layer in model.layers if layer.name.startswith("box_act_")} == {
        "swish"
    }
    assert [len(level) for level in model.anchors()] == [4 * 4 * 6, 2 * 2 * 6, 6]
    assert float(model.anchors()[0][0, 2] - model.anchors()[0][0, 0]) == pytest.approx(48)
    assert model.image_size == 64 and model.prediction_decoder.score_threshold == 0.3


@pytest.mark.parametrize("legacy", [False, True])
def test_segmenter(legacy):
    """NAS-FPN of one repeat with plain convolutions; legacy_resize enlarges the levels as TF1 did."""
    options = dict(pyramid_repeats=1, separable_pyramid=False, segmentation_convs=2, legacy_resize=legacy)
    model = task_of(task="segmentation", **{**NETWORK, "image_size": 128}, **options).build_model()
    assert_backbone(model.backbone)
    assert norms(model) == {(0.9, 0.02)}
    convolutions = [
        layer for layer in model.layers if layer.name.startswith("nas_") and layer.name.endswith("_conv")
    ]
    assert len(convolutions) == 7 and {type(layer) for layer in convolutions} == {tf.keras.layers.Conv2D}
    assert (
        sizes(model, "head_conv_") == [12, 12]
        and model.get_layer("head_act_0").activation.__name__ == "swish"
    )
    assert ("fusion_up_3_mean_down" in {layer.name for layer in model.layers}) == legacy


def test_another_pyramid_for_segmentation():
    model = task_of(
        task="segmentation", **NETWORK, pyramid="fpn", max_level=5, segmentation_convs=0
    ).build_model()
    names = {layer.name for layer in model.layers}
    assert {"fpn_bn_3", "fpn_bn_4", "fpn_bn_5", "classifier"} <= names
    assert not any(name.startswith(("nas_", "fpn_bn_6", "head_conv")) for name in names)


def test_classifier_and_contrastive_network():
    model = task_of(task="classification", **NETWORK, dropout=0.35).build_model()
    assert_backbone(model.backbone)
    assert [layer.rate for layer in model.layers if isinstance(layer, Dropout)] == [0.35]
    options = dict(projection_layers=2, projection_dim=9)
    model = task_of(task="contrastive", **NETWORK, **options).build_model()
    assert len(sizes(model, "projection_0_bn")) == 3 and "projection_2" not in {
        layer.name for layer in model.layers
    }
    assert model.get_layer("projection_1").units == 9
    assert {
        layer.momentum
        for layer in model.layers
        if layer.name.startswith("projection_0_bn") and hasattr(layer, "momentum")
    } == {0.9}


@pytest.mark.parametrize("name", ["resnet-50", "spinenet-49s"])
def test_other_backbones(name):
    width = dict(backbone_width=0.125) if name == "resnet-50" else dict(backbone_width=0.1)
    chosen = (
        dict(zero_last_gamma=True) if name == "resnet-50" else dict(survival_probability=0.6, image_size=128)
    )
    shared = dict(
        activation="swish", batch_norm_momentum=0.9, batch_norm_epsilon=0.02, input_normalization="bytes"
    )
    backbone = build_backbone(Model(backbone=name, **width, **chosen, **shared))
    assert norms(backbone) == {(0.9, 0.02)} and scale_of(backbone) == "bytes"
    activations = ["swish" for layer in backbone.layers if isinstance(layer, Swish)]
    activations += [
        layer.activation.__name__
        for layer in backbone.layers
        if isinstance(layer, tf.keras.layers.Activation)
    ]
    assert activations.count("swish") > 10 and "relu" not in activations
    if name == "resnet-50":
        gammas = [v.numpy() for v in backbone.variables if v.name.endswith("_3_bn/gamma:0")]
        assert len(gammas) == 16 and not np.any(gammas[0]) and max(sizes(backbone, "stage5")) == 256
    else:
        drops = [
            layer.survival_probability for layer in backbone.layers if isinstance(layer, StochasticDepth)
        ]
        assert min(drops) == pytest.approx(0.6)
        assert backbone.get_config()["filter_scale"] == 0.1


# --- augmentation ------------------------------------------------------------------------------------


def test_policy_of_dense_tasks():
    """Every part replaced, for both sets of operations, and the settings."""
    options = dict(
        augment="s3", jitter_min=0.3, jitter_max=1.7, flip=False, autoaugment="v2", randaugment_layers=2,
        randaugment_magnitude=7.0, min_box_size=5.0, augment_reference_size=512,
        solarize_posterize="strengthening", contrast_grey="mean", box_rounding="exact",
    )  # fmt: skip
    for task, operations in (("detection", "boxes"), ("segmentation", "image")):
        found = task_of(task=task, **options).augment
        parts = (found.jitter_min, found.jitter_max, found.flip, found.autoaugment, found.randaugment_layers)
        assert parts == (0.3, 1.7, False, "v2", 2)
        assert (found.randaugment_magnitude, found.randaugment_ops, found.min_box_size) == (
            7.0,
            operations,
            5.0,
        )
        s = found.settings
        assert (s.reference_size, s.solarize_posterize) == (512, "strengthening")
        assert s.contrast_true_mean and s.exact_boxes
        assert s.translate_const == (250 if operations == "boxes" else 100)
    assert task_of(randaugment_ops="image", augment="s4").augment.randaugment_ops == "image"
    assert task_of(augment="s4").augment.settings.contrast_true_mean is False


def test_policy_of_whole_images():
    options = dict(
        augment="s4", smallest_crop=0.3, flip=False, autoaugment="v1", randaugment_magnitude=17.0,
        legacy_resize=True, contrast_grey="mean", augment_reference_size=99,
    )  # fmt: skip
    found = task_of(task="classification", **options).augment
    assert (found.smallest_area, found.flip, found.autoaugment) == (0.3, False, "v1")
    assert (found.randaugment_layers, found.randaugment_magnitude, found.legacy_resize) == (1, 17.0, True)
    assert found.settings.contrast_true_mean and found.settings.reference_size == 99


def test_views_of_contrastive_learning():
    options = dict(color_strength=0.5, blur=False, blur_per_image=True, smallest_crop=0.2, legacy_resize=True)
    found = task_of(task="contrastive", **options).views
    assert dataclasses.asdict(found) == dict(
        strength=0.5, blur=False, blur_per_image=True, smallest_area=0.2, legacy_resize=True
    )


def test_a_training_example_of_detection_has_the_size_and_rows_that_were_asked_for(scenes):
    task = build_task(tiny.experiment(image_size=96, max_boxes=2, augment="none"), scenes.categories)
    batch = next(iter(task.training_dataset(scenes, batch_size=4, replica_batch_size=4, seed=0, stream="s")))
    assert batch["images"].shape == (4, 96, 96, 3) and batch["boxes"].shape == (4, 2, 4)


# --- losses ------------------------------------------------------------------------------------------


def test_smoothing_of_classes_and_pixels():
    """Logits (ln 3, 0): p = 3/4 and 1/4. With 0.2 of two classes the targets are 0.9 and 0.1."""
    logits, expected = np.log([3.0, 1.0]), -0.9 * np.log(0.75) - 0.1 * np.log(0.25)
    task = build_task(experiment_from(dict(task="classification", label_smoothing=0.2)), CATEGORIES[:2])
    found = task.loss_sums({"logits": tf.constant([logits], tf.float32)}, {"labels": tf.constant([0])})
    assert float(found["class_loss"]) == pytest.approx(expected, rel=1e-5)
    task = build_task(experiment_from(dict(task="segmentation", label_smoothing=0.2)), CATEGORIES[:2])
    pixels = tf.constant(logits[None, None, None], tf.float32)
    found = task.loss_sums({"logits": pixels}, {"labels": tf.zeros([1, 4, 4], tf.int32)})
    assert float(found["class_loss"]) == pytest.approx(16 * expected, rel=1e-5)


@pytest.mark.parametrize(
    "method, legacy, expected",
    [("nearest", False, 5), ("nearest", True, 0), ("bilinear", False, 2)],
)
def test_where_logits_and_labels_meet(method, legacy, expected):
    """4 x 4 pixels, 5 in their lower right quarter: the middle, the corner, the mean about the middle."""
    mask = np.zeros((1, 32, 32), np.uint8)
    mask[:, 2:4, 2:4] = 5
    task = task_of(
        task="segmentation",
        image_size=32,
        max_level=5,
        pyramid="fpn",
        mask_resize=method,
        legacy_resize=legacy,
    )
    labels = task.encode({"masks": tf.constant(mask)})["labels"].numpy()
    assert labels.shape == (1, 8, 8) and labels[0, 0, 0] == (1 if method == "bilinear" else expected)
    whole = task_of(task="segmentation").encode({"masks": tf.constant(mask)})["labels"]
    np.testing.assert_array_equal(whole, mask)


@pytest.mark.parametrize("legacy", [True, False])
def test_the_kernel_that_logits_are_enlarged_with(legacy):
    """For the loss: as TF1 or as TF2 resizes."""
    logits = tf.random.stateless_normal([1, 8, 8, 5], [3, 4], stddev=4.0)
    resize = tf.compat.v1.image.resize_bilinear if legacy else tf.image.resize
    labels = tf.random.stateless_uniform([1, 32, 32], [5, 6], 0, 5, tf.int32)
    options = dict(task="segmentation", image_size=32, max_level=5, pyramid="fpn", legacy_resize=legacy)
    task = task_of(**options)
    found = task.loss_sums({"logits": logits}, {"labels": labels})["class_loss"]
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, resize(logits, [32, 32]))
    assert float(found) == pytest.approx(float(tf.reduce_sum(expected)), rel=1e-5)


def test_temperature_of_the_contrastive_loss():
    projections = tf.random.stateless_normal([6, 2, 4], [1, 2])
    for temperature in (0.1, 0.5):
        task = build_task(experiment_from(dict(task="contrastive", temperature=temperature)), ())
        found = task.loss_sums({"projections": projections}, {"labels": tf.zeros([6], tf.int32)})[
            "contrastive_loss"
        ]
        expected = tf.reduce_sum(nt_xent(*tf.unstack(projections, axis=1), temperature=temperature)[0])
        assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_a_task_of_ones_own_needs_the_registry_alone(monkeypatch):
    """What stands there is chosen by its name; what does not is an error that lists what does."""

    class Counting(registry.TASKS["classification"]):
        name = "counting"

    with pytest.raises(
        FlagError, match="--task=counting is unknown; the tasks are detection, .*contrastive$"
    ):
        task_of(task="counting")
    monkeypatch.setitem(registry.TASKS, "counting", Counting)
    assert type(task_of(task="counting")) is Counting


# --- labelling and evaluating ---------------------------------------------------------------------------


def test_labels_go_down_to_the_floor_and_predictions_to_their_own_threshold(monkeypatch):
    task = task_of(score_floor=0.02, eval_score_threshold=0.3, score_threshold=0.6)
    nothing = {"boxes": np.zeros((0, 4)), "classes": np.zeros(0, int)}
    found = lambda model, source, first, last, threshold: iter([{**nothing, "scores": np.array([threshold])}])  # noqa: E731
    monkeypatch.setattr(task, "predictions", found)
    (label,), (prediction,) = task.label(None, None, 0, 1), task.predict(None, None, 0, 1)
    assert (label.scores.tolist(), prediction["scores"].tolist()) == ([0.02], [0.3])
    objects = {"scores": np.array([0.7, 0.5]), "boxes": np.zeros((2, 4)), "classes": np.array([0, 1])}
    assert task.shown(objects)["scores"].tolist() == [0.7]


def test_uncertain_boxes_are_background_by_default():
    """One box of class -2 just on an anchor: the network of the paper calls its anchors background."""
    for flag, target in ((1.0, BACKGROUND), (0.3, IGNORED)):
        task = task_of(ignore_above=flag, image_size=64)
        anchor = tf.concat(task.anchors, axis=0)[40]
        batch = {"boxes": anchor[None, None], "classes": tf.constant([[IGNORED]])}
        assert task.encode(batch)["class_targets"][0, 40] == target


def test_soft_labels_have_their_temperature(monkeypatch):
    """Logits (ln 4, 0): 0.8 and 0.2; at temperature 2 they are those of (ln 2, 0). The score stays."""
    task = task_of(task="classification", label_temperature=2.0)
    monkeypatch.setattr(task, "_logits", lambda *_: iter([np.log([4.0, 1.0])]))
    (row,) = task.label(None, None, 0, 1)
    np.testing.assert_allclose(row.probabilities, [2 / 3, 1 / 3], rtol=1e-6)
    assert row.score == pytest.approx(0.8) and row.label == 0
    (row,) = task.predict(None, None, 0, 1)
    np.testing.assert_allclose(row["probabilities"], [0.8, 0.2], rtol=1e-6)


def test_defaults_are_not_what_these_tests_use():
    """A test with the default value would not notice that an option is ignored."""
    defaults = Experiment().flags()
    assert all(defaults[name] != value for name, value in NETWORK.items())


# --- the kernel that pixels are resized with ---------------------------------------------------------


class Seen(Exception):
    """Carries the images that a network would have been given."""


def evaluated(task, source, monkeypatch):
    """The images that a task gives to a network when it evaluates or labels."""

    def seen(*_):
        def run(images, *_):
            raise Seen(images)

        return run

    module = f"official.tasks.{task.name}"
    monkeypatch.setattr(
        f"{module}.{'detection_function' if task.name == 'detection' else 'logits_function'}", seen
    )
    with pytest.raises(Seen) as caught:
        list(task.predict(None, source, 0, 2))
    return caught.value.args[0].numpy()


@pytest.mark.parametrize("name", ["detection", "segmentation", "classification"])
def test_legacy_resize_is_the_kernel_of_training_and_of_evaluating(name, monkeypatch):
    """Doubled without half-pixel centres every second pixel is one of the image's own; with them none is."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    noise = dict(sizes=np.full((2, 2), 32), read_image=lambda index: tf.constant(pixels))
    source = dataclasses.replace(tiny.scenes_source(count=2), **noise)
    if name == "segmentation":
        source = source.with_masks(lambda index: tf.zeros([32, 32], tf.uint8), source.categories)
    elif name == "classification":
        source = source.with_classes([0, 1], source.categories)
    for legacy in (True, False):
        options = dict(task=name, augment="none", image_size=64, legacy_resize=legacy)
        task = build_task(tiny.experiment(**options), source.categories)
        if name == "classification":
            task.augment = dataclasses.replace(task.augment, crop=False, flip=False)
        training = task.preparation()(example_reader(source)(tf.constant(0, tf.int64)), tf.constant([1, 2]))
        for image in (training["images"].numpy(), evaluated(task, source, monkeypatch)[0]):
            assert image.shape == (64, 64, 3)
            assert whole_pixels(image, pixels, name) == legacy


def whole_pixels(image, pixels, name):
    """Whether every second pixel of a doubled image is one of its own; a centre crop is of 28 pixels."""
    found = denormalize(tf.constant(image)).numpy().astype(int)
    if name == "classification":
        return bool(np.abs(found[::16, ::16] - pixels[2:30, 2:30][::7, ::7]).max() <= 1)
    return bool(np.abs(found[::2, ::2] - pixels).max() <= 1)


def test_draw_scores():
    """--nodraw_scores leaves the numbers behind the class names out."""
    image, box = np.full((120, 160, 3), 128, np.uint8), np.float32([[20, 20, 90, 130]])
    objects = {"boxes": box, "classes": np.int32([0]), "scores": np.float32([0.73])}
    categories = tiny.scenes_source(count=1).categories
    given, without = (
        build_task(tiny.experiment(draw_scores=flag), categories).draw(image, objects)
        for flag in (True, False)
    )
    bare = build_task(tiny.experiment(), categories).draw(
        image, {k: v for k, v in objects.items() if k != "scores"}
    )
    assert (without == bare).all() and (given != bare).any()
