"""The Keras model that self-trains: any task's network with the joint step as its `train_step`.

    teacher = SelfTrainingModel("detection", classes=["cat", "dog"], image_size=512, backbone="resnet-50")
    teacher.compile(optimizer=tf.keras.optimizers.SGD(0.01, 0.9))
    teacher.fit(labelled, epochs=10, callbacks=[...])

The command line's trainer drives the same `train_step`. Keras' own loop, callbacks, strategies and saving
work on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from official.data.example import normalize
from official.data.pipeline import Worker, as_it_is
from official.data.source import Category
from official.experiment import Experiment, experiment_from
from official.models.keras_metrics import deserialized, metric_values, serialized
from official.tasks.classification import ClassificationTask
from official.tasks.registry import build_task, task_of
from official.tasks.task import Task, Tensors
from official.training.distribution import distribute
from official.training.step import STREAMS, JointStep


@keras.saving.register_keras_serializable("self_training")
class SelfTrainingModel(keras.Model):
    """A network that is trained on human and pseudo labels together.

    `fit` and `evaluate` take a dataset of batched dicts, keras-cv's: "images" [B, S, S, 3] in 0..255 (the
    model normalises them) of the network's size, and "bounding_boxes" {"boxes", "classes"},
    "segmentation_masks" (255 says nothing) or "labels"; or of streams {"human": dict, "pseudo": dict,
    "joint": dict}, as `tf.data.Dataset.zip` makes them. Every stream has a batch size of its own, over all
    replicas. What `fit` logs of an epoch are means over its steps. `predict` takes images of any size; see
    the tasks' `found` for what it returns, with boxes in `bounding_box_format`.

    Attributes:
      task: what is learned; experiment: all its options.
      network, joint_network: of the task, and of the third stream's classification (None without one).
      averages, guard, weight_average: of the losses, of steps that were not finite, of the weights (None
        without one).
      bounding_box_format: of the boxes in `fit`, `evaluate` and `predict`, in keras-cv's words.
    """

    def __init__(
        self,
        task: Task | str | keras.Model,
        classes: int | Sequence[str | Category] = (),
        *,
        joint_classes: int | Sequence[str | Category] = (),
        bounding_box_format: str = "yxyx",
        experiment: Experiment | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        """Builds the network, or takes one.

        Args:
          task: "detection", "segmentation", "classification", "contrastive"; or a network of one of these.
          classes: names, or how many there are; may be left out with a network.
          joint_classes: of the third stream (joint training), none without one.
          bounding_box_format: keras-cv's name.
          options: every flag of the command line that is about network, losses, labels or post-processing, by
            its name (`alpha=3.0`, `backbone="resnet-50"`, `weight_average=0.999`).
          experiment: all options at once, of a `Task` that was built already.

        Raises:
          ValueError: an unknown task or option, classes that do not fit the network, or an option that the
            network decides.
        """
        super().__init__(name=name, dtype="float32")  # float16's loss is scaled by the guard, not by Keras
        network: Any = None
        given = isinstance(task, keras.Model)
        if given:
            network, (task, options, classes) = task, task_of(task, options, classes)
        if not isinstance(task, Task):
            experiment = experiment_from({"task": task, **options})
            task = build_task(experiment, categories(classes))
        self.task, self.experiment = task, experiment or task.experiment
        self.bounding_box_format, self._given = bounding_box_format, given
        self.network: keras.Model = task.build_model() if network is None else network
        self.joint_network, self.joint_categories = None, categories(joint_classes)
        tasks: dict[str, Task] = {"human": task, "pseudo": task}
        if self.joint_categories:
            joint = joint_task(self.experiment, self.joint_categories)
            tasks["joint"], self.joint_network = joint, joint.build_model(self.network.backbone)
        self.step = JointStep(tasks, self.experiment, self.network, self.joint_network)
        self.averages, self.guard = self.step.averages, self.step.guard
        self.weight_average = self.step.weight_average
        self._hide(training_means=StepMeans(), test_means=StepMeans(), user_metrics=[], plain=None)
        self._hidden["means"] = self._hidden["training_means"]
        self.built = True

    # --- compile ----------------------------------------------------------------------------------

    def compile(self, optimizer: Any, metrics: Sequence[keras.metrics.Metric] = (), **options: Any) -> None:
        """Takes an optimizer, Keras' or one of `official.training.optimizer`; under the strategy's scope.

        Args:
          metrics: for `evaluate` and `validation_data`, as keras-cv's `BoxCOCOMetrics` for boxes.
          options: Keras' `run_eagerly`, `steps_per_execution`, `jit_compile`.

        Raises:
          ValueError: a loss: the task and its options say what that is; or an optimizer of Keras' older kind.
        """
        unknown = sorted(set(options) - {"run_eagerly", "steps_per_execution", "jit_compile"})
        if unknown:
            raise ValueError(
                f"compile of a self-training model does not take {unknown}: the losses are the task's, and "
                "options of the model set their parts (alpha=, focal_gamma=, box_weight=, label_smoothing=, "
                "weight_decay= ...)"
            )
        super().compile(optimizer=optimizer, **options)
        if not isinstance(self.optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                f"{type(self.optimizer).__name__} is one of Keras' legacy optimizers; "
                "take that of tf.keras.optimizers"
            )
        self._hidden["user_metrics"] = list(metrics)
        with self.distribute_strategy.scope():
            self.step.train_with(self.optimizer)

    def get_compile_config(self) -> dict[str, Any] | None:
        """The optimizer and the metrics."""
        if self.optimizer is None:
            return None
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        return {"optimizer": optimizer, "metrics": serialized(self._hidden["user_metrics"])}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """The inverse of `get_compile_config`."""
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
        self.compile(optimizer, metrics=deserialized(config["metrics"]))

    # --- fit, evaluate, predict -------------------------------------------------------------------

    @as_it_is
    def train_step(self, data: Any) -> Tensors:
        """One step on one replica; returns scalars over all replicas, by name."""
        values = self.step(self.streams(data))
        self._hidden["training_means"].add(values)
        return values

    @as_it_is
    def test_step(self, data: Any) -> Tensors:
        """The losses of the human stream, and the metrics that `compile` was given."""
        batch = self.streams(data)
        losses, outputs = self.step.measure(batch, self._hidden["plain"] or self.network)
        self._hidden["test_means"].add(losses)
        results = dict(losses)
        if self._hidden["user_metrics"]:
            truth, found, weight = self.task.compared(
                self.network, outputs, batch["human"], self.bounding_box_format
            )
            for metric in self._hidden["user_metrics"]:
                metric.update_state(truth, found, sample_weight=weight)
                results.update(metric_values(metric))
        return results

    @as_it_is
    def predict_step(self, data: Any) -> Tensors:
        """What the network finds in images in 0..255; with `weight_average` the network of the averaged
        weights."""
        data = keras.utils.unpack_x_y_sample_weight(data)[0]
        images = data["images"] if isinstance(data, Mapping) else data
        return self.task.found(self._hidden["plain"] or self.network, images, self.bounding_box_format)

    def call(self, inputs: Any, training: bool = False) -> Tensors:
        """The network's raw outputs for images [B, S, S, 3] in 0..255, or {"images"} of them."""
        images = inputs["images"] if isinstance(inputs, Mapping) else inputs
        return self.network({"images": normalize(images)}, training=training)

    def fit(
        self, x: Any = None, y: Any = None, *, validation_data: Any = None, **options: Any
    ) -> keras.callbacks.History:
        """Keras' `fit`; see the class for what `x` and `validation_data` are.

        Raises:
          NonFiniteError: at the end of an epoch, after a step that was not finite (`on_nan="skip"`: after
            more of them than `max_nan_steps`); the weights are those of before it.
        """
        self._hidden["means"] = self._hidden["training_means"]
        x, options["steps_per_epoch"] = self.fed(x, options.get("steps_per_epoch"))
        if isinstance(validation_data, tf.data.Dataset):
            validation_data, options["validation_steps"] = self.fed(
                validation_data, options.get("validation_steps")
            )
            self._refresh()
        callbacks = options.pop("callbacks", None) or []
        if isinstance(callbacks, (list, tuple)):
            callbacks = [_Checking(), *callbacks]
        return super().fit(x, y, validation_data=validation_data, callbacks=callbacks, **options)

    def evaluate(
        self, x: Any = None, y: Any = None, *, return_dict: bool = True, **options: Any
    ) -> dict[str, float]:
        """Keras' `evaluate`, which returns losses and metrics by name."""
        if not return_dict:
            raise ValueError("evaluate returns a dict: leave return_dict out")
        self._refresh()
        if not options.get("_use_cached_eval_dataset"):  # not from inside of `fit`, which has fed it already
            x, options["steps"] = self.fed(x, options.get("steps"))
        before, self._hidden["means"] = self._hidden["means"], self._hidden["test_means"]
        try:
            return super().evaluate(x, y, return_dict=True, **options)
        finally:
            self._hidden["means"] = before

    def predict(self, x: Any, *args: Any, **options: Any) -> Any:
        """Keras' `predict`, of images [B, H, W, 3] in 0..255, or of batches of them or of dicts with
        "images"."""
        self._refresh()
        if isinstance(x, tf.data.Dataset) and isinstance(x.element_spec, Mapping):
            x = x.map(lambda data: data["images"])
        return super().predict(x, *args, **options)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What is reset when an epoch begins, or an evaluation."""
        means = self._hidden["means"]
        return [means, *(self._hidden["user_metrics"] if means is self._hidden["test_means"] else ())]

    def get_metrics_result(self) -> dict[str, Any]:
        """Means over the steps of the epoch, or of the evaluation, by name."""
        found = self._hidden["means"].means()
        for metric in self.metrics[1:]:
            found.update(metric_values(metric, final=True))
        return found

    # --- data -------------------------------------------------------------------------------------

    def streams(self, data: Any) -> dict[str, Tensors]:
        """Batches of the step, by stream, of one element of what `fit` takes; the trainer's stay as they are.

        With alpha = 0 the pseudo stream has no say, not even through batch norm, and the joint one none
        without a weight.

        Raises:
          ValueError: no human labels, sample weights, or what `Task.batch_of` raises.
        """
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if weight is not None:
            raise ValueError(
                "sample weights are not taken; leave images out, or label them with classes of -1"
            )
        if y is not None:
            x = {"images": x, self.task.keras_label: y}
        parts = x if isinstance(x, Mapping) and x and set(x) <= set(STREAMS) else {"human": x}
        if "human" not in parts or not all(isinstance(part, Mapping) for part in parts.values()):
            raise ValueError(
                f'dicts with "images" and "{self.task.keras_label}" are needed, or streams {STREAMS} of them'
            )
        if "joint" in parts and self.joint_network is None:
            raise ValueError('there is a "joint" stream, but the model was made without joint_classes=')
        weights = {
            "human": 1.0,
            "pseudo": self.experiment.loss.alpha,
            "joint": self.experiment.loss.joint_weight,
        }
        return {
            name: self.step.tasks[name].batch_of(parts[name], self.bounding_box_format)
            for name in STREAMS
            if name in parts and weights[name] > 0.0
        }

    def fed(self, x: Any, steps: int | None = None) -> tuple[Any, int | None]:
        """(a dataset as the step takes it, steps per epoch): prepared in `tf.data`, divided among the
        replicas.

        Data that are no dataset stay as they are.
        """
        if not isinstance(x, tf.data.Dataset):
            return x, steps
        made = x.map(
            as_it_is(lambda *data: self.streams(data if len(data) > 1 else data[0])),
            tf.data.AUTOTUNE,
            deterministic=True,
        )
        if self.step.replicas == 1:
            return made.prefetch(2), steps
        size = int(made.cardinality())
        if (
            steps is None and size >= 0
        ):  # Keras wants the number of distributed data, and never begins them anew
            steps, made = size, made.repeat()

        def own(worker: Worker, replicas: int) -> tf.data.Dataset:
            return shares(made, worker, replicas).prefetch(4)

        return distribute(self.distribute_strategy, own), steps

    # --- saving -----------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Everything but the weights."""
        options = {
            k: v for k, v in self.experiment.flags().items() if v != Experiment().flags()[k] and k != "task"
        }
        network = keras.saving.serialize_keras_object(self.network) if self._given else None
        if network:
            options = {k: v for k, v in options.items() if k not in task_of(self.network, {}, ())[1]}
        return {
            "task": network or self.task.name,
            "classes": [dataclasses.asdict(category) for category in self.task.categories],
            "joint_classes": [dataclasses.asdict(category) for category in self.joint_categories],
            "bounding_box_format": self.bounding_box_format,
            "name": self.name,
            **options,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SelfTrainingModel:
        """The inverse of `get_config`."""
        config = dict(config)
        for name in ("classes", "joint_classes"):
            config[name] = [Category(**category) for category in config[name]]
        if isinstance(config["task"], Mapping):
            config["task"] = keras.saving.deserialize_keras_object(config["task"], custom_objects)
        return cls(**config)

    def save_own_variables(self, store: Any) -> None:
        """What the step remembers beside weights and optimizer; see `averages`, `guard` and
        `weight_average`."""
        for name, variable in self._remembered().items():
            store[name] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """The inverse of `save_own_variables`."""
        for name, variable in self._remembered().items():
            variable.assign(np.asarray(store[name]))

    def _remembered(self) -> dict[str, tf.Variable]:
        parts: dict[str, Any] = {
            "averages": self.averages,
            "guard": self.guard,
            "weight_average": self.weight_average,
        }
        return {
            f"{name}_{number}": variable
            for name, part in parts.items()
            if part is not None
            for number, variable in enumerate(part.variables)
        }

    # --- the averaged weights ---------------------------------------------------------------------

    def start_from(self, other: SelfTrainingModel) -> None:
        """Takes another model's weights, those that it predicts with, as a student does its teacher's."""
        for variable, value in zip(self.network.variables, other.trained_network().variables):
            variable.assign(value.numpy())
        if self.weight_average is not None:
            self.weight_average.start_from(self.network)

    def trained_network(self) -> keras.Model:
        """The network that predicts: the one that is trained, or with `weight_average` a copy with the
        averages as they are now."""
        return (
            self.network
            if self.weight_average is None
            else self.plain_network(self.distribute_strategy.scope())
        )

    def plain_network(self, scope: contextlib.AbstractContextManager) -> keras.Model:
        """A copy (always the same one, made in `scope`) of the network, with the averaged weights where there
        are any.

        Reading averaged variables is collective over workers.
        """
        values = [variable.numpy() for variable in self.network.variables]
        if self._hidden["plain"] is None:
            with scope:
                self._hidden["plain"] = self._another_network()
        for variable, value in zip(self._hidden["plain"].variables, values):
            variable.assign(value)
        if self.weight_average is not None:
            self.weight_average.put_into(self._hidden["plain"])
        return self._hidden["plain"]

    def _another_network(self) -> keras.Model:
        return (
            type(self.network).from_config(self.network.get_config())
            if self._given
            else self.task.build_model()
        )

    def _refresh(self) -> None:
        if self.weight_average is not None:
            self.trained_network()

    def _hide(self, **parts: Any) -> None:
        """Keeps what is no part of the model's weights or checkpoints where Keras does not look for such."""
        self._hidden = _Hidden(parts)


class _Checking(keras.callbacks.Callback):
    """Ends `fit` where the guard has stopped the training."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.model.step.check(logs or {}, f"epoch {epoch + 1}")


class _Hidden:
    """A dict that Keras does not track."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Any:
        return self._parts[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._parts[name] = value


class StepMeans(keras.metrics.Metric):
    """Means of named scalars over steps, in two small vectors: one addition a step, however many names there
    are."""

    SLOTS = 64

    def __init__(self, name: str = "step_means", **kwargs: Any) -> None:
        super().__init__(name=name, dtype="float32", **kwargs)
        self.sums = self.add_weight("sums", shape=[self.SLOTS], initializer="zeros")
        self.counts = self.add_weight("counts", shape=[self.SLOTS], initializer="zeros")
        self.slots: dict[str, int] = {}

    def add(self, values: Mapping[str, tf.Tensor]) -> None:
        """Takes in one step's scalars, float32; which names there are is known when the step is traced."""
        places = {self.slots.setdefault(name, len(self.slots)): value for name, value in values.items()}
        zero = tf.zeros([])
        self.sums.assign_add(tf.stack([places.get(place, zero) for place in range(self.SLOTS)]))
        self.counts.assign_add(np.array([float(place in places) for place in range(self.SLOTS)], np.float32))

    def update_state(self, values: Mapping[str, tf.Tensor]) -> None:
        """Keras' name of `add`."""
        self.add(values)

    def reset_state(self) -> None:
        """Forgets all steps; the names keep their places."""
        for variable in (self.sums, self.counts):
            variable.assign(tf.zeros([self.SLOTS]))

    def means(self) -> dict[str, float]:
        """By name, of those that have had a value."""
        sums, counts = self.sums.numpy(), self.counts.numpy()
        return {
            name: float(sums[place] / counts[place]) for name, place in self.slots.items() if counts[place]
        }

    def result(self) -> tf.Tensor:
        """Keras' single number: the mean of the first name, the loss."""
        return self.sums[0] / tf.maximum(self.counts[0], 1.0)


def categories(classes: int | Sequence[str | Category]) -> tuple[Category, ...]:
    """Names, or how many there are, as categories."""
    names = [str(i) for i in range(classes)] if isinstance(classes, int) else classes
    return tuple(
        name if isinstance(name, Category) else Category(i, str(name)) for i, name in enumerate(names)
    )


def joint_task(experiment: Experiment, classes: Sequence[Category]) -> ClassificationTask:
    """The classification task of the third stream: this experiment's augmentation, at --joint_image_size."""
    size = experiment.training.joint_image_size
    model = dataclasses.replace(experiment.model, image_size=size, linear_probe=False)
    return ClassificationTask(dataclasses.replace(experiment, model=model), tuple(classes))


def shares(batches: tf.data.Dataset, worker: Worker, replicas: int) -> tf.data.Dataset:
    """The parts of every global batch that a worker's replicas take, one after the other: equal rows, in
    order.

    So every replica has the rows that it has in the trainer, and numbers do not depend on how many replicas
    there are.

    Raises:
      ValueError: a stream whose batches have no fixed size, or one that the replicas cannot share evenly.
    """
    own = replicas // worker.count

    def divided(value: tf.Tensor) -> tf.Tensor:
        rows = value.shape[0]
        if rows is None or rows % replicas:
            raise ValueError(
                f"batches of {'no fixed size' if rows is None else rows} for {replicas} replicas: "
                f"batch every stream with batch(N, drop_remainder=True), N a multiple of {replicas}"
            )
        parts = tf.reshape(value, [replicas, rows // replicas, *value.shape[1:]])
        return parts[worker.index * own : (worker.index + 1) * own]

    divide: Callable = lambda data: tf.nest.map_structure(divided, data)
    return batches.map(as_it_is(divide), tf.data.AUTOTUNE, deterministic=True).unbatch()
