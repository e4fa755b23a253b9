"""The counting mode agrees with counts by hand: six kernels of one warp, whose traffic is known."""

import numpy as np
import pytest

from kernels.device import get_device
from kernels.launch import Module
from tests.kernels.emulated import needs_compiler

pytestmark = pytest.mark.slow

SOURCE = """
extern "C" __global__ void strided(const float* x, float* y, int stride) {
    int t = threadIdx.x;
    y[t] = x[t * stride];
}
extern "C" __global__ void banks(const float* x, float* y, int stride) {
    __shared__ float s[1024];
    int t = threadIdx.x;
    for (int i = t; i < 1024; i += 32) s[i] = x[i];
    __syncthreads();
    y[t] = s[t * stride];    // the read
}
extern "C" __global__ void divergent(const float* x, float* y, int every) {
    int t = threadIdx.x;
    if (t % every == 0)
        y[t] = x[t] * x[t] + 1.0f;    // few
    else
        y[t] = x[t] / 3.0f;    // many
    y[64 + t] = 1.0f;    // all
}
extern "C" __global__ void broadcast(const float* x, float* y, int at) {
    y[threadIdx.x] = x[at];
}
extern "C" __global__ void quads(const float* x, float* y, int unused) {
    reinterpret_cast<float4*>(y)[threadIdx.x] = reinterpret_cast<const float4*>(x)[threadIdx.x];
}
"""


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    needs_compiler()
    file = tmp_path_factory.mktemp("counts") / "test.cu"
    file.write_text(SOURCE)
    device = get_device("emulator", counted=True)
    module = Module(file, device)

    def run(name, number, order="forward"):
        device.counts.clear()
        x, y = device.from_numpy(np.arange(1024, dtype=np.float32)), device.empty(1024)
        module[name](x, y, number, grid=1, block=32, order=order)
        return device.counts[name]
    return run


def line(marker):
    return next(f"test.cu:{n}" for n, text in enumerate(SOURCE.splitlines(), 1) if marker in text)


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (4, 16), (8, 32), (32, 32)])
def test_strided(launch, stride, sectors, order):
    total = launch("strided", stride, order).total
    assert (total.global_requests, total.read_sectors, total.write_sectors) == (2, sectors, 4)
    assert (total.global_bytes, total.global_used) == (256, 256)
    assert total.flops == 0 and total.lanes == 32


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
@pytest.mark.parametrize(("stride", "turns"), [(1, 1), (2, 2), (8, 8), (31, 1), (32, 32), (0, 1)])
def test_bank_conflicts(launch, stride, turns, order):
    counts = launch("banks", stride, order)
    read = counts.lines[line("// the read")]
    assert (read.shared_requests, read.wavefronts, read.ideal_wavefronts) == (1, turns, 1)
    assert counts.total.wavefronts == turns + 32            # 32 rows stored without a conflict
    assert counts.total.read_sectors == 128 and counts.least_bytes == 4096 + 128


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
@pytest.mark.parametrize("every", [2, 4, 32])
def test_divergent_branch(launch, every, order):
    counts, few = launch("divergent", every, order), 32 // every
    first, second = counts.lines[line("// few")], counts.lines[line("// many")]
    assert (first.step_lanes, first.steps, first.flops) == (few, 1, 2 * few)
    assert (second.step_lanes, second.steps, second.flops) == (32 - few, 1, 32 - few)
    assert first.lanes == few and counts.total.flops == 32 + few


def test_broadcast(launch):
    total = launch("broadcast", 5).total
    assert (total.read_sectors, total.write_sectors, total.global_bytes) == (1, 4, 256)
    assert total.global_used == 4 + 128


def test_a_vector_is_one_request(launch):
    total = launch("quads", 0).total
    assert (total.global_requests, total.read_sectors, total.write_sectors) == (2, 16, 16)
    assert total.coalescing == 1


def test_what_is_refused():
    with pytest.raises(ValueError, match="Nsight"):
        get_device("cuda", counted=True)
    needs_compiler()
    with pytest.raises(ValueError, match="checks or counts"):
        get_device("emulator", checked=True, counted=True)
