"""What `--help` and `--helpfull` print: at once, without TensorFlow, from the catalog and the options."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from typing import Sequence

from official.catalog import JOBS
from official.experiment import GROUPS

SHORT, FULL = ("--help", "-help", "-h", "-?", "--helpshort"), ("--helpfull", "-helpfull")
# The flags that a first run of one's own needs, in the order in which one thinks of them.
NEEDED = (
    "flagfile",
    "model_dir",
    "labeled_data",
    "unlabeled_data",
    "eval_data",
    "eval_fraction",
    "recipe",
    "task",
    "backbone",
    "init",
    "image_size",
    "augment",
    "teacher_steps",
    "student_steps",
    "score_threshold",
    "control",
)
_FLAGFILE = (
    "A file of flags, one a line; configs/README.md lists those that come with the program. Flags "
    "after it replace its own."
)
_FIRST = (
    ("--flagfile=configs/quickstart.cfg", "the whole loop, on images that it draws itself"),
    ("--job=check_data --labeled_data=coco:train.json,images", "what is in your data, and what does not fit"),
    (
        "--flagfile=configs/your_own_images_cpu.cfg --model_dir=runs/mine "
        "--labeled_data=coco:train.json,images --unlabeled_data=folder:many --eval_fraction=0.2",
        "the whole loop on your images",
    ),
)


def asked_for(arguments: Sequence[str]) -> str:
    """ "short", "full", or "" where the arguments ask for no help; no argument at all asks for the short
    one.
    """
    if any(argument in FULL for argument in arguments):
        return "full"
    return "short" if not arguments or any(argument in SHORT for argument in arguments) else ""


def page(kind: str, command: str = "python main.py") -> str:
    """The page as text, as wide as the terminal.

    Args:
      kind: short (jobs, and the flags that one needs) or full (every flag); command: how the program is
        called.
    """
    width = min(110, max(60, shutil.get_terminal_size((100, 24)).columns))
    return _full(width) if kind == "full" else _short(command, width)


def _short(command: str, width: int) -> str:
    lines = [
        (
            "Self-training for detection and segmentation: a teacher learns from labelled images, labels the "
            "others, and a"
        ),
        "student learns from both.",
        "",
        "Begin with",
    ]
    for arguments, what in _FIRST:
        lines += [f"  {command} {arguments}", f"      {what}"]
    lines += ["", "Jobs (--job=NAME; self_train if none is given)"]
    for name, job in JOBS.items():
        lines += _entry(name, job.about, width)
    lines += ["", "Flags that one needs"]
    helps = {
        field.name: _described(field) for group in GROUPS.values() for field in dataclasses.fields(group)
    }
    for name in NEEDED:
        lines += _entry(f"--{name}", _FLAGFILE if name == "flagfile" else helps[name], width)
    lines += [
        "",
        (
            f"All flags: {command} --helpfull     Flagfiles: configs/README.md     Questions: README.md "
            f"and docs/"
        ),
    ]
    return "\n".join(lines)


def _full(width: int) -> str:
    lines = []
    for name, group in GROUPS.items():
        about = (group.__doc__ or "").splitlines()[0]
        lines += ["", f"{name.replace('_', ' ')}: {about}"]
        for field in dataclasses.fields(group):
            lines += _entry(f"--{field.name}", _described(field), width)
    return "\n".join(lines[1:])


def _described(field: dataclasses.Field) -> str:
    choices = f" ({', '.join(field.metadata['choices'])})" if field.metadata["choices"] else ""
    default = f" [{field.default}]" if field.default not in ("", None) else ""
    return f"{field.metadata['help']}{choices}{default}"


def _entry(name: str, text: str, width: int) -> list[str]:
    indent = 22
    body = textwrap.wrap(text, width - indent, break_on_hyphens=False) or [""]
    first = f"  {name:<{indent - 3}} "
    if len(first) > indent:
        return [first.rstrip(), *(" " * indent + line for line in body)]
    return [first + body[0], *(" " * indent + line for line in body[1:])]
