"""What a cubin says of its kernels: where each parameter lies, registers, shared memory.

A cubin is an ELF file (64 bits, little-endian). Its section `.nv.info.NAME` is a list of records:
a byte for the form, a byte for the attribute, two bytes of value; in form 4 these are the length of
what follows. Attribute 0x17 has a parameter's number, offset and size, 0x19 the size of all, 0x05
the threads that __launch_bounds__ allows a block. Attribute 0x2f, in the section `.nv.info` of the
file, has the registers of the kernel of a symbol.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

KPARAM_INFO, CBANK_PARAM_SIZE, REGCOUNT, MAX_THREADS = 0x17, 0x19, 0x2F, 0x05
FORM_WITH_BYTES = 4


@dataclass
class KernelFacts:
    """offsets and sizes of the parameters, in bytes; registers a thread; static shared bytes; the
    largest block that the source allows.
    """

    parameters: dict[int, tuple[int, int]] = field(default_factory=dict)
    parameter_bytes: int = 0
    registers: int = 0
    shared: int = 0
    max_threads: int = 1024


def sections(elf: bytes) -> dict[str, tuple[bytes, int, int]]:
    """{name: (content, size, number of the section it links to)}"""
    (start,) = struct.unpack_from("<Q", elf, 0x28)
    each, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, start + i * each) for i in range(count)]
    table = elf[headers[names][4]:][:headers[names][5]]
    return {text_at(table, h[0]): (b"" if h[1] == 8 else elf[h[4]:h[4] + h[5]], h[5], h[6])
            for h in headers}


def text_at(table: bytes, place: int) -> str:
    return table[place:table.index(b"\0", place)].decode()


def kernels(elf: bytes) -> dict[str, KernelFacts]:
    """{kernel name: its facts}."""
    parts = sections(elf)
    found = {name[9:]: KernelFacts() for name in parts if name.startswith(".nv.info.")}
    for name, facts in found.items():
        for attribute, value, content in records(parts[f".nv.info.{name}"][0]):
            if attribute == CBANK_PARAM_SIZE:
                facts.parameter_bytes = value
            elif attribute == KPARAM_INFO:
                _, number, offset, flags = struct.unpack("<IHHI", content)
                facts.parameters[number] = (offset, flags >> 18)
            elif attribute == MAX_THREADS:
                facts.max_threads = math.prod(struct.unpack("<III", content))
        facts.shared = parts.get(f".nv.shared.{name}", (b"", 0, 0))[1]
    symbols, texts = parts[".symtab"][0], parts[".strtab"][0]
    for attribute, _, content in records(parts[".nv.info"][0]):
        if attribute == REGCOUNT:
            symbol, registers = struct.unpack("<II", content)
            (place,) = struct.unpack_from("<I", symbols, 24 * symbol)
            if text_at(texts, place) in found:
                found[text_at(texts, place)].registers = registers
    return found


def records(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(attribute, value, the bytes that follow) of each record of a section."""
    place = 0
    while place < len(content):
        form, attribute, value = struct.unpack_from("<BBH", content, place)
        length = value if form == FORM_WITH_BYTES else 0
        yield attribute, value, content[place + 4:place + 4 + length]
        place += 4 + length


def elfs_in(fatbin: bytes) -> list[bytes]:
    """The cubins in an uncompressed fatbin."""
    starts, place = [], fatbin.find(b"\x7fELF")
    while place >= 0:
        starts.append(place)
        place = fatbin.find(b"\x7fELF", place + 4)
    return [fatbin[a:b] for a, b in zip(starts, [*starts[1:], len(fatbin)])]
