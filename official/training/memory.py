"""Whether a step can fit into memory at all.

On a CPU nothing says so in time: Linux promises memory that it does not have, and ends the process (or
another one) once the pages are touched. A GPU's allocator raises an error by itself, which official/errors.py
puts into words.
"""

from __future__ import annotations

from typing import Callable, Mapping

import tensorflow as tf

from official.errors import FlagError
from official.experiment import Experiment
from official.models.statistics import activation_bytes
from official.training.machine import Machine, this_machine

_GIB = float(1 << 30)
# More than any backbone here keeps for a pixel (EfficientNet-L2, 25 kB); below it the network need not be
# looked at.
_MOST_PER_PIXEL = 32_000


def images_in_memory(experiment: Experiment, streams: Mapping[str, int], share: float = 1.0) -> float:
    """Images of --image_size whose activations a machine holds at once.

    Args:
      streams: images of a step, "human", "pseudo" and "joint"; those of "joint" count by their pixels.
      share: of the batch that this machine trains on.
    """
    small = (experiment.training.joint_image_size / experiment.model.image_size) ** 2
    images = sum(count * (small if stream == "joint" else 1.0) for stream, count in streams.items())
    return images * share / experiment.training.accumulate


def too_large(
    experiment: Experiment, build: Callable[[], tf.keras.Model], images: float, machine: Machine
) -> str | None:
    """What to say where the activations of a step alone are more than the memory of a machine without a GPU;
    None: they are not.

    They are a lower bound of what a step takes, so nothing is refused that could run.

    Args:
      build: gives the network; called only where the batch is so large that it matters.
    """
    size = experiment.model.image_size
    if machine.gpus or images * size**2 * _MOST_PER_PIXEL <= machine.memory * _GIB:
        return None
    # XLA may compute batch norm's outputs, which are half of it, a second time.
    each = activation_bytes(build(), size) / _GIB / (2.0 if experiment.runtime.xla else 1.0)
    if images * each <= machine.memory:
        return None
    fitting = int(0.4 * machine.memory / each)  # EfficientNet-B0 takes 1.7 times as much; weights come on top
    remedy = (
        f"a --batch_size (with --pseudo_batch_size) of {fitting} in all may fit"
        if fitting
        else "not even one image fits: lower --image_size"
    )
    return (
        f"a step of {images:g} images of {size} px keeps at least {images * each:,.0f} GB, and this machine "
        f"has {machine.memory} GB of memory and no GPU: {remedy}; --recipe=auto chooses flags for this "
        "machine, --accumulate=N passes a batch in N parts"
    )


def check_memory(
    experiment: Experiment, model: tf.keras.Model, streams: Mapping[str, int], share: float
) -> None:
    """Raises FlagError where a step cannot fit into this machine's memory; see `too_large`."""
    if experiment.runtime.tpu:
        return
    words = too_large(experiment, lambda: model, images_in_memory(experiment, streams, share), this_machine())
    if words:
        raise FlagError(words)
