"""Philox4x64-10 beside a version written from the paper, and what generators promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensor import dropout, random
from tensor.backend import DropoutMask
from tensor.random import Generator, keep_mask, random_bits
from tensor.tensor import Tensor

MASK = 2**64 - 1


def philox4x64(counter: tuple[int, ...], key: tuple[int, ...], rounds: int = 10) -> tuple[int, ...]:
    """Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3, in integers.

    A round multiplies two of the four words by constants; the high halves are mixed with the other
    two words and the key, which a Weyl sequence changes from round to round.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(rounds):
        product0, product1 = x0 * 0xD2E7470EE14C6C93, x2 * 0xCA5A826395121157
        x0, x1, x2, x3 = (
            (product1 >> 64) ^ x1 ^ k0,
            product1 & MASK,
            (product0 >> 64) ^ x3 ^ k1,
            product0 & MASK,
        )
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return x0, x1, x2, x3


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
        ),
        (
            (MASK,) * 4,
            (MASK,) * 2,
            (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
        ),
        (
            (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
        ),
    ],
)
def test_the_slow_version_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """The known-answer vectors for philox4x64-10 of Random123 (kat_vectors)."""
    assert philox4x64(counter, key) == expected


def slow_bits(seed: int, draw: int, element: int) -> int:
    """What `random_bits` says it computes for one element."""
    word = philox4x64((element // 8 + 1, draw, 0, 0), (seed, 0))[element % 8 // 2]
    return word >> 32 if element % 2 else word & 0xFFFFFFFF


SEEDS = [0, 1, 1234, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("draw", [0, 1, 2**40, 2**63 + 1, 2**64 - 1])
def test_bits_are_philox(seed: int, draw: int) -> None:
    """Also for numbers that only unsigned 64-bit integers hold."""
    bits = random_bits(seed, draw, 0, 21)
    assert bits.dtype == np.uint32
    assert bits.tolist() == [slow_bits(seed, draw, i) for i in range(21)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, MASK), st.integers(0, MASK), st.integers(0, 2**40), st.integers(0, 30))
def test_bits_of_any_slice(seed: int, draw: int, start: int, count: int) -> None:
    expected = [slow_bits(seed, draw, i) for i in range(start, start + count)]
    assert random_bits(seed, draw, start, count).tolist() == expected


def test_a_slice_of_a_draw_is_that_part_of_the_whole() -> None:
    whole = random_bits(7, 3, 0, 1000)
    for start, count in [(0, 1), (1, 1), (7, 2), (8, 8), (9, 100), (999, 1), (500, 0)]:
        np.testing.assert_array_equal(random_bits(7, 3, start, count), whole[start:][:count])
    mask = DropoutMask(0.4, 7, 3)
    np.testing.assert_array_equal(keep_mask(mask, 13, 50), keep_mask(mask, 0, 1000)[13:63])


def test_dropout_drops_where_the_bits_are_below_p() -> None:
    for p in (0.0, 0.1, 0.5, 0.999, 1 - 2**-40):
        bits = np.array([slow_bits(3, 0, i) for i in range(500)])
        np.testing.assert_array_equal(keep_mask(DropoutMask(p, 3, 0), 0, 500), bits >= p * 2**32)
    y = dropout(Tensor(np.ones((5, 7))), 0.3, generator=Generator(11)).numpy()
    expected = [[slow_bits(11, 0, 7 * i + j) >= 0.3 * 2**32 for j in range(7)] for i in range(5)]
    np.testing.assert_array_equal(y != 0, expected)


def test_draws_seeds_and_generators_are_independent() -> None:
    streams = [random_bits(seed, draw, 0, 64).tobytes() for seed in range(8) for draw in range(8)]
    streams += [random_bits(seed, 0, 0, 64).tobytes() for seed in SEEDS[3:]]
    assert len(set(streams)) == len(streams)


def test_state_goes_on_where_it_was_saved() -> None:
    generator = Generator(2**64 - 1)
    generator.normal((3,))
    generator.dropout_mask(0.5)
    state = generator.get_state()
    assert state == {"seed": 2**64 - 1, "draws": 2}
    expected = [generator.normal((4,)), generator.uniform((4,)), generator.dropout_mask(0.5)]
    other = Generator(0)
    other.set_state(state)
    np.testing.assert_array_equal(other.normal((4,)), expected[0])
    np.testing.assert_array_equal(other.uniform((4,)), expected[1])
    assert other.dropout_mask(0.5) == expected[2]
    generator.manual_seed(2**64 - 1)
    assert generator.get_state() == {"seed": 2**64 - 1, "draws": 0}


def test_normal_and_uniform_numbers() -> None:
    generator = Generator(2**63)
    x = generator.normal((200, 500), mean=2.0, std=3.0)
    assert x.dtype == np.float32 and x.shape == (200, 500)
    assert abs(x.mean() - 2) < 5 * 3 / math.sqrt(x.size)
    assert abs(x.std() - 3) < 5 * 3 / math.sqrt(2 * x.size)
    u = generator.uniform((100_000,))
    assert u.dtype == np.float64 and 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * u.size)
    assert generator.draws == 2
    assert not np.array_equal(Generator(2**63).uniform((9,)), Generator(2**63 + 1).uniform((9,)))
    words = [slow_bits(5, 0, 2 * i) + (slow_bits(5, 0, 2 * i + 1) << 32) for i in range(8)]
    expected = [(word >> 11) * 2.0**-53 for word in words]
    assert Generator(5).uniform((8,)).tolist() == expected


def test_the_default_generator_is_seeded_by_manual_seed() -> None:
    before = random.default_generator().get_state()
    try:
        results = []
        for _ in range(2):
            random.manual_seed(42)
            results.append(dropout(Tensor(np.ones(100)), 0.5).tolist())
        assert results[0] == results[1]
        assert random.default_generator().get_state() == {"seed": 42, "draws": 1}
    finally:
        random.default_generator().set_state(before)


def test_unfit_seeds_and_states_are_refused_and_change_nothing() -> None:
    generator = Generator(3)
    generator.next_draw()
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=rf"seed {seed} is outside"):
            Generator(seed)
        with pytest.raises(ValueError, match="outside"):
            generator.manual_seed(seed)
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError, match="seed .* is not an integer"):
            Generator(wrong)  # type: ignore[arg-type]
    for state in ({}, {"seed": 1}, {"seed": 1, "draws": 0, "more": 1}):
        with pytest.raises(ValueError, match="seed and draws"):
            generator.set_state(state)
    with pytest.raises(ValueError, match="draws -1"):
        generator.set_state({"seed": 1, "draws": -1})
    with pytest.raises(TypeError, match="draws 0.5"):
        generator.set_state({"seed": 1, "draws": 0.5})  # type: ignore[dict-item]
    assert generator.get_state() == {"seed": 3, "draws": 1}
    generator.set_state({"seed": np.int64(1), "draws": np.uint64(2)})
    assert generator.get_state() == {"seed": 1, "draws": 2}
