"""Where the rows of a batch come from: at random, or each once an epoch; always from counters.

There is no state to save: what a run draws at its step 700 is a function of its seed, and a run
that is resumed there draws the batches it would have drawn uninterrupted.
"""

import numpy as np

TRAINING_STREAM, VALIDATION_STREAM = 1, 2
"""Which of a seed's random streams batches come from; 0 is the one of `tensor.random` (dropout)."""

ORDERS = ("random", "epochs", "sequential")

_ROUNDS = 6


def _philox(seed: int, stream: int, counter: tuple[int, int, int, int]) -> np.random.Philox:
    """Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    # As uint64 arrays: NumPy reads a list of small numbers and one from 2^63 on as float64.
    return np.random.Philox(key=np.array([seed, stream], np.uint64),
                            counter=np.array(counter, np.uint64))  # fmt: skip


def random_places(
    count: int, size: int, *, seed: int, step: int, micro_batch: int = 0,
    stream: int = TRAINING_STREAM,
) -> np.ndarray:  # fmt: skip
    """``size`` independent places in [0, count): int64 (size,)."""
    bits = _philox(seed, stream, (0, 0, micro_batch, step))
    # A remainder of 64 random bits favours no place by more than count / 2**64.
    return (bits.random_raw(size) % np.uint64(count)).astype(np.int64)


def shuffled_places(
    count: int, rows: np.ndarray, *, seed: int, stream: int = TRAINING_STREAM
) -> np.ndarray:
    """The places in [0, count) of the rows number ``rows`` (int64, counted from 0) of an endless
    series of epochs, each of which has every place once, in an order of its own: int64 (rows,).

    No order is kept in memory, however large ``count``: a place is computed from its row by a
    Feistel network, which permutes the next power of four, applied again where it leads outside
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 4).
    """
    epochs, index = np.divmod(rows, count)
    places = np.empty_like(index)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        keys = _philox(seed, stream, (0, 1, 0, int(epoch))).random_raw(_ROUNDS)
        places[here] = _permuted(index[here].astype(np.uint64), count, keys)
    return places


def _permuted(index: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))  # bits
    places = _feistel(index, half, keys)
    while (outside := places >= count).any():
        places[outside] = _feistel(places[outside], half, keys)
    return places.astype(np.int64)


def _feistel(numbers: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (mixed(right ^ key) & mask)
    return left << half | right


def mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014): each bit depends on all bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def epoch_offset(largest: int, epoch: int, *, seed: int, stream: int = TRAINING_STREAM) -> int:
    """By how many tokens the windows of an epoch are shifted: in [0, largest]."""
    return int(_philox(seed, stream, (0, 2, 0, epoch)).random_raw()) % (largest + 1)
