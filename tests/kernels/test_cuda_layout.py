"""How arrays are described to the kernels, and that Python and CUDA number operations alike."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.launch import HERE
from tensor import cuda_elementwise
from tensor.cuda_index import read_index
from tensor.cuda_layout import join_axes


def enum(name: str) -> list[str]:
    """The members of an enum in elementwise.cu, in small letters."""
    source = (HERE / "elementwise.cu").read_text(encoding="utf-8")
    found = re.search(rf"enum {name} {{([^}}]*)}}", source)
    assert found is not None
    return [member.strip().lower() for member in found[1].split(",")]


def test_operations_have_the_same_numbers_in_python_and_in_cuda():
    assert enum("Binary") == list(cuda_elementwise.BINARY)
    assert enum("Unary") == list(cuda_elementwise.UNARY)
    signs = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">",
             "greater_equal": ">="}  # fmt: skip
    assert [signs[name] for name in enum("Comparison")] == list(cuda_elementwise.COMPARISONS)


@st.composite
def arrays(draw):
    """(room, a view of it, a second view of the same shape): transposed, stepped, repeated."""
    ndim = draw(st.integers(0, 5))
    shape = draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim))
    views = []
    for _ in range(2):
        order = draw(st.permutations(range(ndim)))
        room = np.arange(np.prod([2 * n for n in shape], dtype=int)).reshape([2 * n for n in shape])
        view = room.transpose(order).transpose(np.argsort(order)) if ndim else room
        parts = draw(st.lists(st.sampled_from(["all", "step", "back", "one"]), min_size=ndim,
                              max_size=ndim))
        for axis, (part, n) in enumerate(zip(parts, shape)):
            cut = {"all": slice(0, n), "step": slice(0, 2 * n, 2), "back": slice(n - 1, None, -1),
                   "one": slice(0, 1)}[part]
            view = view[(slice(None),) * axis + (cut,)]
            view = np.broadcast_to(view, shape[: axis + 1] + list(view.shape[axis + 1 :]))
        views.append(view)
    return shape, views


@given(arrays())
def test_joined_axes_name_the_same_elements(drawn):
    shape, views = drawn
    strides = [tuple(s // 8 for s in v.strides) for v in views]
    sizes, joined = join_axes(tuple(shape), *strides)
    assert 1 <= len(sizes) <= max(1, len(shape)) and 1 not in sizes[1:]
    assert np.prod(sizes) == np.prod(shape)
    for before, after in zip(strides, joined):
        wanted = sum(np.indices(shape)[i] * s for i, s in enumerate(before)) if shape else 0
        got = sum(np.indices(sizes)[i] * s for i, s in enumerate(after))
        np.testing.assert_array_equal(np.ravel(wanted), np.ravel(got))


def test_too_many_axes_are_refused():
    with pytest.raises(ValueError, match="9 axes that can't be joined, and a kernel takes 8"):
        join_axes((2,) * 9, tuple(3**i for i in range(9)))


@st.composite
def indices(draw):
    """A shape and an index with arrays for it, as NumPy takes them, some of them wrong."""
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    common = draw(st.sampled_from([(), (1,), (3,), (2, 1), (2, 3), (0,)]))
    parts = []
    axis = 0
    while axis < len(shape):
        kind = draw(st.sampled_from(["slice", "int", "array", "mask", "none", "dots", "true"]))
        if kind == "slice":
            ends = st.one_of(st.none(), st.integers(-5, 5))
            step = draw(st.sampled_from([None, 1, 2, -1, -2]))
            parts.append(slice(draw(ends), draw(ends), step))
        elif kind == "none":
            parts.append(None)
            continue
        elif kind == "true":
            parts.append(draw(st.booleans()))
            continue
        elif kind == "dots":
            if Ellipsis in [p for p in parts if not isinstance(p, np.ndarray)]:
                continue
            parts.append(Ellipsis)
            axis += draw(st.integers(0, len(shape) - axis))
            continue
        elif kind == "mask":
            ndim = draw(st.integers(1, len(shape) - axis))
            size = shape[axis : axis + ndim]
            bits = draw(st.lists(st.booleans(), min_size=int(np.prod(size)),
                                 max_size=int(np.prod(size))))
            parts.append(np.array(bits, bool).reshape(size))
            axis += ndim - 1
        else:
            size = () if kind == "int" else common
            n = max(1, shape[axis])
            values = draw(st.lists(st.integers(-n, n), min_size=int(np.prod(size)),
                                   max_size=int(np.prod(size))))
            parts.append(np.array(values, np.int64).reshape(size))
        axis += 1
    return shape, tuple(parts)


@settings(max_examples=300)
@given(indices())
@example(((2, 3, 4), (slice(None), np.array([0, 1]), Ellipsis, np.array([1, 1]))))
@example(((2, 3, 4), (slice(None), np.array([0, 1]), np.array([1, 1]), Ellipsis)))
@example(((2, 3, 4), (np.array([0, 1]), None, np.array([1, 1]))))
def test_an_index_picks_the_elements_that_numpy_picks(drawn):
    shape, index = drawn
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape)[..., ::-1]  # strides of both signs
    strides = tuple(s // 8 for s in x.strides)
    if not any(isinstance(p, (np.ndarray, bool)) for p in index):
        return  # a slice, which is a view
    try:
        expected = x[index]
    except IndexError:
        with pytest.raises(IndexError):
            read_index(index, shape, strides)
        return
    try:
        picked = read_index(index, shape, strides)
    except IndexError:
        assert expected.size == 0  # NumPy does not look where nothing is picked
        return
    assert picked.shape == expected.shape
    if expected.size:
        parts = []
        for axes in (picked.before, picked.after):
            grid = np.indices(axes.shape).reshape(axes.ndim, -1)
            parts.append(np.dot(axes.strides, grid))
        places = parts[0][:, None, None] + picked.table[:, None] + parts[1]
        first = x[(0,) * x.ndim]  # the places count from the element (0, 0, …)
        np.testing.assert_array_equal(first + places.reshape(expected.shape), expected)
