"""The tables in the headers of the kernels that work on rows: what the emulator counts, counted."""

import re

import numpy as np
import pytest

from kernels import grids
from kernels.device import get_device
from kernels.launch import HERE, load
from tests.kernels.emulated import needs_compiler

pytestmark = pytest.mark.slow
ROWS, C, V = 64, 768, 50257


@pytest.fixture(scope="module")
def device():
    needs_compiler()
    return get_device("emulator", counted=True)


def launch(device, file, name, *arguments, **geometry):
    """Run a kernel; a shape among its arguments is an array of that shape."""
    rng = np.random.default_rng(0)
    arrays = [device.from_numpy(rng.standard_normal(a, np.float32)) if isinstance(a, tuple) else a
              for a in arguments]
    device.counts.clear()
    load(file, device)[name](*arrays, **geometry)


def assert_in_header(device, file, name, size):
    """The header has this kernel's loads and stores, and after them what it reads and writes, in
    arrays of `size` floats.
    """
    counts = device.counts[name].total
    read, written = counts.read_sectors * 8 / size, counts.write_sectors * 8 / size
    header = (HERE / file).read_text(encoding="utf-8").partition("#include")[0]
    found = re.findall(rf" {counts.global_requests:,} +([\d.]+) +([\d.]+)", header)
    assert any(abs(float(a) - read) < 0.06 and abs(float(b) - written) < 0.06 for a, b in found), (
        f"{name}: {counts.global_requests:,} loads and stores, {read:.2f} read, {written:.2f} "
        f"written; the header has {found} after that many")


@pytest.mark.parametrize("kind", ["naive", "warp", "registers", "vector", "block", "long"])
@pytest.mark.parametrize("way", ["softmax", "softmax_backward"])
def test_softmax(device, way, kind):
    name, arrays = f"{way}_{kind}", 3 if "backward" in way else 2
    launch(device, "softmax.cu", name, *[(ROWS, C)] * arrays, ROWS, C,
           grid=grids.over_rows(name, 64, ROWS), block=64)
    assert_in_header(device, "softmax.cu", name, ROWS * C)


@pytest.mark.parametrize(("kind", "block"), [
    ("naive", 64), ("warp", 64), ("registers", 64), ("vector", 64), ("block", 192), ("long", 64)])
def test_layer_norm(device, kind, block):
    name, x = f"layer_norm_{kind}", (ROWS, C)
    grid = grids.over_rows(name, block, ROWS)
    stats = ((ROWS,), (ROWS,), ROWS, C, 1e-5)
    launch(device, "layer_norm.cu", name, x, (C,), (C,), x, *stats, grid=grid, block=block)
    assert_in_header(device, "layer_norm.cu", name, ROWS * C)
    if kind in ("vector", "long"):
        launch(device, "layer_norm.cu", f"add_{name}", x, x, (C,), (C,), x, x, *stats, grid=grid,
               block=block)
        assert_in_header(device, "layer_norm.cu", f"add_{name}", ROWS * C)


@pytest.mark.parametrize("kind", ["naive", "rows", "columns", "block", "vector", "sum"])
def test_layer_norm_backward(device, kind):
    name, x, blocks = f"layer_norm_backward_{kind}", (ROWS, C), 8
    stats, given = ((ROWS,), (ROWS,)), (x, x, (C,), (ROWS,), (ROWS,))
    if kind in ("naive", "rows"):
        arguments, grid, block = (*given, x), 1 if kind == "naive" else ROWS, 64
        block = 192 if kind == "rows" else 64
    elif kind == "columns":
        arguments, grid, block = (x, x, *stats, (C,), (C,)), 12, 64
    elif kind == "sum":
        arguments, grid, block = ((blocks, 2 * C), (C,), (C,)), 48, 256
    else:
        extra = (x, (blocks, 2 * C)) if kind == "block" else (None, x, (blocks, 2 * C))
        arguments, grid, block = (*given, *extra), blocks, 192 if kind == "block" else 96
    launch(device, "layer_norm.cu", name, *arguments, blocks if kind == "sum" else ROWS, C,
           grid=grid, block=block, shared=8 * C if kind == "block" else 0)
    assert_in_header(device, "layer_norm.cu", name, ROWS * C)


@pytest.mark.parametrize("kind", ["naive", "vector", "backward_naive", "backward_vector",
                                  "backward_bias"])
def test_gelu(device, kind):
    name, x = f"gelu_tanh_{kind}", (ROWS, C)
    if kind == "backward_bias":
        grid = grids.gelu_backward_bias(ROWS, C)
        launch(device, "gelu.cu", name, x, x, (C,), x, (grid[1], C), ROWS, C, grid=grid, block=256)
    else:
        given = (x, x) if "backward" in kind else (x,)
        launch(device, "gelu.cu", name, *given, (C,), x, ROWS * C, C, grid=48, block=256)
    assert_in_header(device, "gelu.cu", name, ROWS * C)


@pytest.mark.parametrize("kind", ["naive", "block", "vector", "backward_naive", "backward_block",
                                  "backward_vector", "fused"])
def test_cross_entropy(device, kind):
    name, rows = f"cross_entropy_{kind}", 8
    targets = device.from_numpy(np.arange(rows))
    logits, end = (rows, V), (rows, V, -100)
    block = 32 if kind == "naive" else 256
    if "backward" in kind:
        arguments = ((1,), logits, targets, (rows,), (1,), logits, *end)
        grid = grids.cross_entropy_backward(name, block, rows, V)
    elif kind == "fused":
        arguments, grid = ((1,), logits, targets, (1,), (rows,), (rows,), logits, *end), rows
    else:
        arguments = (logits, targets, (rows,), (rows,), *end)
        grid = grids.over_rows(name, block, rows)
    launch(device, "cross_entropy.cu", name, *arguments, grid=grid, block=block)
    assert_in_header(device, "cross_entropy.cu", name, rows * V)
