"""The bench's way on a GPU, on stand-ins for the driver and nvcc: what it asks of them, not a time.
tests/gpu/driver_double.py says what that shows.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.bench_gpu import Limits, Timing
from kernels.bench_products import Matmul
from tests.gpu import driver_double
from tests.kernels.emulated import needs_compiler

ROOT = Path(__file__).parents[2]
SMALL = """
import sys
from kernels import bench, bench_gpu
bench_gpu.COPY_BYTES, bench_gpu.ROUNDS, bench_gpu.PLUG_ROUNDS = 1 << 16, 4, 1 << 10
bench_gpu.SAMPLE_SECONDS, bench_gpu.SAMPLES, bench_gpu.WARM_UP_SECONDS = 1e-3, 3, 1e-3
sys.exit(bench.main(sys.argv[1:]))
"""


def test_the_least_time_is_what_memory_or_arithmetic_leaves():
    limits = Limits(bytes_per_s=1e12, float32=1e13, tf32=1e14, bf16=2e14)
    case = Matmul(64, 64, 64)
    assert limits.seconds(case, "matmul_vector") == case.flops / 1e13
    assert limits.seconds(case, "matmul_mma_tf32") == case.bytes / 1e12
    large = Matmul(1024, 1024, 1024)
    assert limits.seconds(large, "matmul_mma_3xtf32") == 3 * large.flops / 1e14
    older = Limits(bytes_per_s=1e12, float32=1e13, tf32=0, bf16=0)     # has no such instruction
    assert older.seconds(large, "matmul_rows_bf16") == large.flops / 1e13
    one = Matmul(1, 1, 1)
    assert limits.seconds(one, "matmul_vector") == 12 / 1e12
    assert Timing(2.0, 1.0, 3.0, True).seconds == 2.0


TUNED = """
import numpy as np
from kernels import tuning
from kernels.cuda import CudaDevice
from tensor.cuda_backend import CudaBackend

CudaDevice.prepare = lambda self: None      # compiles every file
be, names = CudaBackend("cuda"), []
kernel = be.kernel
be.kernel = lambda file, name: names.append(name) or kernel(file, name)
be.softmax(be.from_numpy(np.ones((40, 65), np.float32)))
print(names[0], tuning.best("softmax", "softmax_registers", (40, 65), be.device).version)
"""


@pytest.mark.slow
def test_a_table_by_the_drivers_clock(tmp_path):
    needs_compiler()
    if not sys.platform.startswith("linux"):
        pytest.skip("the driver's stand-in is written for Linux")
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("PyCUDA is not installed")
    variables = {**driver_double.environment(tmp_path), "PYTHONPATH": str(ROOT),
                 "MINIGPT_TUNING": str(tmp_path / "tuning")}
    file = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-c", SMALL, "softmax", "--device", "cuda", "--shape", "33x65",
         "--blocks", "64", "--json", str(file), "--out", str(tmp_path / "out"), "--tune"],
        cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert results["device"] == "test double, no GPU"
    assert all(limit > 0 for limit in results["limits"].values())
    rows = {row["version"]: row for row in results["results"] if row["block"]}
    assert list(rows) == ["softmax_naive", "softmax_warp", "softmax_registers", "softmax_block",
                          "softmax_long"]
    for row in rows.values():
        assert 0 < row["least"] <= row["seconds"] <= row["most"] and row["piled"]
        assert row["error"] < 1e-4 and row["beside_naive"] > 0
    shown = re.findall(r"^\| (softmax_\w+) \| 64 \| [\d.]+ \(", done.stdout, re.M)
    assert shown == list(rows) and "Python's" not in done.stdout
    assert (tmp_path / "out" / "softmax-33x65.png").exists()

    # The fastest of those that take rows of 65 at any address: 33 rows are "up to 64".
    fastest = min((row for row in rows.values() if row["version"] != "softmax_long"),
                  key=lambda row: row["seconds"])
    again = subprocess.run([sys.executable, "-c", TUNED], cwd=ROOT, env=variables,
                           capture_output=True, text=True)
    assert again.stdout.split() == [fastest["version"]] * 2, again.stderr
    (kept,) = (tmp_path / "tuning").iterdir()
    assert kept.name.startswith("test-double-no-GPU_cuda13.0_softmax_")
