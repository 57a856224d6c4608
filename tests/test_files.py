"""Every file that is written is named after the image that it belongs to."""

import os

import pytest

from official.files import output_names


def test_names_follow_the_relative_path():
    assert output_names(["a/1.jpg", "b/1.jpg", "b/2.jpeg"], ".png") == ["a/1.png", "b/1.png", "b/2.png"]
    assert output_names(["7", "8"], ".png") == ["7.png", "8.png"]
    assert output_names([], ".png") == []
    assert output_names(["/data/x/a/1.jpg", "/data/x/b/1.jpg"], ".png") == ["a/1.png", "b/1.png"]


@pytest.mark.parametrize(
    "names",
    (
        ["1.jpg", "1.png"],
        ["a.png.gif", "a.png", "a.jpg"],
        ["A.jpg", "a.jpg", "a.png"],
        ["x", "./x", "x/"],
        ["", ".", "..", "../x", "x"],
    ),
)
def test_no_two_images_share_a_name(names):
    found = [name.lower() for name in output_names(names, ".png")]
    assert len(set(found)) == len(names) and all(name.endswith(".png") for name in found)


@pytest.mark.parametrize(
    "name", ("../../../x", "/etc/passwd", "a/../../x", "..\\..\\x", "x/..", "a\0b", "\n")
)
def test_no_name_leaves_the_folder(name, tmp_path):
    for names in ([name], [name, "y"]):
        path = os.path.abspath(os.path.join(tmp_path, output_names(names, ".png")[0]))
        assert path.startswith(f"{tmp_path}{os.sep}") and "\0" not in path and "\n" not in path
