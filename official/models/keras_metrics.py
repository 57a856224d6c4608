"""Values and configs of Keras' metrics, keras-cv's COCO metrics among them, whose own config cannot be read
back."""

from __future__ import annotations

from typing import Any, Sequence

import keras_cv
import tensorflow as tf

COCO = "keras_cv_coco_metrics"


def metric_values(metric: tf.keras.metrics.Metric, *, final: bool = False) -> dict[str, Any]:
    """A metric's values by name; several of a metric that gives a dict.

    Args:
      final: computes keras-cv's COCO metrics now, whatever their `evaluate_freq`; outside of graphs. Nothing
        of those that have seen no image.
    """
    if final and hasattr(metric, "evaluate_freq"):
        if not metric.predictions:
            return {}
        return dict(metric.result(force=True))
    result = metric.result()
    return dict(result) if isinstance(result, dict) else {metric.name: result}


def serialized(metrics: Sequence[tf.keras.metrics.Metric]) -> list[dict[str, Any]]:
    """Metrics for a file; `deserialized` is the inverse."""
    return [_config_of(metric) for metric in metrics]


def _config_of(metric: tf.keras.metrics.Metric) -> dict[str, Any]:
    if isinstance(metric, keras_cv.metrics.BoxCOCOMetrics):
        return {
            COCO: {name: getattr(metric, name) for name in ("bounding_box_format", "evaluate_freq", "name")}
        }
    return tf.keras.saving.serialize_keras_object(metric)


def deserialized(configs: Sequence[dict[str, Any]]) -> list[tf.keras.metrics.Metric]:
    """Metrics of what `serialized` gave."""
    return [
        keras_cv.metrics.BoxCOCOMetrics(**config[COCO])
        if COCO in config
        else tf.keras.saving.deserialize_keras_object(config)
        for config in configs
    ]
