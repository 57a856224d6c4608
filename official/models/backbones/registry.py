"""Every backbone by the name that --backbone takes.

A new one is a file beside this with its network and a function below `@backbones(...)`, and its line in
`FAMILIES`.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, Callable, Iterable

from tensorflow import keras

from official.errors import FlagError
from official.experiment import Model
from official.models.features import check_size

FAMILIES = ("efficientnet", "resnet", "kerascv", "spinenet")
Builder = Callable[..., keras.Model]


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks that one function builds.

    Attributes:
      build: (options, **shared) -> a model with `pyramid_level_inputs`; shared is "input_normalization" and
        "input_shape".
      scale: of the pixels where no weights say otherwise, a key of `input_scale.SCALES`.
      levels: the finest and coarsest level that it offers itself, if its levels go to the heads as they are.
    """

    build: Builder
    scale: str = "imagenet"
    levels: tuple[int, int] | None = None


_BY_NAME: dict[str, Family] = {}


def backbones(names: Iterable[str], **about: Any) -> Callable[[Builder], Builder]:
    """Registers the function below as the builder of these names; `about` is the rest of a `Family`."""

    def register(build: Builder) -> Builder:
        _BY_NAME.update(dict.fromkeys(names, Family(build, **about)))
        return build

    return register


def family_of(backbone: str) -> Family:
    """The family of a name.

    Raises:
      FlagError: unknown name; it lists those that there are.
    """
    for module in FAMILIES:
        importlib.import_module(f"{__package__}.{module}")
    if backbone not in _BY_NAME:
        raise FlagError(f"backbone={backbone!r} is unknown; choose one of {sorted(_BY_NAME)}")
    return _BY_NAME[backbone]


def check_levels(options: Model) -> None:
    """Whether the levels of a detector or segmenter are in order, offered by its backbone, and divide its
    input.

    Raises:
      FlagError: says which flag does not fit and what does.
    """
    low, high, offered = options.min_level, options.max_level, family_of(options.backbone).levels
    words = f"--min_level={low} --max_level={high}"
    if low > high:
        raise FlagError(f"{words}: the coarsest level is below the finest")
    if offered and not (offered[0] <= low and high <= offered[1]):
        raise FlagError(f"{words}: {options.backbone} has the levels {offered[0]} to {offered[1]}")
    check_size(options.image_size, offered[1] if offered else high)


def build_backbone(options: Model, input_side: int | None = None) -> keras.Model:
    """The named backbone, with `pyramid_level_inputs`.

    Args:
      input_side: side of the square input, None where only the run knows.

    Raises:
      ValueError: unknown name, or a size that the backbone cannot take.
    """
    family = family_of(options.backbone)
    if family.levels:
        check_size(options.image_size, family.levels[1])
    scale = family.scale if options.input_normalization == "auto" else options.input_normalization
    return family.build(options, input_normalization=scale, input_shape=(input_side, input_side, 3))
