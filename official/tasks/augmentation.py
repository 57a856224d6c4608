"""The training augmentation that an experiment's options describe."""

from __future__ import annotations

import dataclasses

from augment import Policy, policy
from augment.geometry import Settings
from augment.policies import PRESETS
from augment.randaugment import SETS
from official.experiment import Augment


def augmentation(options: Augment, operations: str) -> Policy:
    """Builds the policy.

    Args:
      operations: RandAugment's set for `--randaugment_ops=auto`, "boxes" or "image".
    """
    operations = operations if options.randaugment_ops == "auto" else options.randaugment_ops
    layers = options.randaugment_layers or PRESETS[options.augment].randaugment_layers
    settings = dataclasses.replace(
        SETS[operations][1] if layers > 0 else Settings(),
        reference_size=options.augment_reference_size,
        weakening=options.solarize_posterize == "weakening",
        contrast_true_mean=options.contrast_grey == "mean",
        exact_boxes=options.box_rounding == "exact",
    )
    return policy(
        options.augment,
        jitter_min=options.jitter_min,
        jitter_max=options.jitter_max,
        flip=options.flip,
        autoaugment=options.autoaugment,
        randaugment_layers=options.randaugment_layers,
        randaugment_magnitude=options.randaugment_magnitude,
        randaugment_ops=operations,
        settings=settings,
        min_box_size=options.min_box_size,
    )
