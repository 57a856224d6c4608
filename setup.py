"""Builds the wheel: everything below one name.

The folders `official`, `augment` and `losses` are packages at the top of the repository, and `official` is
also what TensorFlow's Model Garden calls its own. Installed, they are `self_training.official` and so on:
every import of one of them in a copied file gets the prefix. The rest of pyproject.toml is setuptools as
usual.
"""

from __future__ import annotations

import ast
import glob
import os
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

NAME, INSIDE = "self_training", ("official", "augment", "losses")
PACKAGES = [name for root in INSIDE for name in find_packages(include=[root, f"{root}.*"])]


def prefixed(source: str, path: str) -> str:
    """Python source whose imports of our packages go through `self_training`.

    Raises:
      ValueError: `import official.x`, whose name in the code below would have to change, too.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0) - 1
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] in INSIDE for alias in node.names):
            raise ValueError(
                f"{path}:{line + 1}: write `from PACKAGE import NAME`: the wheel has it below {NAME}"
            )
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in INSIDE:
            before, word, after = lines[line].partition(f"from {node.module}")
            lines[line] = f"{before}from {NAME}.{node.module}{after}"
    return "".join(lines)


class BuildBelowOneName(build_py):
    """Copies the packages below `self_training`, with main.py and the flagfiles."""

    def run(self) -> None:
        """Also see `prefixed`."""
        if self.editable_mode:
            raise SystemExit(
                "an editable install would import `official` of the wrong place: run from the clone's folder"
            )
        super().run()
        root = os.path.join(self.build_lib, NAME)
        shutil.copy("main.py", root)
        os.makedirs(os.path.join(root, "configs"), exist_ok=True)
        for path in glob.glob("configs/*.cfg"):
            shutil.copy(path, os.path.join(root, "configs"))
        for path in glob.glob(os.path.join(root, "**", "*.py"), recursive=True):
            with open(path, encoding="utf-8") as file:
                source = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(prefixed(source, path))


setup(
    packages=[NAME, *(f"{NAME}.{name}" for name in PACKAGES)],
    package_dir={NAME: NAME, **{f"{NAME}.{name}": name.replace(".", "/") for name in PACKAGES}},
    package_data={f"{NAME}.official.data": ["*.txt"]},
    cmdclass={"build_py": BuildBelowOneName},
)
