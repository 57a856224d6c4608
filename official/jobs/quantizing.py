"""The part of job=export that makes a quantised TFLite model and evaluates it beside the float32 one."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from official.data.source import DataError
from official.export.tflite import (
    CALIBRATION_IMAGES,
    as_network,
    calibration_images,
    quantized,
    write_quantized,
)
from official.files import write_json
from official.jobs.opening import open_eval
from official.tasks.task import Task


def quantize(task: Task, model: tf.keras.Model, folder: str) -> dict[str, Any]:
    """Writes `model_<kind>.tflite` into an export and prints its metrics beside those of the float32 model.

    Args:
      folder: of the export.

    Raises:
      DataError: no evaluation data to calibrate and evaluate on.
    """
    kind = task.experiment.serving.quantize
    source = open_eval(task.experiment, task)
    if source is None:
        raise DataError(
            f"--quantize={kind} calibrates and evaluates on evaluation data: --eval_data is needed"
        )
    images = calibration_images(task.predict, model, source, CALIBRATION_IMAGES if kind == "int8" else 0)
    content = quantized(model, kind, images)
    paths = write_quantized(model, folder, kind, content)
    place = os.path.join(folder, "quantized")
    rows = {
        "float32": task.evaluate(model, source, os.path.join(place, "float32"), "float32"),
        kind: task.evaluate(as_network(content, model), source, os.path.join(place, kind), kind),
    }
    metrics = {name: {m: row[m] for m in task.metrics} for name, row in rows.items()}
    sizes = {"float32": sum(v.shape.num_elements() for v in model.variables) * 4, kind: len(content)}
    print(_table(metrics, sizes, task.metrics))
    report = {"metrics": metrics, "bytes": sizes, "calibration_images": len(images), "paths": paths}
    write_json(os.path.join(folder, "quantized.json"), report)
    return report


def _table(metrics: dict[str, dict[str, float]], sizes: dict[str, int], names: tuple[str, ...]) -> str:
    widths = [max(9, len(name) + 2) for name in names]
    lines = [f"{'':<10}" + "".join(f"{n:>{w}}" for n, w in zip(names, widths)) + "   megabytes"]
    for kind, row in metrics.items():
        cells = "".join(f"{row[n]:>{w}.4f}" for n, w in zip(names, widths))
        lines.append(f"{kind:<10}{cells}{sizes[kind] / 1e6:>12.2f}")
    return "\n".join(lines)
