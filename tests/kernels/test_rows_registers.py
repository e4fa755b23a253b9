"""What nvcc makes of the kernels that work on rows: how many registers, and so how many warps a
multiprocessor has at a time; and loads of 16 bytes where the source means them. Their headers say
why these matter.
"""

import re
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


@pytest.fixture(scope="module")
def compile(tmp_path_factory):
    """compile(file, form, architecture) -> the path of what nvcc made; no warning, no spill."""
    find_nvcc.cache_clear()
    try:
        nvcc = find_nvcc().path
    except CudaError as error:
        pytest.skip(error.failed)

    def run(file, form, architecture):
        out = tmp_path_factory.mktemp("nvcc") / "out"
        options = [f"-{form}" if option == "-cubin" else option for option in OPTIONS]
        spills = ["-Xptxas=-warn-spills"] if form == "cubin" else []
        run = subprocess.run([nvcc, *options, f"-arch=sm_{architecture}", *spills,
                              str(HERE / file), "-o", str(out)], capture_output=True, text=True)
        assert (run.returncode, run.stdout + run.stderr) == (0, "")
        return out
    return run


@pytest.mark.parametrize("architecture", ["80", "90"])
@pytest.mark.parametrize("file", sorted(MOST))
def test_registers(compile, file, architecture):
    facts = cubin.kernels(compile(file, "cubin", architecture).read_bytes())
    too_many = {name: facts[name].registers for name, most in MOST[file].items()
                if facts[name].registers > most}
    assert not too_many


# Loads and stores of single floats that a kernel in fours has besides: of what is left over at the
# end, of mean and rstd, of sums. The packs themselves are "v4" in PTX, 16 bytes of floats.
SINGLE = {"gelu_tanh_vector": 2, "gelu_tanh_backward_bias": 2, "layer_norm_vector": 2,
          "add_layer_norm_vector": 2, "layer_norm_long": 2, "layer_norm_backward_vector": 2,
          "softmax_vector": 0, "softmax_backward_vector": 0}


@pytest.mark.parametrize("file", ["gelu.cu", "layer_norm.cu", "softmax.cu"])
def test_four_floats_in_one_load(compile, file):
    ptx = compile(file, "ptx", "80").read_text()
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)\n}\n", ptx, re.DOTALL))
    for name in SINGLE.keys() & bodies.keys():
        used = re.findall(r"(?:ld|st)\.global[.\w]*", bodies[name])
        fours = [each for each in used if ".v4.f32" in each]
        assert len(fours) >= 2 and len(used) - len(fours) <= SINGLE[name], (name, used)
