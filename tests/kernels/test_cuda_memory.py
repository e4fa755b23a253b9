"""The pool of GPU memory, on a driver of a few lines."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.cuda_memory import MemoryPool, block_size


class FullError(Exception):
    pass


def is_full(error):
    return isinstance(error, FullError)


class Driver:
    """`room` bytes of memory at addresses that are never used twice."""

    def __init__(self, room=10**12):
        self.room, self.sizes, self.calls = room, {}, 0
        self.addresses = itertools.count(256, 10**9)

    def allocate(self, nbytes):
        self.calls += 1
        if nbytes > self.room:
            raise FullError
        self.room -= nbytes
        address = next(self.addresses)
        self.sizes[address] = nbytes
        return address

    def free(self, address):
        self.room += self.sizes.pop(address)

    def pool(self, exact=False):
        return MemoryPool(self.allocate, self.free, is_full, exact)


@given(st.integers(0, 2**45))
def test_a_block_is_at_most_an_eighth_larger_and_aligned(nbytes):
    size = block_size(nbytes)
    assert size >= nbytes and size % 512 == 0
    assert size <= max(512, nbytes + nbytes // 8 + 512)
    assert block_size(size) == size             # so that a block serves its own size again


@given(st.integers(0, 2**45), st.integers(0, 2**45))
def test_a_larger_array_gets_no_smaller_block(a, b):
    assert block_size(min(a, b)) <= block_size(max(a, b))


def test_there_are_few_sizes():
    # A text that grows from 1 to 1024 tokens of 50257 logits asks for few different blocks.
    assert len({block_size(4 * 50257 * length) for length in range(1, 1025)}) <= 8 * 10 + 1


def test_what_is_given_back_is_used_again():
    driver = Driver()
    pool = driver.pool()
    first = pool.take(10_000)
    pool.give(first)
    assert pool.take(9_999) == first and driver.calls == 1
    assert pool.take(9_999) != first and driver.calls == 2
    assert (pool.bytes_in_use, pool.bytes_kept) == (2 * block_size(10_000), 0)


def test_two_arrays_never_share_memory():
    driver = Driver()
    pool = driver.pool()
    held = []
    for step in range(300):
        held.append(pool.take(step * 37 % 5000))
        if step % 3 == 2:
            pool.give(held.pop(step % len(held)))
        assert len(set(held)) == len(held)
    assert pool.bytes_in_use == sum(driver.sizes[address] for address in held)
    for address in held:
        pool.give(address)
    assert pool.bytes_in_use == 0 and pool.bytes_kept == sum(driver.sizes.values())
    pool.release()
    assert driver.sizes == {} and pool.bytes_kept == 0


def test_what_is_kept_makes_room_for_another_size():
    driver = Driver(room=100_000)
    pool = driver.pool()
    pool.give(pool.take(90_000))
    assert driver.room < 50_000
    pool.take(60_000)
    assert pool.bytes_kept == 0


def test_arrays_in_a_cycle_of_references_make_room():
    driver = Driver(room=100_000)
    pool = driver.pool()

    class Array:
        def __init__(self):
            self.address, self.me = pool.take(80_000), self

        def __del__(self):
            pool.give(self.address)

    Array()
    pool.take(80_000)


def test_no_room_is_a_memory_error_with_the_numbers():
    pool = Driver(room=10_000).pool()
    pool.take(4_000)
    with pytest.raises(MemoryError, match=r"no 123,456 bytes left.*process have 4,096 there"):
        pool.take(123_456)
    pool.take(4_000)                            # and goes on


def test_another_error_of_the_driver_is_passed_on():
    def broken(nbytes):
        raise RuntimeError("context is destroyed")

    with pytest.raises(RuntimeError, match="destroyed"):
        MemoryPool(broken, print, is_full).take(1)


def test_exact_keeps_nothing_and_asks_for_the_very_size():
    driver = Driver()
    pool = driver.pool(exact=True)
    address = pool.take(1001)
    assert driver.sizes == {address: 1001}
    pool.give(address)
    assert driver.sizes == {} and pool.bytes_kept == pool.bytes_in_use == 0
    assert driver.sizes[pool.take(0)] == 1      # the driver refuses 0 bytes
