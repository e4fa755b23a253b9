"""Optimizer steps, the norm and scaling over many arrays: on the emulator, against NumPy."""

import re

import numpy as np
import pytest

from kernels import grids
from kernels.launch import HERE
from tensor import cuda_optim
from tensor.cuda_launch import Version
from tensor.dtypes import HALVES, converted, name_of, widened
from tests.kernels.devices import ORDERS, backend, close, needs_device, normal

SHAPES = [(33, 65), (1,), (1000,), (65,), (0,), (4096,), (3, 1366), (4097,)]
MANY = SHAPES + [(5,)] * 130        # three launches
slow = pytest.mark.slow


@pytest.fixture
def be(request):
    needs_device()
    return backend()


def drawn(be, shapes, seed=0):
    hosts = normal(seed, *shapes)
    return hosts, [be.from_numpy(x) for x in hosts]


def adamw(p, g, m, v, step, lr, betas, eps, decay):
    """The paper's algorithm 2, in float64."""
    p, g, m, v = (x.astype(np.float64) for x in (p, g, m, v))
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    update = m / (1 - betas[0]**step) / (np.sqrt(v / (1 - betas[1]**step)) + eps)
    return p - lr * decay * p - lr * update, m, v


@slow
@pytest.mark.parametrize("block", [32, 256, 1024])
@pytest.mark.parametrize("name", ["adamw_naive", "adamw_many", "adamw_vector"])
def test_adamw(be, name, block):
    runs = [(backend(), SHAPES, order) for order in ORDERS]
    runs += [(backend(True), SHAPES[:4], ORDERS[-1]), (backend(), MANY, None)]
    for be, shapes, order in runs:
        given = [drawn(be, shapes, seed) for seed in range(4)]
        given[3] = ([x * x for x in given[3][0]], [be.from_numpy(x * x) for x in given[3][0]])
        numbers = (3, 1e-2, (0.9, 0.95), 1e-8, 0.1)
        cuda_optim.adamw_step(be, *(arrays for _, arrays in given), *numbers,
                              version=Version(name, block, order))
        for i in range(len(shapes)):
            expected = adamw(*(hosts[i] for hosts, _ in given), *numbers)
            for (_, arrays), e in zip([given[0], given[2], given[3]], expected, strict=True):
                close(arrays[i], e, 1e-6)
            np.testing.assert_array_equal(given[1][1][i].numpy(), given[1][0][i])


@slow
@pytest.mark.parametrize("dtype", HALVES, ids=name_of)
@pytest.mark.parametrize("name", ["adamw_master_many", "adamw_master_vector"])
def test_adamw_with_masters(be, name, dtype):
    """Against the formula on the masters; the parameters are what these round to."""
    runs = [(backend(), SHAPES, order, 32) for order in ORDERS]
    runs += [(backend(True), SHAPES[:4], ORDERS[-1], 256), (backend(), MANY, None, 1024)]
    for be, shapes, order, block in runs:
        (w, masters), (g, _), (m, ms), (v, _) = (drawn(be, shapes, seed) for seed in range(4))
        v = [x * x for x in v]
        vs = [be.from_numpy(x) for x in v]
        ps, gs = ([be.from_numpy(converted(x, dtype)) for x in xs] for xs in (v, g))
        numbers = (3, 1e-2, (0.9, 0.95), 1e-8, 0.1)
        cuda_optim.adamw_step(be, ps, gs, ms, vs, *numbers, masters,
                              version=Version(name, block, order))
        for i in range(len(shapes)):
            expected = adamw(w[i], widened(converted(g[i], dtype)), m[i], v[i], *numbers)
            for got, e in zip([masters[i], ms[i], vs[i]], expected, strict=True):
                close(got, e, 1e-6)
            rounded = widened(converted(masters[i].numpy(), dtype))
            np.testing.assert_array_equal(be.to_numpy(ps[i]), rounded)
            np.testing.assert_array_equal(be.to_numpy(gs[i]), widened(converted(g[i], dtype)))


@slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("block", [32, 256])
def test_sgd(be, momentum, block):
    for order, be in [*((order, backend()) for order in ORDERS), (ORDERS[-1], backend(True))]:
        (p, ps), (g, gs), (v, vs) = (drawn(be, SHAPES, seed) for seed in range(3))
        cuda_optim.sgd_step(be, ps, gs, vs if momentum else None, 0.1, momentum, 0.01,
                            version=Version("sgd_many", block, order))
        for i in range(len(SHAPES)):
            update = g[i] + 0.01 * p[i].astype(np.float64)
            if momentum:
                update = momentum * v[i] + update
                close(vs[i], update, 1e-6)
            close(ps[i], p[i] - 0.1 * update, 1e-6)


@slow
@pytest.mark.parametrize("block", [32, 256, 1024])
def test_norm_and_scale(be, block):
    runs = [(order, backend(), SHAPES) for order in ORDERS]
    runs += [(ORDERS[-1], backend(True), SHAPES), (None, backend(), MANY)]
    for order, be, shapes in runs:
        hosts, arrays = drawn(be, shapes)
        total = cuda_optim.sum_of_squares(be, arrays, Version("squares_many", block, order))
        exact = sum(float(np.square(x, dtype=np.float64).sum()) for x in hosts)
        assert abs(total - exact) <= 1e-12 * exact
        cuda_optim.scale(be, arrays, 0.25, Version("scale_many", block, order))
        for array, host in zip(arrays, hosts, strict=True):
            np.testing.assert_array_equal(array.numpy(), host * 0.25)


@slow
@pytest.mark.parametrize("dtype", HALVES, ids=name_of)
def test_norm_and_scale_of_halves(be, dtype):
    runs = [(order, backend(), SHAPES) for order in ORDERS]
    for order, be, shapes in [*runs, (ORDERS[-1], backend(True), SHAPES), (None, backend(), MANY)]:
        hosts, floats = drawn(be, shapes)
        halves = [converted(x, dtype) for x in hosts]
        mixed = [be.from_numpy(x) for x in halves] + floats
        total = cuda_optim.sum_of_squares(be, mixed, Version("squares_many", 64, order))
        exact = sum(float(np.square(widened(x), dtype=np.float64).sum()) for x in halves + hosts)
        assert abs(total - exact) <= 1e-12 * exact
        cuda_optim.scale(be, mixed, 0.3, Version("scale_many", 64, order))
        for array, x in zip(mixed, halves + hosts, strict=True):
            expected = widened(converted(widened(x) * np.float32(0.3), x.dtype))
            np.testing.assert_array_equal(be.to_numpy(array), expected)


@slow
def test_few_launches_one_read_and_nothing_sent(be):
    sets = [drawn(be, MANY, seed)[1] for seed in range(4)]
    be.device.launches = 0
    be.device.transfers.reset()
    cuda_optim.adamw_step(be, *sets, 1, 1e-3, (0.9, 0.999), 1e-8, 0.01)
    assert be.device.launches == 3
    cuda_optim.sum_of_squares(be, sets[0])
    assert be.device.launches == 3 + 4
    transfers = be.device.transfers
    assert (transfers.to_device, transfers.from_device, transfers.from_device_bytes) == (0, 1, 8)


@slow
def test_squares_beyond_float32_arrays_with_gaps_and_none(be):
    huge = be.from_numpy(np.array([1e30, 1e-30], np.float32))
    assert cuda_optim.sum_of_squares(be, [huge]) == pytest.approx(1e60, rel=1e-6)
    assert cuda_optim.sum_of_squares(be, []) == 0.0
    cuda_optim.scale(be, [], 2.0)
    base = be.from_numpy(np.arange(12, dtype=np.float32).reshape(3, 4))
    cuda_optim.scale(be, [base.permute((1, 0))[1:]], 2.0)
    expected = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected[:, 1:] *= 2
    np.testing.assert_array_equal(base.numpy(), expected)
    with pytest.raises(TypeError, match="wants float32, not int64"):
        cuda_optim.scale(be, [be.from_numpy(np.arange(3))], 2.0)


def test_the_host_cuts_arrays_as_the_kernels_do():
    source = (HERE / "optimizer.cu").read_text()
    assert int(re.search(r"constexpr int CHUNK = (\d+)", source)[1]) == grids.CHUNK
    table = (HERE / "common.cuh").read_text()
    assert int(re.search(r"struct Table {\s*long long n\[(\d+)\]", table)[1]) == (
        cuda_optim.MOST_ARRAYS)
