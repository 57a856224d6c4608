"""PyTorch's files as data: what a pickle may say, that nothing of it runs, and that no number is made up."""

import collections
import json
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from official.models.weights.torch_files import open_safetensors, open_torch
from official.models.weights.weight_files import WeightsError
from tests.models import torch_networks as torch

VALUES = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a.bias": np.array([1.5, -2.0], np.float32),
    "steps": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float32),
}
FEW = 20_000_000  # bytes that a refusal may take
SAVERS = {"zip": torch.save_zip, "stream": torch.save_stream}


def read(path, opener=open_torch):
    with opener(str(path)) as file:
        return {name: np.array(array.load()) for name, array in file.arrays.items()}


def refuse(path, message, opener=open_torch):
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message) as caught:
            with opener(str(path)) as file:
                for name, array in file.arrays.items():
                    file.read(name, array.shape)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert os.path.basename(path) in str(caught.value)
    assert peak < FEW, f"{peak:,} bytes"


def assert_equal(found):
    assert sorted(found) == sorted(VALUES)
    for name, value in VALUES.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


# --- what is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", SAVERS)
def test_round_trip(tmp_path, layout):
    assert_equal(read(SAVERS[layout](tmp_path / "a.pth", *torch.tensors_of(VALUES))))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle(tmp_path, protocol):
    content, storages = torch.tensors_of(VALUES)
    text = torch.pickled(content, protocol)
    assert_equal(read(torch.save_zip(tmp_path / "a.pth", content, storages, pickle_bytes=text)))


def test_strides_offsets_and_a_storage_of_several(tmp_path):
    """Tied and sliced tensors are views of one row: a transposed one, one from the middle, one with a
    step.
    """
    row = torch.Storage("0", np.arange(12, dtype=np.float32))
    content = collections.OrderedDict(
        whole=torch.Tensor(row, (3, 4), (4, 1)),
        turned=torch.Tensor(row, (4, 3), (1, 4)),
        middle=torch.Tensor(row, (2, 2), (4, 1), offset=5),
        stepped=torch.Tensor(row, (4,), (3,), offset=2),
    )
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    for save in SAVERS.values():
        found = read(save(tmp_path / "views.pth", content, [row]))
        np.testing.assert_array_equal(found["whole"], rows)
        np.testing.assert_array_equal(found["turned"], rows.T)
        np.testing.assert_array_equal(found["middle"], rows[1:, 1:3])
        np.testing.assert_array_equal(found["stepped"], [2, 5, 8, 11])


def test_the_versions_of_modules_are_passed_over(tmp_path):
    content, storages = torch.tensors_of(VALUES)
    content._metadata = collections.OrderedDict(a={"version": 1})
    text = torch.pickled(content)
    assert "BUILD" in {opcode.name for opcode, _, _ in pickletools.genops(text)}
    assert_equal(read(torch.save_zip(tmp_path / "a.pth", content, storages)))


def test_safetensors(tmp_path):
    assert_equal(read(torch.save_safetensors(tmp_path / "a.safetensors", VALUES), open_safetensors))


def test_a_safetensors_by_hand(tmp_path):
    """The example of the format's page: one F16 of [1, 16, 256] is 8,192 bytes; here one F32 of [2]."""
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    content = len(header).to_bytes(8, "little") + header + bytes.fromhex("0000803f000000c0")
    (tmp_path / "hand.safetensors").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "hand.safetensors", open_safetensors)["w"], [1.0, -2.0])


# --- what is refused ---------------------------------------------------------------------------------


class Evil:
    """Its pickle calls open(path, "w") for whoever unpickles it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def evil_pickle(path, protocol=2):
    return pickle.dumps(collections.OrderedDict(weight=Evil(path)), protocol)


@pytest.mark.parametrize("layout", SAVERS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_run(tmp_path, layout, protocol):
    trap = tmp_path / "sprung"
    text = evil_pickle(trap, protocol)
    pickle.loads(text)
    assert trap.exists(), "the threat is real"
    trap.unlink()
    path = SAVERS[layout](tmp_path / "evil.pth", None, [], pickle_bytes=text)
    refuse(path, r"wants Python's io.open.*would be run")
    assert not trap.exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "torch.load", "torch._utils._import_dotted_name", "collections.Counter"]
    + ["argparse.Namespace", "numpy.core.multiarray._reconstruct", "torch.nn.modules.conv.Conv2d"],
)
def test_any_other_name_is_refused(tmp_path, name):
    """Even one that nothing calls."""
    module, _, attribute = name.rpartition(".")
    text = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"."
    refuse(torch.save_zip(tmp_path / "a.pth", None, [], pickle_bytes=text), f"wants Python's {name}")
    text = (
        b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, attribute)) + b"\x93."
    )
    refuse(torch.save_zip(tmp_path / "b.pth", None, [], pickle_bytes=text), f"wants Python's {name}")


WORDS = {
    "an object's own class": b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # NEWOBJ
    "INST": b"(icollections\nOrderedDict\n.",
    "a text of protocol 0": b"Vx\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "attributes of no dict": b"\x80\x02K\x01}b.",
    "a call of a number": b"\x80\x02K\x01)R.",
    "a call of a storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "a list with a mark's depth": b"\x80\x02]e.",
    "an empty stack": b"\x80\x020.",
    "no end": b"\x80\x02}",
    "an unknown word": b"\x80\x02\xfe.",
    "a key that is a tuple": b"\x80\x02}))s.",
    "unknown memory": b"\x80\x02h\x05.",
    (
        "a tensor without a storage"
    ): b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x00K\x00))\x89N tR.".replace(b" ", b""),
}


@pytest.mark.parametrize("text", WORDS.values(), ids=WORDS)
def test_words_that_no_state_dict_has(tmp_path, text):
    refuse(
        torch.save_zip(tmp_path / "a.pth", None, [], pickle_bytes=text), "description|no state dict|no dict"
    )


def test_a_deep_tuple_does_not_end_the_process(tmp_path):
    """Python's hash of it would: tuples inside each other, as the key of a dict."""
    text = b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s."
    refuse_path = torch.save_zip(tmp_path / "deep.pth", None, [], pickle_bytes=text)
    with pytest.raises(WeightsError, match="neither texts nor numbers"):
        read(refuse_path)


def test_a_description_of_gigabytes_is_not_unfolded(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"0" * 60_000_000)
    refuse(tmp_path / "bomb.pth", "description has more than")


@pytest.mark.parametrize("layout", SAVERS)
@pytest.mark.parametrize(
    "shape, strides, offset",
    [((100_000, 100_000), (100_000, 1), 0), ((4, 4), (4, 1), 0), ((2,), (1,), 11), ((2, 2), (12, 1), 0)],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, layout, shape, strides, offset):
    row = torch.Storage("0", np.arange(12, dtype=np.float32))
    content = {"w": torch.Tensor(row, shape, strides, offset)}
    refuse(SAVERS[layout](tmp_path / "a.pth", content, [row]), "cut short: w goes beyond the 48 bytes")


@pytest.mark.parametrize("shape, strides", [((1_000_000, 1_000_000), (0, 0)), ((13, 4), (0, 1))])
def test_numbers_that_are_repeated_are_not_multiplied(tmp_path, shape, strides):
    """A stride of 0 makes terabytes of one number; no state dict needs it."""
    row = torch.Storage("0", np.arange(12, dtype=np.float32))
    path = torch.save_zip(tmp_path / "a.pth", {"w": torch.Tensor(row, shape, strides)}, [row])
    refuse(path, r"w claims [\d,]+ bytes, the file has")


@pytest.mark.parametrize(
    "shape, strides, offset", [((-1,), (1,), 0), ((2,), (-1,), 5), ((2,), (1,), -3), ((2, 2), (1,), 0)]
)
def test_negative_and_missing_sides(tmp_path, shape, strides, offset):
    row = torch.Storage("0", np.arange(12, dtype=np.float32))
    path = torch.save_zip(tmp_path / "a.pth", {"w": torch.Tensor(row, shape, strides, offset)}, [row])
    refuse(path, "description is damaged")


def test_cut_short_anywhere(tmp_path):
    """No prefix of a file is read as the file: every length of the stream, and of a .safetensors."""
    whole = torch.save_stream(tmp_path / "whole.pth", *torch.tensors_of(VALUES))
    safe = torch.save_safetensors(tmp_path / "whole.safetensors", VALUES)
    for path, opener in ((whole, open_torch), (safe, open_safetensors)):
        content = open(path, "rb").read()
        for length in (*range(0, len(content), 7), len(content) - 1):
            short = f"{tmp_path}/short{os.path.splitext(path)[1]}"
            with open(short, "wb") as file:
                file.write(content[:length])
            with pytest.raises((WeightsError, ValueError)):
                read(short, opener)


def test_other_archives_and_streams(tmp_path):
    content, storages = torch.tensors_of(VALUES)
    with zipfile.ZipFile(tmp_path / "plain.pth", "w") as archive:
        archive.writestr("readme", "x")
    refuse(tmp_path / "plain.pth", "none of PyTorch's")
    path = torch.save_zip(tmp_path / "script.pt", content, storages)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/__torch__.py", "x")
    refuse(path, "TorchScript program")
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1")
    refuse(tmp_path / "text.pth", "no file that torch.save wrote")
    refuse(torch.save_zip(tmp_path / "numbers.pth", {"epoch": 3}, []), "no tensors by name")
    refuse(torch.save_zip(tmp_path / "lost.pth", content, storages[1:]), "data/94000 is absent")
    text = torch.pickled(content, views=(("view", 0, 2),))
    refuse(torch.save_stream(tmp_path / "views.pth", content, storages, text), "a way that is not known")


def header_of(path):
    content = open(path, "rb").read()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shape": [100_000, 100_000]}, "does not fit"),
        ({"shape": [-2, -3, 4]}, "does not fit"),
        ({"data_offsets": [0, 96_000_000_000], "shape": [24_000_000_000]}, "does not fit"),
        ({"data_offsets": [96, 0]}, "does not fit"),
        ({"dtype": "F8_E4M3"}, "the dtype 'F8_E4M3', which is not known"),
        ({"dtype": None}, "the dtype None"),
        ({"shape": [2.0, 3, 4]}, "does not fit"),
        ({"data_offsets": [0]}, "lacks a dtype"),
    ],
)
def test_headers_that_lie(tmp_path, change, message):
    path = torch.save_safetensors(tmp_path / "a.safetensors", VALUES)
    header, rest = header_of(path)
    header["a.weight"].update(change)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + rest)
    refuse(path, message, open_safetensors)


@pytest.mark.parametrize("head", [struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 3) + b"{}", b"{}"])
def test_headers_beyond_the_file(tmp_path, head):
    (tmp_path / "a.safetensors").write_bytes(head)
    refuse(tmp_path / "a.safetensors", "no .safetensors, or cut short", open_safetensors)


def test_a_name_twice(tmp_path):
    entry = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = b"{" + entry + b"," + entry + b"}"
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"0000")
    refuse(tmp_path / "a.safetensors", r"names \['w'\] twice", open_safetensors)


def test_not_a_number_is_refused_when_it_is_read(tmp_path):
    values = {"w": np.array([1.0, np.nan], np.float32)}
    refuse(torch.save_zip(tmp_path / "a.pth", *torch.tensors_of(values)), "1 of 2 values that are NaN")
