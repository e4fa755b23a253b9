"""Views of a DeviceArray against NumPy's, on a device that is a piece of the host's memory."""

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.interface import Device


class HostDevice(Device):
    """Memory and copies alone."""

    def __init__(self):
        super().__init__("host", False)
        self.held = {}

    def allocate(self, nbytes):
        memory = np.empty(max(nbytes, 1), np.uint8)
        self.held[memory.ctypes.data] = memory
        return memory.ctypes.data

    def free(self, pointer):
        del self.held[pointer]

    def _write(self, pointer, host):
        ctypes.memmove(pointer, host.ctypes.data, host.nbytes)

    def _read(self, host, pointer):
        ctypes.memmove(host.ctypes.data, pointer, host.nbytes)

    def copy_bytes(self, to, source, nbytes):
        ctypes.memmove(to, source, nbytes)

    def synchronize(self):
        pass

    def compile(self, path, signatures):
        raise NotImplementedError

    def launch(self, *arguments):
        raise NotImplementedError


ENDS = st.none() | st.integers(-5, 5)


@st.composite
def views(draw):
    """The same random view, made by NumPy and by us."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    theirs = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    ours = HostDevice().from_numpy(theirs)
    for _ in range(draw(st.integers(0, 3))):
        how = draw(st.sampled_from(["permute", "expand", "slice"]))
        if how == "permute":
            axes = tuple(draw(st.permutations(range(theirs.ndim))))
            theirs, ours = theirs.transpose(axes), ours.permute(axes)
        elif how == "expand" and theirs.ndim < 5:
            shape = (2, *(3 if n == 1 else n for n in theirs.shape))
            theirs, ours = np.broadcast_to(theirs, shape), ours.expand(shape)
        else:
            index = tuple(
                draw(st.integers(-n, n - 1)) if n and draw(st.booleans())
                else slice(draw(ENDS), draw(ENDS), draw(st.sampled_from([None, 1, 2, -1, -2])))
                for n in theirs.shape)
            index = (*index[:1], None, *index[1:]) if draw(st.booleans()) else index
            cut = draw(st.integers(0, len(index)))
            index = (*index[:cut], ..., *index[cut:]) if draw(st.booleans()) else index
            # `...` keeps it an array where every index is an int.
            theirs = theirs[index if ... in index else (*index, ...)]
            ours = ours[index]
    return theirs, ours


@given(views())
def test_views_are_numpys(pair):
    theirs, ours = pair
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours.numpy(), theirs)
    if theirs.size:         # NumPy calls an axis of size 1 contiguous with any stride, as we do
        assert ours.is_contiguous == theirs.flags.c_contiguous


@given(views(), st.data())
def test_reshape_is_a_view_where_numpy_makes_one(pair, data):
    theirs, ours = pair
    factors = [n for size in theirs.shape for n in ([2, 2] if size == 4 else [size])]
    factors = [f for f in factors if f != 1]
    shape = []
    while factors:
        cut = data.draw(st.integers(1, len(factors)))
        shape.append(int(np.prod(factors[:cut])))
        factors = factors[cut:]
    shape = tuple(shape) + (1,) * data.draw(st.integers(0, 1))
    got, expected = ours.reshape(shape), theirs.reshape(shape)
    if got is None:
        assert not np.shares_memory(expected, theirs)
    else:
        np.testing.assert_array_equal(got.numpy(), expected)
        assert not theirs.size or np.shares_memory(expected, theirs)


def test_what_cannot_be_is_said():
    x = HostDevice().from_numpy(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"reshape: \(2, 3\) has 6 elements, \(4,\) 4"):
        x.reshape((4,))
    with pytest.raises(ValueError, match=r"permute: \(0, 0\) .*\(2, 3\)"):
        x.permute((0, 0))
    with pytest.raises(ValueError, match=r"expand: \(2, 3\) does not broadcast to \(4, 3\)"):
        x.expand((4, 3))
    with pytest.raises(IndexError, match="index 2 is outside axis 0, of size 2"):
        x[2]
    with pytest.raises(IndexError, match="too many"):
        x[0, 0, 0]
    with pytest.raises(TypeError, match="not list"):
        x[[0, 1]]
    with pytest.raises(TypeError, match="not True"):
        x[True]
    with pytest.raises(TypeError, match="not object"):
        HostDevice().from_numpy(np.array([None]))
    with pytest.raises(ValueError, match="negative"):
        HostDevice().empty((2, -1))


def test_memory_is_freed_with_the_last_view_and_transfers_are_counted():
    device = HostDevice()
    x = device.from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
    row = x[1]
    del x
    assert len(device.held) == 1
    np.testing.assert_array_equal(row[::-1].numpy(), [5, 4, 3])
    del row
    assert not device.held
    counts = device.transfers
    assert (counts.to_device, counts.to_device_bytes) == (1, 24)
    assert (counts.from_device, counts.from_device_bytes) == (1, 12)
    counts.reset()
    assert counts.to_device == counts.from_device_bytes == 0
