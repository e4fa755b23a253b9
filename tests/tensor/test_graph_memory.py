"""What a graph keeps and when it lets go of it; graphs far deeper than Python's stack."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
import weakref

import numpy as np
import pytest

from tensor import Tensor, apply
from tensor.ops.function import Function


def leaf(values: object, dtype: str = "float64") -> Tensor:
    return Tensor(values, dtype=dtype, requires_grad=True)


class Saver(Function):
    """The identity, which saves an array and tells in backward whether another's is still there."""

    others: list[weakref.ref]
    seen: list[list[bool]]

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.saved = np.zeros(1000)
        Saver.others.append(weakref.ref(self.saved))
        return x * 1

    def backward(self, dy: np.ndarray) -> np.ndarray:
        Saver.seen.append([other() is not None for other in Saver.others])
        return dy * 1


def test_saved_arrays_are_freed_as_soon_as_they_were_used() -> None:
    Saver.others, Saver.seen = [], []
    x = leaf([1.0])
    y = apply(Saver, apply(Saver, apply(Saver, x)))
    y.backward()
    assert Saver.seen == [[True, True, True], [True, True, False], [True, False, False]]
    assert all(other() is None for other in Saver.others)  # though y is still here
    Saver.others, Saver.seen = [], []
    y = apply(Saver, x)
    y.backward(retain_graph=True)
    assert Saver.others[0]() is not None
    del y
    assert Saver.others[0]() is None  # by reference count: no cycle keeps a graph alive


def test_backward_needs_little_memory_beyond_the_forward_pass() -> None:
    """Gradients are dropped as they are used: a long chain has a few of them at a time."""
    size = 1 << 17  # 1 MiB of float64
    x = leaf(np.ones(size))
    tracemalloc.start()
    try:
        y = x
        for _ in range(30):
            y = y.tanh()
        loss = y.sum()
        del y
        forward, _ = tracemalloc.get_traced_memory()
        assert forward > 29 * 8 * size  # each tanh keeps its result
        tracemalloc.reset_peak()
        loss.backward()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - forward < 8 * 8 * size
    assert after < 3 * 8 * size  # what is left is the gradient of x


def run_alone(code: str) -> str:
    """In a process of its own: a stack overflow would take the test run with it."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr[-2000:]}"
    return done.stdout


def test_a_graph_100_000_operations_deep() -> None:
    output = run_alone("""
        from tensor import Tensor
        x = Tensor([1.0], requires_grad=True)
        y = x
        for _ in range(100_000):
            y = y + x
        y.backward()
        print(x.grad.item())
    """)
    assert float(output) == 100_001


@pytest.mark.parametrize(
    ("step", "depth"), [("y * 0.999", 100_000), ("y[:].split([1, 1])[0].expand(2)", 20_000)]
)
def test_dropping_a_deep_graph_that_was_never_walked(step: str, depth: int) -> None:
    run_alone(f"""
        from tensor import Tensor
        x = Tensor([1.0, 2.0], requires_grad=True)
        y = x
        for _ in range({depth}):
            y = {step}
        del y
    """)
