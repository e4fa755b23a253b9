"""Each known failure, in the words in which it comes, becomes: what failed, what was looked at, and
a command that mends it.
"""

import re

import pytest

from kernels import cuda_errors
from kernels.cuda_errors import (
    DRIVER,
    IMPORT,
    LOST,
    NVCC,
    CudaError,
    explain_driver,
    explain_import,
    explain_nvcc,
    find,
    is_context_lost,
)

SO = "/v/lib/python3.12/site-packages/pycuda/_driver.cpython-312-x86_64-linux-gnu.so"

# What `import pycuda.driver` raises, with a word of what that means and of what mends it.
IMPORTS = [
    ("libcurand.so.10: cannot open shared object file: No such file or directory",
     "built with another CUDA toolkit", "--no-binary pycuda"),
    ("libcudart.so.12: cannot open shared object file: No such file or directory",
     "built with another CUDA toolkit", "--no-binary pycuda"),
    (f"{SO}: undefined symbol: cuCtxCreate_v4", "newer CUDA toolkit", "--no-binary pycuda"),
    (f"{SO}: undefined symbol: cuDevicePrimaryCtxRelease_v2", "newer CUDA toolkit", "older"),
    (f"/conda/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by {SO})",
     "newer C.. compiler", "libstdcxx-ng"),
    ("numpy.core.multiarray failed to import", "another version of NumPy", "--no-binary pycuda"),
    ("DLL load failed while importing _driver: The specified module could not be found.",
     "Windows does not find a DLL", "setx CUDA_PATH"),
]

# What a pycuda.driver.Error says.
DRIVERS = [
    ("cuInit failed: no CUDA-capable device is detected", "sees no GPU", "nvidia-smi -L"),
    ("cuDeviceGet failed: invalid device ordinal", "no GPU of this number", "nvidia-smi -L"),
    ("cuInit failed: CUDA driver version is insufficient for CUDA runtime version",
     "older than the CUDA toolkit", "update the driver"),
    ("cuModuleLoadDataEx failed: the provided PTX was compiled with an unsupported toolchain.",
     "older than the CUDA toolkit", "update the driver"),
    ("cuInit failed: system has unsupported display driver / cuda driver combination",
     "updated while in use", "reboot"),
    ("cuInit failed: forward compatibility was attempted on non supported HW",
     "compatibility library", "LD_LIBRARY_PATH"),
    ("cuInit failed: system not yet initialized", "switch", "fabricmanager"),
    ("cuInit failed: initialization error", "forked", "spawn"),
    ("cuDevicePrimaryCtxRetain failed: CUDA-capable device(s) is/are busy or unavailable",
     "in use by others", "nvidia-smi"),
    ("cuModuleLoadDataEx failed: no kernel image is available for execution on the device",
     "cannot run what nvcc made", "minigpt doctor"),
    ("cuModuleLoadDataEx failed: device kernel image is invalid",
     "cannot run what nvcc made", "minigpt doctor"),
    ("cuDevicePrimaryCtxRetain failed: out of memory", "no memory is left", "nvidia-smi"),
    ("cuInit failed: unknown error", "does not answer", "nvidia_uvm"),
]

LOST_TEXTS = [
    "cuCtxSynchronize failed: an illegal memory access was encountered",
    "cuMemcpyDtoH failed: misaligned address",
    "cuCtxSynchronize failed: unspecified launch failure",
    "cuCtxSynchronize failed: an illegal instruction was encountered",
    "cuCtxSynchronize failed: invalid program counter",
    "cuCtxSynchronize failed: operation not supported on global/shared address space",
    "cuCtxSynchronize failed: the launch timed out and was terminated",
    "cuCtxSynchronize failed: device-side assert triggered",
    "cuCtxSynchronize failed: hardware stack error",
    "cuCtxSynchronize failed: uncorrectable ECC error encountered",
    "cuMemAlloc failed: context is destroyed",
]

HEADER = "/usr/local/cuda-13.0/bin/../targets/x86_64-linux/include/crt/host_config.h"
OVERRIDE = ("The nvcc flag '-allow-unsupported-compiler' can be used to override this version "
            "check; however, using an unsupported host compiler may cause compilation failure or "
            "incorrect run time execution. Use at your own risk.")

# What nvcc and what it runs print.
NVCCS = [
    (f"{HEADER}:137:2: error: #error -- unsupported GNU version! gcc versions later than 15 are "
     f"not supported! {OVERRIDE}", "too new or too old", "-ccbin"),
    (f"{HEADER}:151:2: error: -- unsupported clang version! clang version must be less than 21 and "
     f"greater than 3.2 . {OVERRIDE}", "too new or too old", "-ccbin"),
    (f"C:/CUDA/include/crt/host_config.h(164): fatal error C1189: #error:  -- unsupported Microsoft"
     f" Visual Studio version! Only the versions between 2019 and 2022 (inclusive) are supported! "
     f"{OVERRIDE}", "too new or too old", "-ccbin"),
    ("gcc: No such file or directory\nnvcc fatal   : Failed to preprocess host compiler properties",
     "is not there", "apt install g"),
    ("/opt/g++-9: No such file or directory\n"
     "nvcc fatal   : Failed to preprocess host compiler properties.", "is not there", "-ccbin"),
    ("nvcc fatal   : Cannot find compiler 'cl.exe' in PATH", "Microsoft's C.. compiler", "winget"),
    ("nvcc fatal   : Unsupported gpu architecture 'sm_70'", "does not know the GPU", "nvcc-cu12"),
    ("nvcc fatal   : Unsupported gpu architecture 'compute_120'", "does not know the GPU",
     "install -U nvidia-cuda-nvcc"),
    ("nvcc fatal   : Value 'sm_120' is not defined for option 'gpu-architecture'",
     "does not know the GPU", "install -U nvidia-cuda-nvcc"),
    ("sh: 1: /x/bin/../nvvm/bin/cicc: not found", "not whole", "nvidia-cuda-nvcc"),
    ("<command-line>: fatal error: cuda_runtime.h: No such file or directory", "not whole",
     "nvidia-cuda-nvcc"),
    ("ptxas /tmp/k.ptx, line 9; fatal   : Unsupported .version 9.5; current version is '9.0'",
     "mixture of two", "nvidia-cuda-nvcc"),
    ("/tmp/tmpxft_0000.ii: No space left on device", "disk is full", "df -h"),
    ("nvcc fatal   : Could not open output file '/x/tmpxft_0000206c_0000000a'",
     "temporary files", "TMPDIR"),
    ("nvcc fatal   : Unknown option '--bogus'", "refused its options", "unset NVCC_"),
]


@pytest.fixture(autouse=True)
def plain_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_errors, "in_wsl", lambda: False)
    monkeypatch.setattr(cuda_errors, "in_container", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def check(error, failed, mend, text):
    assert isinstance(error, CudaError)
    message = str(error)
    assert [line.split(":")[0].strip() for line in message.splitlines()[1:]] == [
        "(looked at", "to mend it"], message
    assert re.search(failed, error.failed), message
    assert mend in error.mend, message
    assert text.splitlines()[0][:40] in error.looked_at or text in error.looked_at, message


@pytest.mark.parametrize(("text", "failed", "mend"), IMPORTS, ids=[t[0][-40:] for t in IMPORTS])
def test_pycuda_that_cannot_be_loaded(text, failed, mend):
    check(explain_import(ImportError(text)), failed, mend, text)


@pytest.mark.parametrize(("text", "failed", "mend"), DRIVERS, ids=[t[0][-40:] for t in DRIVERS])
def test_a_driver_that_refuses(text, failed, mend):
    check(explain_driver(RuntimeError(text), "cuInit"), failed, mend, text)


@pytest.mark.parametrize(("text", "failed", "mend"), NVCCS, ids=[t[0][-40:] for t in NVCCS])
def test_an_nvcc_whose_set_up_is_at_fault(text, failed, mend):
    error = explain_nvcc(text, "nvcc -cubin k.cu")
    check(error, failed, mend, "nvcc -cubin k.cu")


@pytest.mark.parametrize(("table", "texts"), [(IMPORT, IMPORTS), (DRIVER, DRIVERS), (NVCC, NVCCS)])
def test_each_row_of_the_tables_has_a_text_above(table, texts):
    found = [find(table, text) for text, *_ in texts]
    assert [known.failed for known in table if known not in found] == []


@pytest.mark.parametrize("text", LOST_TEXTS)
def test_what_ends_the_context_is_known(text):
    assert is_context_lost(RuntimeError(text))
    assert not any(is_context_lost(RuntimeError(text)) for text, *_ in DRIVERS)


def test_each_way_to_lose_the_context_has_a_text_above():
    assert [words for words in LOST if not any(words in text for text in LOST_TEXTS)] == []


def test_what_is_not_known_is_passed_on_in_its_own_words():
    check(explain_import(ImportError("a riddle")), "cannot be loaded", "--no-binary", "a riddle")
    check(explain_driver(RuntimeError("cuInit failed: a riddle"), "cuInit"), "refused",
          "nvidia-smi", "cuInit: cuInit failed: a riddle")
    assert explain_nvcc("Segmentation fault", "nvcc k.cu") is None


def test_a_fault_of_the_source_is_not_taken_for_one_of_the_set_up():
    words = ('bad.cu(1): error: identifier "y" is undefined\n'
             '1 error detected in the compilation of "bad.cu".\nnvcc fatal : stop')
    assert explain_nvcc(words, "nvcc bad.cu") is None


def test_pycuda_missing():
    error = explain_import(ModuleNotFoundError("No module named 'pycuda'", name="pycuda"))
    check(error, "not installed", 'pip install -e ".[cuda]"', "import pycuda.driver")
    # A module that PyCUDA itself wants is another matter.
    error = explain_import(ModuleNotFoundError("No module named 'pytools'", name="pytools"))
    check(error, "cannot be loaded", "--no-binary pycuda", "import pycuda.driver")


NO_DRIVER = "libcuda.so.1: cannot open shared object file: No such file or directory"


def test_no_driver():
    check(explain_import(ImportError(NO_DRIVER)), "no NVIDIA driver", "ubuntu-drivers",
          "import pycuda.driver")


def test_no_driver_in_a_container(monkeypatch):
    monkeypatch.setattr(cuda_errors, "in_container", lambda: True)
    check(explain_import(ImportError(NO_DRIVER)), "in this container", "--gpus all",
          "import pycuda.driver")


def test_no_driver_in_wsl(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_errors, "in_wsl", lambda: True)
    monkeypatch.setattr(cuda_errors, "WSL_DRIVER", tmp_path / "libcuda.so.1")
    check(explain_import(ImportError(NO_DRIVER)), "in Windows", "winget", "import pycuda.driver")
    (tmp_path / "libcuda.so.1").touch()
    check(explain_import(ImportError(NO_DRIVER)), "Windows' NVIDIA driver is here",
          f"LD_LIBRARY_PATH={tmp_path}", "import pycuda.driver")
    no_device = RuntimeError("cuInit failed: no CUDA-capable device is detected")
    check(explain_driver(no_device, "cuInit"), "hides that of Windows",
          f"LD_LIBRARY_PATH={tmp_path}", "cuInit")


def test_a_hidden_gpu(monkeypatch):
    no_device = RuntimeError("cuInit failed: no CUDA-capable device is detected")
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        check(explain_driver(no_device, "cuInit"), "hides every GPU",
              "unset CUDA_VISIBLE_DEVICES", f"CUDA_VISIBLE_DEVICES={value!r}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    check(explain_driver(no_device, "cuInit"), "sees no GPU", "nvidia-smi -L",
          "CUDA_VISIBLE_DEVICES='7'")


def test_wsl_is_recognised(monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("WSL_DISTRO_NAME", raising=False)
    monkeypatch.setattr(cuda_errors.platform, "release",
                        lambda: "5.15.146.1-microsoft-standard-WSL2")
    assert cuda_errors.in_wsl()
    monkeypatch.setattr(cuda_errors.platform, "release", lambda: "6.1.0-18-amd64")
    assert not cuda_errors.in_wsl()
