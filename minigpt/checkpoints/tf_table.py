"""The table in which TensorFlow keeps what it knows of a checkpoint: sorted keys and their values.

The format is LevelDB's (its doc/table_format.md), as TensorFlow's tensor bundle writes it:

    data blocks, an empty metaindex block, an index block of the data blocks, a footer of 48 bytes

A block is entries, each `shared, unshared, value_len` as varints, the key's last `unshared` bytes
(the first `shared` are the previous key's), and the value; then where keys start in full, and how
many such places there are. Behind it are a byte for the compression, and a masked CRC-32C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from minigpt.checkpoints.crc32c import crc32c, masked

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
MAX_BYTES = 1 << 22
MAX_ENTRIES = 20_000
MAX_KEY_BYTES = 500
"""GPT-2 XL's table has 20 kB, with 581 entries of at most 40 bytes."""

_TRAILER_BYTES = 5
_RESTART_EVERY = 16
_BLOCK_BYTES = 1 << 18  # TensorFlow's tables of checkpoints: one block, up to this size


class TableError(ValueError):
    """What is wrong with a table, without the file's name."""


# ---- reading ------------------------------------------------------------------------------------


def read_table(data: bytes, checksums: bool) -> dict[bytes, bytes]:
    """All entries of a table. TableError for damage, and for compressed tables."""
    if len(data) < FOOTER_BYTES or data[-8:] != MAGIC:
        raise TableError("this is no TensorFlow index, or it was cut off")
    footer = data[-FOOTER_BYTES:-8]
    metaindex, position = _read_handle(footer, 0)
    index, position = _read_handle(footer, position)
    if any(footer[position:]) or any(_entries(_block(data, metaindex, checksums))):
        raise TableError("the end of the index is damaged")
    table: dict[bytes, bytes] = {}
    last, end = None, 0
    for _, value in _entries(_block(data, index, checksums)):
        (start, size), _ = _read_handle(value, 0)
        if start < end:  # or one block could be read again and again
            raise TableError("the blocks of the index are not in order")
        end = start + size + _TRAILER_BYTES
        for key, entry in _entries(_block(data, (start, size), checksums)):
            if last is not None and key <= last:
                raise TableError(f"key {key!r:.80} of the index is not in order")
            if len(table) == MAX_ENTRIES:
                raise TableError(f"the index has more than {MAX_ENTRIES:,} entries")
            table[key] = entry
            last = key
    return table


def _block(data: bytes, handle: tuple[int, int], checksums: bool) -> bytes:
    """The contents of a block, checked."""
    start, size = handle
    end = start + size + _TRAILER_BYTES
    if end > len(data) - FOOTER_BYTES:
        raise TableError(f"a block of {size} bytes from {start} on reaches beyond the table")
    trailer = data[start + size : end]
    crc = int.from_bytes(trailer[1:], "little")
    if checksums and masked(crc32c(data[start : start + size + 1])) != crc:
        raise TableError("the index does not have the checksum that it should have")
    if trailer[0] == 1:
        raise TableError(
            "the index is compressed with Snappy, which this reader does not have; TensorFlow's "
            "own checkpoints are never compressed, so this file was written by something else"
        )
    if trailer[0]:
        raise TableError(f"the index is compressed in an unknown way, {trailer[0]}")
    return data[start : start + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise TableError("a block of the index is damaged: it has no list of its keys")
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        size, position = read_varint(block, position)
        if shared > len(key) or position + unshared + size > end:
            raise TableError("a block of the index is damaged: an entry reaches beyond it")
        if shared + unshared > MAX_KEY_BYTES:
            raise TableError(f"a block of the index has a key of more than {MAX_KEY_BYTES} bytes")
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + size]
        position += size


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Where a block is and its size; and the position behind them."""
    start, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (start, size), position


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and the position behind it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            raise TableError("a number in the index is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise TableError("a number in the index has more than 64 bits")


# ---- writing ------------------------------------------------------------------------------------


def write_table(entries: Mapping[bytes, bytes]) -> bytes:
    """A table as TensorFlow writes it, uncompressed."""
    table = bytearray()
    index: dict[bytes, bytes] = {}
    part: dict[bytes, bytes] = {}
    size = 0
    for key in sorted(entries):
        part[key] = entries[key]
        size += len(key) + len(entries[key])
        if size >= _BLOCK_BYTES:
            index[key] = _add_block(table, part)
            part, size = {}, 0
    if part or not index:
        # The last block's key in the index is the shortest one that comes after it.
        index[_successor(max(part, default=b""))] = _add_block(table, part)
    metaindex = _add_block(table, {})
    footer = metaindex + _add_block(table, index, restart_every=1)
    return bytes(table) + footer.ljust(FOOTER_BYTES - 8, b"\0") + MAGIC


def _successor(key: bytes) -> bytes:
    """The shortest key that is not before this one."""
    for i, byte in enumerate(key):
        if byte < 255:
            return key[:i] + bytes([byte + 1])
    return key


def _add_block(
    table: bytearray, entries: Mapping[bytes, bytes], restart_every: int = _RESTART_EVERY
) -> bytes:
    """Append a block to the table, and return where it is and its size."""
    block, restarts, last = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries.items()):
        shared = 0
        if number % restart_every == 0:
            if number:
                restarts.append(len(block))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        for count in (shared, len(key) - shared, len(value)):
            block += write_varint(count)
        block += key[shared:] + value
        last = key
    for count in (*restarts, len(restarts)):
        block += count.to_bytes(4, "little")
    handle = write_varint(len(table)) + write_varint(len(block))
    block.append(0)  # not compressed
    table += block + masked(crc32c(block)).to_bytes(4, "little")
    return handle


def write_varint(value: int) -> bytes:
    """A number, seven bits a byte, the lowest first."""
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)
