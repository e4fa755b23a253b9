"""`minigpt doctor`, on findings planted under it."""

import importlib.metadata
import json

import pytest

from minigpt import cli_doctor
from minigpt.cli import main
from tensor import cuda_backend

LACKING = [
    {"part": "emulator", "what": "C++ compiler", "state": "ok", "text": "g++ 12", "mend": ""},
    {"part": "emulator", "what": "a kernel", "state": "ok", "text": "equal", "mend": ""},
    {"part": "cuda", "what": "nvcc", "state": "missing", "text": "no nvcc", "mend": "pip x"},
    {"part": "cuda", "what": "PyCUDA", "state": "missing", "text": "none", "mend": "pip y"},
    {"part": "cache", "what": "compiled kernels", "state": "ok", "text": "2 files", "mend": ""},
]
ALL = [{**finding, "state": "ok"} for finding in LACKING]


@pytest.fixture
def found(monkeypatch):
    """found(findings): what kernels.doctor will report."""
    return lambda findings: monkeypatch.setattr(cuda_backend, "report", lambda: findings)


def test_a_machine_without_a_gpu(found, capsys):
    found(LACKING)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for line in ("  ok  C++ compiler", "  --  nvcc", "to mend it: pip x", "  ok  a derivative",
                 "  cpu works: minigpt train", "  emulator works: pytest -m slow tests/kernels",
                 "  cuda does not work: begin with nvcc: pip x"):
        assert f"\n{line}" in out or line in out, out
    assert "OpenBLAS" in out or "openblas" in out or "NumPy" in out


def test_a_machine_with_everything(found, capsys):
    found(ALL)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "cuda works: minigpt train --device cuda" in out and "to mend it" not in out


def test_json_has_the_same(found, capsys):
    found(LACKING)
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [f for f in report["findings"] if f["part"] in ("emulator", "cuda")] == LACKING[:4]
    assert report["next"][-1] == "cuda does not work: begin with nvcc: pip x"
    assert {f["part"] for f in report["findings"]} == {"python", "cpu", "emulator", "cuda", "cache"}


def test_a_cpu_that_computes_wrongly_is_exit_code_2(found, monkeypatch, capsys):
    found(ALL)

    def wrong(*_):
        raise AssertionError("slope 1.0 by backward, 2.0 by differences")
    monkeypatch.setattr(cli_doctor, "gradcheck", wrong)
    assert main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert "!!  a derivative" in out and "cpu does not work: begin with a derivative" in out


def test_another_project_called_kernels_is_told_of(found, monkeypatch, tmp_path, capsys):
    found(ALL)
    other = tmp_path / "kernels"
    other.mkdir()
    (other / "__init__.py").touch()
    real = cli_doctor.importlib.util.find_spec

    def find_spec(name):
        if name != "kernels":
            return real(name)
        return importlib.util.spec_from_file_location(name, other / "__init__.py")
    monkeypatch.setattr(cli_doctor.importlib.util, "find_spec", find_spec)
    assert main(["doctor"]) == 0            # the CPU needs no kernels
    out = " ".join(capsys.readouterr().out.split())
    assert f"!! kernels {other} is another project of that name" in out
    assert "pip uninstall minigpt kernels" in out


def test_another_project_beside_ours_is_told_of(found, monkeypatch, capsys):
    found(ALL)
    real = importlib.metadata.metadata

    class Other:
        json = {"summary": "Download compute kernels", "version": "0.9"}

    monkeypatch.setattr(cli_doctor.importlib.metadata, "metadata",
                        lambda name: Other if name == "kernels" else real(name))
    assert main(["doctor"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "is ours, but kernels 0.9 (Download compute kernels) is installed, too" in out
    assert "to mend it: pip uninstall kernels" in out


def test_kernels_that_cannot_be_imported(monkeypatch, capsys):
    def broken():
        raise ImportError("cannot import name 'doctor' from 'kernels'")
    monkeypatch.setattr(cuda_backend, "report", broken)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.count("!!  kernels") == 2 and "cuda does not work: begin with kernels" in out
