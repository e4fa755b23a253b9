"""`matmul_precision` holds inside its block, in its thread, and changes nothing on the CPU."""

import threading

import numpy as np
import pytest

from tensor import Tensor, matmul_precision
from tensor.precision import PRECISIONS, current_matmul_precision


def test_it_holds_inside_and_is_undone():
    assert current_matmul_precision() == "float32"
    with matmul_precision("tf32"):
        with matmul_precision("bf16"):
            assert current_matmul_precision() == "bf16"
        assert current_matmul_precision() == "tf32"
    with pytest.raises(KeyError), matmul_precision("3xtf32"):
        raise KeyError
    assert current_matmul_precision() == "float32"


def test_another_thread_has_its_own():
    found = []
    with matmul_precision("tf32"):
        other = threading.Thread(target=lambda: found.append(current_matmul_precision()))
        other.start()
        other.join()
    assert found == ["float32"]


@pytest.mark.parametrize("name", ["fp8", "TF32", "", None, 32])
def test_an_unknown_name_is_refused(name):
    words = f"matmul_precision: {name!r} is not one of 'float32', '3xtf32', 'tf32', 'bf16'"
    with pytest.raises(ValueError, match=words), matmul_precision(name):
        pass


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_cpu_stays_float32(precision):
    x = np.random.default_rng(0).standard_normal((20, 30), dtype=np.float32)
    with matmul_precision(precision):
        y = Tensor(x) @ Tensor(x.T)
    np.testing.assert_array_equal(y.numpy(), (Tensor(x) @ Tensor(x.T)).numpy())
