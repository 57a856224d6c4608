"""--help and --helpfull: everything that there is, at once."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys

import pytest
from absl import flags

from official import catalog
from official.experiment import GROUPS
from official.flags import define_flags
from official.help_page import NEEDED, asked_for, page

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_every_entry_of_the_catalog_can_be_loaded():
    for place in (*catalog.TASKS.values(), *catalog.FORMATS.values()):
        assert catalog.load(place)
    for job in catalog.JOBS.values():
        assert list(inspect.signature(catalog.load(job.function)).parameters)[0] == "experiment"
        assert len(job.about) > 10
    assert all(catalog.load(place).name == name for name, place in catalog.TASKS.items())


def test_the_short_page_has_the_jobs_and_the_flags_that_one_needs():
    text = page("short", "self-train")
    assert all(re.search(rf"^  {name} ", text, re.M) for name in catalog.JOBS)
    assert (
        all(f"--{name}" in text for name in NEEDED) and "self-train --flagfile=configs/quickstart.cfg" in text
    )
    assert "python main.py" not in text and len(text.splitlines()) < 90


def test_the_full_page_has_every_flag_with_its_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = page("full")
    for group in GROUPS.values():
        for field in dataclasses.fields(group):
            assert re.search(rf"^  --{field.name}( |$)", text, re.M), field.name
    assert (
        max(map(len, text.splitlines())) <= 80 + 25 and "[0.9997]" in text
    )  # the decay of the paper's averages
    assert "(detection, segmentation, classification, contrastive)" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    "arguments, kind",
    [
        ((), "short"),
        (("-h",), "short"),
        (("--seed=1", "--help"), "short"),
        (("--helpfull",), "full"),
        (("--seed=1",), ""),
    ],
)
def test_what_asks_for_help(arguments, kind):
    assert asked_for(arguments) == kind


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--helpfull"]])
def test_help_comes_without_tensorflow_and_is_no_error(arguments):
    code = f"import sys, main; main.start(['main.py', *{arguments!r}]); sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and len(done.stdout) > 2000 and done.stderr == ""


@pytest.mark.parametrize("flag", ["--task=segmentaion", "--job=trian", "--format=coc"])
def test_a_misspelt_name_is_refused_with_those_that_there_are(flag):
    """Before TensorFlow is loaded, by every job."""
    values = flags.FlagValues()
    define_flags(values)
    names = {"task": catalog.TASKS, "job": catalog.JOBS, "format": catalog.FORMATS}[flag[2:].split("=")[0]]
    with pytest.raises(flags.IllegalFlagValueError, match="value should be one of") as caught:
        values(["program", "--job=write_scenes", flag])
    assert all(name in str(caught.value) for name in names)
