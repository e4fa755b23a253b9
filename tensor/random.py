"""Random numbers from a counter: Philox4x64-10 (Salmon et al. 2011), as `numpy.random.Philox`
computes it.

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


def random_bits(seed: int, draw: int, start: int, count: int) -> np.ndarray:
    """32 random bits for each of the elements start, …, start + count - 1 of a draw: uint32
    (count,).

    Element i takes half a word of the Philox block with key (seed, 0) and counter (i // 8 + 1,
    draw, 0, 0): NumPy steps the counter before it computes a block, hence the 1. The low half of a
    word comes first.
    """
    first = start // _PER_COUNTER
    philox = np.random.Philox(key=[seed, 0], counter=[first, draw, 0, 0])
    words = (start + count + _PER_COUNTER - 1) // _PER_COUNTER * 4 - first * 4
    bits = philox.random_raw(words).astype("<u8", copy=False).view("<u4")
    return bits[start - first * _PER_COUNTER :][:count]


def keep_mask(mask: DropoutMask, start: int, count: int) -> np.ndarray:
    """Which of the elements start, …, start + count - 1 a dropout keeps: bool (count,)."""
    return random_bits(mask.seed, mask.draw, start, count) >= np.uint32(round(mask.p * 2**32))


class Generator:
    """A seed and the number of draws made from it."""

    def __init__(self, seed: int) -> None:
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> None:
        """Start anew. 0 <= seed < 2^64, else ValueError."""
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed {seed} is outside 0 … 2^64 - 1")
        self.seed = int(seed)
        self.draws = 0

    def next_draw(self) -> int:
        """The number of a fresh draw."""
        self.draws += 1
        return self.draws - 1

    def numpy(self) -> np.random.Generator:
        """A NumPy generator for one draw, for distributions on the host."""
        return np.random.Generator(
            np.random.Philox(key=[self.seed, 0], counter=[0, self.next_draw(), 0, 0])
        )

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
        """Go on from where `get_state` was called."""
        self.manual_seed(state["seed"])
        self.draws = int(state["draws"])


_default = Generator(0)


def default_generator() -> Generator:
    """The generator that modules use: initial weights, dropout."""
    return _default


def manual_seed(seed: int) -> None:
    """Seed the default generator."""
    _default.manual_seed(seed)
