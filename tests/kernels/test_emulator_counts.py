"""The counting mode agrees with counts by hand: kernels of one warp, whose traffic is known."""

import numpy as np
import pytest

from kernels.device import get_device
from kernels.launch import Module
from tests.kernels.emulated import needs_compiler

pytestmark = pytest.mark.slow

SOURCE = """
#include "ptx.cuh"
#include <cuda_bf16.h>
#include <mma.h>
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
extern "C" __global__ void halves(const float* x, float* y, int stride) {
    const __nv_bfloat16* from = reinterpret_cast<const __nv_bfloat16*>(x);
    int t = threadIdx.x;
    float value = float(from[t * stride]);    // widened
    reinterpret_cast<__nv_bfloat16*>(y)[t] = __nv_bfloat16(value);    // rounded
}
extern "C" __global__ void uneven(const float* x, float* y, int most) {
    int t = threadIdx.x;
    float sum = 0.0f;
    for (int i = 0; i < min(t, most); i++) sum += x[32 * i + t];    // trips
    y[t] = sum;
}
extern "C" __global__ void SINCE_SM(80) asynchronous(const float* x, float* y, int bytes) {
    __shared__ float4 s[32];
    int t = threadIdx.x;
    cp_async<16>(&s[t], x + 4 * t, t % 2 ? bytes : 16);    // copies
    cp_async_commit();
    cp_async_wait<0>();
    y[t] = s[t].x;
}
extern "C" __global__ void SINCE_SM(80) matrices(const float* x, float* y, int step) {
    __shared__ float4 s[32 * 8];
    int t = threadIdx.x;
    for (int i = t; i < 32 * 8; i += 32) s[i] = reinterpret_cast<const float4*>(x)[i];
    __syncthreads();
    unsigned a[4];
    float c[4] = {}, d[4] = {};
    ldmatrix(a, &s[t * step]);    // rows
    const unsigned b[2] = {a[0], a[1]};
    mma_tf32(c, a, b);    // eight deep
    for (int i = 0; i < 3; i++) mma_bf16(d, a, b);    // sixteen deep
    y[t] = c[0] + d[0];
}
extern "C" __global__ void fragments(const float* x, float* y, int unused) {
    using namespace nvcuda::wmma;
    fragment<matrix_a, 16, 16, 8, precision::tf32, row_major> a;
    fragment<matrix_b, 16, 16, 8, precision::tf32, row_major> b;
    fragment<accumulator, 16, 16, 8, float> c;
    fill_fragment(c, 0.0f);
    load_matrix_sync(a, x, 8);
    load_matrix_sync(b, x, 16);
    mma_sync(c, a, b, c);    // sixteen wide
    store_matrix_sync(y, c, 16, mem_row_major);
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


@pytest.mark.parametrize(("stride", "sectors"), [(1, 2), (2, 4), (16, 32)])
def test_halves_are_two_bytes(launch, stride, sectors):
    counts = launch("halves", stride)
    read, written = (counts.lines[line(marker)] for marker in ("// widened", "// rounded"))
    assert (read.global_requests, read.global_bytes, read.read_sectors) == (1, 64, sectors)
    assert (written.global_requests, written.global_bytes, written.write_sectors) == (1, 64, 2)
    assert counts.total.flops == 0


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
def test_lanes_that_are_done_with_a_loop_stay_away(launch, order):
    counts = launch("uneven", 5, order)
    read = counts.lines[line("// trips")]
    # In trip i the lanes above i are there: 31, 30, 29, 28, 27, in four sectors each.
    assert (read.global_requests, read.read_sectors) == (5, 5 * 4)
    assert read.global_bytes == 4 * (31 + 30 + 29 + 28 + 27) and read.flops == 145


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
@pytest.mark.parametrize(("odd", "sectors"), [(16, 16), (4, 16), (0, 16)])
def test_asynchronous_copies(launch, odd, sectors, order):
    counts = launch("asynchronous", odd, order)
    copy = counts.lines[line("// copies")]
    assert (copy.global_requests, copy.read_sectors) == (1, sectors)
    assert copy.global_bytes == copy.global_used == 16 * 16 + 16 * odd
    # All 16 bytes are written, zeros where nothing was read: 8 lanes fill the banks at a time.
    assert (copy.shared_requests, copy.shared_bytes, copy.wavefronts) == (1, 512, 4)
    assert counts.total.read_sectors == sectors and counts.least_bytes == 32 * (sectors + 4)


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
@pytest.mark.parametrize(("step", "turns"), [(1, 4), (8, 32), (3, 4), (2, 8)])
def test_matrices_of_a_warp(launch, step, turns, order):
    counts = launch("matrices", step, order)
    rows = counts.lines[line("// rows")]        # eight rows of 16 bytes at a time
    assert (rows.shared_requests, rows.shared_bytes) == (1, 512)
    assert (rows.wavefronts, rows.ideal_wavefronts) == (turns, 4)
    assert counts.lines[line("// eight deep")].flops == 2 * 16 * 8 * 8
    assert counts.lines[line("// sixteen deep")].flops == 3 * 2 * 16 * 8 * 16
    assert counts.total.flops == 2 * 16 * 8 * (8 + 48) + 32     # and 32 additions in the last line


def test_fragments_of_a_warp(launch):
    counts = launch("fragments", 0)
    assert counts.lines[line("// sixteen wide")].flops == counts.total.flops == 2 * 16 * 16 * 8


def test_what_is_refused():
    with pytest.raises(ValueError, match="Nsight"):
        get_device("cuda", counted=True)
    needs_compiler()
    with pytest.raises(ValueError, match="checks or counts"):
        get_device("emulator", checked=True, counted=True)
