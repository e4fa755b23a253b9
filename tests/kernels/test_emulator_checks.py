"""The checker is checked: a planted bug is found on its very line, a correct kernel passes."""

import shutil

import numpy as np
import pytest

from kernels.emulator import build
from kernels.launch import KernelError
from tests.kernels.emulated import maker, needs_compiler
from tests.kernels.planted import CORRECT, PLANTED, SOURCE, X, lines_of

pytestmark = pytest.mark.slow
ORDERS = ["forward", "reverse", 7]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    needs_compiler()
    make = maker(tmp_path_factory.mktemp("checks"))
    return {checked: make(SOURCE, checked) for checked in (False, True)}


def launch(kernel, order, shared=0):
    x, y = kernel.device.from_numpy(X), kernel.device.empty(128)
    kernel(x, y, 128, grid=2, block=64, order=order, shared=shared)
    return y.numpy()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(module, name, order):
    planted = PLANTED[name]
    with pytest.raises(KernelError, match=rf"^test\.cu:({lines_of(name)}): {name}: "
                                          rf"({planted.words})"):
        launch(module[True][name], order, planted.shared)
    np.testing.assert_array_equal(launch(module[True]["barrier"], order), CORRECT["barrier"][1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", [name for name in PLANTED if PLANTED[name].in_fast])
def test_what_the_fast_mode_finds(module, name, order):
    with pytest.raises(KernelError, match=rf"^test\.cu:({lines_of(name)}): {name}: "
                                          rf"({PLANTED[name].words})"):
        launch(module[False][name], order, PLANTED[name].shared)
    np.testing.assert_array_equal(launch(module[False]["barrier"], order), CORRECT["barrier"][1])


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_kernel_passes(module, name, order, checked):
    y, expected = launch(module[checked][name], order), CORRECT[name][1]
    if expected is not None:
        np.testing.assert_array_equal(y, expected)


def test_the_message_names_thread_and_block(module):
    with pytest.raises(KernelError) as error:
        launch(module[True]["past_the_end"], "forward")
    assert str(error.value).endswith(
        "past_the_end: out of bounds: block (1, 0, 0), thread (63, 0, 0) writes 4 bytes at byte "
        "512 of an array of 512 bytes")


def test_with_clang(module, tmp_path, monkeypatch):
    if not shutil.which("clang++"):
        pytest.skip("clang++ is not installed")
    monkeypatch.setenv("CXX", "clang++")
    build.compiler.cache_clear()
    try:
        kernels = maker(tmp_path)(SOURCE, True)
    finally:
        build.compiler.cache_clear()
    for name, (_, expected) in CORRECT.items():
        y = launch(kernels[name], 7)
        assert expected is None or (y == expected).all()
    missed = []
    for name, planted in PLANTED.items():
        try:
            launch(kernels[name], 7, planted.shared)
            missed.append(name)
        except KernelError:
            pass
    assert missed in ([], ["null"])     # a write to a null pointer is undefined: it may be dropped
