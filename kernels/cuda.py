"""A GPU as a device: memory, copies and launches through PyCUDA, kernels from nvcc.

All work is on the default stream, in the order in which it was asked for. A launch returns at once;
`read`, which copies to the host, waits for those before it.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from kernels import graphs
from kernels.cuda_compile import compile_all, compile_cubin
from kernels.cuda_context import get_context
from kernels.cuda_errors import explain_driver, is_context_lost, trouble
from kernels.cuda_memory import MemoryPool
from kernels.interface import Device, KernelError, Sizes
from kernels.recording import Launch, Part, Runner
from kernels.signature import Signatures

T = TypeVar("T")


class Entry(NamedTuple):
    """A kernel on the GPU: PyCUDA's Function, its name, and the cubin that it is from."""

    function: Any
    name: str
    code: bytes


class CudaDevice(Device):
    """The GPU. `checked` is for finding a kernel's fault: each launch is waited for, so that the
    error names the kernel, and each array has memory of exactly its size, so that
    `compute-sanitizer python ...` sees the first byte past its end.

    After a kernel's fault the driver refuses all further work of the process: each later call
    raises the same KernelError. Raises CudaError where no GPU can be used.
    """

    def __init__(self, checked: bool = False) -> None:
        super().__init__("cuda", checked)
        self.context = get_context()
        self._driver = self.context.driver
        self.architecture = int(self.context.arch.removeprefix("sm_"))
        self.pool = MemoryPool(self._allocate, self._free, self._is_full, exact=checked)
        self._allocations: dict[int, Any] = {}      # address: PyCUDA's object, which owns it
        self._loaded: list[Any] = []                # PyCUDA's modules, which own the functions
        self._recent: deque[str] = deque(maxlen=6)  # kernels launched last
        self._lost = ""                             # what ended the context

    # --- memory

    def allocate(self, nbytes: int) -> int:
        return self.pool.take(nbytes)

    def free(self, pointer: int) -> None:
        self.pool.give(pointer)

    def _allocate(self, nbytes: int) -> int:
        try:
            allocation = self.context.call(self._driver.mem_alloc, nbytes)
        except self._driver.MemoryError:
            raise
        except self._driver.Error as error:
            self._fail(error, f"an allocation of {nbytes:,} bytes")
        address = int(allocation)
        self._allocations[address] = allocation
        return address

    def _free(self, pointer: int) -> None:
        allocation = self._allocations.pop(pointer)
        if self.is_alive:                               # else the driver frees it itself
            self.context.call(allocation.free)

    def _is_full(self, error: BaseException) -> bool:
        return isinstance(error, self._driver.MemoryError)

    # --- copies

    def _write(self, pointer: int, host: np.ndarray) -> None:
        try:
            self.context.call(self._driver.memcpy_htod, pointer, host)
        except self._driver.Error as error:
            self._fail(error, f"a copy of {host.nbytes:,} bytes to the GPU")

    def _read(self, host: np.ndarray, pointer: int) -> None:
        try:
            self.context.call(self._driver.memcpy_dtoh, host, pointer)
        except self._driver.Error as error:
            self._fail(error, f"a copy of {host.nbytes:,} bytes from the GPU")

    def copy_bytes(self, to: int, source: int, nbytes: int) -> None:
        if not nbytes:
            return
        try:
            self.context.call(self._driver.memcpy_dtod, to, source, nbytes)
        except self._driver.Error as error:
            self._fail(error, f"a copy of {nbytes:,} bytes on the GPU")

    def synchronize(self) -> None:
        try:
            self.context.call(self._driver.Context.synchronize)
        except self._driver.Error as error:
            self._fail(error, "waiting for the GPU")

    # --- kernels

    def prepare(self) -> None:
        compile_all(self.context.arch)

    def compile(self, path: Path, signatures: Signatures) -> dict[str, Entry]:
        """Raises CudaError, or CompileError with nvcc's words."""
        code = compile_cubin(path, self.context.arch)
        try:
            module = self.context.call(self._driver.module_from_buffer, code)
            self._loaded.append(module)
            return {name: Entry(self.context.call(module.get_function, name), name, code)
                    for name in signatures}
        except self._driver.Error as error:
            if is_context_lost(error) or self._lost:
                self._fail(error, f"loading {path.name}")
            raise explain_driver(error, f"loading {path.name}, compiled for {self.context.arch}, "
                                        f"on {self.context.name}") from None

    def launch(self, entry: Entry, packed: bytes, grid: Sizes, block: Sizes, shared: int,
               order: str | int | None) -> None:
        """Start a kernel. `order` is the emulator's: a GPU's threads run in an order of its own."""
        self._recent.append(entry.name)
        try:
            # Function.prepared_call would pack the arguments anew, and set the block's shape by a
            # call that the driver has deprecated; this is what it ends in.
            self.context.call(entry.function._launch_kernel, grid, block, packed, shared, None)
            if self.checked:
                self.context.call(self._driver.Context.synchronize)
        except self._driver.Error as error:
            self._fail(error, f"{entry.name} (grid {grid}, block {block}, {shared} bytes of shared "
                              "memory)", entry)

    # --- recorded steps

    def runner(self, parts: list[Part]) -> Runner:
        """One CUDA graph; where each launch is to be waited for, launch by launch."""
        return super().runner(parts) if self.checked else GraphRunner(self, parts)

    @functools.cached_property
    def graph_driver(self) -> graphs.Driver:
        return graphs.Driver()

    def on_graph(self, doing: str, function: Callable[..., T], *arguments: Any) -> T:
        """function(*arguments), which calls the driver for a graph, and what its errors mean."""
        if self._lost:
            raise KernelError(self._lost)
        self._recent.append(doing)
        try:
            return self.context.call(function, *arguments)
        except graphs.DriverError as error:
            self._fail(error, doing)

    @property
    def is_alive(self) -> bool:
        """Can the driver still be called?"""
        return not self._lost and not self.context.ended

    # --- errors

    def _fail(self, error: BaseException, doing: str, entry: Entry | None = None) -> NoReturn:
        """Raise what an error of the driver means."""
        if self._lost:
            raise KernelError(self._lost) from None
        if is_context_lost(error):
            recent = ", ".join(dict.fromkeys(self._recent)) or "none of ours"
            failed = (f"{entry.name}: the kernel did what it must not" if self.checked and entry
                      else "a kernel did what it must not, and the GPU's context is lost")
            self._lost = trouble(
                failed, f"{doing}: {error}; launched last: {recent}",
                "compute-sanitizer python …     (names the kernel's line; a new process is needed "
                "in any case)")
            raise KernelError(self._lost) from None
        if entry is not None:
            raise KernelError(self._refused(error, doing, entry)) from None
        raise explain_driver(error, doing) from None

    def _refused(self, error: BaseException, doing: str, entry: Entry) -> str:
        """Why a launch was refused: with what the kernel needs and the GPU has."""
        attribute = self._driver.function_attribute
        try:
            needs = {name: self.context.call(entry.function.get_attribute, number) for name, number
                     in (("threads a block at most", attribute.MAX_THREADS_PER_BLOCK),
                         ("registers a thread", attribute.NUM_REGS),
                         ("bytes of static shared memory", attribute.SHARED_SIZE_BYTES))}
        except self._driver.Error:
            needs = {}
        seen = ", ".join(f"{number:,} {name}" for name, number in needs.items())
        return trouble(f"{entry.name}: the GPU refused the launch", f"{doing}: {error}; on "
                       f"{self.context.name} the kernel has {seen or 'unknown needs'}",
                       "a launch with fewer threads a block, or less shared memory")


class GraphRunner:
    """A recorded step as a CUDA graph; destroyed with its last reference."""

    def __init__(self, device: CudaDevice, parts: list[Part]) -> None:
        self._device = device
        launches = sum(isinstance(part, Launch) for part in parts)
        self._name = f"a recorded step of {launches:,} launches"
        self._graph = device.on_graph(f"making a CUDA graph of {self._name}", graphs.CudaGraph,
                                      device.graph_driver, parts)

    def __call__(self, moved: dict[str, int]) -> None:
        self._device.on_graph(self._name, self._graph.launch, moved)

    def __del__(self) -> None:
        if hasattr(self, "_graph") and self._device.is_alive:
            self._device.context.call(self._graph.destroy)
