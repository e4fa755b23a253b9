"""Finding nvcc, and the cache of what it makes. The nvcc of the quick tests is a shell script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import cuda_compile
from kernels.cuda_compile import compile_cubin, find_nvcc, included_files
from kernels.cuda_errors import CudaError
from kernels.emulator.build import CompileError

ROOT = Path(__file__).parents[2]
VERSION = """nvcc: NVIDIA (R) Cuda compiler driver
Cuda compilation tools, release {release}, V{release}.88
"""
KERNEL = 'extern "C" __global__ void k(float* x, int n) { if (n) x[0] = 1; }\n'

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")


def plant_nvcc(path, release="13.0", body=""):
    """An nvcc that tells its version, counts its runs in a file beside it, and writes a cubin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"""#!/bin/sh
if [ "$1" = --version ]; then echo '{VERSION.format(release=release)}'; exit 0; fi
echo "$@" >> '{path}.runs'
{body}
while [ "$1" != -o ]; do shift; done
printf '\\177ELF of {release}' > "$2"
""")
    path.chmod(0o755)
    return path


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without any nvcc, and a folder that has none."""
    for name in ("CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX", *cuda_compile.USERS_OPTIONS):
        monkeypatch.delenv(name, raising=False)
    tools = tmp_path / "tools"          # what the scripts need, and no more
    tools.mkdir()
    for tool in ("sh", "cat", "printf", "sleep"):
        os.symlink(shutil.which(tool), tools / tool)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(cuda_compile.sys, "prefix", str(tmp_path / "python"))
    monkeypatch.setattr(cuda_compile, "TOOLKIT", tmp_path / "usr-local-cuda")
    packages = tmp_path / "site-packages"
    monkeypatch.setattr(cuda_compile.site, "getsitepackages", lambda: [str(packages)])
    monkeypatch.setattr(cuda_compile.site, "getusersitepackages", lambda: str(tmp_path / "user"))
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(tmp_path / "cache"))
    find_nvcc.cache_clear()
    yield tmp_path
    find_nvcc.cache_clear()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "k.cu"
    path.write_text(KERNEL)
    return path


# What leads to nvcc: (name, its path under the machine's folder, a variable to set).
PLACES = [
    ("PATH", "bin/nvcc", "PATH"),
    ("CUDA_PATH", "toolkit/bin/nvcc", "CUDA_PATH"),
    ("CUDA_HOME", "toolkit/bin/nvcc", "CUDA_HOME"),
    ("the toolkit's folder", "usr-local-cuda/bin/nvcc", None),
    ("conda", "conda/bin/nvcc", "CONDA_PREFIX"),
    ("conda", "python/bin/nvcc", None),
    ("pip", "site-packages/nvidia/cu13/bin/nvcc", None),
    ("pip", "site-packages/nvidia/cuda_nvcc/bin/nvcc", None),
]


@pytest.mark.parametrize(("found", "path", "variable"), PLACES, ids=[p[1] for p in PLACES])
def test_nvcc_is_found(nowhere, monkeypatch, found, path, variable):
    nvcc = plant_nvcc(nowhere / path)
    folder = nvcc.parent if variable == "PATH" else nvcc.parents[1]
    if variable == "PATH":
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    elif variable:
        monkeypatch.setenv(variable, str(folder))
    assert (find_nvcc().path, find_nvcc().found, find_nvcc().release) == (str(nvcc), found, "13.0")


def test_a_wrapper_script_will_do(nowhere, monkeypatch, source):
    real = plant_nvcc(nowhere / "toolkit" / "bin" / "nvcc", "12.8")
    wrapper = nowhere / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    assert (find_nvcc().path, find_nvcc().release) == (str(wrapper), "12.8")
    assert compile_cubin(source, "sm_90") == b"\x7fELF of 12.8"


def test_a_broken_nvcc_is_passed_over_and_told_of(nowhere, monkeypatch):
    broken = nowhere / "bin" / "nvcc"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no licence >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_HOME", str(nowhere / "gone"))
    with pytest.raises(CudaError) as error:
        find_nvcc()
    assert error.value.failed == "there is no nvcc, the CUDA compiler"
    for words in (f"PATH: {broken} does not give its version (no licence)",
                  f"CUDA_HOME: {nowhere}/gone/bin/nvcc is not there", "CUDA_PATH is not set",
                  f"{nowhere}/usr-local-cuda/bin/nvcc is not there",
                  f"conda: {nowhere}/python/bin/nvcc is not there"):
        assert words in error.value.looked_at
    assert "pip install nvidia-cuda-nvcc" in error.value.mend
    good = plant_nvcc(nowhere / "gone" / "bin" / "nvcc")
    assert find_nvcc().path == str(good)


def test_no_nvcc_at_all(nowhere):
    with pytest.raises(CudaError, match="looked at: PATH: no nvcc; .*CUDA_HOME is not set"):
        find_nvcc()


@pytest.fixture
def nvcc(nowhere, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(nowhere / "toolkit"))
    return plant_nvcc(nowhere / "toolkit" / "bin" / "nvcc")


def runs(nvcc):
    path = Path(f"{nvcc}.runs")
    return path.read_text().splitlines() if path.exists() else []


def test_a_cubin_is_made_once(nvcc, source, nowhere):
    assert compile_cubin(source, "sm_90") == b"\x7fELF of 13.0"
    assert compile_cubin(source, "sm_90") == b"\x7fELF of 13.0"
    (run,) = runs(nvcc)
    for option in ("-cubin", "-arch=sm_90", "-std=c++17", f"-I{cuda_compile.HERE}", str(source)):
        assert option in run.split()
    (kept,) = (nowhere / "cache").iterdir()
    assert kept.name.startswith("k-sm_90-") and kept.suffix == ".cubin"


def test_whatever_the_cubin_depends_on_makes_it_anew(nvcc, source, nowhere, monkeypatch):
    def made_anew():
        before = len(runs(nvcc))
        compile_cubin(source, arch)
        return len(runs(nvcc)) - before

    arch = "sm_90"
    assert made_anew() == 1
    arch = "sm_80"
    assert made_anew() == 1
    source.write_text('#include "mine.cuh"\n' + KERNEL)
    (nowhere / "mine.cuh").write_text("// 1\n")
    assert made_anew() == 1
    (nowhere / "mine.cuh").write_text("// 2\n")
    assert made_anew() == 1
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-ccbin g++-13")
    assert made_anew() == 1
    plant_nvcc(nvcc, "13.1")
    find_nvcc.cache_clear()
    assert made_anew() == 1
    assert made_anew() == 0


def test_the_package_s_files_are_compiled_together(nvcc, nowhere, capsys):
    files = sorted(path.name for path in cuda_compile.HERE.glob("*.cu"))
    assert cuda_compile.compile_all("sm_90") == len(files) == len(runs(nvcc))
    assert cuda_compile.compile_all("sm_90") == 0 and len(runs(nvcc)) == len(files)
    assert len(list((nowhere / "cache").iterdir())) == len(files)
    assert capsys.readouterr().err == ""        # to a terminal it says what it is waiting for


def test_included_files_are_followed(tmp_path):
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n#include "common.cuh"\n#include <math.h>\n')
    (tmp_path / "b.cuh").write_text('  #  include "c.cuh"\n#include "not/there.h"\n')
    (tmp_path / "c.cuh").write_text('#include "b.cuh"\n')         # round in a circle
    assert included_files(tmp_path / "a.cu") == sorted(
        [tmp_path / "b.cuh", tmp_path / "c.cuh", cuda_compile.HERE / "common.cuh"])


def test_a_damaged_cubin_is_made_anew(nvcc, source, nowhere):
    compile_cubin(source, "sm_90")
    (kept,) = (nowhere / "cache").iterdir()
    for damaged in (b"", b"\0" * 100):
        kept.write_bytes(damaged)
        assert compile_cubin(source, "sm_90") == b"\x7fELF of 13.0"
        assert kept.read_bytes() == b"\x7fELF of 13.0"


def test_a_failed_run_leaves_nothing_behind(nvcc, source, nowhere):
    plant_nvcc(nvcc, body="""while [ "$1" != -o ]; do shift; done; printf half > "$2"
        echo "k.cu(1): error: identifier \\"y\\" is undefined" >&2; exit 1""")
    with pytest.raises(CompileError, match='identifier "y" is undefined'):
        compile_cubin(source, "sm_90")
    assert list((nowhere / "cache").iterdir()) == []


def test_an_nvcc_that_says_it_worked_and_made_nothing(nvcc, source, nowhere):
    plant_nvcc(nvcc, body="exit 0")
    with pytest.raises(CompileError, match="made no cubin"):
        compile_cubin(source, "sm_90")
    assert list((nowhere / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written(nvcc, source, nowhere, monkeypatch):
    (nowhere / "file").touch()
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(nowhere / "file" / "cache"))
    with pytest.raises(CudaError, match="MINIGPT_KERNEL_CACHE=") as error:
        compile_cubin(source, "sm_90")
    assert str(nowhere / "file" / "cache") in error.value.looked_at


def test_two_processes_make_the_same_cubin_at_once(nvcc, source, nowhere):
    plant_nvcc(nvcc, body="sleep 0.3")
    code = ("import sys; from pathlib import Path; from kernels.cuda_compile import compile_cubin; "
            "sys.stdout.buffer.write(compile_cubin(Path(sys.argv[1]), 'sm_90'))")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(source)], cwd=ROOT,
                                  stdout=subprocess.PIPE) for _ in range(3)]
    assert [p.communicate()[0] for p in processes] == [b"\x7fELF of 13.0"] * 3
    assert [p.suffix for p in (nowhere / "cache").iterdir()] == [".cubin"]


def test_the_set_up_s_fault_names_the_command_that_was_run(nvcc, source):
    words = "nvcc fatal   : Unsupported gpu architecture 'sm_70'"
    plant_nvcc(nvcc, body=f'echo "{words}" >&2; exit 1')
    with pytest.raises(CudaError, match="does not know the GPU's architecture") as error:
        compile_cubin(source, "sm_70")
    assert str(nvcc) in error.value.looked_at and "-arch=sm_70" in error.value.looked_at


# ---- the real nvcc, in set-ups that cannot work ----


@pytest.fixture
def real(tmp_path, monkeypatch):
    find_nvcc.cache_clear()
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(tmp_path / "cache"))
    for name in cuda_compile.USERS_OPTIONS:
        monkeypatch.delenv(name, raising=False)
    try:
        return find_nvcc()
    except CudaError as error:
        pytest.skip(error.failed)


@pytest.mark.slow
def test_the_real_nvcc_makes_a_cubin(real, source):
    assert compile_cubin(source, "sm_90").startswith(b"\x7fELF")


@pytest.mark.slow
def test_the_real_nvcc_without_a_host_compiler(real, source, monkeypatch):
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-ccbin /nonexistent/g++")
    with pytest.raises(CudaError, match="nonexistent/g.*No such file") as error:
        compile_cubin(source, "sm_90")
    assert "C++ compiler of the host" in error.value.failed


@pytest.mark.slow
def test_the_real_nvcc_with_a_host_compiler_that_is_too_new(real, source, tmp_path, monkeypatch):
    if not shutil.which("g++"):
        pytest.skip("g++ is not on the PATH")
    too_new = tmp_path / "g++"
    too_new.write_text(f'#!/bin/sh\nexec {shutil.which("g++")} -U__GNUC__ -D__GNUC__=99 "$@"\n')
    too_new.chmod(0o755)
    monkeypatch.setenv("NVCC_APPEND_FLAGS", f"-ccbin {too_new}")
    with pytest.raises(CudaError, match="too new or too old") as error:
        compile_cubin(source, "sm_90")
    assert "unsupported GNU version" in error.value.looked_at


@pytest.mark.slow
def test_the_real_nvcc_for_an_architecture_it_does_not_know(real, source):
    with pytest.raises(CudaError, match="does not know the GPU's architecture"):
        compile_cubin(source, "sm_999")


@pytest.mark.slow
def test_the_real_nvcc_with_an_option_it_does_not_know(real, source, monkeypatch):
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "--bogus")
    with pytest.raises(CudaError, match="unset NVCC_PREPEND_FLAGS"):
        compile_cubin(source, "sm_90")


@pytest.mark.slow
def test_the_real_nvcc_s_words_about_a_source_are_passed_on(real, source):
    source.write_text(KERNEL.replace("= 1", "= y"))
    with pytest.raises(CompileError, match=r'k\.cu\(1\): error: identifier "y" is undefined'):
        compile_cubin(source, "sm_90")
