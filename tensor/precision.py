"""How exactly a GPU multiplies matrices of float32: a choice for a piece of a program."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PRECISIONS = ("float32", "3xtf32", "tf32", "bf16")


class _Precision(threading.local):
    of_products = "float32"


_mode = _Precision()


def current_matmul_precision() -> str:
    """What `matmul_precision` says in this thread; "float32" outside of any."""
    return _mode.of_products


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Let products inside be computed on tensor cores: `with matmul_precision("tf32"): …`.

    precision: "float32" (as without it), "3xtf32" (three products in tf32 for each: nearly
    float32's; infinity gives NaN), "tf32" (operands rounded to 10 bits after the point) or "bf16"
    (to 7). Arrays stay float32, and sums are float32. It holds for matmul, linear and their
    gradients on the devices "cuda" (sm_80 or later: others raise KernelError) and "emulator", in
    this thread, when they are computed: backward() wants to be inside, too. Products of up to 8
    rows stay float32, and so does everything on the CPU, which has no such unit. Attention has
    "tf32" and "bf16" for more than 4 queries and heads of up to 128, its gradient for heads of up
    to 64; otherwise it computes in float32, but where it is made of products: for its weights, and
    for still larger heads.

    Raises ValueError for another name. Source of 3xtf32: Ootomo and Yokota 2022, section 3.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"matmul_precision: {precision!r} is not one of {', '.join(map(repr, PRECISIONS))}"
        )
    before = _mode.of_products
    _mode.of_products = precision
    try:
        yield
    finally:
        _mode.of_products = before
