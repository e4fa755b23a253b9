"""Files of OpenAI's vocabulary and the texts, where the machine has them."""

import os
from pathlib import Path

import pytest


def data_file(name):
    """A file in MINIGPT_TEST_DATA; the test is skipped where that has none."""
    path = Path(os.environ.get("MINIGPT_TEST_DATA", "/nowhere")) / name
    if not path.is_file():
        pytest.skip(f"MINIGPT_TEST_DATA names no folder with {name}")
    return path
