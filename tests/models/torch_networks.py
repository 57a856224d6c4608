"""PyTorch's networks once more in NumPy, and its files written as torch.save writes them; no torch is needed.

Networks are walked by their state dicts' own names, in PyTorch's axes (batch, channels, height, width). Files
are made by Python's pickler from stand-ins that bear the names of torch's functions, as the real ones are.

Source: lukemelas/EfficientNet-PyTorch model.py, utils.py; timm _efficientnet_blocks.py, resnet.py;
torch/serialization.py (_legacy_save, _save); github.com/huggingface/safetensors, "Format".
"""

import collections
import contextlib
import io
import json
import math
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
REPEATS = (1, 2, 2, 3, 3, 4, 1)
FILTERS = (16, 24, 40, 80, 112, 192, 320)

# --- networks ----------------------------------------------------------------------------------------


def conv(x, weight, stride=1, padding="same", bias=None, groups=1):
    """Convolution; padding is TensorFlow's "same" (the odd pixel at the far side) or a number for both
    sides.
    """
    out, inside, kernel, _ = weight.shape
    pads = []
    for side in x.shape[2:]:
        whole = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads.append((whole // 2, whole - whole // 2) if padding == "same" else (padding, padding))
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    if groups > 1:
        y = np.einsum("nchwij,cij->nchw", windows, weight[:, 0])
    else:
        y = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
    return y if bias is None else y + bias[:, None, None]


def norm(x, state, name, epsilon):
    """Batch norm with the moments of the state dict."""
    mean, var, scale, shift = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + epsilon) * scale + shift


def swish(x):
    return x / (1.0 + np.exp(-x))


def relu6(x):
    return np.clip(x, 0.0, 6.0)


def efficientnet(state, x, *, timm, lite):
    """Logits [batch, classes] of an EfficientNet with the names of efficientnet-pytorch or of timm."""
    act = relu6 if lite else swish
    stem, bn, head, head_bn, fc = (
        ("conv_stem", "bn1", "conv_head", "bn2", "classifier") if timm else ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc")
    )  # fmt: skip
    x = act(norm(conv(x, state[f"{stem}.weight"], 2), state, bn, 1e-3))
    number = 0
    for stage in range(7):
        for repeat in range(REPEATS[stage]):
            place = f"blocks.{stage}.{repeat}" if timm else f"_blocks.{number}"
            x = _block(state, x, place, stage, STRIDES[stage] if repeat == 0 else 1, timm, act)
            number += 1
    x = act(norm(conv(x, state[f"{head}.weight"]), state, head_bn, 1e-3))
    return x.mean((2, 3)) @ state[f"{fc}.weight"].T + state[f"{fc}.bias"]


def _block(state, x, place, stage, stride, timm, act):
    expand, depth, project = (
        ("conv_pw", "conv_dw", "conv_pwl") if timm else ("_expand_conv", "_depthwise_conv", "_project_conv")
    )
    norms = ("bn1", "bn2", "bn3") if timm else ("_bn0", "_bn1", "_bn2")
    reduce, excite = ("se.conv_reduce", "se.conv_expand") if timm else ("_se_reduce", "_se_expand")
    if timm and stage == 0:  # depthwise separable: no expansion, other names
        project, norms = "conv_pw", (None, "bn1", "bn2")
    y = x
    if stage > 0:
        y = act(norm(conv(y, state[f"{place}.{expand}.weight"]), state, f"{place}.{norms[0]}", 1e-3))
    y = conv(y, state[f"{place}.{depth}.weight"], stride, groups=2)
    y = act(norm(y, state, f"{place}.{norms[1]}", 1e-3))
    if f"{place}.{reduce}.weight" in state:
        gate = y.mean((2, 3), keepdims=True)
        gate = swish(conv(gate, state[f"{place}.{reduce}.weight"], bias=state[f"{place}.{reduce}.bias"]))
        gate = conv(gate, state[f"{place}.{excite}.weight"], bias=state[f"{place}.{excite}.bias"])
        y = y / (1.0 + np.exp(-gate))
    y = norm(conv(y, state[f"{place}.{project}.weight"]), state, f"{place}.{norms[2]}", 1e-3)
    return x + y if stride == 1 and x.shape == y.shape else y


def resnet(state, x, blocks):
    """Logits of torchvision's ResNet: symmetric padding everywhere, stride in the 3x3, epsilon 1e-5."""
    x = np.maximum(norm(conv(x, state["conv1.weight"], 2, 3), state, "bn1", 1e-5), 0)
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((-2, -1))
    for stage, count in enumerate(blocks, start=1):
        for number in range(count):
            place, stride = f"layer{stage}.{number}", 2 if number == 0 and stage > 1 else 1
            y = np.maximum(
                norm(conv(x, state[f"{place}.conv1.weight"], 1, 0), state, f"{place}.bn1", 1e-5), 0
            )
            y = np.maximum(
                norm(conv(y, state[f"{place}.conv2.weight"], stride, 1), state, f"{place}.bn2", 1e-5), 0
            )
            y = norm(conv(y, state[f"{place}.conv3.weight"], 1, 0), state, f"{place}.bn3", 1e-5)
            if f"{place}.downsample.0.weight" in state:
                x = norm(
                    conv(x, state[f"{place}.downsample.0.weight"], stride, 0),
                    state,
                    f"{place}.downsample.1",
                    1e-5,
                )
            x = np.maximum(x + y, 0)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


# --- random state dicts --------------------------------------------------------------------------------


class _State(collections.OrderedDict):
    """Draws tensors of a state dict by name."""

    def __init__(self, seed):
        super().__init__()
        self.random = np.random.default_rng(seed)

    def conv(self, name, out, inside, kernel=1, bias=False):
        deviation = np.sqrt(2.0 / (inside * kernel * kernel))
        self[f"{name}.weight"] = self.random.normal(0, deviation, (out, inside, kernel, kernel)).astype(
            np.float32
        )
        if bias:
            self[f"{name}.bias"] = self.random.normal(0, 0.5, out).astype(np.float32)

    def norm(self, name, width):
        for part, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.02, 1.5),
        ):
            self[f"{name}.{part}"] = self.random.uniform(low, high, width).astype(np.float32)
        self[f"{name}.num_batches_tracked"] = np.array(7, np.int64)

    def dense(self, name, out, inside):
        self[f"{name}.weight"] = self.random.normal(0, inside**-0.5, (out, inside)).astype(np.float32)
        self[f"{name}.bias"] = self.random.normal(0, 1, out).astype(np.float32)


def _rounded(filters, width):
    scaled = max(8, int(filters * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * filters * width else scaled


def efficientnet_state(*, timm, lite, width=0.25, classes=5, seed=0):
    """A state dict of B0 or Lite0, so wide, in PyTorch's order and shapes."""
    state = _State(seed)
    stem, top = (32, 1280) if lite else (_rounded(32, width), _rounded(1280, width))
    state.conv("conv_stem" if timm else "_conv_stem", stem, 3, 3)
    state.norm("bn1" if timm else "_bn0", stem)
    inside, number = stem, 0
    for stage in range(7):
        for repeat in range(REPEATS[stage]):
            out = _rounded(FILTERS[stage], width)
            place = f"blocks.{stage}.{repeat}." if timm else f"_blocks.{number}."
            _draw_block(state, place, stage, inside, out, timm, lite)
            inside, number = out, number + 1
    state.conv("conv_head" if timm else "_conv_head", top, inside)
    state.norm("bn2" if timm else "_bn1", top)
    state.dense("classifier" if timm else "_fc", classes, top)
    return state


def _draw_block(state, place, stage, inside, out, timm, lite):
    wide = inside * (6 if stage else 1)
    norms = (["bn1", "bn2", "bn3"] if stage else ["", "bn1", "bn2"]) if timm else ["_bn0", "_bn1", "_bn2"]
    if stage:
        state.conv(place + ("conv_pw" if timm else "_expand_conv"), wide, inside)
        state.norm(place + norms[0], wide)
    state.conv(place + ("conv_dw" if timm else "_depthwise_conv"), wide, 1, KERNELS[stage])
    state.norm(place + norms[1], wide)
    if not lite:
        squeezed = max(1, inside // 4)
        state.conv(place + ("se.conv_reduce" if timm else "_se_reduce"), squeezed, wide, bias=True)
        state.conv(place + ("se.conv_expand" if timm else "_se_expand"), wide, squeezed, bias=True)
    state.conv(place + (("conv_pwl" if stage else "conv_pw") if timm else "_project_conv"), out, wide)
    state.norm(place + norms[2], out)


def resnet_state(blocks, width, classes=5, seed=0):
    """A state dict of a bottleneck ResNet whose stem has `width` channels."""
    state, inside = _State(seed), width
    state.conv("conv1", width, 3, 7)
    state.norm("bn1", width)
    for stage, count in enumerate(blocks, start=1):
        middle = width * 2 ** (stage - 1)
        for number in range(count):
            place = f"layer{stage}.{number}"
            for part, (out, into, kernel) in enumerate(
                ((middle, inside, 1), (middle, middle, 3), (4 * middle, middle, 1)), 1
            ):
                state.conv(f"{place}.conv{part}", out, into, kernel)
                state.norm(f"{place}.bn{part}", out)
            if number == 0:
                state.conv(f"{place}.downsample.0", 4 * middle, inside)
                state.norm(f"{place}.downsample.1", 4 * middle)
            inside = 4 * middle
    state.dense("fc", classes, inside)
    return state


# --- files -----------------------------------------------------------------------------------------


class Storage:
    """Stands for a row of numbers; the pickler writes its persistent id."""

    def __init__(self, key, values):
        self.key, self.values = key, values


class Tensor:
    """Stands for a tensor; `strides` count numbers."""

    def __init__(self, storage, shape, strides, offset=0):
        self.arguments = (storage, offset, tuple(shape), tuple(strides), False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


_NAMES = {"float32": "Float", "float64": "Double", "float16": "Half", "int64": "Long", "bfloat16": "BFloat16"}


@contextlib.contextmanager
def _stand_ins():
    """Modules torch and torch._utils with nothing but the names that a state dict's pickle has."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError("nobody may call this")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in _NAMES.values():
        setattr(torch, f"{name}Storage", type(f"{name}Storage", (), {"__module__": "torch"}))
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def tensors_of(values, strides=None):
    """Stand-ins for arrays by name, each with a storage of its own.

    Args:
      strides: of some names: the axes in the order of memory, as channels-last tensors have.
    """
    found, storages = collections.OrderedDict(), []
    for number, (name, value) in enumerate(values.items()):
        order = (strides or {}).get(name, tuple(range(value.ndim)))
        memory = np.ascontiguousarray(value.transpose(order))
        steps = [0] * value.ndim
        for axis, step in zip(order, np.array(memory.strides) // value.dtype.itemsize):
            steps[axis] = int(step)
        storages.append(Storage(str(94000 + number), memory.reshape(-1)))
        found[name] = Tensor(storages[-1], value.shape, steps)
    return found, storages


def pickled(content, protocol=2, views=()):
    """The description as torch.save pickles it."""
    stream = io.BytesIO()
    with _stand_ins() as torch:

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj):
                if isinstance(obj, Storage):
                    kind = getattr(torch, f"{_NAMES[obj.values.dtype.name]}Storage")
                    return ("storage", kind, obj.key, "cpu", obj.values.size, *views)
                return None

        Pickler(stream, protocol).dump(content)
    return stream.getvalue()


def save_zip(path, content, storages, root="archive", pickle_bytes=None):
    """PyTorch 1.6's layout."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", pickle_bytes or pickled(content))
        archive.writestr(f"{root}/byteorder", "little")
        for storage in storages:
            archive.writestr(f"{root}/data/{storage.key}", storage.values.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return str(path)


def save_stream(path, content, storages, pickle_bytes=None):
    """The layout before 1.6; keys are sorted as torch sorts them."""
    storages = sorted(storages, key=lambda storage: storage.key)
    with open(path, "wb") as file:
        pickle.dump(0x1950A86A20F9469CFC6C, file, 2)
        pickle.dump(1001, file, 2)
        system = {
            "protocol_version": 1001,
            "little_endian": True,
            "type_sizes": {"short": 2, "int": 4, "long": 4},
        }
        pickle.dump(system, file, 2)
        file.write(pickle_bytes or pickled(content, views=(None,)))
        pickle.dump([storage.key for storage in storages], file, 2)
        for storage in storages:
            file.write(struct.pack("<q", storage.values.size) + storage.values.tobytes())
    return str(path)


def save_safetensors(path, values, header=None):
    """Names, dtypes, shapes and places, then the numbers."""
    kinds = {"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
    entries, place = {"__metadata__": {"format": "pt"}}, 0
    for name, value in values.items():
        entries[name] = {
            "dtype": kinds[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [place, place + value.nbytes],
        }
        place += value.nbytes
    text = json.dumps(header or entries).encode()
    with open(path, "wb") as file:
        file.write(
            struct.pack("<Q", len(text))
            + text
            + b"".join(np.ascontiguousarray(v).tobytes() for v in values.values())
        )
    return str(path)
