"""The versions for tensor cores round what they say and nothing else; mistakes in them show; and
`matmul_precision` chooses them.
"""

import numpy as np
import pytest

import tensor
from kernels.device import get_device
from kernels.launch import HERE, KernelError, Module, load
from tensor import cuda_matmul, matmul_precision
from tensor.cuda_launch import Version
from tensor.dtypes import BFLOAT16, converted, named, widened
from tests.kernels.devices import NAME, ORDERS, backend, close, needs_device, normal
from tests.kernels.emulated import needs_compiler
from tests.kernels.matmul_cases import FLAGS, check, lying
from tests.kernels.test_ptx import bf16, tf32

pytestmark = pytest.mark.slow
ROUNDING = {"matmul_wmma": tf32, "matmul_mma_tf32": tf32, "matmul_mma_bf16": bf16}


@pytest.fixture(autouse=True)
def _compiler():
    needs_device()


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


@pytest.mark.parametrize("name", ROUNDING)
def test_operands_are_rounded_and_nothing_else(name):
    be, version = backend(), Version(name, 128 if name == "matmul_wmma" else 256)
    a, b = normal(0, (70, 200), (200, 40))
    exact = a.astype(np.float64) @ b
    rounded = ROUNDING[name](a).astype(np.float64) @ ROUNDING[name](b)
    for flags in FLAGS:
        got = cuda_matmul.product(be, lying(be, version, a, flags[0], 0),
                                  lying(be, version, b, flags[1], 0), None, *flags,
                                  version=version).numpy()
        assert rms(got - rounded) < 1e-5 * rms(exact)       # a tensor core adds toward zero
        assert rms(got - exact) > 1e-4 * rms(exact)


def test_three_products_in_tf32_are_as_good_as_one_in_float32():
    be = backend()
    a, b = normal(0, (40, 1000), (1000, 50))
    exact, errors = a.astype(np.float64) @ b, {}
    for name, block in [("matmul_mma_3xtf32", 256), ("matmul_registers", 64)]:
        got = cuda_matmul.matmul(be, be.from_numpy(a), be.from_numpy(b), False, False,
                                 Version(name, block))
        errors[name] = rms(got.numpy() - exact) / rms(exact)
    assert errors["matmul_mma_3xtf32"] < 2 * errors["matmul_registers"] < 2e-6


@pytest.mark.parametrize("K", [300, 2048])      # as one sum, and in four pieces
def test_products_of_bfloat16_are_rounded_once(K):
    be = backend()
    a, b, bias = (widened(converted(x, BFLOAT16)) for x in normal(0, (30, K), (K, 40), (40,)))
    on = [be.from_numpy(converted(x, BFLOAT16)) for x in (a, b, bias)]
    got = be.linear(*on, False)
    assert got.dtype == BFLOAT16
    expected = (a.astype(np.float64) @ b + bias).astype(np.float32)
    unlike = be.to_numpy(got) != widened(converted(expected, BFLOAT16))
    assert unlike.mean() < 0.02         # those whose float32 sum fell on the other side of a half
    close(be.to_numpy(got), expected, 4e-3)
    weight = be.linear_backward_weight(on[0].permute((1, 0)), on[1])
    close(be.to_numpy(weight), a.astype(np.float64) @ b, 4e-3)
    mixed = be.matmul(on[0], be.from_numpy(converted(b, named("float16"))), False, False)
    close(be.to_numpy(mixed), a.astype(np.float64) @ b, 4e-3)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("version", ["matmul_mma_tf32", "matmul_mma_bf16_storage"])
def test_no_bank_conflict_and_whole_sectors_of_a_and_b(version, flags):
    """However the operands lie, as the emulator counts (kernels/emulator/counts.py)."""
    if NAME != "emulator":
        pytest.skip("the emulator counts; on a GPU Nsight Compute does")
    device, bf16_bits = get_device("emulator", counted=True), version.endswith("storage")
    M, N, K = 128, 256, 64
    a, b, c = (device.from_numpy(np.ones(shape, np.uint16 if bf16_bits else np.float32))
               for shape in ((M, K), (K, N), (M, N)))
    device.counts.clear()
    load("matmul_mma.cu", device)[version](
        a, b, None, c, M, N, K, M if flags[0] else K, K if flags[1] else N, *map(int, flags), 0, 1,
        (1,), (0,), (0,), 1, grid=2, block=256)
    total = device.counts[version].total
    assert total.wavefronts == total.ideal_wavefronts > 0
    assert total.read_sectors * 32 == (2 * M * K + K * N) * c.dtype.itemsize    # A for both tiles
    # Four lanes store 8 neighbours of a row: a sector of floats, but half of one of bfloat16.
    assert total.write_sectors * 32 == M * N * 4


# ---- planted bugs

# What is said in the checked mode; without words, the numbers are wrong.
BUGS = {
    "no wait": ("        cp_async_wait<STAGES - 2>();\n", "", "unlanded"),
    "waits for too few": ("cp_async_wait<STAGES - 2>", "cp_async_wait<STAGES - 1>", "unlanded"),
    "no barrier": ("        __syncthreads();\n", "", "uninitialised|unlanded|race"),
    "two stages for three": ("to = to == STAGES - 1 ?", "to = to == STAGES - 2 ?", None),
    "swizzled on one side": ("part_row<OF_A>(i) * 8 ^ 8 * t", "part_row<OF_A>(i) * 8", None),
    "zeros forgotten": ("max(0, min(inside, E))", "E", "out of bounds"),
}


def planted(folder, device, bug):
    """The tf32 kernel with a bug."""
    old, new, _ = BUGS[bug]
    head, entry, *_ = (HERE / "matmul_mma.cu").read_text().split('extern "C"')
    assert head.count(old) == 1
    (folder / "matmul_mma.cu").write_text(head.replace(old, new) + 'extern "C"' + entry)
    return Module(folder / "matmul_mma.cu", device)


@pytest.mark.skipif(NAME != "emulator", reason="a GPU tells of no such bug")
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_show(bug, tmp_path, monkeypatch):
    needs_compiler()
    words, version = BUGS[bug][2], Version("matmul_mma_tf32", 256, ORDERS[-1])
    device = backend(checked=bool(words)).device
    monkeypatch.setitem(device.modules, "matmul_mma.cu", planted(tmp_path, device, bug))
    with pytest.raises(KernelError if words else AssertionError, match=words):
        check(version, 33, 68, 84, False, False, checked=bool(words))


# ---- the choice

def product(precision, rows=20, backward_inside=True):
    """y and the gradients of a linear layer on the device."""
    x, w, b = normal(1, (rows, 64), (64, 48), (48,))
    inputs = [tensor.Tensor(v, requires_grad=True, device=NAME) for v in (x, w, b)]
    with matmul_precision(precision):
        y = tensor.linear(*inputs)
        if backward_inside:
            y.backward(np.ones(y.shape, np.float32))
    if not backward_inside:
        y.backward(np.ones(y.shape, np.float32))
    exact = [x.astype(np.float64) @ w + b, np.ones((rows, 48)) @ w.T.astype(np.float64),
             x.T.astype(np.float64) @ np.ones((rows, 48))]
    got = [y.numpy(), inputs[0].grad.numpy(), inputs[1].grad.numpy()]
    return [rms(g - e) / rms(e) for g, e in zip(got, exact, strict=True)]


@pytest.mark.parametrize(("precision", "least", "most"), [
    ("float32", 0, 1e-6), ("3xtf32", 0, 1e-6), ("tf32", 1e-5, 3e-3), ("bf16", 1e-4, 2e-2)])
def test_forward_and_backward(precision, least, most):
    assert all(least <= error < most for error in product(precision))
    assert max(product(precision, rows=1)[:2]) < 1e-6       # few rows are left alone
    if least:
        forward, *gradients = product(precision, backward_inside=False)
        assert forward > least and max(gradients) < 1e-6


def test_a_gpu_without_them(monkeypatch):
    """It multiplies bfloat16 in float32, and refuses what it was asked for by name."""
    be = backend()
    a, b = (widened(converted(x, BFLOAT16)) for x in normal(0, (30, 50), (50, 40)))
    monkeypatch.setattr(be.device, "architecture", 75)
    got = be.matmul(*(be.from_numpy(converted(x, BFLOAT16)) for x in (a, b)), False, False)
    assert got.dtype == BFLOAT16
    close(be.to_numpy(got), a.astype(np.float64) @ b, 4e-3)
    words = r"matmul_mma_tf32 \(matmul_mma\.cu\) needs a GPU of architecture sm_80 or later"
    with matmul_precision("tf32"), pytest.raises(KernelError, match=words):
        be.matmul(be.from_numpy(a), be.from_numpy(b), False, False)
