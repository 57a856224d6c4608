"""The paper's Augment-S1 ... S4 (section 3.1, Table 1), every part of which can be replaced.

    name   operations                                  scale jitter    flip
    none   -                                           -               -
    s1     -                                           0.8 to 1.2      yes
    s2     AutoAugment v0                              0.8 to 1.2      yes
    s3     AutoAugment v0                              0.5 to 2.0      yes
    s4     RandAugment, one operation, magnitude 10    0.5 to 2.0      yes

Operations run first, on the stored image, then flip, then jitter with crop and pad. The paper
leaves the policy and RandAugment's set open; the choices are the release's (v0) and google/automl's.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

import tensorflow as tf
from tensorflow import keras

from augment.autoaugment import POLICIES, autoaugment
from augment.geometry import Settings
from augment.jitter import PER_BOX, random_flip, resize_and_crop, static_size
from augment.layers import AugmentationLayer, settings_from
from augment.randaugment import SETS, randaugment


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a name stands for: flip, scale jitter, AutoAugment policy ("" for none), RandAugment layers."""

    flip: bool = True
    jitter: tuple[float, float] = (1.0, 1.0)
    autoaugment: str = ""
    randaugment_layers: int = 0


PRESETS = {
    "none": Preset(flip=False),
    "s1": Preset(jitter=(0.8, 1.2)),
    "s2": Preset(jitter=(0.8, 1.2), autoaugment="v0"),
    "s3": Preset(jitter=(0.5, 2.0), autoaugment="v0"),
    "s4": Preset(jitter=(0.5, 2.0), randaugment_layers=1),
}
_TOUCHED = ("image", "mask", *PER_BOX)


@keras.saving.register_keras_serializable("self_training")
class Policy(AugmentationLayer):
    """Operations, flip, scale jitter, crop and pad; see the head of this module and `policy`."""

    def __init__(
        self,
        *,
        flip: bool = True,
        jitter_min: float = 1.0,
        jitter_max: float = 1.0,
        autoaugment: str = "",
        randaugment_layers: int = 0,
        randaugment_magnitude: float = 10.0,
        randaugment_ops: str = "boxes",
        settings: Settings | dict | None = None,
        size: int | Sequence[int] | None = None,
        min_box_size: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """Args: see `policy`.

        Raises:
          ValueError: an unknown policy or set of operations, or an empty range.
        """
        super().__init__(**kwargs)
        if autoaugment and autoaugment not in POLICIES:
            raise ValueError(f"autoaugment={autoaugment!r} is unknown; choose one of {sorted(POLICIES)}")
        if randaugment_ops not in SETS:
            raise ValueError(f"randaugment_ops={randaugment_ops!r} is unknown; choose one of {sorted(SETS)}")
        if not 0.0 < jitter_min <= jitter_max:
            raise ValueError(f"jitter range {jitter_min}..{jitter_max} is empty")
        self.flip, self.jitter_min, self.jitter_max = flip, jitter_min, jitter_max
        self.autoaugment = autoaugment
        self.randaugment_layers, self.randaugment_magnitude = randaugment_layers, randaugment_magnitude
        self.randaugment_ops = randaugment_ops
        self.settings = settings_from(
            settings, SETS[randaugment_ops][1] if randaugment_layers else Settings()
        )
        self.size = tuple(size) if isinstance(size, (list, tuple)) else size
        self.min_box_size = min_box_size

    def augment(
        self,
        example: dict,
        key: tf.Tensor,
        *,
        output_size: int | Sequence[int] | tf.Tensor | None = None,
        **options: Any,
    ) -> dict:
        """Augments one example; the same key gives the same result.

        Args:
          example, key, options: see `augment.jitter.resize_and_crop`.
          output_size: replaces the layer's `size`; without either the image keeps its own.
        """
        example = self._operations(example, tf.random.experimental.stateless_fold_in(key, 1))
        keys = tf.unstack(tf.random.experimental.stateless_split(key, 2, alg="philox"))
        if self.flip:
            example = random_flip(example, keys[0])
        output_size = self.size if output_size is None else output_size
        if output_size is None:
            output_size = tf.shape(example["image"])[:2]
        return resize_and_crop(
            example,
            keys[1],
            output_size=output_size,
            jitter_min=self.jitter_min,
            jitter_max=self.jitter_max,
            ignore_label=self.settings.ignore_label,
            min_box_size=self.min_box_size,
            **options,
        )

    def _operations(self, example: dict, key: tf.Tensor) -> dict:
        if not self.autoaugment and not self.randaugment_layers:
            return example
        touched = {name: example[name] for name in _TOUCHED if name in example}
        if self.autoaugment:
            touched = autoaugment(touched, key, version=self.autoaugment, settings=self.settings)
        if self.randaugment_layers:
            touched = randaugment(
                touched,
                key,
                layers=self.randaugment_layers,
                magnitude=self.randaugment_magnitude,
                operations=SETS[self.randaugment_ops][0],
                settings=self.settings,
            )
        return {**example, **touched}

    def still(self, example: dict) -> dict | None:
        """Resized into `size`, no more; None where the layer has no size."""
        if self.size is None:
            return None
        return resize_and_crop(
            example,
            tf.constant([0, 0]),
            output_size=self.size,
            jitter_min=1.0,
            jitter_max=1.0,
            ignore_label=self.settings.ignore_label,
        )

    def output_shape_of(self, shape: tf.TensorShape) -> tf.TensorShape:
        if self.size is None:
            return shape
        return tf.TensorShape([*static_size(self.size), *shape[2:]])

    def get_config(self) -> dict[str, Any]:
        names = (
            "flip",
            "jitter_min",
            "jitter_max",
            "autoaugment",
            "randaugment_layers",
            "randaugment_magnitude",
            "randaugment_ops",
            "size",
            "min_box_size",
        )
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own, "settings": dataclasses.asdict(self.settings)}


class _Operations(Policy):
    """The operations of a policy alone: neither flipped nor resized, dtype and size stay."""

    def __init__(self, **kwargs: Any) -> None:
        if "size" in kwargs:
            raise ValueError(
                f"{type(self).__name__} keeps the size of an image; resize with LargeScaleJitter(size=...)"
            )
        super().__init__(**kwargs)

    def augment(self, example: dict, key: tf.Tensor, **options: Any) -> dict:
        return self._operations(example, tf.random.experimental.stateless_fold_in(key, 1))


@keras.saving.register_keras_serializable("self_training")
class RandAugment(_Operations):
    """`layers` operations drawn from a set, all at one magnitude: `RandAugment(magnitude=10, layers=1)`."""

    def __init__(
        self,
        magnitude: float = 10.0,
        layers: int = 1,
        *,
        operations: str = "boxes",
        settings: Settings | dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Args: magnitude: 0 to 10. operations: "boxes" or "image". settings, and others: see `policy`."""
        super().__init__(
            flip=False,
            randaugment_layers=layers,
            randaugment_magnitude=magnitude,
            randaugment_ops=operations,
            settings=settings,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        own = {
            "magnitude": self.randaugment_magnitude,
            "layers": self.randaugment_layers,
            "operations": self.randaugment_ops,
        }
        return {**AugmentationLayer.get_config(self), **own, "settings": dataclasses.asdict(self.settings)}


@keras.saving.register_keras_serializable("self_training")
class AutoAugment(_Operations):
    """A policy of AutoAugment for detection: `AutoAugment("v0")`."""

    def __init__(
        self, version: str = "v0", *, settings: Settings | dict | None = None, **kwargs: Any
    ) -> None:
        """Args: version: a name in `augment.autoaugment.POLICIES`. settings, and others: see `policy`."""
        super().__init__(flip=False, autoaugment=version, settings=settings, **kwargs)

    def get_config(self) -> dict[str, Any]:
        own = {"version": self.autoaugment, "settings": dataclasses.asdict(self.settings)}
        return {**AugmentationLayer.get_config(self), **own}


@keras.saving.register_keras_serializable("self_training")
class LargeScaleJitter(Policy):
    """Scaled at random into a window, then cropped and padded: `LargeScaleJitter(0.5, 2.0, size=640)`."""

    def __init__(self, smallest: float = 0.5, largest: float = 2.0, **kwargs: Any) -> None:
        """Args: smallest, largest: of the scale, times the size of the output. Others: see `policy`."""
        super().__init__(**{"flip": False, **kwargs, "jitter_min": smallest, "jitter_max": largest})

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        own = {"smallest": config.pop("jitter_min"), "largest": config.pop("jitter_max")}
        return {**config, **own}


class _Named(Policy):
    """A preset as a class; arguments that are given replace its parts."""

    preset: str

    def __init__(self, size: int | Sequence[int] | None = None, **kwargs: Any) -> None:
        found = PRESETS[self.preset]
        parts = {
            "flip": found.flip,
            "jitter_min": found.jitter[0],
            "jitter_max": found.jitter[1],
            "autoaugment": found.autoaugment,
            "randaugment_layers": found.randaugment_layers,
        }
        super().__init__(size=size, **{**parts, **kwargs})


@keras.saving.register_keras_serializable("self_training")
class AugmentS1(_Named):
    """Flip and a small scale jitter."""

    preset = "s1"


@keras.saving.register_keras_serializable("self_training")
class AugmentS2(_Named):
    """AutoAugment, flip and a small scale jitter."""

    preset = "s2"


@keras.saving.register_keras_serializable("self_training")
class AugmentS3(_Named):
    """AutoAugment, flip and a large scale jitter."""

    preset = "s3"


@keras.saving.register_keras_serializable("self_training")
class AugmentS4(_Named):
    """RandAugment, flip and a large scale jitter: the paper's strongest."""

    preset = "s4"


def policy(
    name: str,
    *,
    jitter_min: float = 0.0,
    jitter_max: float = 0.0,
    flip: bool = True,
    autoaugment: str = "",
    randaugment_layers: int = 0,
    randaugment_magnitude: float = 10.0,
    randaugment_ops: str = "boxes",
    settings: Settings | None = None,
    boxes: str | None = None,
    size: int | Sequence[int] | None = None,
    min_box_size: float = 0.0,
    seed: int | None = None,
) -> Policy:
    """A preset by name, as a Keras layer; arguments that are given replace its parts.

    Args:
      name: "none", "s1", "s2", "s3" or "s4".
      jitter_min, jitter_max: range of the scale; 0 keeps the preset's.
      flip: False turns the flip off.
      autoaugment: "v0" ... "v3", or "none" to turn it off; "" keeps the preset's.
      randaugment_layers: operations per image; 0 keeps the preset's, -1 turns it off.
      randaugment_magnitude: their level; the paper's 10, 15 for ResNet-101.
      randaugment_ops: "boxes" (google/automl's ten) or "image" (sixteen, with smaller cut-outs).
      settings: constants of the operations; those of the set when not given.
      boxes: keras-cv's bounding box format, when the layer is called on boxes.
      size: side of the square output, or (height, width); None keeps every image's own.
      min_box_size: boxes with a shorter side in the output are dropped.
      seed: of the layer's generator, for calls without a key.

    Raises:
      ValueError: unknown name, or an empty range.
    """
    if name not in PRESETS:
        raise ValueError(f"augment={name!r} is unknown; choose one of {sorted(PRESETS)}")
    preset = PRESETS[name]
    layers = randaugment_layers or preset.randaugment_layers
    chosen = {"none": ""}.get(autoaugment, autoaugment or preset.autoaugment)
    return Policy(
        flip=flip and preset.flip,
        jitter_min=jitter_min or preset.jitter[0],
        jitter_max=jitter_max or preset.jitter[1],
        autoaugment=chosen,
        randaugment_layers=max(0, layers),
        randaugment_magnitude=randaugment_magnitude,
        randaugment_ops=randaugment_ops,
        settings=settings,
        boxes=boxes,
        size=size,
        min_box_size=min_box_size,
        seed=seed,
    )
