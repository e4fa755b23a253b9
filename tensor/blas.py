"""Which kernels NumPy's matrix library took, and what to set where it took the wrong ones."""

from __future__ import annotations

import ctypes

import numpy as np


def kernel_name() -> str | None:
    """The processor for which NumPy's OpenBLAS chose its kernels ("Haswell", "SkylakeX" …).

    None where NumPy has another library (Accelerate, MKL) or keeps OpenBLAS under other names.
    """
    try:
        linked = np.linalg._umath_linalg.__file__
        corename = ctypes.CDLL(linked).scipy_openblas_get_corename64_
    except (AttributeError, OSError, TypeError):
        return None
    corename.restype = ctypes.c_char_p
    return corename().decode()


def kernel_advice() -> str | None:
    """A line that says how to get faster matrix products, or None where nothing is to be gained.

    OpenBLAS 0.3.31 in NumPy's wheels takes the kernels of 2013's Haswell for AMD's Zen 5, which has
    AVX-512: products run at 240 instead of 450 GFLOP/s on two cores. The variable is read when
    NumPy is loaded, so a program can't set it for itself.
    """
    # What NumPy itself found; the name of the instruction set changed with version 2.4.
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    if kernel_name() == "Haswell" and {"X86_V4", "AVX512_SKX"} & set(found):
        return (
            "this processor has AVX-512, but NumPy's OpenBLAS does not use it: with "
            "OPENBLAS_CORETYPE=SkylakeX in the environment matrix products may take half the time"
        )
    return None
