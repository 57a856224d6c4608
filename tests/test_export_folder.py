"""An export is there whole or not at all, also when two are made at once."""

import os
import threading

import pytest

from official.files import temporary_name
from official.jobs.export_folder import export_once
from official.lock import Locked
from tests import tiny


class Exporter:
    """Stands in for a task: writes one file in two pieces, and waits between them."""

    def __init__(self, content="new"):
        self.content, self.begun, self.go_on = content, threading.Event(), threading.Event()

    def export(self, model, folder):
        os.makedirs(os.path.join(folder, "sub"))
        path = os.path.join(folder, "sub", "model")
        with open(path, "w") as file:
            file.write(self.content)
            self.begun.set()
            assert self.go_on.wait(30.0)
            file.write("!")
        return {"keras": path}


def test_the_second_export_at_once_says_so_and_leaves_the_first_alone(tmp_path):
    experiment, first, found = tiny.experiment(model_dir=str(tmp_path)), Exporter(), []

    def export():
        found.append(export_once(experiment, "a", lambda: (first, None)))

    thread = threading.Thread(target=export)
    thread.start()
    assert first.begun.wait(30.0)
    assert not (tmp_path / "export").exists()  # nothing half-written under its name
    with pytest.raises(Locked, match="in use by process"):
        export_once(experiment, "a", lambda: pytest.fail("exported twice"))
    first.go_on.set()
    thread.join()
    assert found == [({"keras": str(tmp_path / "export" / "sub" / "model")}, True)]
    assert (tmp_path / "export" / "sub" / "model").read_text() == "new!"
    assert export_once(experiment, "a", lambda: pytest.fail("made again"))[1] is False
    assert os.listdir(tmp_path) == ["export"]


def test_an_export_that_fails_leaves_the_old_one(tmp_path):
    experiment = tiny.experiment(model_dir=str(tmp_path))
    old = Exporter("old")
    old.go_on.set()
    export_once(experiment, "a", lambda: (old, None))

    class Full(Exporter):
        def export(self, model, folder):
            os.makedirs(folder)
            raise OSError(28, "No space left on device", folder)

    mine = temporary_name(str(tmp_path / "export"))
    os.mkdir(mine.replace(f"-{os.getpid()}-", "-999999999-"))  # a dead process's
    with pytest.raises(OSError):
        export_once(experiment, "b", lambda: (Full(), None))
    assert (tmp_path / "export" / "sub" / "model").read_text() == "old!"
    assert os.listdir(tmp_path) == ["export"]
