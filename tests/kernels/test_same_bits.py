"""The same bits whatever the order of the threads: nothing adds up by who comes first."""

import numpy as np
import pytest

from tensor import cuda_attention, cuda_fused, cuda_matmul, cuda_optim
from tensor.backend import DropoutMask
from tensor.cuda_launch import Version
from tests.kernels.devices import ORDERS, backend, needs_device, normal

pytestmark = pytest.mark.slow


def products(be, order):
    a, b = (be.from_numpy(x) for x in normal(0, (37, 70), (70, 66)))
    for name, block in [("matmul_tiles", 256), ("matmul_registers", 64), ("matmul_vector", 256),
                        ("matmul_rows", 128), ("matmul_wmma", 128), ("matmul_mma_tf32", 256),
                        ("matmul_mma_3xtf32", 256), ("matmul_mma_bf16", 256)]:
        yield cuda_matmul.matmul(be, a, b, False, False, Version(name, block, order))


def rows(be, order):
    x, dy, w = (be.from_numpy(x) for x in normal(1, (37, 68), (37, 68), (68,)))
    for name in ("softmax", "log_softmax"):
        for kind in ("warp", "registers", "vector", "block", "long"):
            yield getattr(cuda_fused, name)(be, x, Version(f"{name}_{kind}", 64, order))
            yield getattr(cuda_fused, f"{name}_backward")(
                be, dy, x, Version(f"{name}_backward_{kind}", 64, order))
    for kind in ("warp", "registers", "vector", "block", "long"):
        y, mean, rstd = cuda_fused.layer_norm(be, x, w, w, 1e-5,
                                              Version(f"layer_norm_{kind}", 64, order))
        yield from (y, mean, rstd)
    for kind in ("rows", "block", "vector"):
        yield from cuda_fused.layer_norm_backward(
            be, dy, x, w, mean, rstd, x, Version(f"layer_norm_backward_{kind}", 64, order))


def losses(be, order):
    x, dy = (be.from_numpy(x) for x in normal(2, (37, 68), (50, 12)))
    ids = np.random.default_rng(0).integers(0, 20, 50)
    yield cuda_fused.embedding_backward(be, dy, be.from_numpy(ids), 20,
                                        Version("embedding_backward_first", 64, order))
    targets = be.from_numpy(ids[:37])
    for kind in ("block", "vector"):
        loss, lse, count = cuda_fused.cross_entropy(be, x, targets, 3,
                                                    Version(f"cross_entropy_{kind}", 64, order))
        yield from (loss, lse, count, cuda_fused.cross_entropy_backward(
            be, loss, x, targets, 3, lse, count,
            Version(f"cross_entropy_backward_{kind}", 64, order)))
    total = cuda_optim.sum_of_squares(be, [x, dy], Version("squares_many", 64, order))
    yield be.from_numpy(np.array([total], np.float64).view(np.int64))


def heads(be, order):
    q, k, v, dout = (be.from_numpy(x) for x in normal(3, *[(1, 2, 70, 36)] * 4))
    options = (None, 0.2, True, DropoutMask(0.2, 1, 2))
    for name, block in [("attention_softmax_warp", 64), ("attention_rows", 96),
                        ("attention_tiles_64", 128), ("attention_mma_bf16_64", 128)]:
        out, _, stats = cuda_attention.attention(be, q, k, v, *options, False,
                                                 Version(name, block, order))
        yield from (out, *stats)
    for name in ("attention_softmax_backward_warp", "attention_tiles_backward",
                 "attention_mma_backward_bf16"):
        yield from cuda_attention.attention_backward(be, dout, None, q, k, v, out, *options, stats,
                                                     Version(name, 64, order))


@pytest.mark.parametrize("family", [products, rows, losses, heads])
def test_the_same_bits_in_every_order(family):
    needs_device()
    be = backend()
    first = [x.numpy() for x in family(be, ORDERS[0])]
    for order in [*ORDERS[1:], 11]:
        again = [x.numpy() for x in family(be, order if len(ORDERS) > 1 else None)]
        for a, b in zip(first, again, strict=True):
            assert a.tobytes() == b.tobytes()
