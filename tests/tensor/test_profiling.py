"""tensor.profile(): what it counts, and that it changes nothing."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import tensor
from tensor import Tensor, nn, optim
from tensor.devices import get_backend
from tensor.ops.function import Function
from tests.kernels import devices


class Sleep(Function):
    """An operation whose cost is known: it takes 20 ms forward and 40 ms backward."""

    def forward(self, x):
        time.sleep(0.02)
        return x + 1

    def backward(self, dy):
        time.sleep(0.04)
        return dy


def test_calls_bytes_and_time_of_each_operation():
    x = Tensor(np.ones((10, 100), np.float32), requires_grad=True)
    with tensor.profile() as p:
        y = tensor.apply(Sleep, tensor.apply(Sleep, x)).sum()
        y.backward()
    forward, backward = p.rows["Sleep"], p.rows["Sleep.backward"]
    assert (forward.calls, backward.calls, p.rows["Sum"].calls) == (2, 2, 1)
    assert forward.bytes == backward.bytes == 2 * (4000 + 4000)  # an array in and one out, twice
    assert p.rows["Sum"].bytes == 4000 + 4
    # Sleeping takes no less than asked for; how much longer depends on the machine.
    assert forward.seconds >= 0.04
    assert backward.seconds >= 0.08
    assert p.seconds >= sum(row.seconds for row in p.rows.values())


def test_the_optimizer_is_in_it():
    layer = nn.Linear(3, 4)
    optimizer = optim.AdamW(layer.parameters())
    with tensor.profile() as p:
        layer(Tensor(np.ones((2, 3), np.float32))).sum().backward()
        optim.clip_grad_norm(layer.parameters(), 1.0)
        optimizer.step()
    assert p.rows["clip_grad_norm"].calls == 1
    assert p.rows["AdamW.step"].calls == 1  # a weight and a bias, in one group
    assert p.rows["AdamW.step"].bytes == 4 * 4 * (12 + 4)  # parameter, gradient and two averages


def test_nothing_is_recorded_outside_of_the_block_nor_from_another_thread():
    x = Tensor([1.0])
    with tensor.profile() as p:
        thread = threading.Thread(target=lambda: x * 2)
        thread.start()
        thread.join()
    x * 2  # noqa: B018
    assert p.rows == {}


def test_an_inner_block_takes_over_and_gives_back_even_after_an_error():
    x = Tensor([1.0])
    with tensor.profile() as outer:
        with pytest.raises(ZeroDivisionError), tensor.profile() as inner:
            x.exp()
            raise ZeroDivisionError
        x.log()
    assert list(inner.rows) == ["Exp"]
    assert list(outer.rows) == ["Log"]


def test_the_table_has_a_line_for_each_operation_most_expensive_first():
    x = Tensor(np.ones(1000, np.float32))
    with tensor.profile() as p:
        tensor.apply(Sleep, x + 1)
    lines = str(p).splitlines()
    assert [line.split()[0] for line in lines] == [
        "operation", "Sleep", "Add", "outside", "together",
    ]  # fmt: skip
    assert len({len(line) for line in lines[1:3]}) == 1  # columns line up
    assert "100.0%" in lines[-1]


def test_a_profile_of_nothing_prints():
    with tensor.profile() as p:
        pass
    assert "together" in str(p)


@pytest.mark.slow
def test_launches_on_a_device_are_counted():
    devices.needs_device()
    backend = get_backend(devices.NAME)
    x = Tensor(np.ones((4, 4), np.float32), requires_grad=True, device=devices.NAME)
    before = backend.launches
    with tensor.profile() as p:
        y = x.exp()
        (y * y + y + x).sum().backward()  # y's and x's gradients are sums of two and more
    assert (p.rows["Exp"].launches, p.rows["Mul"].launches, p.rows["Add"].launches) == (1, 1, 2)
    assert p.launches == backend.launches - before
    inside = sum(row.launches for row in p.rows.values())
    assert 0 < inside < p.launches
    lines = str(p).splitlines()
    assert [line.split()[-1] for line in lines[-2:]] == [str(p.launches - inside), str(p.launches)]
    assert lines[0].endswith("launches") and len({len(line) for line in lines}) == 1
