"""What nvcc makes of the kernels that hold a row in registers: how many, and so how many warps a
multiprocessor has at a time. Their headers say why these numbers matter.
"""

import subprocess

import pytest

from kernels.cuda_compile import OPTIONS, find_nvcc
from kernels.cuda_errors import CudaError
from kernels.launch import HERE
from tests.kernels import cubin

pytestmark = pytest.mark.slow

# The most registers a thread may have. A multiprocessor has 65536: with 64 it runs 32 warps, with
# 80 it runs 24, with 128 it runs 16.
MOST = {
    "gelu.cu": {f"{name}_{kind}": most for name in ("gelu", "gelu_tanh")
                for kind, most in [("vector", 40), ("backward_vector", 48), ("backward_bias", 64)]},
    "layer_norm.cu": {"layer_norm_vector": 64, "layer_norm_registers": 80, "layer_norm_long": 64,
                      "layer_norm_backward_vector": 72, "add_layer_norm_vector": 72,
                      "add_layer_norm_long": 64},
    "softmax.cu": {"softmax_vector": 64, "softmax_backward_vector": 80, "softmax_long": 64,
                   "softmax_registers": 96, "softmax_backward_registers": 128},
}


@pytest.mark.parametrize("architecture", ["80", "90"])
@pytest.mark.parametrize("file", sorted(MOST))
def test_registers(file, architecture, tmp_path):
    find_nvcc.cache_clear()
    try:
        nvcc = find_nvcc().path
    except CudaError as error:
        pytest.skip(error.failed)
    out = tmp_path / "all.cubin"
    run = subprocess.run([nvcc, *OPTIONS, f"-arch=sm_{architecture}", "-Xptxas=-warn-spills",
                          str(HERE / file), "-o", str(out)], capture_output=True, text=True)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    facts = cubin.kernels(out.read_bytes())
    too_many = {name: facts[name].registers for name, most in MOST[file].items()
                if facts[name].registers > most}
    assert not too_many
