"""Recorded steps: a replay gives the bits of the step itself, and what cannot be replayed is told.

The step here is small, but has all that a recording has to care for: arrays that come and go, one
that is copied from the host, one that is changed in place, a copy, and a number that changes.
"""

import gc

import numpy as np
import pytest

from kernels.launch import load
from kernels.recording import Changing, Recording, RecordingError
from tests.kernels import devices

pytestmark = pytest.mark.slow
N = 1000


@pytest.fixture
def device():
    devices.needs_device()
    return devices.device()


class Step:
    """y = dropout(3 * 3 * x - 3 * x + 1), by draw number `draw`; total += y."""

    def __init__(self, device, order=None):
        self.device, self.order = device, order
        self.x = device.from_numpy(devices.normal(0, (N,))[0])
        self.total = device.from_numpy(np.zeros(N, np.float32))

    def axpy(self, a, x, y):
        load("probe.cu", self.device)["probe_axpy"](a, x, y, N, grid=8, block=128, order=self.order)

    def triple(self, x):
        y = self.device.empty(N)
        self.device.copy(y, x)
        self.axpy(2.0, x, y)
        return y

    def __call__(self, draw):
        y = self.triple(self.triple(self.x))        # the memory of the inner result is used again
        self.axpy(-1.0, self.triple(self.x), y)
        ones = self.device.from_numpy(np.ones(N, np.float32))       # but not by a constant
        self.axpy(1.0, ones, y)
        dropped = self.device.empty(N)
        load("dropout.cu", self.device)["dropout_eight"](
            y, dropped, N, 5, draw, 2**31, 2.0, grid=2, block=64, order=self.order)
        self.axpy(1.0, dropped, self.total)
        return dropped


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("order", devices.ORDERS)
def test_a_replay_gives_the_same_bits(device, order, checked):
    device = devices.device(checked)
    plain, recorded = Step(device, order), Step(device, order)
    recording = Recording(device)
    for draw in (3, 7, 8, 2**40):
        expected = plain(draw).numpy()
        if recording.is_ready:
            recorded.x = None                       # the recording keeps what it needs
            recording.replay(draw=draw)
        else:
            with recording.take(draw=draw):
                result = recorded(Changing(draw, "draw"))
        np.testing.assert_array_equal(result.numpy(), expected)
        np.testing.assert_array_equal(recorded.total.numpy(), plain.total.numpy())
    kept = expected[expected != 0]
    exact = 6 * plain.x.numpy().astype(np.float64) + 1
    np.testing.assert_allclose(kept, 2 * exact[expected != 0], rtol=1e-5)
    assert 0.3 < kept.size / N < 0.7


def test_a_replay_is_one_launch_of_the_host(device):
    step, recording = Step(device), Recording(device)
    counts = []
    for _ in range(4):
        device.launches = 0
        if recording.is_ready:
            recording.replay()
        else:
            with recording.take():
                step(1)
        counts.append(device.launches)
    assert counts == [7, 7, 1, 1] and recording.launches == 7


def test_memory_is_used_again_inside_of_a_step_and_by_nobody_else(device):
    step, recording = Step(device), Recording(device)
    for _ in range(2):
        with recording.take():
            result = step(1)
    # y; and one place for the inner triple, then the last one, then the result
    assert recording.memory.nbytes == 2 * 4 * N and recording.constants.nbytes == 4 * N
    own = {*recording.memory._sizes, *recording.constants._sizes}
    assert not own & {device.empty(N).pointer for _ in range(20)}
    before = result.numpy()
    others = [device.from_numpy(np.zeros(N, np.float32)) for _ in range(20)]
    recording.replay()
    assert (result.numpy() == before).all() and not any(x.numpy().any() for x in others)


def test_memory_is_given_back_when_nobody_refers_to_it(device, monkeypatch):
    freed = []
    free = device.free
    monkeypatch.setattr(device, "free", lambda pointer: (freed.append(pointer), free(pointer)))
    step, recording = Step(device), Recording(device)
    with recording.take():
        result = step(1)
    own = set(recording.memory._sizes)
    expected = result.numpy()
    del recording
    gc.collect()
    assert not own & set(freed) and (result.numpy() == expected).all()  # the result still needs it
    del result
    gc.collect()
    assert own <= set(freed)


def fails(words, device, first, second, counters=({}, {})):
    recording = Recording(device)
    with recording.take(**counters[0]):
        first()
    with pytest.raises(RecordingError, match=words), recording.take(**counters[1]):
        second()
    with pytest.raises(RecordingError, match="has failed"):
        recording.replay()
    assert device.recording is None


def test_a_change_without_a_mark_is_found(device):
    step = Step(device)
    fails(r"number 10 it launches dropout_eight with 'unsigned long long draw' 4 where a replay "
          r"would have 3", device, lambda: step(3), lambda: step(4))
    axpy, other = (lambda a: lambda: step.axpy(a, step.x, step.total)), device.empty(N)
    fails(r"probe_axpy with 'float a' 2\.5 where", device, axpy(1.0), axpy(2.5))
    fails(r"probe_axpy with 'float\* x'", device, axpy(1.0), lambda: step.axpy(1.0, other, other))


def test_a_mark_that_moves_otherwise_than_its_counter_is_found(device):
    step = Step(device)
    fails("'unsigned long long draw' 9 where a replay would have 4", device,
          lambda: step(Changing(3, "draw")), lambda: step(Changing(9, "draw")),
          ({"draw": 10}, {"draw": 11}))


def test_other_launches_are_found(device):
    step = Step(device)
    kernel = load("probe.cu", device)["probe_axpy"]

    def launch(**how):
        return lambda: kernel(1.0, step.x, step.total, N, **{"grid": 8, "block": 128, **how})
    fails(r"grid \(9, 1, 1\) where it had \(8, 1, 1\)", device, launch(), launch(grid=9))
    fails(r"block \(256, 1, 1\)", device, launch(), launch(block=256))
    fails("shared 64 where it had 0", device, launch(), launch(shared=64))
    fails("it has 0 launches and copies, and had 1", device, launch(), lambda: None)
    fails("makes a Copy where it launched probe_axpy", device, launch(),
          lambda: device.copy(step.total, step.x))
    fails("makes a copy", device, lambda: device.copy(step.total, step.x),
          lambda: device.copy(step.x, step.total))
    fails("number 1 has 8 bytes, and had 4", device, lambda: device.empty(1),
          lambda: device.empty(2))
    fails("more arrays: one of 4 bytes after the 0", device, lambda: None, lambda: device.empty(1))


def test_arrays_from_the_host_are_constants(device):
    def step(host):
        return lambda: device.from_numpy(np.array(host, np.float32))
    fails(r"copies another array from the host, float32 \(2,\)", device, step([1, 2]), step([1, 3]))

    other = Step(device)

    def overwrite():
        x = device.from_numpy(np.ones(N, np.float32))
        other.axpy(1.0, other.x, x)
    fails("the step changes an array that it copies from the host", device, overwrite, overwrite)
    with pytest.raises(RecordingError, match="overwrites an array from the host, float32"):
        with Recording(device).take():
            device.write(other.x, np.ones(N, np.float32))


def test_a_copy_to_the_host_is_refused(device):
    step, recording = Step(device), Recording(device)
    with pytest.raises(RecordingError, match=r"copies an array to the host, float32 \(1000,\), "
                                             "after 7 launches, of which the last is probe_axpy"):
        with recording.take():
            step(1).numpy()
    assert device.recording is None
    assert step.total.numpy().any()


def test_what_a_recording_cannot_do(device):
    recording = Recording(device)
    with pytest.raises(RecordingError, match="replayed after two takes"):
        recording.replay()
    with pytest.raises(RecordingError, match="do not nest"):
        with recording.take(), Recording(device).take():
            pass
    recording = Recording(device)
    for draw in (1, 2):
        with recording.take(draw=draw):
            pass
    with pytest.raises(TypeError, match=r"counters of this recording are \['draw'\], not "
                                        r"\['length'\]"):
        recording.replay(length=3)
