"""CRC-32C (Castagnoli), the checksum in OpenAI's files, in NumPy.

A checksum is the remainder of a polynomial division: bits are the coefficients, 0 or 1, addition is
xor, and the message times x^32 is divided by P, whose coefficients are 0x82F63B78 (the highest
power, x^31, is bit 0; x^32 is left out). The usual loop takes the message byte by byte. Here it is
folded in half: the left half, times x^(bits in the right half) modulo P, is added to the right one,
all 32-bit words at once, until one word is left. Multiplying a word by a constant is two look-ups,
one for each of its halves.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_BLOCK = (1 << 18) - 4  # bytes that are folded at a time: they and the tables stay in the cache


def crc32c(data: bytes | bytearray | memoryview | np.ndarray, crc: int = 0) -> int:
    """The CRC-32C of bytes, or with `crc`, that of what came before, of both together."""
    array = np.frombuffer(data, np.uint8)
    for start in range(0, len(array), _BLOCK):
        crc = _of_block(array[start : start + _BLOCK], crc)
    return crc


def masked(crc: int) -> int:
    """A CRC as OpenAI's files store it, so that the CRC of bytes with CRCs in them is sound."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _of_block(data: np.ndarray, crc: int) -> int:
    """data: uint8 (bytes,), at most _BLOCK."""
    # The message times x^32, plus what came before in front. Zeros before all of it, up to a power
    # of two, are zero coefficients of the highest powers: they change nothing.
    count = len(data) + 4
    levels = max(-(-count // 4) - 1, 0).bit_length()
    padded = np.zeros(4 << levels, np.uint8)
    message = padded[len(padded) - count :]
    message[:-4] = data
    message[:4] ^= np.frombuffer((crc ^ 0xFFFFFFFF).to_bytes(4, "little"), np.uint8)
    words = padded.view("<u4").astype(np.uint32, copy=False)  # (2^levels,)
    for level in reversed(range(levels)):
        left, right = words[: 1 << level], words[1 << level :]
        words = _shifted(left, level) ^ right
    return int(words[0]) ^ 0xFFFFFFFF


def _shifted(words: np.ndarray, level: int) -> np.ndarray:
    """Each word times x^(32 * 2^level), modulo P."""
    low, high = _tables(level)
    halves = words.view(np.uint16).reshape(-1, 2)  # (words, 2)
    if sys.byteorder == "big":
        halves = halves[:, ::-1]
    return low[halves[:, 0]] ^ high[halves[:, 1]]


@cache
def _tables(level: int) -> tuple[np.ndarray, np.ndarray]:
    """For each value of a word's low, and of its high 16 bits: its multiple x^(32 * 2^level)."""
    bits: np.ndarray = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if level == 0:
        for _ in range(32):  # times x: on to the next bit, and x^32 is P without it
            bits = bits >> 1 ^ (bits & 1) * np.uint32(POLYNOMIAL)
    else:
        bits = _shifted(_shifted(bits, level - 1), level - 1)
    tables = []
    for half in (bits[:16], bits[16:]):
        table = np.zeros(1, np.uint32)
        for bit in half:  # a sum has the sum of the multiples
            table = np.concatenate([table, table ^ bit])
        tables.append(table)
    return tables[0], tables[1]
