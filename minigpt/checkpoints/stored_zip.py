"""The directory of a zip file whose members are stored as they are, as torch writes them.

Nothing is unpacked, so there is nothing that could unfold into more than the file: a compressed
member is refused. (Format: PKWARE, APPNOTE.TXT, sections 4.3.6 to 4.3.16 and 4.5.3.)
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

MAX_DIRECTORY_BYTES = 1 << 22
"""GPT-2 XL's takes 70 kB."""

_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True)
class Member:
    """Where the bytes of a member are in the file, and their CRC-32."""

    start: int
    size: int
    crc: int


def read_members(f: BinaryIO, where: str) -> dict[str, Member]:
    """Every member of a zip file, by its name.

    ValueError, that begins with `where`, for damage; for members that are compressed or encrypted,
    reach beyond the file, overlap, or have the same name.
    """
    try:
        return _read_members(f)
    except _BadZipError as error:
        raise ValueError(f"{where}: {error}") from None


class _BadZipError(Exception):
    """What is wrong with the file."""


def _read_members(f: BinaryIO) -> dict[str, Member]:
    start, size = _find_directory(f)
    directory = _read(f, start, size)
    members: dict[str, Member] = {}
    taken: list[tuple[int, int, str]] = []  # from a member's header to its end
    position = 0
    while position < size:
        entry, name, header, position = _read_entry(directory, position)
        if name in members:
            raise _BadZipError(f"member {name!r:.80} occurs twice")
        first = _data_start(f, header, name, start)
        if first + entry.size > start:
            raise _BadZipError(f"member {name!r:.80} reaches beyond the members' part of the file")
        members[name] = Member(first, entry.size, entry.crc)
        taken.append((header, first + entry.size, name))
    taken.sort()
    for (_, end, name), (begin, _, other) in zip(taken, taken[1:]):
        if begin < end:
            raise _BadZipError(f"members {name!r:.80} and {other!r:.80} overlap")
    return members


def _find_directory(f: BinaryIO) -> tuple[int, int]:
    """Where the directory begins, and how long it is."""
    file_size = os.fstat(f.fileno()).st_size
    end_at = file_size - _END.size
    if end_at < 0:
        raise _BadZipError("too short for a zip file")
    signature, *_, size, start, comment = _END.unpack(_read(f, end_at, _END.size))
    if signature != b"PK\5\6" or comment:
        raise _BadZipError("the zip file's directory is missing: it was cut off, or something "
                           "follows it; get it again")  # fmt: skip
    locator_at = end_at - _LOCATOR.size
    if locator_at >= 0 and _read(f, locator_at, 4) == b"PK\6\7":
        _, _, end_64_at, _ = _LOCATOR.unpack(_read(f, locator_at, _LOCATOR.size))
        if end_64_at != locator_at - _END_64.size:
            raise _BadZipError("the end of the zip file's directory is not where it should be")
        signature, *_, size, start = _END_64.unpack(_read(f, end_64_at, _END_64.size))
        if signature != b"PK\6\6":
            raise _BadZipError("the end of the zip file's directory is damaged")
        end_at = end_64_at
    if start + size != end_at or size > MAX_DIRECTORY_BYTES:
        raise _BadZipError(f"the zip file's directory, {size} bytes from {start} on, does not end "
                           f"at {end_at}")  # fmt: skip
    return start, size


def _read_entry(directory: bytes, position: int) -> tuple[Member, str, int, int]:
    """An entry's member, without its place; name; place of its own header; where the next begins"""
    if position + _ENTRY.size > len(directory):
        raise _BadZipError("an entry of the zip file's directory is cut off")
    (signature, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size,
     _, _, _, header) = _ENTRY.unpack_from(directory, position)  # fmt: skip
    if signature != b"PK\1\2":
        raise _BadZipError("the zip file's directory is damaged")
    position += _ENTRY.size
    end = position + name_size + extra_size + comment_size
    if end > len(directory):
        raise _BadZipError("an entry of the zip file's directory is cut off")
    try:
        name = directory[position : position + name_size].decode("utf-8")
    except UnicodeDecodeError:
        raise _BadZipError("a member's name is not UTF-8") from None
    extra = directory[position + name_size : end - comment_size]
    size, packed, header = _with_64_bits(extra, [size, packed, header])
    if method or flags & 1 or packed != size:
        raise _BadZipError(f"member {name!r:.80} is compressed or encrypted, which torch.save never"
                           " does")  # fmt: skip
    return Member(0, size, crc), name, header, end


def _with_64_bits(extra: bytes, values: list[int]) -> list[int]:
    """Numbers that don't fit 32 bits stand in the extra field, in the same order."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        field = extra[position + 4 : position + 4 + size]
        position += 4 + size
        if kind == 1:
            for i, value in enumerate(values):
                if value == 0xFFFFFFFF:
                    if len(field) < 8:
                        raise _BadZipError("a member's size is missing")
                    values[i], field = int.from_bytes(field[:8], "little"), field[8:]
    return values


def _data_start(f: BinaryIO, header: int, name: str, limit: int) -> int:
    """Where a member's bytes begin: behind its own header, which must have the same name."""
    if header + _LOCAL.size > limit:
        raise _BadZipError(f"member {name!r:.80} reaches beyond the members' part of the file")
    signature, *_, name_size, extra_size = _LOCAL.unpack(_read(f, header, _LOCAL.size))
    start = header + _LOCAL.size
    if signature != b"PK\3\4" or _read(f, start, name_size) != name.encode():
        raise _BadZipError(f"the header of member {name!r:.80} is damaged")
    return start + name_size + extra_size


def _read(f: BinaryIO, start: int, size: int) -> bytes:
    f.seek(start)
    data = f.read(size)
    if len(data) < size:
        raise _BadZipError("the zip file ends too early")
    return data
