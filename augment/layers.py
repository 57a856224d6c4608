"""The augmentations as Keras layers, for anyone's `tf.data` or Keras program.

The base is keras-cv's preprocessing layer (type, dict format, registration). Its plumbing is
replaced: it turns images into float, boxes into ragged tensors, cannot run boxes in a batch, and
draws from a generator that no seed replays. Here dtype and padding come back as they went in, and a
image's draws follow from its key.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import secrets
from typing import Any

import keras_cv
import tensorflow as tf
from tensorflow import keras

from augment import ops
from augment.geometry import Settings


class AugmentationLayer(keras_cv.layers.BaseImageAugmentationLayer):
    """Converts between keras-cv's format and ours around `augment`.

    Called on an image [H, W, 3], a batch [B, H, W, 3], or a dict of
        "images"              uint8 or float (see `value_range`); [H, W, 3], [B, H, W, 3] or ragged
        "bounding_boxes"      {"boxes": [(B,) N, 4] in the format `boxes`, "classes": [(B,) N]}, rows of class
        -1 are padding;
                              further columns, as "confidence" [(B,) N], stay in step with the boxes
        "segmentation_masks"  uint8 [(B,) H, W] or [(B,) H, W, 1], not ragged
        "key"                 optional int32 [(B,) 2]: decides the draws; else the layer's generator does
    and returns the same structure: boxes padded with -1 to the rows that came in (ragged ones come back
      padded),
    other entries as they are. With `training=False`, as in `predict` and `evaluate`, nothing random happens:
    see `still`.
    """

    def __init__(
        self,
        *,
        boxes: str | None = None,
        seed: int | None = None,
        bounding_box_format: str | None = None,
        value_range: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Args: see below.

        boxes, bounding_box_format: two names of one thing: keras-cv's format, needed where there are boxes.
        seed: of the generator.
        value_range: of float images, (0, 1) or (0, 255). None tells an image of at most 1.0 from one in
          0..255 by its largest value; give the range where an image in 0..255 may be as dark as that.

        Raises:
          ValueError: two formats that differ, or another range.
        """
        if boxes and bounding_box_format and boxes != bounding_box_format:
            raise ValueError(
                f"boxes={boxes!r} and bounding_box_format={bounding_box_format!r} differ; give one"
            )
        if value_range is not None and tuple(value_range) not in ((0, 1), (0, 255)):
            raise ValueError(f"value_range={value_range!r}: give (0, 1), (0, 255) or None")
        # keras-cv's own default, the global generator, is refused under op determinism.
        super().__init__(seed=secrets.randbits(31) if seed is None else seed, autocast=False, **kwargs)
        self.boxes, self.seed = boxes or bounding_box_format, seed
        self.value_range = None if value_range is None else tuple(value_range)

    @abc.abstractmethod
    def augment(self, example: dict, key: tf.Tensor, **options: Any) -> dict:
        """One example in this package's format (see `augment.jitter`) and an int32 [2] key."""

    def still(self, example: dict) -> dict | None:
        """One example without anything random; None where a layer then has nothing at all to do."""
        return None

    def call(self, inputs: Any, training: bool = True) -> Any:
        return self._called(inputs, training)

    @tf.autograph.experimental.do_not_convert  # no branch hangs on a tensor, and to convert it takes seconds
    def _called(self, inputs: Any, training: bool | None) -> Any:
        if not isinstance(inputs, dict):
            return self._called({"images": inputs}, training)["images"]
        training = training is None or bool(training)
        if not training and self.output_shape_of(tf.TensorShape([None, None, 3])).num_elements() is None:
            return inputs
        if "bounding_boxes" in inputs and self.boxes is None:
            raise ValueError(f'{self.name}: say the format of the bounding boxes, as in boxes="yxyx"')
        inputs, images = dict(inputs), inputs["images"]
        if "bounding_boxes" in inputs:
            dense = keras_cv.bounding_box.to_dense(dict(inputs["bounding_boxes"]))
            inputs["bounding_boxes"] = {
                name: value.to_tensor(-1) if isinstance(value, tf.RaggedTensor) else value
                for name, value in dense.items()
            }
        single, replayed = images.shape.rank == 3, "key" in inputs
        if not replayed:
            inputs["key"] = self._keys(images, single)
        one = functools.partial(self._one, training=training)
        outputs = (
            one(inputs) if single else tf.map_fn(one, inputs, fn_output_signature=self._signature(inputs))
        )
        return outputs if replayed else {name: value for name, value in outputs.items() if name != "key"}

    def output_shape_of(self, shape: tf.TensorShape) -> tf.TensorShape:
        """Shape of an image that comes back for one of `shape`."""
        return shape

    # --- inside -----------------------------------------------------------------------------------

    def _keys(self, images: tf.Tensor | tf.RaggedTensor, single: bool) -> tf.Tensor:
        if single:
            return self._random_generator.uniform_full_int([2], tf.int32)
        count = images.nrows(tf.int32) if isinstance(images, tf.RaggedTensor) else tf.shape(images)[0]
        return self._random_generator.uniform_full_int([count, 2], tf.int32)

    def _scale(self, images: tf.Tensor) -> tf.Tensor:
        """What takes the values of float images to 0..255: 1 or 255, float32."""
        if self.value_range is not None:
            return tf.constant(255.0 / self.value_range[1])
        return tf.where(tf.reduce_max(tf.cast(images, tf.float32)) <= 1.0, 255.0, 1.0)

    def _one(self, inputs: dict, training: bool = True) -> dict:
        images = inputs["images"]
        ragged = isinstance(images, tf.RaggedTensor)
        images = images.to_tensor() if ragged else images
        scale, pixels = None, images
        if images.dtype.is_floating:
            scale = self._scale(images)
            wide = tf.cast(images, tf.float32)
            pixels = tf.where(scale > 1.0, tf.round(wide * scale), wide)
        example = {"image": tf.saturate_cast(pixels, tf.uint8)}
        masks = inputs.get("segmentation_masks")
        if masks is not None:
            example["mask"] = tf.cast(masks[..., 0] if masks.shape.rank == 3 else masks, tf.uint8)
        if "bounding_boxes" in inputs:
            example.update(self._boxes_in(inputs["bounding_boxes"], images))
        found = self.augment(example, inputs["key"]) if training else self.still(example)
        assert found is not None  # else `call` gave the inputs back
        image = found["image"]
        if scale is not None:
            image = tf.cast(image, tf.float32) / scale
        if images.dtype.is_integer and image.dtype.is_floating:
            image = tf.round(image)
        image = tf.cast(image, images.dtype)
        if ragged and not self.output_shape_of(inputs["images"].shape).is_fully_defined():
            image = tf.RaggedTensor.from_tensor(image, ragged_rank=1)
        outputs = {**inputs, "images": image}
        if masks is not None:
            mask = tf.cast(found["mask"], masks.dtype)
            outputs["segmentation_masks"] = mask[..., None] if masks.shape.rank == 3 else mask
        if "bounding_boxes" in inputs:
            outputs["bounding_boxes"] = self._boxes_out(found, inputs["bounding_boxes"])
        return outputs

    def _boxes_in(self, boxes: dict, image: tf.Tensor) -> dict:
        """The real boxes in pixels; their rows stand for the classes, so that every column can follow
        them.
        """
        corners = keras_cv.bounding_box.convert_format(
            tf.cast(boxes["boxes"], tf.float32), source=self.boxes, target="yxyx", images=image
        )
        rows = tf.cast(tf.where(tf.cast(boxes["classes"], tf.float32) >= 0.0)[:, 0], tf.int32)
        return {"boxes": tf.gather(corners, rows), "classes": rows}

    def _boxes_out(self, example: dict, given: dict) -> dict:
        corners = keras_cv.bounding_box.convert_format(
            example["boxes"], source="yxyx", target=self.boxes, images=example["image"]
        )
        columns = {name: tf.gather(value, example["classes"]) for name, value in given.items()}
        return {name: _pad_like(value, given[name]) for name, value in {**columns, "boxes": corners}.items()}

    def _signature(self, inputs: dict) -> dict[str, Any]:
        def spec(name, value):
            if name in ("images", "segmentation_masks"):
                shape = self.output_shape_of(value.shape[1:])
                if isinstance(value, tf.RaggedTensor) and not shape.is_fully_defined():
                    return tf.RaggedTensorSpec(shape, value.dtype, ragged_rank=1)
                return tf.TensorSpec(shape, value.dtype)
            return tf.nest.map_structure(lambda v: tf.TensorSpec(v.shape[1:], v.dtype), value)

        return {name: spec(name, value) for name, value in inputs.items()}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "boxes": self.boxes,
            "seed": self.seed,
            "value_range": self.value_range,
        }


def _pad_like(value: tf.Tensor, given: tf.Tensor) -> tf.Tensor:
    """`value` in the dtype of `given`, with rows of -1 up to its length."""
    missing = tf.shape(given)[0] - tf.shape(value)[0]
    paddings = [[0, missing]] + [[0, 0]] * (value.shape.rank - 1)
    padded = tf.pad(tf.cast(value, given.dtype), paddings, constant_values=tf.cast(-1, given.dtype))
    return tf.ensure_shape(padded, given.shape)


def settings_from(value: Settings | dict | None, default: Settings = Settings()) -> Settings:
    """Settings from what `get_config` gave."""
    return Settings(**value) if isinstance(value, dict) else value or default


@keras.saving.register_keras_serializable("self_training")
class Operation(AugmentationLayer):
    """One operation at one level, as a layer: `Operation("Rotate_BBox", level=6, boxes="xyxy")`."""

    def __init__(
        self,
        operation: str,
        *,
        level: float = 10.0,
        probability: float = 1.0,
        settings: Settings | dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Args: operation: a name in `augment.ops.OPERATIONS`. level: 0 to 10. probability: of running."""
        super().__init__(**kwargs)
        if operation not in ops.OPERATIONS:
            raise ValueError(f"no operation {operation!r}; choose one of {sorted(ops.OPERATIONS)}")
        self.operation, self.level, self.probability = operation, level, probability
        self.settings = settings_from(settings)

    def augment(self, example: dict, key: tf.Tensor, **options: Any) -> dict:
        return ops.apply(
            example,
            self.operation,
            level=self.level,
            key=key,
            probability=self.probability,
            settings=self.settings,
        )

    def get_config(self) -> dict[str, Any]:
        own = {"operation": self.operation, "level": self.level, "probability": self.probability}
        return {**super().get_config(), **own, "settings": dataclasses.asdict(self.settings)}
