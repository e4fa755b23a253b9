"""How long a version takes on a GPU, and what this GPU reaches at best (limits.cu).

Launches are timed by events on the GPU. Python takes several microseconds to ask for a launch, more
than a small kernel takes to run, so the GPU is first given something long to do: what is timed
piles up behind it and then runs without a gap.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from kernels import grids
from kernels.bench_cases import Arrays, Case, Step, precision
from kernels.cuda import CudaDevice
from kernels.cuda_compile import find_nvcc
from kernels.device import get_device
from kernels.interface import KernelError
from kernels.launch import load

SAMPLES = 7  # of which the median counts; 3 where one takes long
WARM_UP_SECONDS = 0.5  # an idle GPU's clock is low
SAMPLE_SECONDS = 0.01  # a sample is as many launches as take about that long …
MOST_LAUNCHES = 200  # … but no more than the driver lets wait
LONGEST_PLUG = 0.2  # seconds
COPY_BYTES = 512 << 20  # of each of limit_copy's arrays: far beyond any L2 cache
PRODUCT = {"tf32": 2 * 16 * 8 * 8, "bf16": 2 * 16 * 8 * 16}  # operations of a warp's mma
CHAINS = 8  # as in limits.cu
ROUNDS = 4096  # of a thread of its kernels
PLUG_ROUNDS = 1 << 20  # by which is found how many a second they are


class Timing(NamedTuple):
    """Seconds a launch: median, least and most of the samples; piled: did Python keep ahead of the
    GPU? Otherwise the time is that of asking for a launch.
    """

    seconds: float
    least: float
    most: float
    piled: bool


@dataclass(frozen=True)
class Limits:
    """What was measured on this GPU. Operations a second by kind of arithmetic, 0 where the GPU
    has no such instruction.
    """

    bytes_per_s: float
    float32: float
    tf32: float
    bf16: float

    def seconds(self, case: Case, version: str) -> float:
        """The least time that memory and arithmetic leave for a case; 3xtf32 multiplies thrice."""
        kind, times = precision(version), 1
        if kind == "3xtf32":
            kind, times = "tf32", 3
        arithmetic = times * case.flops / asdict(self)[kind]
        return max(case.bytes_of(version) / self.bytes_per_s, arithmetic)


class Gpu:
    """The GPU, its clock, and its limits. Raises CudaError where there is none."""

    def __init__(self) -> None:
        device = get_device("cuda")
        assert isinstance(device, CudaDevice)
        self.device, self.driver = device, device.context.driver
        attribute = self.driver.device_attribute
        self.cores = device.context.gpu.get_attribute(attribute.MULTIPROCESSOR_COUNT)
        self.cache_bytes = device.context.gpu.get_attribute(attribute.L2_CACHE_SIZE)
        self.name, self.release = device.context.name, find_nvcc().release
        self._plug_out = device.empty(8 * self.cores * 32)
        self._rounds_a_second = 0.0

    # --- time

    def time(self, steps: list[Step]) -> Timing:
        """Of one step: they are done in turn, so that with several sets of arrays none is found in
        the L2 cache.
        """
        for step in steps:
            step()
        self.device.synchronize()
        start = time.perf_counter()
        steps[0]()
        self.device.synchronize()
        guess = max(time.perf_counter() - start, 1e-6)
        launches = max(len(steps), min(MOST_LAUNCHES, int(SAMPLE_SECONDS / guess)))
        n_samples = SAMPLES if guess * launches < 10 * SAMPLE_SECONDS else 3
        samples = [self._sample(steps, launches) for _ in range(n_samples)]
        seconds = [each for each, _ in samples]
        return Timing(statistics.median(seconds), min(seconds), max(seconds),
                      all(piled for _, piled in samples))  # fmt: skip

    def _sample(self, steps: list[Step], launches: int) -> tuple[float, bool]:
        plug = 0.002
        while True:
            start, end = self.driver.Event(), self.driver.Event()
            self._plug(plug)
            start.record()
            for i in range(launches):
                steps[i % len(steps)]()
            end.record()
            piled = not start.query()  # the plug was still in when the last launch was asked for
            end.synchronize()
            if piled or plug > LONGEST_PLUG:
                return start.time_till(end) / 1e3 / launches, piled
            plug *= 4

    def _plug(self, seconds: float, grid: int = 1) -> None:
        """Keep the GPU busy for so long, by default on one of its cores."""
        kernel = load("limits.cu", self.device)["limit_fma"]
        if not self._rounds_a_second:
            for _ in range(2):  # the first launch loads the code
                self.device.synchronize()
                start = time.perf_counter()
                kernel(self._plug_out, 0.5, 1.0, PLUG_ROUNDS, grid=1, block=32)
                self.device.synchronize()
                self._rounds_a_second = PLUG_ROUNDS / (time.perf_counter() - start)
        rounds = min(2**31 - 1, int(seconds * self._rounds_a_second))
        kernel(self._plug_out, 0.5, 1.0, rounds, grid=grid, block=32)

    # --- limits

    def limits(self) -> Limits:
        """Measured now, by a GPU that is awake."""
        for _ in range(5):
            self._plug(WARM_UP_SECONDS / 5, grid=8 * self.cores)
        self.device.synchronize()
        kinds = ("float32", "tf32", "bf16")
        return Limits(self._bandwidth(), *(self._arithmetic(kind) for kind in kinds))

    def _bandwidth(self) -> float:
        n = COPY_BYTES // 4
        x, y = self.device.from_numpy(np.ones(n, np.float32)), self.device.empty(n)
        kernel = load("limits.cu", self.device)["limit_copy"]
        grid = grids.ceil_div(n // 4, 256)
        timing = self.time([lambda: kernel(x, y, n, grid=grid, block=256)])
        return 2 * COPY_BYTES / timing.seconds

    def _arithmetic(self, kind: str) -> float:
        grid, block, rounds = 8 * self.cores, 256, ROUNDS
        out = self.device.empty(grid * block)
        module = load("limits.cu", self.device)
        if kind == "float32":
            fma = module["limit_fma"]
            timing = self.time([lambda: fma(out, 0.5, 1.0, rounds, grid=grid, block=block)])
            return 2 * CHAINS * rounds * grid * block / timing.seconds
        try:
            mma = module[f"limit_mma_{kind}"]
        except KernelError:  # an older architecture
            return 0.0
        timing = self.time([lambda: mma(out, rounds, grid=grid, block=block)])
        return PRODUCT[kind] * CHAINS * rounds * grid * block / 32 / timing.seconds

    # --- cases

    def measure(self, case: Case, version: str, block: int) -> tuple[float, Timing | None]:
        """The error of a first launch and, where that is small enough, the time of others."""
        sets = [case.upload(self.device, version)]
        case.launch(self.device, version, block, sets[0])
        error = case.error(sets[0])
        if not error <= case.tolerance(version):
            return error, None
        while sum(x.nbytes for arrays in sets for x in arrays.values()) < 2 * self.cache_bytes:
            sets.append(case.upload(self.device, version))
        return error, self.time([self._step(case, version, block, arrays) for arrays in sets])

    def _step(self, case: Case, version: str, block: int, arrays: Arrays) -> Step:
        return lambda: case.launch(self.device, version, block, arrays)

    def measure_torch(self, case: Case) -> Timing | None:
        """The time of torch's kernels in float32, None where there is no torch with CUDA."""
        torch = import_torch()
        if torch is None:
            return None
        with torch.no_grad():
            sets = 1 + 2 * self.cache_bytes // case.bytes
            return self.time([case.torch_step(torch) for _ in range(min(sets, 64))])


def import_torch() -> Any:
    """torch, without tf32; None where it is not installed or sees no GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.set_float32_matmul_precision("highest")
    return torch
