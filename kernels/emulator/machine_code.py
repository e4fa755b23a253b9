"""What a compiled kernel's machine code says: its lines, and the arithmetic in each run of it."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

# Operations on floating point numbers, each with what it counts for. The first two rows are those
# of x86-64 without the width (ss, sd), the third those of arm64.
ARITHMETIC = {"add": 1, "sub": 1, "mul": 1, "div": 1, "sqrt": 1,
              "vfmadd132": 2, "vfmadd213": 2, "vfmadd231": 2,
              "fadd": 1, "fsub": 1, "fmul": 1, "fdiv": 1, "fsqrt": 1, "fmadd": 2, "fmsub": 2}
# Functions that a GPU has as one or a few instructions, or a short program: one operation each.
FUNCTIONS = {"exp", "exp2", "exp10", "expm1", "log", "log2", "log10", "log1p", "pow", "sin", "cos",
             "tan", "tanh", "erf", "erfc", "sqrt", "cbrt", "emu_rsqrt"}
_INSTRUCTION = re.compile(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)")
_CALLED = re.compile(r"<(?:_Z\d+)?(\w+?)(?:@plt)?>")


def places(library: Path, addresses: list[int]) -> list[str]:
    """The `file:line` of each address in a library, of the source of ours nearest to it: where a
    function of the emulator was inlined, the line that calls it. "" where that is not known.
    """
    tool = shutil.which("addr2line")
    if not addresses or not tool:
        return [""] * len(addresses)
    run = subprocess.run([tool, "-a", "-i", "-e", str(library)], capture_output=True, text=True,
                         input="".join(f"{address:#x}\n" for address in addresses))
    found = [_nearest(lines.splitlines()[1:])
             for lines in re.split(r"^(?=0x)", run.stdout, flags=re.MULTILINE)[1:]]
    return found if len(found) == len(addresses) else [""] * len(addresses)


def _nearest(frames: list[str]) -> str:
    """Of the frames of an address, innermost first, the first one in a `.cu` or `.cuh` file."""
    for frame in frames:
        file, _, number = frame.split(" (")[0].rpartition(":")
        if Path(file).suffix in (".cu", ".cuh") and number.isdigit():
            return f"{Path(file).name}:{number}"
    return ""


@functools.cache
def arithmetic(library: Path) -> dict[int, int]:
    """{address: operations} of a counted library: of each run of instructions that begins with a
    call of the counter, by the address after this call, the floating point operations in it.

    Raises OSError where objdump is missing or fails.
    """
    tool = shutil.which("objdump")
    if not tool:
        raise FileNotFoundError("counting needs objdump and addr2line: install binutils (Debian, "
                                "Ubuntu: apt install binutils)")
    run = subprocess.run([tool, "-d", "--no-show-raw-insn", str(library)], capture_output=True,
                         text=True)
    if run.returncode:
        raise OSError(f"objdump {library}: {run.stderr.strip()}")
    runs: dict[int, int] = {}
    current, begins = None, False
    for match in map(_INSTRUCTION.match, run.stdout.splitlines()):
        if not match:
            continue
        address, name, operands = int(match[1], 16), match[2], match[3]
        if begins:
            current, begins = address, False
            runs[current] = 0
        if "__sanitizer_cov_trace_pc" in operands:
            begins = True
        elif name in ("ret", "jmp", "b"):
            current = None
        elif current is not None:
            runs[current] += _operations(name, operands)
    return runs


def _operations(name: str, operands: str) -> int:
    if name in ("call", "bl"):
        called = _CALLED.search(operands)
        function = called[1] if called else ""
        if function in ("fma", "fmaf"):
            return 2
        # A name with C++'s types after it, as emu_rsqrtff, or C's letter for float.
        return int(function.rstrip("fd") in {f.rstrip("fd") for f in FUNCTIONS})
    scalar = re.fullmatch(r"v?(add|sub|mul|div|sqrt|fmadd132|fmadd213|fmadd231)s[sd]", name)
    if scalar:
        return ARITHMETIC["v" + scalar[1] if scalar[1].startswith("fm") else scalar[1]]
    # Of arm64, where a vector's operation has a `v` register.
    return ARITHMETIC.get(name, 0) if name.startswith("f") and operands[:1] in "sd" else 0
