"""The names that a program of your own imports: `from self_training import RetinaNet, augment, losses`.

Installed from the wheel everything lies below this name (`self_training.augment`, `self_training.losses`,
`self_training.official`), so that it does not clash with another package called `official`. In a clone,
`augment`, `losses` and `official` are the folders beside this one. A name is imported when it is first used:
TensorFlow takes seconds.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from official import __version__ as __version__

_INSIDE = os.path.isdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "official"))
_MODULES = ("augment", "losses", "official")
_NAMES = {
    "SelfTrainingModel": "official.training.keras_model",
    "pseudo_label": "official.self_training.keras_labels",
    "LabelStore": "official.self_training.label_store",
    "load_dataset": "official.data.keras_dataset",
    "Segmenter": "official.models.segmenter",
    "RetinaNet": "official.models.retinanet",
    "build_backbone": "official.models.backbones.registry",
    "normalized_joint_loss": "losses.joint",
}
__all__ = ["__version__", *_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use."""
    prefix = f"{__name__}." if _INSIDE else ""
    if name in _MODULES:
        return importlib.import_module(prefix + name)
    if name not in _NAMES:
        raise AttributeError(f"self_training has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(prefix + _NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
