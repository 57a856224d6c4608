"""The augmentations as Keras layers, for anyone's `tf.data` or Keras program.

The base is keras-cv's preprocessing layer (type, dict format, registration). Its plumbing is
replaced: it turns pictures into float, boxes into ragged tensors, cannot run boxes in a batch, and
draws from a generator that no seed replays. Here dtype and padding come back as they went in, and a
picture's draws follow from its key.
"""

from __future__ import annotations

import abc
import dataclasses
import secrets
from typing import Any

import keras_cv
import tensorflow as tf

from augment import ops
from augment.geometry import Settings
from augment.jitter import PER_BOX

keras = tf.keras


class AugmentationLayer(keras_cv.layers.BaseImageAugmentationLayer):
    """Converts between keras-cv's format and ours around `augment`.

    Called on a picture [H, W, 3], a batch [B, H, W, 3], or a dict of
        "images"              uint8 or float in 0..255; [H, W, 3], [B, H, W, 3] or ragged
        "bounding_boxes"      {"boxes": [(B,) N, 4] in the format `boxes`, "classes": [(B,) N]}, rows of class -1 are padding
        "segmentation_masks"  uint8 [(B,) H, W] or [(B,) H, W, 1], not ragged
        "key"                 optional int32 [(B,) 2]: decides the draws; else the layer's generator does
    and returns the same structure: boxes padded with -1 to the rows that came in, other entries as they are.
    """

    def __init__(self, *, boxes: str | None = None, seed: int | None = None, **kwargs):
        """Args: boxes: keras-cv's bounding box format, needed where there are boxes. seed: of the generator."""
        # keras-cv's own default, the global generator, is refused under op determinism.
        super().__init__(seed=secrets.randbits(31) if seed is None else seed, autocast=False, **kwargs)
        self.boxes, self.seed = boxes, seed

    @abc.abstractmethod
    def augment(self, example: dict, key: tf.Tensor, **options: Any) -> dict:
        """One example in this package's format (see `augment.jitter`) and an int32 [2] key."""

    def call(self, inputs):
        if not isinstance(inputs, dict):
            return self.call({"images": inputs})["images"]
        if "bounding_boxes" in inputs and self.boxes is None:
            raise ValueError(f'{self.name}: say the format of the bounding boxes, as in boxes="yxyx"')
        inputs, images = dict(inputs), inputs["images"]
        if "bounding_boxes" in inputs:
            inputs["bounding_boxes"] = keras_cv.bounding_box.to_dense(inputs["bounding_boxes"])
        single, replayed = images.shape.rank == 3, "key" in inputs
        if not replayed:
            inputs["key"] = self._keys(images, single)
        outputs = self._one(inputs) if single else tf.map_fn(self._one, inputs, fn_output_signature=self._signature(inputs))
        return outputs if replayed else {name: value for name, value in outputs.items() if name != "key"}

    def output_shape_of(self, shape: tf.TensorShape) -> tf.TensorShape:
        """Shape of a picture that comes back for one of `shape`."""
        return shape

    # --- inside -----------------------------------------------------------------------------------

    def _keys(self, images, single: bool) -> tf.Tensor:
        if single:
            return self._random_generator.uniform_full_int([2], tf.int32)
        count = images.nrows(tf.int32) if isinstance(images, tf.RaggedTensor) else tf.shape(images)[0]
        return self._random_generator.uniform_full_int([count, 2], tf.int32)

    def _one(self, inputs: dict) -> dict:
        images = inputs["images"]
        ragged = isinstance(images, tf.RaggedTensor)
        images = images.to_tensor() if ragged else images
        example = {"image": tf.saturate_cast(images, tf.uint8)}
        masks = inputs.get("segmentation_masks")
        if masks is not None:
            example["mask"] = tf.cast(masks[..., 0] if masks.shape.rank == 3 else masks, tf.uint8)
        if "bounding_boxes" in inputs:
            example.update(self._boxes_in(inputs["bounding_boxes"], images))
        found = self.augment(example, inputs["key"])
        image = found["image"]
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
        corners = keras_cv.bounding_box.convert_format(
            tf.cast(boxes["boxes"], tf.float32), source=self.boxes, target="yxyx", images=image
        )
        real = tf.cast(boxes["classes"], tf.float32) >= 0.0
        columns = {name: boxes[name] for name in PER_BOX if name in boxes and name != "boxes"}
        return {name: tf.boolean_mask(value, real) for name, value in {"boxes": corners, **columns}.items()}

    def _boxes_out(self, example: dict, given: dict) -> dict:
        corners = keras_cv.bounding_box.convert_format(
            example["boxes"], source="yxyx", target=self.boxes, images=example["image"]
        )
        outputs = dict(given)
        for name, value in {"boxes": corners, **{k: example[k] for k in PER_BOX if k in given and k != "boxes"}}.items():
            missing = tf.shape(given[name])[0] - tf.shape(value)[0]
            paddings = [[0, missing]] + [[0, 0]] * (value.shape.rank - 1)
            padded = tf.pad(tf.cast(value, given[name].dtype), paddings, constant_values=tf.cast(-1, given[name].dtype))
            outputs[name] = tf.ensure_shape(padded, given[name].shape)
        return outputs

    def _signature(self, inputs: dict):
        def spec(name, value):
            if name in ("images", "segmentation_masks"):
                shape = self.output_shape_of(value.shape[1:])
                if isinstance(value, tf.RaggedTensor) and not shape.is_fully_defined():
                    return tf.RaggedTensorSpec(shape, value.dtype, ragged_rank=1)
                return tf.TensorSpec(shape, value.dtype)
            return tf.nest.map_structure(lambda v: tf.TensorSpec(v.shape[1:], v.dtype), value)

        return {name: spec(name, value) for name, value in inputs.items()}

    def get_config(self):
        return {**super().get_config(), "boxes": self.boxes, "seed": self.seed}


def settings_from(value: Settings | dict | None, default: Settings = Settings()) -> Settings:
    """Settings from what `get_config` gave."""
    return Settings(**value) if isinstance(value, dict) else value or default


@keras.saving.register_keras_serializable("self_training")
class Operation(AugmentationLayer):
    """One operation at one level, as a layer: `Operation("Rotate_BBox", level=6, boxes="xyxy")`."""

    def __init__(
        self, operation: str, *, level: float = 10.0, probability: float = 1.0,
        settings: Settings | dict | None = None, **kwargs,
    ):  # fmt: skip
        """Args: operation: a name in `augment.ops.OPERATIONS`. level: 0 to 10. probability: of running."""
        super().__init__(**kwargs)
        if operation not in ops.OPERATIONS:
            raise ValueError(f"no operation {operation!r}; choose one of {sorted(ops.OPERATIONS)}")
        self.operation, self.level, self.probability = operation, level, probability
        self.settings = settings_from(settings)

    def augment(self, example, key, **options):
        return ops.apply(
            example, self.operation, level=self.level, key=key, probability=self.probability, settings=self.settings
        )

    def get_config(self):
        own = {"operation": self.operation, "level": self.level, "probability": self.probability}
        return {**super().get_config(), **own, "settings": dataclasses.asdict(self.settings)}
