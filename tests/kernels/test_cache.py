"""kernels/cache.cu: keys and values go where NumPy puts them, and nothing else changes."""

import numpy as np
import pytest

from tests.kernels.devices import ORDERS, backend, needs_device, normal

pytestmark = pytest.mark.slow


@pytest.fixture
def be():
    needs_device()
    return backend()


def rooms(be, B, H, room, D):
    host = normal(1, (B, H, room, D), (B, H, room, D))
    return host, [be.from_numpy(x) for x in host]


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("B", "H", "T", "D", "room", "length"), [
    (1, 1, 1, 1, 1, 0), (1, 12, 1, 64, 33, 32), (3, 2, 5, 7, 9, 4), (2, 3, 1, 65, 8, 0),
])
def test_they_go_behind_the_length(be, B, H, T, D, room, length, order, checked):
    be = backend(checked)
    (k_room, v_room), on_device = rooms(be, B, H, room, D)
    (qkv,) = normal(2, (B, T, 3 * H, D))
    heads = qkv.transpose(0, 2, 1, 3)               # (B, 3H, T, D): k and v are views of one array
    heads_there = be.permute(be.from_numpy(qkv), (0, 2, 1, 3))
    k, v = (be.slice(heads_there, (slice(None), slice(i * H, (i + 1) * H))) for i in (1, 2))
    kernel = be.kernel("cache.cu", "cache_append")
    n = B * H * T * D
    kernel(k.strided, v.strided, *on_device, n, k.shape, k.strides, v.strides, room, length,
           grid=3, block=64, order=order)
    k_room[:, :, length:length + T] = heads[:, H:2 * H]
    v_room[:, :, length:length + T] = heads[:, 2 * H:]
    for there, here in zip(on_device, (k_room, v_room)):
        np.testing.assert_array_equal(there.numpy(), here)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_primitive_takes_one_launch_or_copies(be, dtype):
    B, H, T, D, room, length = 2, 3, 4, 5, 11, 6
    host, _ = rooms(be, B, H, room, D)
    host = [x.astype(dtype) for x in host]
    there = [be.from_numpy(x) for x in host]
    new = [x.astype(dtype) for x in normal(3, (B, H, T, D), (B, H, T, D))]
    before = be.launches
    be.cache_append(*there, *(be.from_numpy(x) for x in new), length)
    assert be.launches - before == (1 if dtype == "float32" else 2)
    for room_there, room_here, x in zip(there, host, new):
        room_here[:, :, length:length + T] = x
        np.testing.assert_array_equal(room_there.numpy(), room_here)
