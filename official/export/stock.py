"""A trained network out of stock Keras layers only: it loads with TensorFlow 2.15 alone.

It maps normalised images to raw head outputs.
"""

from __future__ import annotations

from tensorflow import keras

from official.models.layers import (
    DepthwiseConv2D,
    Dropout,
    StochasticDepth,
    Swish,
    SyncBatchNormalization,
    UpsampleBilinear,
    UpsampleNearest,
)


def stock_model(model: keras.Model) -> keras.Model:
    """The same float32 inference network out of stock Keras layers, with a copy of the weights."""
    used = keras.Model(model.inputs, model.outputs)  # --max_level=4 leaves the backbone's last stages out
    plain = keras.models.clone_model(used, clone_function=_stock_layer)
    plain.set_weights(used.get_weights())
    names = sorted(model.output) if isinstance(model.output, dict) else model.output_names
    outputs = dict(zip(names, plain.outputs))
    return keras.Model(plain.inputs, outputs, name="network")


def _stock_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.Model):
        copy = keras.models.clone_model(layer, clone_function=_stock_layer)
        copy._name = layer.name
        return copy
    config = {**layer.get_config(), "dtype": "float32"}
    if isinstance(layer, SyncBatchNormalization):
        return keras.layers.BatchNormalization.from_config(config)
    if isinstance(layer, DepthwiseConv2D):
        return keras.layers.DepthwiseConv2D.from_config(config)
    if isinstance(layer, Swish):
        return keras.layers.Activation("swish", name=layer.name)
    if isinstance(layer, UpsampleNearest):
        return keras.layers.UpSampling2D(2, name=layer.name)
    if isinstance(layer, UpsampleBilinear):
        return keras.layers.UpSampling2D(layer.factor, interpolation="bilinear", name=layer.name)
    if isinstance(layer, (StochasticDepth, Dropout)):
        return keras.layers.Activation("linear", name=layer.name)
    return layer.__class__.from_config(config)
