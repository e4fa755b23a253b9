"""Random numbers from a counter: Philox4x64-10 (Salmon et al. 2011), as NumPy computes it.

A counter-based generator is a function from (key, counter) to random bits, with no hidden state. A
number depends on three things alone: the seed, the number of the draw (each use of a generator is
one draw), and the element's index in that draw. So a dropout's mask can be made again in the
backward pass, block by block, on any device, and the whole state of a generator is two integers
that fit a checkpoint.
"""

from __future__ import annotations

import numpy as np

from tensor.backend import DropoutMask

_PER_COUNTER = 8  # one Philox block of four 64-bit words serves eight elements, 32 bits each


def _philox(seed: int, block: int, draw: int) -> np.random.Philox:
    """NumPy's generator at a counter. Key and counter go in as uint64 arrays, because NumPy reads
    a list of small numbers and one from 2^63 on as float64, and loses the last digits.
    """
    key = np.array([seed, 0], np.uint64)
    counter = np.array([block, draw, 0, 0], np.uint64)
    return np.random.Philox(key=key, counter=counter)


def random_bits(seed: int, draw: int, start: int, count: int) -> np.ndarray:
    """32 random bits for each of `count` elements of a draw, from `start` on: uint32 (count,).

    Element i takes half a word of the Philox block with key (seed, 0) and counter (i // 8 + 1,
    draw, 0, 0): NumPy steps the counter before it computes a block, hence the 1. The low half of a
    word comes first.
    """
    first = start // _PER_COUNTER
    philox = _philox(seed, first, draw)
    words = (start + count + _PER_COUNTER - 1) // _PER_COUNTER * 4 - first * 4
    bits = philox.random_raw(words).astype("<u8", copy=False).view("<u4")
    return bits[start - first * _PER_COUNTER :][:count]


def threshold(p: float) -> int:
    """An element is dropped where its 32 bits are below this: with probability p."""
    return min(round(p * 2**32), 2**32 - 1)


def keep_mask(mask: DropoutMask, start: int, count: int) -> np.ndarray:
    """Which of the elements start, …, start + count - 1 a dropout keeps: bool (count,)."""
    return random_bits(mask.seed, mask.draw, start, count) >= np.uint32(threshold(mask.p))


class Generator:
    """A seed and the number of draws made from it."""

    def __init__(self, seed: int) -> None:
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> None:
        """Start anew. 0 <= seed < 2^64, else ValueError; TypeError for what is not an integer."""
        self.set_state({"seed": seed, "draws": 0})

    def next_draw(self) -> int:
        """The number of a fresh draw."""
        self.draws += 1
        return self.draws - 1

    def numpy(self) -> np.random.Generator:
        """A NumPy generator for one draw, for distributions on the host."""
        return np.random.Generator(_philox(self.seed, 0, self.next_draw()))

    def dropout_mask(self, p: float) -> DropoutMask:
        """A fresh mask that drops each element with probability p."""
        return DropoutMask(p, self.seed, self.next_draw())

    def normal(self, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        """Normal numbers, float32."""
        values = self.numpy().standard_normal(shape, dtype=np.float32)
        values *= np.float32(std)
        values += np.float32(mean)
        return values

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform numbers in [0, 1), float64."""
        return self.numpy().random(shape)

    def get_state(self) -> dict[str, int]:
        """What `set_state` needs to go on from here."""
        return {"seed": self.seed, "draws": self.draws}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on from where `get_state` was called. Nothing changes where the state is unfit: a
        ValueError for another pair of names or numbers outside 0 … 2^64 - 1.
        """
        if set(state) != {"seed", "draws"}:
            raise ValueError(f"a generator's state is its seed and draws, not {sorted(state)}")
        for name, number in state.items():
            if not isinstance(number, (int, np.integer)):
                raise TypeError(f"{name} {number!r} is not an integer")
            if not 0 <= number < 2**64:
                raise ValueError(f"{name} {number} is outside 0 … 2^64 - 1")
        self.seed, self.draws = int(state["seed"]), int(state["draws"])


_default = Generator(0)


def default_generator() -> Generator:
    """The generator that modules use: initial weights, dropout."""
    return _default


def manual_seed(seed: int) -> None:
    """Seed the default generator."""
    _default.manual_seed(seed)
