"""Every flag, made from the fields of official/experiment.py, and back into an `Experiment`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Iterable, Mapping, Sequence

from absl import flags

from official.errors import FlagError
from official.experiment import GROUPS, MACHINE, Experiment, experiment_from
from official.flagfiles import expanded


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one absl flag per option."""
    for group in GROUPS.values():
        for field in dataclasses.fields(group):
            _define(field, values)


def experiment_from_flagfile(path: str, **overrides: Any) -> Experiment:
    """The `Experiment` that a flagfile describes alone, apart from the command line.

    Args:
      overrides: option values that replace the file's.

    Raises:
      FlagError: no such file, or a line that is no flag.
    """
    return experiment_from_arguments([f"--flagfile={path}"], path, **overrides)


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Option values as one would type them."""
    return [
        f"--{'' if value else 'no'}{name}" if isinstance(value, bool) else f"--{name}={value}"
        for name, value in options.items()
    ]


def experiment_from_arguments(arguments: Sequence[str], where: str, **overrides: Any) -> Experiment:
    """The `Experiment` that arguments describe alone, apart from the command line.

    Args:
      where: they are from, for messages; overrides: as of `experiment_from_flagfile`.

    Raises:
      FlagError: no such file, or a line or argument that is no flag.
    """
    values = flags.FlagValues()
    define_flags(values)
    arguments = expanded(arguments)
    try:
        values(["program", *arguments])
    except flags.Error as error:
        raise FlagError(f"{where}: {error}") from error
    names = Experiment().flags()
    _check(values, names)
    given = {name for name in names if values[name].present} | set(overrides)
    return experiment_from({**{name: values[name].value for name in names}, **overrides}, given)


def _define(field: dataclasses.Field, values: flags.FlagValues) -> None:
    described = field.metadata
    text, bounds = described["help"], {"lower_bound": described["lower"], "upper_bound": described["upper"]}
    if described["choices"]:
        flags.DEFINE_enum(field.name, field.default, described["choices"], text, flag_values=values)
    elif isinstance(field.default, bool):
        flags.DEFINE_bool(field.name, field.default, text, flag_values=values)
    elif isinstance(field.default, int):
        flags.DEFINE_integer(field.name, field.default, text, **bounds, flag_values=values)
    elif described["words"]:
        parser = _NumberOrWord(described["words"], **bounds)
        flags.DEFINE(parser, field.name, field.default, text, values, flags.ArgumentSerializer())
    elif isinstance(field.default, float):
        flags.DEFINE_float(field.name, field.default, text, **bounds, flag_values=values)
    else:
        flags.DEFINE_string(field.name, field.default, text, flag_values=values)


class _NumberOrWord(flags.ArgumentParser):
    """Parses a number in bounds, or one of some words."""

    def __init__(self, words: Sequence[str], lower_bound: float | None, upper_bound: float | None) -> None:
        self.words, self.syntactic_help = words, f"a number or {' or '.join(words)}"
        self._number = flags.FloatParser(lower_bound, upper_bound)

    def parse(self, argument: str | float) -> str | float:
        """The value of a flag's text; raises ValueError for anything else."""
        if argument in self.words:
            return argument
        try:
            return self._number.parse(argument)
        except ValueError as error:
            raise ValueError(f"{error}, nor {' or '.join(self.words)}") from None

    def flag_type(self) -> str:
        return self.syntactic_help


def _check(values: flags.FlagValues, names: Iterable[str]) -> None:
    """What bounds and choices do not refuse: nan, infinity, places that cannot be reached.

    Raises:
      FlagError: names the flag.
    """
    for name in names:
        value = values[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise FlagError(f"--{name}={value}: not a finite number")
        if isinstance(value, str) and "://" in value and not _is_read_there(name, value):
            raise FlagError(
                f"--{name}={value}: only tfrecord:gs://... data and --data_dir are read from a bucket, all "
                "else is on a disk of this machine: copy it there (gcloud storage cp), or mount it (gcsfuse)"
            )


def _is_read_there(name: str, value: str) -> bool:
    """Whether TensorFlow reads or prepares the data that a flag names, which it also does in a bucket."""
    return name in ("data_dir", "tpu") or (name.endswith("_data") and value.startswith("tfrecord:"))


def experiment_from_flags(jobs_on_a_run: Sequence[str] = ()) -> Experiment:
    """The `Experiment` that the parsed command line describes.

    Args:
      jobs_on_a_run: jobs that take the flags not given on the command line from --model_dir, but for the
        machine's.
    """
    names = Experiment().flags()
    _check(flags.FLAGS, names)
    values = {name: flags.FLAGS[name].value for name in names}
    given = {name for name in names if flags.FLAGS[name].present}
    if values["job"] in jobs_on_a_run:
        from official.training.run_folder import saved_flags

        own = given | MACHINE | {"job", "model_dir"}
        values.update({k: v for k, v in saved_flags(values["model_dir"]).items() if k not in own})
    return experiment_from(values, given)
