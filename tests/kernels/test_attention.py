"""Each version of attention on the emulator, against a slow obvious one in float64."""

import math

import numpy as np
import pytest

from tensor import cuda_attention
from tensor.backend import DropoutMask
from tensor.cuda_launch import Version
from tests.kernels.attention_cases import check, reference, sized
from tests.kernels.devices import ORDERS, backend, close, needs_device, normal

pytestmark = pytest.mark.slow
LOW = np.finfo(np.float32).min
FORWARD = [Version("attention_softmax_naive", 32), Version("attention_softmax_naive", 256),
           Version("attention_softmax_warp", 32), Version("attention_softmax_warp", 256),
           Version("attention_rows", 32), Version("attention_rows", 128),
           Version("attention_rows", 256), Version("attention_tiles", 128)]
BACKWARD = [Version("attention_softmax_backward_naive", 64),
            Version("attention_softmax_backward_warp", 64), Version("attention_tiles_backward", 64)]
# (B, H, T, S, D): one at a time 1, 33, 65 and 1000; D of 33, 64 and 100 take the larger tiles
SHAPES = [(2, 3, 33, 33, 8), (1, 2, 1, 1, 1), (1, 1, 1, 1000, 4), (1, 1, 65, 65, 33),
          (1, 2, 33, 65, 64), (2, 1, 3, 130, 20), (1, 1, 130, 131, 32), (33, 1, 2, 2, 4),
          (1, 1, 33, 65, 100), (1, 65, 2, 3, 4), (1, 1, 1000, 1000, 2)]


@pytest.fixture(autouse=True)
def _compiler():
    needs_device()


@pytest.mark.parametrize("version", FORWARD, ids=str)
def test_versions_and_shapes(version):
    for order in ORDERS:
        for number, shape in enumerate(SHAPES):
            how = sized(version, shape[4])._replace(order=order)
            check(how, None, shape, causal=number % 2 == 0)
        for causal in (False, True):
            check(sized(version, 8)._replace(order=order), None, (1, 2, 9, 40, 8), causal)
    check(sized(version, 8)._replace(order=ORDERS[-1]), None, (1, 2, 9, 40, 8), True, checked=True)


@pytest.mark.parametrize("version", BACKWARD, ids=str)
def test_backward_versions_and_shapes(version):
    for order in ORDERS:
        for number, shape in enumerate(SHAPES):
            check(None, version._replace(order=order), shape, causal=number % 2 == 0)
        for causal in (False, True):
            check(None, version._replace(order=order), (1, 2, 9, 40, 8), causal)
    check(None, version._replace(order=ORDERS[-1]), (1, 2, 9, 40, 8), True, checked=True)
    for D in (36, 65):
        check(None, version._replace(order=ORDERS[-1]), (1, 1, 20, 40, D), False, checked=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("axes", [(2, 3, 40, 50), (1, 3, 1, 50), (2, 1, 40, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("versions", [0, 1, 2], ids=["plain", "rows", "tiles"])
def test_a_bias_broadcasts(versions, axes, causal):
    forward, backward = sized(FORWARD[[2, 5, 7][versions]], 8), BACKWARD[1 + versions // 2]
    check(forward, backward, (2, 3, 40, 50, 8), causal, normal(5, axes)[0].astype(np.float64))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 2, 33, 41, 8), (1, 1, 70, 70, 36)])
@pytest.mark.parametrize("versions", [0, 1, 2], ids=["plain", "rows", "tiles"])
def test_dropout_has_the_bits_of_the_cpu(versions, shape, causal):
    forward, backward = sized(FORWARD[[2, 5, 7][versions]], shape[4]), BACKWARD[1 + versions // 2]
    check(forward, backward, shape, causal, dropout=DropoutMask(0.3, 2**63 + 1, 5))
    check(forward, backward, (1, 1, 20, 20, 8), causal, dropout=DropoutMask(0.3, 1, 5),
          checked=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dropout", [None, DropoutMask(0.3, 1, 2)])
def test_weights_and_their_gradient(dropout, causal):
    bias = normal(5, (2, 1, 1, 65))[0].astype(np.float64)
    check(None, None, (2, 3, 33, 65, 8), causal, bias, dropout, weights=True)
    for backward in BACKWARD[:2]:
        check(FORWARD[0], backward, (2, 3, 33, 65, 8), causal, bias, dropout, weights=True)


@pytest.mark.parametrize("version", FORWARD, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_rows_whose_keys_are_all_masked(version, causal):
    """By the lowest number, as a padding mask does: equal weights on what causality lets it see.
    By -inf: NaN, in that row alone.
    """
    be = backend()
    B, T, S, D = 3, 40, 41, 4
    q, k, v = normal(0, (B, 1, T, D), (B, 1, S, D), (B, 1, S, D))
    for mask in (LOW, -math.inf):
        bias = np.zeros((B, 1, 1, S), np.float32)
        bias[1] = mask
        bias[2, ..., :30] = mask
        out, _, _ = cuda_attention.attention(
            be, *map(be.from_numpy, (q, k, v)), be.from_numpy(bias), 0.5, causal, None, False,
            sized(version, D))
        for row in range(T):
            seen = S - T + row + 1 if causal else S
            got = out.numpy()[:, 0, row]
            if mask == LOW:
                np.testing.assert_allclose(got[1], v[1, 0, :seen].mean(0), rtol=1e-4, atol=1e-6)
                if seen <= 30:
                    np.testing.assert_allclose(got[2], v[2, 0, :seen].mean(0), rtol=1e-4,
                                               atol=1e-6)
            else:
                assert np.isnan(got[1]).all()
                assert np.isnan(got[2]).all() == (seen <= 30)
            s = 0.5 * k[0, 0, :seen].astype(np.float64) @ q[0, 0, row]
            close(got[0], np.exp(s - s.max()) @ v[0, 0, :seen] / np.exp(s - s.max()).sum())


@pytest.mark.parametrize("D", [8, 48, 100, 200, 300])
def test_the_best_version_is_right_for_all_sizes_of_heads(D):
    for T in (1, 5):
        check(None, None, (1, 2, T, 37, D), True)
        check(None, None, (1, 2, T, 37, D), True, dropout=DropoutMask(0.1, 3, 4))
    be = backend()
    q, k, v, dout = normal(0, (1, 1, 5, D), (1, 1, 6, D), (1, 1, 6, D), (1, 1, 5, D))
    options = (None, 0.1, True, None)
    arrays = [be.from_numpy(x) for x in (q, k, v)]
    out, _, stats = cuda_attention.attention(be, *arrays, *options, False)
    got = cuda_attention.attention_backward(be, be.from_numpy(dout), None, *arrays, out, *options,
                                            stats)
    expected = reference(q, k, v, *options, dout, None)[2:]
    for g, e in zip(got, expected, strict=True):
        close(g, e)


@pytest.mark.parametrize("shape", [(0, 2, 3, 3, 4), (1, 2, 0, 3, 4), (1, 0, 3, 3, 4)])
def test_empty_ones(shape):
    be = backend()
    B, H, T, S, D = shape
    q, k = be.empty((B, H, T, D)), be.from_numpy(np.ones((B, H, S, D), np.float32))
    for want in (False, True):
        out, weights, stats = cuda_attention.attention(be, q, k, k, None, 1.0, True, None, want)
        assert out.shape == q.shape and (not want or weights.shape == (B, H, T, S))
    dq, dk, dv = cuda_attention.attention_backward(be, q, None, q, k, k, out, None, 1.0, True, None,
                                                   stats)
    assert dq.shape == q.shape
    np.testing.assert_array_equal([dk.numpy(), dv.numpy()], np.zeros((2, B, H, S, D)))


def test_nothing_as_large_as_the_scores_is_made(monkeypatch):
    be = backend()
    sizes = []
    empty = be.device.empty
    monkeypatch.setattr(be.device, "empty", lambda shape, *options: (
        sizes.append(math.prod(shape)), empty(shape, *options))[1])
    T, D = 200, 8
    q, k, v, dout = (be.from_numpy(x) for x in normal(0, *[(1, 2, T, D)] * 4))
    options = (None, 0.1, True, DropoutMask(0.1, 1, 2))
    out, _, stats = cuda_attention.attention(be, q, k, v, *options, False)
    cuda_attention.attention_backward(be, dout, None, q, k, v, out, *options, stats)
    cuda_attention.attention(be, q[:, :, :1], k, v, *options, False)
    assert max(sizes) == 2 * T * D
