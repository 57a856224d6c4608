"""Runs pytest on the files it is given; the entry point of the Bazel test targets."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["-n0", "--import-mode=importlib", *sys.argv[1:]]))
