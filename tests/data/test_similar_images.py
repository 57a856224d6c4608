"""Copies are found however they were encoded, scaled and turned, and different images are told apart."""

import io

import numpy as np
import pytest
from PIL import Image

from official.data import similar_images
from official.data.formats.image_folder import open_folder
from official.data.scenes import draw_scene
from official.data.similar_images import Looks, copies_between, first_copies, looks, shrunk_file
from tests import tiny

COUNT = 40


@pytest.fixture(scope="module")
def photos():
    return [Image.fromarray(draw_scene(seed=1, split="train", index=i, size=160).image) for i in range(COUNT)]


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image):
    """Stored a quarter turned, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), quality=90, exif=exif)


CHANGES = {
    "png": lambda image: encoded(image, "PNG"),
    "webp": lambda image: encoded(image, "WEBP", quality=60),
    "quality 25": lambda image: encoded(image, quality=25),
    "half": lambda image: encoded(image.resize((80, 80)), quality=80),
    "larger": lambda image: encoded(image.resize((271, 271)), quality=80),
    "stretched": lambda image: encoded(image.resize((200, 160)), quality=80),
    "brighter": lambda image: encoded(image.point(lambda v: min(255, int(1.1 * v) + 6)), quality=80),
    "turned by EXIF": turned,
    "palette": lambda image: encoded(image.quantize(256), "PNG"),
    "alpha": lambda image: encoded(image.convert("RGBA"), "PNG"),
}


def looks_of(files):
    return Looks(np.array([shrunk_file(f) for f in files]), np.array([str(hash(f)) for f in files]))


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(photos, change):
    """Every changed image's first look-alike is its own original."""
    originals = looks_of([encoded(p, quality=90) for p in photos])
    changed = looks_of([CHANGES[change](p) for p in photos])
    exact, near = first_copies(changed, originals, same=False)
    assert (exact == similar_images.NONE).all()
    assert near.tolist() == list(range(COUNT))


def test_different_images_do_not_look_alike(photos):
    exact, near = (p.tolist() for p in first_copies(*[looks_of([encoded(p) for p in photos])] * 2, same=True))
    assert exact == near == [similar_images.NONE] * COUNT


def test_blocks_make_no_difference_and_only_earlier_ones_count(photos, monkeypatch):
    """Beside a plain double loop over the definition."""
    files = [encoded(p) for p in photos[:6]]
    files += [
        CHANGES["half"](photos[2]),
        files[1],
        CHANGES["half"](photos[2]),
        CHANGES["quality 25"](photos[2]),
    ]
    seen = looks_of(files)
    bits = similar_images.perceptual_hash(seen.shrunk)
    flat = seen.shrunk.reshape(len(files), -1).astype(float)

    def alike(i, j):
        near = (bits[i] != bits[j]).sum() <= similar_images.MOST_BITS and np.corrcoef(flat[i], flat[j])[
            0, 1
        ] >= similar_images.CORRELATION
        return near and seen.contents[i] != seen.contents[j]

    expected = [next((j for j in range(i) if alike(i, j)), -1) for i in range(len(files))]
    for block in (1, 3, 512):
        monkeypatch.setattr(similar_images, "_BLOCK", block)
        exact, near = first_copies(seen, seen, same=True)
        assert near.tolist() == expected and expected[6:] == [2, -1, 2, 2]
        assert exact.tolist() == [-1] * 7 + [1, 6, -1]


def test_faint_images_are_compared_and_empty_ones_are_not(photos):
    """A tenth of the contrast still tells; a plain wall is like every plain wall, and says nothing."""
    faint = [p.point(lambda v: 100 + v // 10) for p in photos]
    near = first_copies(
        looks_of([encoded(p, quality=95) for p in faint]),
        looks_of([encoded(p, "PNG") for p in faint]),
        same=False,
    )[1]
    assert (near == np.arange(COUNT)).mean() > 0.9
    walls = looks_of([encoded(Image.new("RGB", (90, 70), (v, v, v)), "PNG") for v in (10, 11, 200)])
    assert first_copies(walls, walls, same=True)[1].tolist() == [-1, -1, -1]


def test_sources_of_files_and_of_pixels(tmp_path, photos):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(photos[i]))
    (tmp_path / "copy.jpg").write_bytes(encoded(photos[1]))
    Image.new("I;16", (30, 20), 40_000).save(tmp_path / "deep.png")
    files = open_folder(str(tmp_path))
    found = copies_between(files, files, (looks(files),) * 2)
    assert (
        found["same"]["count"] == 1 and found["alike"]["count"] == 0 and found["images"] == found["of"] == 5
    )
    assert all("1.jpg" in name or "copy.jpg" in name for name in found["same"]["pairs"][0])
    scenes = tiny.scenes_source(count=4)
    found = copies_between(scenes.subset([3, 1]), scenes, (looks(scenes.subset([3, 1])), looks(scenes)))
    assert found["same"]["count"] == 2 and found["same"]["pairs"][0][0] == found["same"]["pairs"][0][1]
