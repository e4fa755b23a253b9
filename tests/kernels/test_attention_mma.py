"""Attention on tensor cores, on the emulator: against float64, in any order of threads; how it
reads shared memory; and what its barriers and waits are for.
"""

import math
import re

import numpy as np
import pytest

from kernels.device import get_device
from kernels.launch import HERE, KernelError
from tensor import cuda_attention
from tensor.backend import DropoutMask
from tensor.cuda_backend import CudaBackend
from tensor.cuda_launch import Version
from tensor.dtypes import BFLOAT16, FLOAT32
from tests.kernels.attention_cases import as_heads, check, reference, sized, tolerance
from tests.kernels.devices import ORDERS, backend, close, needs_device, normal
from tests.kernels.emulated import maker, needs_compiler

pytestmark = pytest.mark.slow
PRECISIONS = ["tf32", "bf16", "bf16_storage"]
FORWARD = [Version(f"attention_mma_{p}", 128) for p in PRECISIONS]
BACKWARD = [Version(f"attention_mma_backward_{p}", 128) for p in PRECISIONS]
BOTH = pytest.mark.parametrize(("forward", "backward"), list(zip(FORWARD, BACKWARD)),
                               ids=PRECISIONS)
# (B, H, T, S, D): tiles of 64 queries and 64 keys (32 for D > 64), begun and whole, one and several
SHAPES = [(2, 3, 33, 33, 8), (1, 2, 1, 1, 1), (1, 1, 65, 65, 33), (1, 2, 33, 65, 64),
          (2, 1, 3, 130, 20), (1, 1, 64, 128, 32), (1, 1, 70, 131, 100), (1, 1, 17, 33, 128),
          (1, 9, 2, 3, 4)]
DROPOUT = DropoutMask(0.3, 2**63 + 1, 5)


@pytest.fixture(autouse=True)
def _compiler():
    needs_device()


@pytest.mark.parametrize("version", FORWARD, ids=PRECISIONS)
def test_shapes(version):
    for order in ORDERS:
        for number, shape in enumerate(SHAPES):
            how = sized(version, shape[4])._replace(order=order)
            check(how, None, shape, causal=number % 2 == 0)
        for causal in (False, True):
            check(sized(version, 8)._replace(order=order), None, (1, 2, 9, 70, 8), causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("version", FORWARD, ids=PRECISIONS)
def test_bias_and_dropout(version, causal):
    """A bias may broadcast; rows of 65 keys don't begin at a multiple of Philox's eight."""
    for axes in [(2, 3, 40, 65), (1, 3, 1, 65), (2, 1, 40, 1), (1, 1, 1, 1)]:
        bias = normal(5, axes)[0].astype(np.float64)
        check(sized(version, 8), None, (2, 3, 40, 65, 8), causal, bias)
        check(sized(version, 8), None, (2, 3, 40, 65, 8), causal, bias, DROPOUT)
    for order in ORDERS:
        check(sized(version, 64)._replace(order=order), None, (1, 2, 70, 136, 64), causal,
              dropout=DROPOUT)


@pytest.mark.parametrize("version", FORWARD, ids=PRECISIONS)
def test_checked(version):
    for shape in [(1, 2, 9, 70, 8), (1, 1, 66, 67, 64), (1, 1, 5, 33, 100)]:
        bias = normal(5, (1, 1, *shape[2:4]))[0].astype(np.float64)
        how = sized(version, shape[4])._replace(order=ORDERS[-1])
        check(how, None, shape, True, bias, DROPOUT, checked=True)


@pytest.mark.parametrize("version", FORWARD[:2], ids=PRECISIONS[:2])
def test_rows_without_keys(version):
    """A row masked by the lowest number has equal weights; by -inf, or with no key to see, NaN."""
    be = backend()
    T, S, D = 70, 66, 8                     # the first four queries see no key
    q, k, v = normal(0, (2, 1, T, D), (2, 1, S, D), (2, 1, S, D))
    bias = np.zeros((2, 1, T, 1), np.float32)
    bias[0, :, 10], bias[0, :, 20] = np.finfo(np.float32).min, -math.inf
    out, _, _ = cuda_attention.attention(be, *map(be.from_numpy, (q, k, v)), be.from_numpy(bias),
                                         0.5, True, None, False, sized(version, D))
    nan = np.isnan(out.numpy()).all(3)[:, 0]
    assert np.flatnonzero(nan[0]).tolist() == [0, 1, 2, 3, 20]
    assert np.flatnonzero(nan[1]).tolist() == [0, 1, 2, 3]
    expected = reference(q[:, :, 4:], k, v, None, 0.5, True, None, q[:, :, 4:], None)[0]
    expected[0, 0, 10 - 4], expected[0, 0, 20 - 4] = v[0, 0, :7].mean(0, np.float64), np.nan
    close(out.numpy()[:, :, 4:], expected, tolerance(version))


@pytest.mark.parametrize("version", FORWARD[:2], ids=PRECISIONS[:2])
def test_the_same_statistics_as_in_float32(version):
    """What the backward takes: each row's maximum, and 1 / sum of exp(score - maximum)."""
    be = backend()
    qkv = [as_heads(be, x) for x in normal(0, (1, 2, 40, 32), (1, 2, 70, 32), (1, 2, 70, 32))]
    how = [sized(v, 32) for v in (Version("attention_tiles"), version)]
    exact, got = (cuda_attention.attention(be, *qkv, None, 0.2, True, None, False, h)[2]
                  for h in how)
    for a, b in zip(exact, got, strict=True):
        close(b, a.numpy().astype(np.float64), tolerance(version))


@BOTH
def test_backward_shapes(forward, backward):
    shapes = [(2, 2, 33, 33, 8), (1, 2, 1, 1, 1), (1, 1, 65, 65, 33), (1, 2, 33, 65, 64),
              (2, 1, 3, 130, 20), (1, 1, 64, 128, 32), (1, 1, 131, 140, 64)]
    for order in ORDERS:
        for number, shape in enumerate(shapes):
            check(sized(forward, shape[4]), backward._replace(order=order), shape,
                  causal=number % 2 == 0)
        for causal in (False, True):
            check(sized(forward, 8), backward._replace(order=order), (1, 2, 9, 70, 8), causal)


@pytest.mark.parametrize("causal", [False, True])
@BOTH
def test_backward_with_bias_and_dropout(forward, backward, causal):
    for axes in [(2, 3, 40, 65), (1, 3, 1, 65), (2, 1, 40, 1), (1, 1, 1, 1)]:
        bias = normal(5, axes)[0].astype(np.float64)
        check(sized(forward, 8), backward, (2, 3, 40, 65, 8), causal, bias)
        check(sized(forward, 8), backward, (2, 3, 40, 65, 8), causal, bias, DROPOUT)
    for order in ORDERS:
        check(sized(forward, 64), backward._replace(order=order), (1, 2, 70, 136, 64), causal,
              dropout=DROPOUT)


@BOTH
def test_backward_checked(forward, backward):
    for shape in [(1, 2, 9, 70, 8), (1, 1, 66, 67, 64)]:
        bias = normal(5, (1, 1, *shape[2:4]))[0].astype(np.float64)
        check(sized(forward, shape[4]), backward._replace(order=ORDERS[-1]), shape, True, bias,
              DROPOUT, checked=True)


def test_no_bank_conflicts():
    """Shared memory takes no turn more than it has to, as the emulator counts."""
    needs_compiler()
    be = CudaBackend("emulator")
    be.device = get_device("emulator", counted=True)
    options = (None, 0.1, True, None)
    for forward, backward in zip(FORWARD, BACKWARD):
        dtype = BFLOAT16 if "storage" in forward.name else FLOAT32
        q, k, v = (as_heads(be, x, dtype) for x in normal(0, *[(1, 1, 130, 64)] * 3))
        out, _, stats = cuda_attention.attention(be, q, k, v, *options, False, sized(forward, 64))
        cuda_attention.attention_backward(be, q, None, q, k, v, out, *options, stats, backward)
    counted = {name: c.total.conflict for name, c in be.device.counts.items() if "mma" in name}
    assert len(counted) == 3 * len(PRECISIONS)
    assert set(counted.values()) == {1.0}, counted


# ---- planted bugs

WAIT, BARRIER = r"        cp_async_wait<0>\(\);\n", r"        __syncthreads\(\);[^\n]*\n"
BUGS = {
    "no wait for keys": ("attention_mma", WAIT, 0),
    "no wait for values": ("attention_mma", WAIT, 1),
    "values overwritten": ("attention_mma", BARRIER, 0),
    "keys overwritten": ("attention_mma", BARRIER, 1),
    "no wait in dq": ("attention_mma_backward", WAIT, 0),
    "overwritten in dq": ("attention_mma_backward", BARRIER, 0),
    "no wait in dk": ("attention_mma_backward", WAIT, 1),
    "overwritten in dk": ("attention_mma_backward", BARRIER, 1),
}


def without(file, text, number):
    """The kernels of a file for tf32 and D <= 32, without the number-th match of `text`."""
    head, *kernels = re.split(r'(?=extern "C")', (HERE / f"{file}.cu").read_text())
    at = list(re.finditer(text, head))[number]
    return head[:at.start()] + head[at.end():] + "".join(
        k for k in kernels if re.search(r"tf32_(\w+_)?32\(", k))


@pytest.mark.parametrize("bug", BUGS)
def test_a_missing_wait_or_barrier_shows(bug, tmp_path, monkeypatch):
    needs_compiler()
    be = CudaBackend("emulator", checked=True)
    module, load = maker(tmp_path)(without(*BUGS[bug]), True), be.kernel
    monkeypatch.setattr(be, "kernel", lambda file, name: (
        module[name] if file == f"{BUGS[bug][0]}.cu" else load(file, name)))
    arrays = [as_heads(be, x) for x in normal(0, *[(1, 1, 130, 8)] * 3)]
    options = (None, 1.0, False, None)
    with pytest.raises(KernelError, match=r"attention_mma\w*_32: (unlanded|uninitialised|race)"):
        out, _, stats = cuda_attention.attention(be, *arrays, *options, False,
                                                 Version("attention_mma_tf32_32", 128, ORDERS[-1]))
        cuda_attention.attention_backward(be, out, None, *arrays, out, *options, stats,
                                          BACKWARD[0]._replace(order=ORDERS[-1]))
