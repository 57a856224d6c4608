"""Weight files made to do harm: nothing in them runs, nothing unfolds, nothing that is no number gets in.

Every file is made here. Where Keras itself would run what the file says, that is shown first, so that a test
cannot pass for the lack of a threat.
"""

import io
import json
import os
import pickle
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

from official.models.weights import import_resnet
from official.models.weights.import_checkpoint import read_weights
from official.models.weights.named_weights import (
    Weights,
    WeightsError,
    assign_weights,
    read_npz,
    take,
    write_weights,
)
from official.models.weights.weight_files import StoredArray, WeightFile, open_h5

keras = tf.keras
FEW = 20_000_000  # bytes that a refusal may take
KERNEL, GAMMA = "stem_conv/kernel", "stem_bn/gamma"


def network(filters=4):
    """A backbone of five variables."""
    images = keras.Input((8, 8, 3), name="images")
    x = keras.layers.Conv2D(filters, 3, use_bias=False, name="stem_conv")(images)
    return keras.Model(
        images, keras.layers.BatchNormalization(epsilon=1e-3, name="stem_bn")(x), name="backbone"
    )


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    return network()


@pytest.fixture
def values(backbone):
    return {v.name.split(":")[0]: v.numpy() for v in backbone.variables}


def refuse(path, backbone, message):
    """Reading raises `message`, and takes little memory for it."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message) as caught:
            read_weights(str(path), backbone)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert os.path.basename(path) in str(caught.value)
    assert peak < FEW, f"{peak:,} bytes"


# --- files of each kind, with any values -------------------------------------------------------------


def write_h5(path, values):
    """The old format of Keras."""
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[f"{name.split('/')[0]}/{name}:0"] = value
    return path


def write_npz(path, values):
    """As write_weights does, with a right fingerprint; of values that it would refuse, too."""
    note = {
        "origin": "a test",
        "sha256": Weights(values, "").fingerprint(),
        "normalization": "imagenet",
        "epsilon": 1e-3,
    }
    np.savez(path, **{"__meta__": np.array(json.dumps(note))}, **values)
    return path


def write_checkpoint(path, values):
    """With the names of a detector's ResNet."""
    names = import_resnet.numbered_table("resnet50", ["stem"])
    tensors = {names[name]: value for name, value in values.items()}
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return path


def write_keras(path, values, config=None, weights=None, compression=zipfile.ZIP_STORED):
    """As Keras lays it out. Args: config, weights: bytes in place of the true ones."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers/conv2d/vars/0"] = values[KERNEL]
        for i, part in enumerate(("gamma", "beta", "moving_mean", "moving_variance")):
            file[f"layers/batch_normalization/vars/{i}"] = values[f"stem_bn/{part}"]
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("config.json", config or json.dumps(keras.saving.serialize_keras_object(network())))
        archive.writestr("model.weights.h5", weights or buffer.getvalue())
    return path


WRITERS = {"w.h5": write_h5, "w.npz": write_npz, "model.ckpt": write_checkpoint, "w.keras": write_keras}


@pytest.fixture
def five_names(monkeypatch):
    """A detector's checkpoint has the names of these five variables alone."""
    table = import_resnet.numbered_table("resnet50", ["stem"])
    monkeypatch.setattr(import_resnet, "resnet_table", lambda path, there, backbone: table)


@pytest.fixture(params=sorted(WRITERS))
def kind(request, tmp_path, five_names):
    """(a function that writes values, path)."""
    return lambda values: WRITERS[request.param](str(tmp_path / request.param), values), str(
        tmp_path / request.param
    )


def test_a_harmless_file_is_read(kind, backbone, values):
    write, path = kind
    write(values)
    weights = read_weights(path, backbone)
    assert weights.unused == () and set(weights.values) == set(values)
    assert all(np.array_equal(weights.values[name], value) for name, value in values.items())


@pytest.mark.parametrize("name, value, message", [
    (GAMMA, np.float32([1, np.nan, 1, 1]), r"(gamma|gamma:0|vars/0) has 1 of 4 values that are NaN"),
    (GAMMA, np.float32([1, np.inf, -np.inf, 1]), "has 2 of 4 values that are NaN or infinite"),
    (GAMMA, np.float64([1, 1e300, 1, 1]), "has 1 of 4 values that are NaN or infinite"),
    (GAMMA, np.complex64([1, 1j, 1, 1]), "holds complex64, not real numbers"),
    (GAMMA, np.int32([1, 2, 3, 4]), "holds int32, not real numbers"),
    (KERNEL, np.zeros((3, 3, 3, 5), np.float32), r"is \(3, 3, 3, 5\), the model's is \(3, 3, 3, 4\)"),
])  # fmt: skip
def test_what_is_no_weight_is_refused_by_name(kind, backbone, values, name, value, message):
    write, path = kind
    write({**values, name: value})
    refuse(path, backbone, message)


def test_a_variable_is_named(backbone, values, tmp_path):
    path = write_h5(str(tmp_path / "w.h5"), {**values, GAMMA: np.float32([np.nan] * 4)})
    refuse(path, backbone, "w.h5: stem_bn/stem_bn/gamma:0 has 4 of 4")


# --- what would run ----------------------------------------------------------------------------------


def test_an_operation_in_a_model_does_not_run(backbone, values, tmp_path):
    """A TFOpLambda of `io.write_file` with constants runs while Keras rebuilds the model."""
    marker = tmp_path / "written"
    model = json.loads(json.dumps(keras.saving.serialize_keras_object(network())))
    lambda_layer = {
        "module": "keras.layers", "class_name": "TFOpLambda", "registered_name": "TFOpLambda", "name": "evil",
        "config": {"name": "evil", "trainable": True, "dtype": "float32", "function": "io.write_file"},
        "inbound_nodes": [["_CONSTANT_VALUE", -1, str(marker), {"contents": "boo"}]],
    }  # fmt: skip
    model["config"]["layers"].append(lambda_layer)
    path = write_keras(str(tmp_path / "w.keras"), values, json.dumps(model).encode())
    try:
        keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception:
        pass  # whatever becomes of the model, the file is there
    assert marker.exists(), "Keras no longer runs it: this test shows nothing"
    marker.unlink()
    weights = read_weights(path, backbone)
    assert not marker.exists()
    np.testing.assert_array_equal(weights.values[KERNEL], values[KERNEL])


class _Evil:
    """What its pickle does when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_in_a_model_is_not_opened(backbone, tmp_path):
    """Keras opens model.weights.npz with pickles allowed."""
    marker, buffer = tmp_path / "written", io.BytesIO()
    np.savez(
        buffer,
        __root__=np.array({"0": _Evil(str(marker))}, dtype=object),
        other=np.array(_Evil(str(marker)), dtype=object),
    )
    path = str(tmp_path / "w.keras")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(keras.saving.serialize_keras_object(network())))
        archive.writestr("model.weights.npz", buffer.getvalue())
    try:
        keras.models.load_model(path, compile=False)
    except Exception:
        pass
    assert marker.exists(), "Keras no longer opens it: this test shows nothing"
    marker.unlink()
    refuse(path, backbone, "has no model.weights.h5")
    assert not marker.exists()


def test_a_pickle_in_a_weight_file_is_not_opened(backbone, values, tmp_path):
    marker, path = tmp_path / "written", str(tmp_path / "w.npz")
    write_npz(path, {**values, GAMMA: np.zeros(4, np.float32)})
    evil = np.empty(4, object)
    evil[:] = [_Evil(str(marker))] * 4
    with zipfile.ZipFile(path, "a") as archive, archive.open(f"{GAMMA}.npy", "w") as file:
        np.lib.format.write_array(file, evil, allow_pickle=True)
    refuse(path, backbone, "holds object, not real numbers")
    pickle.dumps(evil)  # it is one
    assert not marker.exists()


def test_a_saved_models_graph_is_not_looked_at(backbone, values, tmp_path, five_names):
    os.makedirs(tmp_path / "saved" / "variables")
    write_checkpoint(tmp_path / "saved" / "variables" / "variables", values)
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"no graph at all")
    weights = read_weights(str(tmp_path / "saved"), backbone)
    np.testing.assert_array_equal(weights.values[KERNEL], values[KERNEL])


# --- what would unfold -------------------------------------------------------------------------------


def claiming(path, place, shape, **kwargs):
    """Adds an array to an HDF5 file that claims its shape and has nothing."""
    with h5py.File(path, "a") as file:
        if place in file:
            del file[place]
        file.create_dataset(place, shape, "f4", **kwargs)
    assert os.path.getsize(path) < 20_000
    return path


def test_an_h5_that_claims_gigabytes(backbone, values, tmp_path):
    place, path = "stem_conv/stem_conv/kernel:0", str(tmp_path / "w.h5")
    claiming(write_h5(path, values), place, (2_000_000_000,))
    refuse(path, backbone, r"is \(2000000000,\), the model's is \(3, 3, 3, 4\)")
    claiming(path, place, (3, 3, 3, 4))
    refuse(path, backbone, "claims 432 bytes, the file has 0 for it")
    claiming(path, place, (3, 3, 3, 4), chunks=(3, 3, 3, 4), compression="gzip", fillvalue=7.0)
    refuse(path, backbone, "claims 432 bytes, the file has 0 for it")
    claiming(write_h5(path, values), "other/other/kernel:0", (2_000_000_000,))
    assert read_weights(path, backbone).unused == (
        "other/other/kernel:0",
    )  # nobody wants it, nobody reads it


def test_a_big_network_that_a_file_only_claims(tmp_path):
    """Right names and shapes, 8 GB, in a file of two KB; no model of that size is built here."""
    path = claiming(str(tmp_path / "w.h5"), "stem_conv/kernel:0", (2_000_000_000,))
    with (
        open_h5(path) as file,
        pytest.raises(WeightsError, match="claims 8,000,000,000 bytes, the file has 0"),
    ):
        file.read("stem_conv/kernel:0", (2_000_000_000,))


@pytest.mark.parametrize("outside", ["external", "virtual"])
def test_values_from_another_file_are_not_fetched(backbone, values, tmp_path, outside):
    (tmp_path / "secret").write_bytes(bytes(432))
    path = write_h5(str(tmp_path / "w.h5"), values)
    with h5py.File(path, "a") as file:
        del file["stem_conv/stem_conv/kernel:0"]
        if outside == "external":
            file.create_dataset(
                "stem_conv/stem_conv/kernel:0",
                (3, 3, 3, 4),
                "f4",
                external=[(str(tmp_path / "secret"), 0, 432)],
            )
        else:
            layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
            layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kernel", (3, 3, 3, 4))
            file.create_virtual_dataset("stem_conv/stem_conv/kernel:0", layout)
    refuse(path, backbone, "kernel:0 takes its values from another file")


def test_links_out_of_a_file_are_not_followed(backbone, values, tmp_path):
    write_h5(str(tmp_path / "other.h5"), values)
    path = str(tmp_path / "w.h5")
    with h5py.File(path, "w") as file:
        for layer in ("stem_conv", "stem_bn"):
            file[layer] = h5py.ExternalLink("other.h5", f"/{layer}")
    assert read_weights(path, backbone).values == {}


def npy(shape, content=b""):
    """An .npy of float32 zeros that claims a shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def with_member(path, values, name, content):
    write_npz(path, {k: v for k, v in values.items() if k != name})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def test_an_npz_that_unfolds(backbone, values, tmp_path):
    """60 MB in 60 KB; the same with gigabytes would only take longer to make."""
    path = with_member(str(tmp_path / "w.npz"), values, KERNEL, npy((15_000_000,), bytes(60_000_000)))
    assert os.path.getsize(path) < 100_000
    refuse(path, backbone, r"is \(15000000,\), the model's is")
    with_member(path, values, KERNEL, npy((3, 3, 3, 4), bytes(100)))
    refuse(path, backbone, "claims 432 bytes, the file has 100 for it")
    with_member(path, values, "other/kernel", npy((15_000_000,), bytes(60_000_000)))
    refuse(path, backbone, "of another backbone: it has 1 variables that this one lacks: .'other/kernel'")
    with_member(path, values, "__meta__", npy((15_000_000,), bytes(60_000_000)))
    refuse(path, backbone, "__meta__ is no note")


def test_a_header_of_an_npz_that_unfolds(backbone, values, tmp_path):
    """Version 2 of .npy may have a header of 4 GB, which NumPy reads before it looks at its length."""
    content = b"\x93NUMPY\x02\x00" + (60_000_000).to_bytes(4, "little") + bytes(60_000_000)
    path = with_member(str(tmp_path / "w.npz"), values, KERNEL, content)
    refuse(path, backbone, "of a version of .npy")


def test_a_keras_archive_that_unfolds(backbone, values, tmp_path):
    path = str(tmp_path / "w.keras")
    write_keras(path, values, config=b" " * 50_000_000, compression=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(WeightsError, match="config.json unfolds to more than 16,000,000 bytes"):
        read_weights(path, backbone)
    assert tracemalloc.get_traced_memory()[1] < 3 * FEW
    tracemalloc.stop()
    write_keras(path, values, weights=bytes(50_000_000), compression=zipfile.ZIP_DEFLATED)
    refuse(path, backbone, "model.weights.h5 is compressed, which Keras does not do")
    inside = claiming(str(tmp_path / "inside.h5"), "layers/conv2d/vars/0", (2_000_000_000,))
    write_keras(path, values, weights=open(inside, "rb").read())
    refuse(path, backbone, r"is \(2000000000,\), the model's is \(3, 3, 3, 4\)")
    write_keras(path, values, config=b"[" * 200_000)
    refuse(path, backbone, "cannot be read .RecursionError")


def test_every_shape_is_looked_at_before_the_first_value():
    """The last of a thousand variables may be the one that does not fit."""
    read = []
    arrays = {
        name: StoredArray(shape, np.dtype("f4"), 16, lambda name=name: read.append(name))
        for name, shape in (("a", (4,)), ("b", (3,)))
    }
    with pytest.raises(WeightsError, match="b is .3,., the model's is .4,."):
        take(WeightFile("file", arrays), {"x": "a", "y": "b"}, {"x": (4,), "y": (4,)}, "")
    assert read == []


def test_a_checkpoint_that_claims_more_than_it_has(backbone, values, tmp_path, five_names):
    write_checkpoint(tmp_path / "model.ckpt", values)
    with open(tmp_path / "model.ckpt.data-00000-of-00001", "r+b") as file:
        file.truncate(300)
    refuse(tmp_path / "model.ckpt", backbone, "kernel claims 432 bytes, the file has 300 for it")


# --- what must still work ----------------------------------------------------------------------------


def test_a_whole_model_of_the_old_format(backbone, values, tmp_path):
    """Its optimizer has arrays of the same names."""
    path = str(tmp_path / "w.h5")
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[f"model_weights/{name.split('/')[0]}/{name}:0"] = value
            file[f"optimizer_weights/Momentum/{name}:0"] = value + 1
    weights = read_weights(path, backbone)
    np.testing.assert_array_equal(weights.values[KERNEL], values[KERNEL])
    with h5py.File(path, "a") as file:
        file["another/stem_conv/kernel:0"] = values[KERNEL]
    refuse(path, backbone, "has two variables stem_conv/kernel")


def test_half_precision_and_doubles_are_numbers(backbone, values, tmp_path):
    for dtype in (np.float16, np.float64):
        path = write_h5(str(tmp_path / "w.h5"), {name: value.astype(dtype) for name, value in values.items()})
        weights = read_weights(path, backbone)
        assert {value.dtype for value in weights.values.values()} == {np.dtype(np.float32)}
        assert assign_weights(backbone, weights) == 5


def test_our_own_file_is_read_back(backbone, values, tmp_path):
    path = write_keras(str(tmp_path / "w.keras"), values)
    write_weights(str(tmp_path / "w.npz"), read_weights(path, backbone))
    again = read_npz(str(tmp_path / "w.npz"), backbone)
    assert all(np.array_equal(again.values[name], value) for name, value in values.items())
    with pytest.raises(WeightsError, match="another size of model"):
        read_npz(str(tmp_path / "w.npz"), network(5))


def test_every_kind_of_layer_that_a_model_of_ours_may_have(tmp_path):
    """Keras writes it: two layers of a class, a model in a model, variables that options leave out."""
    layers, images = keras.layers, keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3, name="a")(layers.BatchNormalization(scale=False, name="b")(images))
    x = layers.DepthwiseConv2D(3, use_bias=False, name="c")(
        layers.SeparableConv2D(5, 3, use_bias=False, name="d")(x)
    )
    inner = keras.Model(images, layers.BatchNormalization(center=False, name="e")(x), name="inner")
    x = layers.Conv2D(2, 1, name="f")(layers.Conv2D(3, 1, use_bias=False, name="g")(inner(images)))
    model = keras.Model(
        images, layers.Dense(2, name="i")(layers.Dense(3, use_bias=False, name="h")(layers.Flatten()(x)))
    )
    generator = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(generator.uniform(1, 2, variable.shape))
    model.save(str(tmp_path / "w.keras"))
    weights = read_weights(str(tmp_path / "w.keras"), model)
    assert weights.unused == () and len(weights.values) == len(model.variables) == 18
    assert all(np.array_equal(weights.values[v.name.split(":")[0]], v) for v in model.variables)
