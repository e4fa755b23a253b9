"""What kernels/graphs.py declares of the driver is what the toolkit's cuda.h declares: a C compiler
compares them. (How it is used, tests/kernels/test_cuda_device.py runs on the driver's stand-in.)
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from kernels.cuda_compile import TOOLKIT, find_nvcc
from kernels.cuda_errors import CudaError
from kernels.graphs import DEVICE_MEMORY, FUNCTIONS, CopyNode, KernelNode

pytestmark = pytest.mark.slow

STRUCTURES = {"CUDA_KERNEL_NODE_PARAMS_v2": KernelNode, "CUDA_MEMCPY3D_v2": CopyNode}
INTEGERS = {ctypes.c_int: "int", ctypes.c_uint: "unsigned", ctypes.c_size_t: "size_t",
            ctypes.c_ulonglong: "unsigned long long"}


@pytest.fixture
def header():
    """The folder of cuda.h."""
    try:
        toolkits = [Path(find_nvcc().path).resolve().parents[1], TOOLKIT]
    except CudaError as error:
        pytest.skip(str(error))
    folder = next((t / "include" for t in toolkits if (t / "include/cuda.h").is_file()), None)
    if folder is None or not shutil.which("gcc"):
        pytest.skip("there is no cuda.h, or no gcc, to compare with")
    return folder


def layout(structures):
    """C that compiles if each structure has these sizes, and each field its place and size."""
    for name, structure in structures.items():
        yield f"_Static_assert(sizeof({name}) == {ctypes.sizeof(structure)}, \"{name}\");"
        for field, _ in structure._fields_:
            at = getattr(structure, field)
            yield (f"_Static_assert(offsetof({name}, {field}) == {at.offset} && "
                   f"sizeof((({name}*)0)->{field}) == {at.size}, \"{name}.{field}\");")


def calls(functions):
    """C that compiles if each function takes so many arguments, integers and pointers as said."""
    for name, types in functions.items():
        arguments = [f"({INTEGERS[t]})1" if t in INTEGERS else "(void*)0" for t in types]
        yield f"void call_{name}(void) {{ {name}({', '.join(arguments)}); }}"
        for number, t in enumerate(types):
            if t in INTEGERS:       # an integer of another size would be converted in silence
                yield (f"_Static_assert(sizeof({INTEGERS[t]}) == {ctypes.sizeof(t)}, "
                       f"\"{name}, argument {number}\");")


def compiles(header, lines):
    source = "\n".join(["#include <stddef.h>", "#include <cuda.h>", *lines])
    command = ["gcc", "-x", "c", "-fsyntax-only", "-Werror=implicit-function-declaration",
               "-Werror=int-conversion", f"-I{header}", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def test_structures_and_functions_are_cuda_h_s(header):
    constant = f"_Static_assert(CU_MEMORYTYPE_DEVICE == {DEVICE_MEMORY}, \"memory\");"
    assert compiles(header, [*layout(STRUCTURES), *calls(FUNCTIONS), constant]) == ""


def test_a_wrong_declaration_is_found(header):
    class Short(ctypes.Structure):
        _fields_ = KernelNode._fields_[1:]

    wrong = compiles(header, layout({"CUDA_KERNEL_NODE_PARAMS_v2": Short}))
    assert "CUDA_KERNEL_NODE_PARAMS_v2.extra" in wrong
    for types in ([ctypes.c_void_p], [ctypes.c_void_p] * 3, [ctypes.c_void_p, ctypes.c_int]):
        assert "cuGraphLaunch" in compiles(header, calls({"cuGraphLaunch": types}))
    assert "cuGraphNothing" in compiles(header, calls({"cuGraphNothing": []}))
