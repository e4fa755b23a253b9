"""What kernels.doctor reports: on machines that lack one thing or another, planted here."""

import sys

import pytest

from kernels import cuda_compile, cuda_errors, cuda_probe, doctor
from kernels.cuda_compile import find_nvcc
from kernels.cuda_errors import CudaError
from kernels.emulator import build

NO_NVCC = CudaError("there is no nvcc, the CUDA compiler", "PATH: no nvcc", "pip install x")
DRIVER = cuda_probe.Driver("13.0", "NVRM version: 580.1", [cuda_probe.Gpu("A100", "sm_80", 2**36)])


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without a compiler, a driver, nvcc and PyCUDA."""
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    monkeypatch.setattr(cuda_errors, "in_wsl", lambda: False)
    monkeypatch.setattr(cuda_errors, "in_container", lambda: False)
    monkeypatch.setattr(cuda_probe, "LIBRARY", "libcuda-of-no-machine.so.1")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    give(monkeypatch, "find_nvcc", NO_NVCC)
    build.compiler.cache_clear()
    yield
    build.compiler.cache_clear()


def give(monkeypatch, name, result):
    """Let doctor's `name` return or raise `result`."""
    def function(*_):
        if isinstance(result, BaseException):
            raise result
        return result
    monkeypatch.setattr(doctor, name, function)


def states():
    return {(f["part"], f["what"]): f["state"] for f in doctor.report()}


def finding(what):
    return next(f for f in doctor.report() if f["what"] == what)


def test_a_bare_machine(bare):
    assert states() == {
        ("emulator", "C++ compiler"): "missing", ("cuda", "driver and GPU"): "missing",
        ("cuda", "nvcc"): "missing", ("cuda", "PyCUDA"): "missing",
        ("cache", "compiled kernels"): "ok",
    }
    for what, text, mend in (
        ("C++ compiler", "none of /nonexistent/g++ runs", "unset CXX"),
        ("driver and GPU", "there is no NVIDIA driver (looked at: the library libcuda-of-no",
         "sudo ubuntu-drivers install"),
        ("nvcc", "PATH: no nvcc", "pip install x"),
        ("PyCUDA", "PyCUDA is not installed", 'pip install -e ".[cuda]"'),
    ):
        assert text in finding(what)["text"] and mend in finding(what)["mend"]


def test_a_gpu_and_all_but_pycuda(bare, monkeypatch):
    give(monkeypatch, "probe_driver", DRIVER)
    give(monkeypatch, "find_nvcc", cuda_compile.Nvcc("/c/bin/nvcc", "13.0", "", "CUDA_HOME"))
    asked = []
    monkeypatch.setattr(doctor, "compile_cubin", lambda path, arch: asked.append(arch))
    found = states()
    assert found["cuda", "driver and GPU"] == found["cuda", "nvcc"] == "ok"
    assert found["cuda", "PyCUDA"] == "missing" and ("cuda", "a kernel") not in found
    assert asked == ["sm_80"]
    text = finding("driver and GPU")["text"]
    assert text == "A100, sm_80, 64.0 GiB; the driver knows CUDA up to 13.0 (NVRM version: 580.1)"
    assert finding("nvcc")["text"] == "release 13.0, /c/bin/nvcc (by CUDA_HOME)"


def test_an_nvcc_that_cannot_compile(bare, monkeypatch):
    give(monkeypatch, "find_nvcc", cuda_compile.Nvcc("/c/bin/nvcc", "13.0", "", "PATH"))
    give(monkeypatch, "compile_cubin", CudaError("too new a compiler", "gcc 99", "apt install 13"))
    found = finding("nvcc's work")
    assert (found["state"], found["mend"]) == ("wrong", "apt install 13")


def test_no_surprise_ends_the_report(bare, monkeypatch):
    give(monkeypatch, "probe_driver", ZeroDivisionError("a riddle"))
    assert finding("driver and GPU")["text"] == "ZeroDivisionError: a riddle"
    assert finding("PyCUDA")["state"] == "missing"


@pytest.mark.slow
def test_the_emulator_is_tried(monkeypatch, tmp_path):
    build.compiler.cache_clear()
    try:
        build.compiler()
    except build.CompilerNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(tmp_path))
    assert [f.state for f in doctor.emulator()] == ["ok", "ok"]


@pytest.mark.slow
def test_a_wrong_number_is_told_of(monkeypatch, tmp_path):
    try:
        build.compiler()
    except build.CompilerNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(tmp_path))
    real = doctor.load

    def off(file, device):
        kernel = real(file, device)["probe_axpy"]
        return {"probe_axpy": lambda a, *rest, **sizes: kernel(a + 0.01, *rest, **sizes)}
    monkeypatch.setattr(doctor, "load", off)
    found = doctor.self_test("emulator")
    assert found.state == "wrong" and "off by 0.03" in found.text


def test_the_driver_is_asked_without_pycuda(monkeypatch, tmp_path):
    # On a machine with a driver this is its answer; elsewhere it is an error that says so.
    find_nvcc.cache_clear()
    try:
        driver = cuda_probe.probe_driver()
    except CudaError as error:
        assert error.failed and error.looked_at and error.mend
    else:
        assert driver.gpus and driver.gpus[0].arch.startswith("sm_")
