"""The training augmentation that an experiment's options describe."""

from __future__ import annotations

import dataclasses

from augment import Policy, policy
from augment.crops import ImagePolicy
from augment.geometry import Settings
from augment.policies import PRESETS
from augment.randaugment import SETS
from official.errors import about_flags
from official.experiment import Augment, Experiment


def augmentation(options: Augment, operations: str) -> Policy:
    """Builds the policy.

    Args:
      operations: RandAugment's set for `--randaugment_ops=auto`, "boxes" or "image".

    Raises:
      FlagError: see `augment.policies.policy`.
    """
    operations = operations if options.randaugment_ops == "auto" else options.randaugment_ops
    with about_flags():
        return policy(
            options.augment,
            jitter_min=options.jitter_min,
            jitter_max=options.jitter_max,
            flip=options.flip,
            autoaugment=options.autoaugment,
            randaugment_layers=options.randaugment_layers,
            randaugment_magnitude=options.randaugment_magnitude,
            randaugment_ops=operations,
            settings=_settings(options, operations),
            min_box_size=options.min_box_size,
        )


def image_augmentation(experiment: Experiment) -> ImagePolicy:
    """The policy for whole images: the preset's operations after a random crop, in place of its scale jitter.

    The presets' AutoAugment becomes the published policy for classification.
    """
    options = experiment.augment
    preset = PRESETS[options.augment]
    layers = max(0, options.randaugment_layers or preset.randaugment_layers)
    learned = {"none": ""}.get(
        options.autoaugment, options.autoaugment or ("imagenet" if preset.autoaugment else "")
    )
    return ImagePolicy(
        crop=options.augment != "none",
        smallest_area=options.smallest_crop,
        flip=options.flip and preset.flip,
        autoaugment=learned,
        randaugment_layers=layers,
        randaugment_magnitude=options.randaugment_magnitude,
        settings=_settings(options, "image"),
        style=crop_style(experiment),
        legacy_resize=experiment.data.legacy_resize,
    )


def crop_style(experiment: Experiment) -> str:
    """--crop_style, with `auto` resolved: SimCLR's for its pre-training and linear evaluation, else
    EfficientNet's.
    """
    if experiment.data.crop_style != "auto":
        return experiment.data.crop_style
    return (
        "simclr"
        if experiment.model.task == "contrastive" or experiment.model.linear_probe
        else "efficientnet"
    )


def student_options(experiment: Experiment) -> Experiment:
    """The experiment as the student sees it: --student_augment in place of the preset and what was changed in
    it.
    """
    preset = experiment.augment.student_augment
    if not preset:
        return experiment
    augment = dataclasses.replace(
        experiment.augment,
        augment=preset,
        jitter_min=0.0,
        jitter_max=0.0,
        autoaugment="",
        randaugment_layers=0,
    )
    return dataclasses.replace(experiment, augment=augment)


def _settings(options: Augment, operations: str) -> Settings:
    layers = options.randaugment_layers or PRESETS[options.augment].randaugment_layers
    return dataclasses.replace(
        SETS[operations][1] if layers > 0 else Settings(),
        reference_size=options.augment_reference_size,
        solarize_posterize=options.solarize_posterize,
        contrast_true_mean=options.contrast_grey == "mean",
        exact_boxes=options.box_rounding == "exact",
    )
