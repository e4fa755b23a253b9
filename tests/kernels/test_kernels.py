"""Each version of each kernel on the emulator, against NumPy in float64."""

import numpy as np
import pytest

from kernels.device import get_device
from kernels.emulator.build import CompilerNotFoundError, compiler
from kernels.launch import load

SIZES = [1, 33, 65, 1000]
ORDERS = ["forward", "reverse", 7]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def needs_compiler(tmp_path_factory, monkeypatch):
    try:
        compiler()
    except CompilerNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


def run_softmax(version, rows, cols, block, order, checked):
    x = (np.random.default_rng(0).standard_normal((rows, cols)) * 5).astype(np.float32)
    device = get_device("emulator", checked)
    y = device.empty((rows, cols))
    per_block = block // 32 if version == "softmax_warp" else block
    load("softmax.cu", device)[version](device.from_numpy(x), y, rows, cols,
                                        grid=-(-rows // per_block), block=block, order=order)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    # Probabilities: the exponential's own error of a few float32 steps, relative to at most 1.
    np.testing.assert_allclose(y.numpy(), e / e.sum(1, keepdims=True), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", ["softmax_naive", "softmax_warp"])
@pytest.mark.parametrize("block", [32, 64, 256, 1024])
@pytest.mark.parametrize("cols", SIZES)
def test_softmax(version, block, cols, order):
    for rows in SIZES[:3]:
        run_softmax(version, rows, cols, block, order, checked=False)


@pytest.mark.parametrize("version", ["softmax_naive", "softmax_warp"])
def test_softmax_checked(version):
    run_softmax(version, 33, 65, 64, 7, checked=True)
