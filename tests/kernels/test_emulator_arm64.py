"""The emulator on arm64: the same planted bugs and correct kernels, cross-compiled with a driver in
C++ and run by qemu. Apple's and other arm64 machines run the same context switch and checks.
"""

import shutil
import subprocess

import numpy as np
import pytest

from kernels.emulator import build
from kernels.signature import read_signatures
from tests.kernels.planted import CORRECT, PLANTED, SOURCE, X

pytestmark = pytest.mark.slow
COMPILER, QEMU, SYSROOT = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"

# Each kernel in each order, with what device.py would give; prints a line for each:
# name, order, status, then the message or the 128 results.
DRIVER = r"""
#include <cstdint>
#include <cstdio>
#include <cstring>
struct Options {
    unsigned grid[3], block[3];
    uint64_t seed;
    unsigned shared, order, checked, workers;
};
extern "C" {
void* emu_malloc(size_t, int);
void emu_free(void*);
void emu_write(void*, const void*, size_t);
const char* emu_message();
int emu_launch(void (*)(const char*), const char*, size_t, const Options*);
DECLARATIONS
}
struct { const char* name; void (*entry)(const char*); unsigned shared; } kernels[] = {TABLE};
int main() {
    for (auto& kernel : kernels)
        for (unsigned order = 0; order < 3; order++) {
            float host[128];
            for (int i = 0; i < 128; i++) host[i] = i;
            struct { void *x, *y; int n; } arguments{emu_malloc(512, CHECKED),
                                                     emu_malloc(512, CHECKED), 128};
            emu_write(arguments.x, host, 512);
            Options options{{2, 1, 1}, {64, 1, 1}, 7, kernel.shared, order, CHECKED, 1};
            int status = emu_launch(kernel.entry, (const char*)&arguments, sizeof arguments,
                                    &options);
            printf("%s %u %d ", kernel.name, order, status);
            if (status) printf("%s", emu_message());
            const float* y = (const float*)arguments.y;
            for (int i = 0; !status && i < 128; i++) printf("%.9g ", y[i]);
            printf("\n");
            emu_free(arguments.x);
            emu_free(arguments.y);
        }
}
"""


def run_on_arm64(folder, names, checked):
    """The driver's lines, split, for these kernels of SOURCE."""
    for tool in (COMPILER, QEMU):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed (Debian: g++-aarch64-linux-gnu, qemu-user)")
    (folder / "test.cu").write_text(SOURCE)
    sources = build.kernel_sources(folder / "test.cu", read_signatures(SOURCE, "test.cu"))
    table = ", ".join(
        f'{{"{name}", emu_kernel_{name}, {PLANTED[name].shared if name in PLANTED else 0}}}'
        for name in names)
    declarations = "".join(f"void emu_kernel_{name}(const char*);\n" for name in names)
    sources["driver.cpp"] = DRIVER.replace("TABLE", table).replace("DECLARATIONS", declarations)
    for file, text in sources.items():
        (folder / file).write_text(text)
    command = [COMPILER, *build.OPTIONS, f"-I{build.HERE}", f"-I{build.HERE}/include",
               f"-DCHECKED={int(checked)}"]
    kernels = build.CHECKED_OPTIONS if checked else []
    subprocess.run([*command, *kernels, "-c", "entries.cpp"], cwd=folder, check=True)
    subprocess.run([*command, "-pthread", "entries.o", "driver.cpp",
                    str(build.HERE / "runtime.cpp"), "-o", "driver"], cwd=folder, check=True)
    run = subprocess.run([QEMU, "-L", SYSROOT, "./driver"], cwd=folder, check=True, text=True,
                         capture_output=True, timeout=300)
    return [line.split(" ", 3) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("checked", [False, True])
def test_planted_bugs_and_correct_kernels_on_arm64(tmp_path, checked):
    names = [*CORRECT, *(name for name in PLANTED if checked or PLANTED[name].in_fast)]
    lines = run_on_arm64(tmp_path, names, checked)
    assert [line[0] for line in lines] == [name for name in names for _ in range(3)]
    for name, _, status, rest in lines:
        if name in PLANTED:
            words = PLANTED[name].words.split("|")
            assert status == "1" and rest.startswith(tuple(words)), (name, rest)
        else:
            assert status == "0", (name, rest)
            if CORRECT[name][1] is not None:
                np.testing.assert_array_equal(np.array(rest.split(), np.float32), CORRECT[name][1])
    assert X.size == 128            # as in the driver
