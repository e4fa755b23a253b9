"""PyCUDA, and the context in which this process works on its GPU.

It is the primary context, the one that the CUDA runtime uses, so that torch and CuPy can be in the
same process. It is made current once, in the main thread, until Python exits. PyCUDA ends the
process when a thread ends with a context still current, so in any other thread it is current for
one call at a time.
"""

from __future__ import annotations

import atexit
import functools
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from kernels.cuda_errors import explain_driver, explain_import

T = TypeVar("T")


def import_driver() -> ModuleType:
    """`pycuda.driver`. Raises CudaError where PyCUDA or NVIDIA's driver is missing or unfit."""
    try:
        import pycuda.driver
    except ImportError as error:
        raise explain_import(error) from None
    return pycuda.driver


class Context:
    """The primary context of a GPU, the first that CUDA_VISIBLE_DEVICES leaves.

    driver: the module pycuda.driver; gpu: its Device; arch: the architecture, such as "sm_90".
    Raises CudaError.
    """

    def __init__(self) -> None:
        self.driver = import_driver()
        doing = "cuInit"
        try:
            self.driver.init()
            doing = "cuDeviceGet"
            self.gpu = self.driver.Device(0)
            self.name = self.gpu.name()
            self.arch = "sm_{}{}".format(*self.gpu.compute_capability())
            doing = f"cuDevicePrimaryCtxRetain of {self.name}"
            self._primary = self.gpu.retain_primary_context()
        except self.driver.Error as error:
            raise explain_driver(error, doing) from None
        self._thread: int | None = None         # where it is current
        self.ended = False                      # is Python exiting?
        if threading.current_thread() is threading.main_thread():
            self._primary.push()
            self._thread = threading.get_ident()
        atexit.register(self._leave)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """function(*arguments), with the context current in this thread."""
        if threading.get_ident() == self._thread:
            return function(*arguments)
        self._primary.push()
        try:
            return function(*arguments)
        finally:
            self._primary.pop()

    def _leave(self) -> None:
        # Not `pop`: PyCUDA would then release the context in a destructor, which takes it for one
        # of another kind and prints a warning. `detach` releases it, forgets that it was pushed,
        # and what still has memory in it goes without a word.
        self._thread, self.ended = None, True
        try:
            self._primary.detach()
        except self.driver.Error:       # another library has destroyed it
            pass


@functools.cache
def get_context() -> Context:
    """The one context of this process. Raises CudaError."""
    return Context()
