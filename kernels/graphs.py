"""A recorded step as one CUDA graph: the driver gets all of its launches in one call.

PyCUDA has no interface to CUDA graphs, so the driver's own functions are called here, by ctypes.
The names, structures and rules are those of the CUDA Driver API, "Graph Management"; a test
compares what is declared here with the toolkit's cuda.h.

The graph is a chain: each launch and copy of the recording is a node that depends on the one before
it, as on a stream. Nothing is captured. The driver copies the arguments into the graph; of a launch
with a number that changes, they are given anew before each launch of the graph.
"""

from __future__ import annotations

import ctypes
import struct
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

from kernels.cuda_errors import CudaError
from kernels.cuda_probe import LIBRARY
from kernels.recording import Copy, Launch, Part

DEVICE_MEMORY = 2           # CU_MEMORYTYPE_DEVICE


class KernelNode(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2. `kernelParams` is an array of pointers to the arguments, whose
    sizes the driver has from the kernel's code.
    """

    _fields_ = [
        ("func", c_void_p),
        ("gridDimX", c_uint), ("gridDimY", c_uint), ("gridDimZ", c_uint),
        ("blockDimX", c_uint), ("blockDimY", c_uint), ("blockDimZ", c_uint),
        ("sharedMemBytes", c_uint), ("kernelParams", c_void_p), ("extra", c_void_p),
        ("kern", c_void_p), ("ctx", c_void_p),
    ]


class CopyNode(ctypes.Structure):
    """CUDA_MEMCPY3D_v2, of which only a row is used."""

    _fields_ = [
        ("srcXInBytes", c_size_t), ("srcY", c_size_t), ("srcZ", c_size_t), ("srcLOD", c_size_t),
        ("srcMemoryType", c_int), ("srcHost", c_void_p), ("srcDevice", c_void_p),
        ("srcArray", c_void_p), ("reserved0", c_void_p),
        ("srcPitch", c_size_t), ("srcHeight", c_size_t),
        ("dstXInBytes", c_size_t), ("dstY", c_size_t), ("dstZ", c_size_t), ("dstLOD", c_size_t),
        ("dstMemoryType", c_int), ("dstHost", c_void_p), ("dstDevice", c_void_p),
        ("dstArray", c_void_p), ("reserved1", c_void_p),
        ("dstPitch", c_size_t), ("dstHeight", c_size_t),
        ("WidthInBytes", c_size_t), ("Height", c_size_t), ("Depth", c_size_t),
    ]


FUNCTIONS: dict[str, list[Any]] = {
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuGetErrorString": [c_int, POINTER(c_char_p)],
    "cuCtxGetCurrent": [POINTER(c_void_p)],
    "cuModuleLoadData": [POINTER(c_void_p), c_char_p],
    "cuModuleGetFunction": [POINTER(c_void_p), c_void_p, c_char_p],
    "cuGraphCreate": [POINTER(c_void_p), c_uint],
    "cuGraphAddKernelNode_v2": [POINTER(c_void_p), c_void_p, POINTER(c_void_p), c_size_t,
                                POINTER(KernelNode)],
    "cuGraphAddMemcpyNode": [POINTER(c_void_p), c_void_p, POINTER(c_void_p), c_size_t,
                             POINTER(CopyNode), c_void_p],
    "cuGraphInstantiateWithFlags": [POINTER(c_void_p), c_void_p, c_ulonglong],
    "cuGraphExecKernelNodeSetParams_v2": [c_void_p, c_void_p, POINTER(KernelNode)],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuGraphExecDestroy": [c_void_p],
    "cuGraphDestroy": [c_void_p],
}


class DriverError(RuntimeError):
    """A function of the driver has refused: its name, the error's, and the driver's words."""


class Driver:
    """FUNCTIONS of NVIDIA's driver, each of which raises DriverError where it does not succeed.

    Raises CudaError where there is no driver, or an old one.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
            for name, types in FUNCTIONS.items():
                getattr(self._library, name).argtypes = types
        except (OSError, AttributeError) as error:
            raise CudaError("this driver has no CUDA graphs as CUDA 12 has them",
                            f"{LIBRARY}: {error}",
                            "nvidia-smi     (update the driver; or leave out cuda_graph)") from None
        self._modules: dict[bytes, c_void_p] = {}

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            known, words = c_char_p(), c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(known))
            self._library.cuGetErrorString(status, ctypes.byref(words))
            raise DriverError(f"{name} failed: {_text(known, str(status))}: "
                              f"{_text(words, 'unknown error')}")

    def make(self, name: str, *arguments: Any) -> c_void_p:
        """What a function hands out by its first parameter."""
        made = c_void_p()
        self.call(name, ctypes.byref(made), *arguments)
        return made

    def function(self, code: bytes, name: str) -> c_void_p:
        """A kernel of a cubin. PyCUDA does not tell its own handles, so it is loaded once more."""
        if code not in self._modules:
            self._modules[code] = self.make("cuModuleLoadData", code)
        return self.make("cuModuleGetFunction", self._modules[code], name.encode())


def _text(found: c_char_p, otherwise: str) -> str:
    return otherwise if found.value is None else found.value.decode(errors="replace")


class Arguments:
    """A launch's parameters for the driver, and the memory that they point into."""

    def __init__(self, driver: Driver, launch: Launch) -> None:
        self.changes = launch.changes
        self._bytes = ctypes.create_string_buffer(launch.packed, len(launch.packed))
        begin, places = ctypes.addressof(self._bytes), launch.kernel.places
        self._pointers = (c_void_p * len(places))(*(begin + place for place in places))
        entry = launch.kernel.entry
        self.node = KernelNode(driver.function(entry.code, entry.name), *launch.grid, *launch.block,
                               launch.shared, ctypes.addressof(self._pointers), None, None, None)

    def move(self, moved: dict[str, int]) -> None:
        """The numbers that change, when the counters have moved by so much."""
        for change in self.changes:
            struct.pack_into(change.format, self._bytes, change.place,
                             change.value + moved[change.counter])


class CudaGraph:
    """The parts of a recording as a graph of the driver. The context must be current in each call.
    """

    def __init__(self, driver: Driver, parts: list[Part]) -> None:
        self._driver = driver
        self._executable: c_void_p | None = None
        self._changing: list[tuple[c_void_p, Arguments]] = []   # nodes, and what they are given
        self._graph = driver.make("cuGraphCreate", 0)
        context, last = driver.make("cuCtxGetCurrent"), None
        for part in parts:
            before = (None, 0) if last is None else (ctypes.byref(last), 1)
            if isinstance(part, Launch):
                arguments = Arguments(driver, part)
                last = driver.make("cuGraphAddKernelNode_v2", self._graph, *before,
                                   ctypes.byref(arguments.node))
                if part.changes:
                    self._changing.append((last, arguments))
            elif isinstance(part, Copy):
                last = driver.make("cuGraphAddMemcpyNode", self._graph, *before,
                                   ctypes.byref(_copy_node(part)), context)
        self._executable = driver.make("cuGraphInstantiateWithFlags", self._graph, 0)

    def launch(self, moved: dict[str, int]) -> None:
        """On the default stream, after what was launched there before. Returns at once."""
        for node, arguments in self._changing:
            arguments.move(moved)
            self._driver.call("cuGraphExecKernelNodeSetParams_v2", self._executable, node,
                              ctypes.byref(arguments.node))
        self._driver.call("cuGraphLaunch", self._executable, None)

    def destroy(self) -> None:
        """One that still runs is freed by the driver when it has ended."""
        if self._executable is not None:
            self._driver.call("cuGraphExecDestroy", self._executable)
        self._driver.call("cuGraphDestroy", self._graph)


def _copy_node(copy: Copy) -> CopyNode:
    row = {"Pitch": copy.nbytes, "Height": 1, "MemoryType": DEVICE_MEMORY}
    sides = {f"{side}{name}": value for side in ("src", "dst") for name, value in row.items()}
    return CopyNode(srcDevice=copy.source, dstDevice=copy.to, WidthInBytes=copy.nbytes, Height=1,
                    Depth=1, **sides)
