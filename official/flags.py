"""Every flag, made from the fields of official/experiment.py, and back into an `Experiment`."""

from __future__ import annotations

import dataclasses

from absl import flags

from official.experiment import GROUPS, Experiment, experiment_from


def define_flags() -> None:
    """Defines one absl flag per option."""
    for group in GROUPS.values():
        for field in dataclasses.fields(group):
            _define(field)


def _define(field: dataclasses.Field) -> None:
    described = field.metadata
    text, bounds = described["help"], {"lower_bound": described["lower"], "upper_bound": described["upper"]}
    if described["choices"]:
        flags.DEFINE_enum(field.name, field.default, described["choices"], text)
    elif isinstance(field.default, bool):
        flags.DEFINE_bool(field.name, field.default, text)
    elif isinstance(field.default, int):
        flags.DEFINE_integer(field.name, field.default, text, **bounds)
    elif isinstance(field.default, float):
        flags.DEFINE_float(field.name, field.default, text, **bounds)
    else:
        flags.DEFINE_string(field.name, field.default, text)


def experiment_from_flags() -> Experiment:
    """The `Experiment` that the parsed command line describes."""
    names = [field.name for group in GROUPS.values() for field in dataclasses.fields(group)]
    return experiment_from({name: flags.FLAGS[name].value for name in names})
