"""Two logical CPU devices for replica tests, and a tiny experiment that every test can train."""

from __future__ import annotations

import collections
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# XLA still compiles the whole step, with all its rewriting of the graph (fusion and so on), and the compiled
# kernels are what runs; only LLVM, which took nine tenths of the time, does not optimise the machine code.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest
import tensorflow as tf
from tensorflow.python.framework import config as _config

_cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
# A quarter of the time of a first step goes into rewriting its graph for speed, and no test takes enough
# steps to get it back. The tests that start processes, with the command of a user, leave it on.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

from tests import tiny  # noqa: E402

# A traced graph is a million objects that live on; looking through them every 700 new ones is a tenth of the
# time.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


# Files by the minutes that they take, longest first: whichever worker is free takes the next, and none is
# left with a long one at the end. All others follow, those with many tests first.
LONG = (
    "training/test_step.py", "training/test_resume.py", "test_jobs.py", "test_trained_model.py", "models/test_spinenet.py",
    "study/test_study.py", "tasks/test_segmentation.py", "test_export.py", "test_import_job.py", "test_tflite.py",
    "training/test_replica_inference.py", "tasks/test_augmented_training.py", "models/test_import_released.py",
    "models/test_classifier.py", "models/test_efficientnet.py", "models/test_retinanet.py", "tasks/test_pretraining.py",
    "training/test_accumulation.py", "test_main.py", "training/test_keras_model.py", "training/test_multi_worker.py",
)  # fmt: skip


class _LongFirst(collections.OrderedDict):
    """Files that wait for a worker."""

    def popitem(self, last=False):
        places = {f"tests/{name}": place for place, name in enumerate(LONG)}
        name = min(self, key=lambda file: places.get(file, len(LONG)))
        return name, self.pop(name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Scheduler of `--dist loadfile`; xdist 3.6 leaves the files with the fewest tests, the longest here, to
    the end.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    scheduler = LoadFileScheduling(config, log)
    scheduler.workqueue = _LongFirst()
    return scheduler


@pytest.fixture(scope="session")
def scenes():
    """Sixteen labelled images of 64 pixels."""
    return tiny.scenes_source()


@pytest.fixture(autouse=True)
def global_switches():
    """Leaves precision policy and op determinism, which jobs set, as they were."""
    yield
    tf.keras.mixed_precision.set_global_policy("float32")
    _config.disable_op_determinism()
