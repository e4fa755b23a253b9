"""kernels/cache.cu: keys and values go where NumPy puts them, and nothing else changes."""

import numpy as np
import pytest

from tests.kernels.devices import ORDERS, backend, needs_device, normal

pytestmark = pytest.mark.slow


@pytest.fixture
def be():
    needs_device()
    return backend()


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("B", "H", "T", "D", "room", "length"), [
    (1, 1, 1, 1, 1, 0), (1, 12, 1, 64, 33, 32), (3, 2, 5, 7, 9, 4), (2, 3, 1, 65, 8, 0),
])
def test_they_go_behind_the_length(be, B, H, T, D, room, length, dtype, order, checked):
    be = backend(checked)
    k_room, v_room = (x.astype(dtype) for x in normal(1, *[(B, H, room, D)] * 2))
    on_device = [be.from_numpy(x) for x in (k_room, v_room)]
    qkv = normal(2, (B, T, 3 * H, D))[0].astype(dtype)
    heads = qkv.transpose(0, 2, 1, 3)               # (B, 3H, T, D): k and v are views of one array
    heads_there = be.permute(be.from_numpy(qkv), (0, 2, 1, 3))
    k, v = (be.slice(heads_there, (slice(None), slice(i * H, (i + 1) * H))) for i in (1, 2))
    name = {"float32": "cache_append_float", "float16": "cache_append_short"}[dtype]
    kernel = be.kernel("cache.cu", name)
    n = B * H * T * D
    kernel(k.strided, v.strided, *on_device, n, k.shape, k.strides, v.strides, room, length,
           grid=3, block=64, order=order)
    k_room[:, :, length:length + T] = heads[:, H:2 * H]
    v_room[:, :, length:length + T] = heads[:, 2 * H:]
    for there, here in zip(on_device, (k_room, v_room)):
        np.testing.assert_array_equal(there.numpy(), here)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_primitive_takes_one_launch(be, dtype):
    B, H, T, D, room, length = 2, 3, 4, 5, 11, 6
    host = [x.astype(dtype) for x in normal(1, *[(B, H, room, D)] * 2)]
    there = [be.from_numpy(x) for x in host]
    new = [x.astype(dtype) for x in normal(3, *[(B, H, T, D)] * 2)]
    before = be.launches
    be.cache_append(*there, *(be.from_numpy(x) for x in new), length)
    assert be.launches - before == 1
    for room_there, room_here, x in zip(there, host, new):
        room_here[:, :, length:length + T] = x
        np.testing.assert_array_equal(room_there.numpy(), room_here)
