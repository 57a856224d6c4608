"""The Keras face of the step: `fit`, callbacks, replicas, saving. A network of one layer stands in where the
network is not the matter."""

import dataclasses

import keras_cv
import numpy as np
import pytest
import tensorflow as tf

from official.data.keras_dataset import source_dataset
from official.data.pipeline import Worker
from official.experiment import experiment_from
from official.tasks.task import Task
from official.training.guard import NonFiniteError
from official.training.keras_model import SelfTrainingModel, StepMeans, shares
from tests import tiny
from tests.training.test_step import make_trainer, two_replicas

keras = tf.keras


class Regression(Task):
    """Squares of the error of a linear network, summed over a batch and divided by its rows."""

    name, categories, metrics, keras_label = "regression", (), (), "wanted"

    def __init__(self, experiment):
        self.experiment = experiment

    def build_model(self):
        x = keras.Input([3], name="images")
        return keras.Model({"images": x}, {"found": keras.layers.Dense(2, name="dense", dtype="float32")(x)})

    def encode(self, batch):
        return {"wanted": batch["wanted"]}

    def count(self, targets):
        return tf.reduce_sum(tf.ones_like(targets["wanted"][:, 0]))

    def normalizer(self, count):
        return count

    def loss_sums(self, outputs, targets):
        return {"squares": tf.reduce_sum((outputs["found"] - targets["wanted"]) ** 2)}

    def _unused(self, *_, **__):
        raise NotImplementedError

    preparation = look = score = label = predict = write_predictions = export = _unused
    draw = shown = human_labels = batch_labels = _unused


OPTIONS = dict(weight_decay=1e-3, ema_decay=0.5, alpha=2.0, on_nan="skip", clip_norm=0.0)


def linear(optimizer=None, strategy=None, **options):
    """A compiled model of one layer; the same first weights each time."""
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = SelfTrainingModel(Regression(experiment_from({**OPTIONS, **options})))
        model.compile(optimizer() if optimizer else keras.optimizers.SGD(0.05, 0.9))
    return model


def rows(count=12, seed=0, bad=None):
    """A stream of rows that a linear network can learn; row `bad` is not a number."""
    draws = np.random.default_rng(seed)
    images = draws.normal(size=(count, 3)).astype(np.float32)
    wanted = images @ np.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]], np.float32)
    if bad is not None:
        images[bad] = np.nan
    return tf.data.Dataset.from_tensor_slices({"images": images, "wanted": wanted})


def streams(bad=None, batch=4):
    """Twelve rows of each stream: three steps."""
    parts = {"human": rows(bad=bad), "pseudo": rows(seed=1)}
    return tf.data.Dataset.zip({name: part.batch(batch, drop_remainder=True) for name, part in parts.items()})


def weights(model):
    return [v.numpy() for v in model.network.variables]


def by_hand(steps, alpha=2.0, decay=0.5, rate=0.05, momentum=0.9, penalty=1e-3):
    """The same training in NumPy, float64: losses and the kernel."""
    kernel, bias = (v.astype(np.float64) for v in weights(linear()))
    velocity, averages, losses = [np.zeros_like(kernel), np.zeros_like(bias)], np.zeros(2), []
    for batch in list(streams().as_numpy_iterator())[:steps]:
        gradients, values = [np.zeros_like(kernel), np.zeros_like(bias)], []
        for name in ("human", "pseudo"):
            error = batch[name]["images"] @ kernel + bias - batch[name]["wanted"]
            values.append((error**2).sum() / 4)
        averages = decay * averages + (1 - decay) * np.array(values)
        shares_ = np.array([1.0, alpha * averages[0] / averages[1]]) / (1 + alpha)
        for share, name in zip(shares_, ("human", "pseudo")):
            error = batch[name]["images"] @ kernel + bias - batch[name]["wanted"]
            gradients[0] += share * batch[name]["images"].T @ error / 2
            gradients[1] += share * error.sum(axis=0) / 2
        losses.append(shares_ @ values + penalty / 2 * (kernel**2).sum())
        gradients[0] += penalty * kernel
        velocity = [momentum * v - rate * g for v, g in zip(velocity, gradients)]  # Keras' SGD
        kernel, bias = kernel + velocity[0], bias + velocity[1]
    return losses, kernel


def test_fit_is_the_joint_loss_by_hand():
    """Three steps of Keras' fit with Keras' optimizer against NumPy; what is logged of the epoch are means
    over its steps."""
    model = linear()
    history = model.fit(streams(), epochs=1, verbose=0).history
    losses, kernel = by_hand(3)
    np.testing.assert_allclose(weights(model)[0], kernel, rtol=1e-4, atol=1e-6)
    assert history["loss"][0] == pytest.approx(np.mean(losses), rel=1e-5)
    assert {"human_loss", "pseudo_loss", "loss_ratio", "pseudo_weight", "learning_rate"} <= set(history)
    assert float(model.averages.human) > 0 and model.averages.human in model.non_trainable_variables


def test_human_labels_alone_and_alpha_zero():
    """A dataset that is no stream is the human one; with alpha = 0 the pseudo stream has no say."""
    alone, silent = linear(), linear(alpha=0.0)
    alone.fit(rows().batch(4), verbose=0)
    silent.fit(streams(), verbose=0)
    for a, b in zip(weights(alone), weights(silent)):
        np.testing.assert_array_equal(a, b)
    element = next(iter(streams()))
    assert set(silent.streams(element)) == {"human"} and set(alone.streams(element)) == {"human", "pseudo"}
    uneven = linear().fit(rows(10).batch(4), verbose=0).history  # the last batch has two rows
    assert np.isfinite(uneven["loss"]).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "ours"])
def test_two_replicas_are_one_and_a_bad_step_changes_nothing(optimizer):
    """Keras' optimizers and ours; the second step is not finite: it is counted, and weights and slots stay as
    they were."""
    from official.training.optimizer import Adam

    made = {
        "sgd": lambda: keras.optimizers.SGD(0.05, 0.9, global_clipnorm=1.0),
        "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.01),
        "ours": lambda: Adam(0.05),
    }[optimizer]
    results = []
    for strategy in (None, two_replicas()):
        model = linear(made, strategy)
        model.fit(streams(bad=5), epochs=2, verbose=0)
        assert (
            int(model.guard.skipped.numpy()) == 2
            and int(model.guard.first_bad.numpy()) == 1
            and int(model.optimizer.iterations.numpy()) == 6
        )
        results.append(weights(model) + [v.numpy() for v in model.optimizer.variables[2:]])
    straight = linear(made)
    straight.fit(
        streams(bad=5).enumerate().filter(lambda i, _: i != 1).map(lambda _, batch: batch),
        epochs=2,
        verbose=0,
    )
    for one, two, expected in zip(*results, weights(straight)):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
        if optimizer == "sgd":  # Adam's correction counts the step
            np.testing.assert_allclose(one, expected, rtol=1e-6, atol=1e-7)


def test_training_that_is_not_finite_ends():
    """At the end of the epoch, with the weights of before the bad step."""
    model, before = linear(on_nan="stop"), linear()
    before.fit(streams().take(1), verbose=0)
    with pytest.raises(NonFiniteError, match="epoch 1: loss or gradient not finite at step 1 .*human_loss"):
        model.fit(streams(bad=5), epochs=2, verbose=0)
    for a, b in zip(weights(model), weights(before)):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(NonFiniteError, match="epoch 2: .*2 step"):
        linear(max_nan_steps=1).fit(streams(bad=5), epochs=3, verbose=0)


def test_replicas_share_every_batch_in_order():
    """Of a batch of eight over four replicas of two workers, the second worker's replicas take rows 4, 5 and
    then 6, 7."""
    batches = (
        tf.data.Dataset.range(16).batch(8, drop_remainder=True).map(lambda row: {"human": {"images": row}})
    )
    found = [
        part["human"]["images"].tolist() for part in shares(batches, Worker(1, 2), 4).as_numpy_iterator()
    ]
    assert found == [[4, 5], [6, 7], [12, 13], [14, 15]]
    with pytest.raises(
        ValueError, match="batches of no fixed size for 2 replicas: .*drop_remainder=True.* multiple of 2"
    ):
        shares(tf.data.Dataset.range(5).batch(2), Worker(), 2)
    with pytest.raises(ValueError, match="batches of 3 for 2 replicas"):
        shares(tf.data.Dataset.range(6).batch(3, drop_remainder=True), Worker(), 2)


def test_backup_and_restore_ends_with_the_same_bits(tmp_path):
    """Stopped at the end of the second of four epochs and started anew: weights, averages and optimizer as if
    nothing had been."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    straight = linear(weight_average=0.9)
    straight.fit(streams(), epochs=4, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        linear(weight_average=0.9).fit(streams(), epochs=4, verbose=0, callbacks=[backup, Stop()])
    again = linear(weight_average=0.9)
    history = again.fit(
        streams(), epochs=4, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(str(tmp_path))]
    )
    assert history.epoch == [2, 3]
    kept = lambda model: [v.numpy() for v in (*model.weights, *model.optimizer.variables)]
    assert len(kept(again)) > 12
    for a, b in zip(kept(again), kept(straight)):
        np.testing.assert_array_equal(a, b)


def test_loggers_and_early_stopping(tmp_path):
    """CSVLogger and TensorBoard write the epoch's means; EarlyStopping watches val_loss and brings the best
    weights back."""
    model = linear(lambda: keras.optimizers.SGD(0.9))  # diverges
    log = tmp_path / "log.csv"
    callbacks = [
        keras.callbacks.CSVLogger(str(log)),
        keras.callbacks.TensorBoard(str(tmp_path), write_graph=False),
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
    ]
    before = model.evaluate(rows().batch(4), verbose=0)
    history = model.fit(
        streams(), epochs=9, validation_data=rows().batch(4), verbose=0, callbacks=callbacks
    ).history
    assert len(history["val_loss"]) < 9 and before["loss"] == pytest.approx(before["squares"])
    lines = log.read_text().splitlines()
    column = lines[0].split(",").index("human_loss")
    assert [float(line.split(",")[column]) for line in lines[1:]] == pytest.approx(history["human_loss"])
    after = model.evaluate(rows().batch(4), verbose=0)
    assert after["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)
    assert list(tmp_path.glob("train/events*"))


def squares(kernel, bias):
    """The mean over the three batches of their loss."""
    errors = [b["images"] @ kernel + bias - b["wanted"] for b in rows().batch(4).as_numpy_iterator()]
    return np.mean([(error**2).sum() / 4 for error in errors])


def test_evaluation_is_a_mean_over_its_batches_and_leaves_the_epochs_alone():
    """Also in the middle of an epoch, by a callback."""
    alone, watched, seen = linear(), linear(), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(watched.evaluate(rows().batch(4), verbose=0))

    history = alone.fit(streams(), epochs=2, verbose=0).history
    again = watched.fit(streams(), epochs=2, verbose=0, callbacks=[Watch()]).history
    assert again["human_loss"] == pytest.approx(history["human_loss"], rel=1e-6) and len(seen) == 6
    assert seen[-1]["squares"] == pytest.approx(squares(*weights(watched)), rel=1e-5)
    assert len({round(found["squares"], 6) for found in seen}) == 6  # each of the weights of its step


def test_averaged_weights_are_evaluated():
    """The averages of after the last step, after every further fit."""
    model = linear(weight_average=0.9)
    for _ in range(2):
        model.fit(streams(), verbose=0)
        found = model.evaluate(rows().batch(4), verbose=0)["squares"]
        averages = [shadow.numpy() for shadow in model.weight_average.shadows]
        assert found == pytest.approx(squares(*averages), rel=1e-5)
        assert found != pytest.approx(squares(*weights(model)), rel=1e-2)


def test_weights_of_a_checkpoint_are_those_of_the_model(tmp_path):
    model = linear(weight_average=0.9)
    model.fit(
        streams(),
        verbose=0,
        callbacks=[keras.callbacks.ModelCheckpoint(str(tmp_path / "w"), save_weights_only=True)],
    )
    other = linear(weight_average=0.9)
    other.load_weights(str(tmp_path / "w"))
    assert len(model.weights) == 2 + 2 + 4 + 2  # network, averages of the losses, guard, averaged weights
    for a, b in zip(model.weights, other.weights):
        np.testing.assert_array_equal(a, b)


def test_what_compile_refuses():
    model = linear()
    with pytest.raises(ValueError, match=r"does not take \['loss'\]: the losses are the task's"):
        model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="legacy optimizers"):
        model.compile(keras.optimizers.legacy.SGD())
    with pytest.raises(ValueError, match="sample weights"):
        model.streams((1, 2, 3))
    with pytest.raises(ValueError, match="joint_classes="):
        model.streams({"human": {}, "joint": {}})
    with pytest.raises(ValueError, match='dicts with "images" and "wanted" are needed'):
        model.streams({"pseudo": {}})


def test_means_of_steps_with_different_names():
    means = StepMeans()
    means.add({"loss": tf.constant(1.0), "a": tf.constant(3.0)})
    means.add({"loss": tf.constant(2.0), "b": tf.constant(5.0)})
    assert means.means() == {"loss": 1.5, "a": 3.0, "b": 5.0} and float(means.result()) == 1.5
    means.reset_state()
    assert means.means() == {}


# --- detection ------------------------------------------------------------------------------------


def detector(bounding_box_format="xywh", **options):
    flags = {k: v for k, v in tiny.FLAGS.items() if not k.endswith("_data")}
    keras.utils.set_random_seed(0)
    names = ["circle", "square", "triangle", "cross", "ring"]
    return SelfTrainingModel(
        "detection", names, bounding_box_format=bounding_box_format, **{**flags, "augment": "none", **options}
    )


@pytest.fixture(scope="module")
def model():
    """With averaged weights and a third stream of three classes."""
    third = dict(joint_classes=["x", "y", "z"], joint_weight=0.2, joint_image_size=32)
    return detector(weight_average=0.9, **third)


def test_the_third_stream(model):
    """Images with classes at a size of their own, through the same backbone; left out where they have no
    weight.
    """
    human = {
        "images": tf.fill([1, 64, 64, 3], 9.0),
        "bounding_boxes": {"boxes": tf.zeros([1, 1, 4]), "classes": [[-1]]},
    }
    joint = {"images": tf.fill([2, 32, 32, 3], 9.0), "labels": tf.constant([2, 0])}
    found = model.streams({"human": human, "joint": joint})
    assert found["joint"]["class"].numpy().tolist() == [2, 0] and found["joint"]["images"].shape == (
        2,
        32,
        32,
        3,
    )
    assert model.joint_network({"images": found["joint"]["images"]})["logits"].shape == (2, 3)
    shared = {id(v) for v in model.network.backbone.trainable_variables}
    assert len(shared) > 10 and shared <= {id(v) for v in model.joint_network.trainable_variables}
    with pytest.raises(tf.errors.InvalidArgumentError, match="not below 3"):
        model.streams({"human": human, "joint": {**joint, "labels": tf.constant([3, 0])}})


def test_a_keras_cv_dict_becomes_the_trainers_batch(model):
    """Format, padding and normalisation; ragged boxes too."""
    trainer = make_trainer(pseudo=False, augment="none", batch_size=4)
    expected = {k: v.numpy() for k, v in next(trainer.batches())["human"].items()}
    source = tiny.scenes_source().subset(expected["index"])
    data = source_dataset(source, bounding_box_format="xywh")
    for batched in (data.batch(4), data.map(_without_padding).ragged_batch(4)):
        (found,) = model.fed(batched)[0]
        found = {k: v.numpy() for k, v in found["human"].items()}
        np.testing.assert_allclose(found["images"], expected["images"], atol=1e-5)
        count = min(found["classes"].shape[1], expected["classes"].shape[1])
        np.testing.assert_array_equal(found["classes"][:, :count], expected["classes"][:, :count])
        np.testing.assert_allclose(found["boxes"][:, :count], expected["boxes"][:, :count], atol=1e-3)
        assert (found["classes"] >= 0).sum() == (expected["classes"] >= 0).sum() > 4


def _without_padding(example):
    boxes = example["bounding_boxes"]
    real = boxes["classes"] >= 0
    return {
        **example,
        "bounding_boxes": {name: tf.boolean_mask(value, real) for name, value in boxes.items()},
    }


def test_data_that_cannot_be_trained_on(model):
    def fed(images, boxes, classes):
        data = {"images": images, "bounding_boxes": {"boxes": boxes, "classes": classes}}
        return list(model.fed(tf.data.Dataset.from_tensors(data))[0])

    images, boxes, classes = (
        np.full((2, 64, 64, 3), 99, np.float32),
        np.ones((2, 3, 4), np.float32),
        np.zeros((2, 3)),
    )
    assert fed(images, boxes, classes)[0]["human"]["boxes"].shape == (2, 3, 4)
    with pytest.raises(
        ValueError, match=r"shape \(2, 32, 64, 3\), the network is trained on batches \[B, 64, 64, 3\]"
    ):
        fed(images[:, :32], boxes, classes)
    with pytest.raises(tf.errors.InvalidArgumentError, match="all in 0..1"):
        fed(images / 255, boxes, classes)
    with pytest.raises(tf.errors.InvalidArgumentError, match="class that is not below 5"):
        fed(images, boxes, classes + 5)
    many = tf.RaggedTensor.from_tensor(np.ones((2, 17, 4), np.float32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than max_boxes=16 boxes"):
        fed(images, many, tf.RaggedTensor.from_tensor(np.zeros((2, 17))))
    with pytest.raises(ValueError, match='needs "images" and "bounding_boxes", this one has'):
        model.fed(tf.data.Dataset.from_tensors({"images": images}))


def test_predict_is_what_the_jobs_predict(model):
    """Images of another size and shape than the network's; boxes in the format asked for, in pixels of those
    images."""
    for variable in model.network.variables:  # a network that finds something
        if "classification_predictor" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [0, 1]) * 0.3)
    model.weight_average.start_from(model.network)
    photos = tf.image.resize(
        tf.stack([x["images"] for x in source_dataset(tiny.scenes_source(count=3))]), [48, 80]
    )
    photos = tf.cast(photos, tf.uint8)
    source = dataclasses.replace(
        tiny.scenes_source(count=3),
        sizes=np.full((3, 2), [48, 80]),
        read_image=lambda i: tf.gather(photos, i),
    )
    task = make_trainer(pseudo=False).task
    expected = list(task.predict(model.network, source, 0, 3))
    found = model.predict(photos, verbose=0)
    assert sum(found["num_detections"]) > 5
    for i, objects in enumerate(expected):
        count = found["num_detections"][i]
        corners = keras_cv.bounding_box.convert_format(
            found["boxes"][i, :count], source="xywh", target="yxyx"
        )
        np.testing.assert_allclose(corners, objects["boxes"], atol=1e-3)
        np.testing.assert_allclose(found["confidence"][i, :count], objects["scores"], atol=1e-5)
        np.testing.assert_array_equal(found["classes"][i, :count], objects["classes"])
        assert (found["classes"][i, count:] == -1).all() and (found["boxes"][i, count:] == -1).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="all in 0..1"):
        model.predict(tf.cast(photos, tf.float32) / 255.0, verbose=0)


def test_a_saved_model_is_whole(model, tmp_path):
    """Weights, averages, options, classes and format; a network of one's own inside."""
    model.averages.human.assign(0.25)
    metrics = [keras_cv.metrics.BoxCOCOMetrics("xywh", evaluate_freq=7)]
    model.compile(keras.optimizers.Adam(0.01), metrics=metrics)
    model.optimizer.iterations.assign(5)
    model.save(tmp_path / "m.keras")
    found = keras.models.load_model(tmp_path / "m.keras")
    assert found.experiment == dataclasses.replace(model.experiment, given=found.experiment.given)
    assert found.joint_categories == model.joint_categories and len(found.joint_categories) == 3
    assert found.task.categories == model.task.categories and found.bounding_box_format == "xywh"
    assert len(found.weights) == len(model.weights) and int(found.optimizer.iterations) == 5
    assert [metric.evaluate_freq for metric in found._hidden["user_metrics"]] == [7]
    for a, b in zip(found.weights, model.weights):
        np.testing.assert_array_equal(a, b)
    images = np.full((1, 64, 64, 3), 77, np.uint8)
    for name, value in model.predict(images, verbose=0).items():
        np.testing.assert_array_equal(found.predict(images, verbose=0)[name], value)


def test_around_a_network_of_ones_own():
    """The network decides task, size and anchors; what contradicts it is refused."""
    network = detector().network
    model = SelfTrainingModel(network, ["a", "b", "c", "d", "e"], alpha=3.0)
    assert model.network is network and model.task.name == "detection" and model.experiment.loss.alpha == 3.0
    assert model.experiment.model.image_size == 64 and model.experiment.model.anchor_scale == 2.5
    again = SelfTrainingModel.from_config(model.get_config())
    assert [v.shape for v in again.network.variables] == [v.shape for v in network.variables]
    assert again.experiment.model.anchor_scale == 2.5 and again.task.categories == model.task.categories
    with pytest.raises(ValueError, match=r"the network decides \['image_size'\]"):
        SelfTrainingModel(network, image_size=128)
    with pytest.raises(ValueError, match="3 classes, but the network has 5"):
        SelfTrainingModel(network, 3)
    with pytest.raises(ValueError, match="Sequential is no network of a task"):
        SelfTrainingModel(keras.Sequential())
    with pytest.raises(ValueError, match="--task=detect is unknown"):
        SelfTrainingModel("detect", 3)
    with pytest.raises(ValueError, match="no such option: .*alhpa"):
        SelfTrainingModel("detection", 3, alhpa=3.0)
