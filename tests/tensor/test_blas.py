"""What is said of NumPy's matrix library."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tensor import blas


def test_the_kernels_are_those_that_openblas_was_told_to_take():
    if blas.kernel_name() is None:
        pytest.skip("NumPy is not linked with an OpenBLAS of its own here")
    code = "from tensor.blas import kernel_name; print(kernel_name())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENBLAS_CORETYPE": "Nehalem"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "Nehalem"


@pytest.mark.parametrize(
    ("kernels", "found", "advises"),
    [
        ("Haswell", ["X86_V3", "X86_V4"], True),  # NumPy 2.4's names
        ("Haswell", ["AVX2", "AVX512F", "AVX512_SKX"], True),  # those before
        ("Haswell", ["AVX2", "FMA3"], False),  # a processor without AVX-512
        ("SkylakeX", ["X86_V3", "X86_V4"], False),
        (None, ["X86_V4"], False),  # another library
    ],
)
def test_advice_where_avx512_lies_idle(monkeypatch, kernels, found, advises):
    monkeypatch.setattr(blas, "kernel_name", lambda: kernels)
    monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": {"found": found}})
    advice = blas.kernel_advice()
    assert (advice is not None) is advises
    if advice:
        assert "OPENBLAS_CORETYPE=SkylakeX" in advice
