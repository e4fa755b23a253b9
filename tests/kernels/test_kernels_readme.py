"""kernels/README.md: its ten minutes work as they stand there, with the error that it shows."""

import re
from pathlib import Path

import pytest

from kernels.launch import KernelError
from tests.kernels.emulated import needs_compiler

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "kernels" / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)


@pytest.mark.slow
def test_the_ten_minutes(tmp_path, monkeypatch):
    needs_compiler()
    monkeypatch.chdir(tmp_path)
    first, *_ = [code for language, code in BLOCKS if language == "python"]
    exec(first, {})
    start = next(i for i, (language, _) in enumerate(BLOCKS) if language == "cuda")
    kernel, run, fail, shown = [code for _, code in BLOCKS[start:start + 4]]
    (tmp_path / "scale.cu").write_text(kernel)
    names: dict = {}
    exec(run, names)
    with pytest.raises(KernelError) as error:
        exec(fail, names)
    assert f"KernelError: {error.value}" == " ".join(shown.split("\n")).strip()
    exec(run, names)                # and the process goes on


def test_every_file_it_names_is_there():
    for name in re.findall(r"`([\w/]+\.(?:py|cuh?|h|cpp|sh))`", TEXT):
        places = [ROOT / name, ROOT / "kernels" / name, ROOT / "kernels" / "emulator" / name]
        assert name in ("scale.cu", "common.cuh") or any(p.exists() for p in places), name
