"""Every `.cu` file through the real nvcc, for each architecture: no warning, no register that
spills, and parameters that lie on the GPU where the host packs them.
"""

import re
import subprocess

import pytest

from kernels.cuda_compile import OPTIONS, find_nvcc
from kernels.cuda_errors import CudaError
from kernels.launch import HERE, MAX_SHARED
from kernels.signature import SIZES, packing, read_signatures
from tests.kernels import cubin

ARCHITECTURES = ["75", "80", "86", "89", "90"]
REGISTERS = 65536       # that a block may have on each of them
# Kernels meant to be fast, whose files' headers say what they take of a multiprocessor.
FAST = {
    "matmul.cu": ["matmul_tiles", "matmul_registers", "matmul_vector", "matmul_rows",
                  "matmul_rows_bf16"],
    "matmul_wmma.cu": ["matmul_wmma"],
    "matmul_mma.cu": ["matmul_mma_tf32", "matmul_mma_3xtf32", "matmul_mma_bf16",
                      "matmul_mma_bf16_storage", "matmul_mma_bf16_parts"],
    "attention_mma.cu": [f"attention_mma_{precision}_{D}" for D in (32, 64, 128)
                         for precision in ("tf32", "bf16", "bf16_storage")],
    "attention_mma_backward.cu": [
        f"attention_mma_backward_{precision}_{rows}_{D}" for D in (32, 64)
        for precision in ("tf32", "bf16", "bf16_storage") for rows in ("queries", "keys")],
}
STATED = re.compile(r"^//   (\w+) +(\d+) +(\d+) +([\d,]+)$", re.MULTILINE)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nvcc():
    find_nvcc.cache_clear()
    try:
        return find_nvcc()
    except CudaError as error:
        pytest.skip(error.failed)


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.cu")))
def test_nvcc_compiles_it_as_the_host_believes(nvcc, file, tmp_path):
    fatbin = tmp_path / "all.fatbin"
    for_each = [x for a in ARCHITECTURES
                for x in ("-gencode", f"arch=compute_{a},code=sm_{a}")]
    options = [option for option in OPTIONS if option != "-cubin"]
    run = subprocess.run(
        [nvcc.path, "-fatbin", "--no-compress", *options, *for_each, "-Xptxas=-warn-spills",
         "--threads", "2", str(HERE / file), "-o", str(fatbin)], capture_output=True, text=True)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")

    source = (HERE / file).read_text(encoding="utf-8")
    signatures = read_signatures(source, file)
    elfs = cubin.elfs_in(fatbin.read_bytes())
    assert len(elfs) == len(ARCHITECTURES)
    for elf in elfs:
        kernels = cubin.kernels(elf)
        assert sorted(kernels) == sorted(signatures)
        for name, parameters in signatures.items():
            packed, places = packing(parameters)
            facts = kernels[name]
            assert facts.parameter_bytes == packed.size, name
            assert [facts.parameters[i][0] for i in range(len(parameters))] == places, name
            # Dims and Table, eight and 64 long long by value, are the only large parameters.
            sizes = [8 if p.pointer or "long" in p.type or p.type == "double" else
                     8 * SIZES.get(p.type, 0) or 4 for p in parameters]
            assert [facts.parameters[i][1] for i in range(len(parameters))] == sizes, name
            assert facts.shared <= MAX_SHARED + 1024, name      # sm_90 has 1 KiB of its own
            # Where the source names no smaller block, one of 1024 threads must find registers;
            # a warp gets them in eights a thread.
            warps = -(-facts.max_threads // 32)
            assert 0 < -(-facts.registers // 8) * 8 * 32 * warps <= REGISTERS, (
                f"{name}: {facts.registers} registers are too many for a block of "
                f"{facts.max_threads} threads: give it __launch_bounds__")
    if nvcc.release == "13.0":      # another one allots otherwise
        of = dict(zip(ARCHITECTURES, elfs))
        facts = {name: facts_of(of, name) for name in FAST.get(file, [])}
        assert {name: found for name, found in stated(source).items() if name in facts} == facts


def stated(source: str) -> dict[str, tuple[int, ...]]:
    """{name: numbers} of the rows in a file's header: a kernel's are its registers on sm_80 and
    sm_90, and its bytes of shared memory.
    """
    return {name: tuple(int(number.replace(",", "")) for number in numbers)
            for name, *numbers in STATED.findall(source)}


def facts_of(elfs: dict[str, bytes], name: str) -> tuple[int, ...]:
    """What `stated` should give of a kernel."""
    old, new = (cubin.kernels(elfs[architecture])[name] for architecture in ("80", "90"))
    return old.registers, new.registers, old.shared
