"""The kernels of a `.cu` file and their parameters, read from the source itself."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

# The C types of an element, and the NumPy types of an array that a pointer to it takes. NumPy has
# no bfloat16: those are kernels.array.BFLOAT16, or their bits as uint16. `unsigned short` is for
# kernels that only move elements of two bytes, whatever these mean.
POINTERS = {
    "float": ("float32",), "double": ("float64",), "int": ("int32",), "unsigned": ("uint32",),
    "long long": ("int64",), "unsigned long long": ("uint64",),
    "unsigned char": ("bool", "uint8"), "__half": ("float16", "uint16"),
    "__nv_bfloat16": ("bfloat16", "uint16"), "unsigned short": ("uint16", "float16", "bfloat16"),
}
# The C types of a value, and how the module `struct` packs it. Dims and Table are in common.cuh.
VALUES = {"float": "f", "double": "d", "int": "i", "unsigned": "I", "long long": "q",
          "unsigned long long": "Q", "Dims": "8q", "Table": "64q"}
SIZES = {"Dims": 8, "Table": 64}            # how many numbers these two have room for

_SAME = {"unsigned int": "unsigned", "long long int": "long long", "half": "__half",
         "unsigned long long int": "unsigned long long", "nv_bfloat16": "__nv_bfloat16"}
_COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_KERNEL = re.compile(
    r'(?P<extern>extern\s+"C"\s+)?__global__\s+void\s+'
    r"(?:__launch_bounds__\s*\(\s*(?P<threads>\d+)[^)]*\)\s*)?"
    r"(?:SINCE_SM\s*\(\s*(?P<since>\d+)\s*\)\s*)?"
    r"(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)"
)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: `type` is the C type of the value or of what it points to.

    optional: a pointer that may be null, which the source says by OPTIONAL (common.cuh).
    """

    name: str
    type: str
    pointer: bool
    optional: bool = False

    @property
    def format(self) -> str:
        """How `struct` packs it."""
        return "P" if self.pointer else VALUES[self.type]

    def __str__(self) -> str:
        return f"{self.type}{'*' if self.pointer else ''} {self.name}"


Signatures = dict[str, tuple[Parameter, ...]]      # {kernel name: its parameters}


def packing(parameters: tuple[Parameter, ...]) -> tuple[struct.Struct, list[int]]:
    """How arguments are packed, as a C struct would be, and the place of each in bytes."""
    formats = [parameter.format for parameter in parameters]
    # "0q" adds no value, but the gap that a q would need in front of it.
    places = [struct.calcsize("".join(formats[:i]) + "0" + f[-1]) for i, f in enumerate(formats)]
    return struct.Struct("".join(formats)), places


def without_comments(source: str) -> str:
    """The source with each comment made blank; line numbers stay."""
    return _COMMENTS.sub(lambda match: " " + "\n" * match[0].count("\n"), source)


def read_signatures(source: str, file: str) -> Signatures:
    """{kernel name: its parameters} of CUDA source; `file` is for messages.

    Raises ValueError for a kernel that is not `extern "C"`, one declared twice, or a parameter
    whose type is in neither POINTERS nor VALUES.
    """
    signatures: Signatures = {}
    for match in _KERNEL.finditer(without_comments(source)):
        name = match["name"]
        if not match["extern"]:
            raise ValueError(f'{file}: declare the kernel {name} extern "C" __global__ void')
        if name in signatures:
            raise ValueError(f"{file}: the kernel {name} is there twice")
        texts = [text.strip() for text in match["parameters"].split(",")]
        signatures[name] = tuple(_parameter(t, f"{file}: {name}") for t in texts if t)
    return signatures


def read_launch_bounds(source: str) -> dict[str, int]:
    """{kernel name: threads of its largest block}, of those that say it by __launch_bounds__(N)."""
    return {match["name"]: int(match["threads"])
            for match in _KERNEL.finditer(without_comments(source)) if match["threads"]}


def read_architectures(source: str) -> dict[str, int]:
    """{kernel name: the oldest architecture with code for it, such as 80}, of those that say it by
    SINCE_SM(80) (common.cuh).
    """
    return {match["name"]: int(match["since"])
            for match in _KERNEL.finditer(without_comments(source)) if match["since"]}


def _parameter(text: str, where: str) -> Parameter:
    words = re.sub(r"\b(const|__restrict__|__grid_constant__|OPTIONAL)\b|\*", " ", text).split()
    optional = bool(re.search(r"\*.*\bOPTIONAL\b", text))
    pointer, c_type = text.count("*") == 1, " ".join(words[:-1])
    c_type = _SAME.get(c_type, c_type)
    allowed = POINTERS if pointer else VALUES
    if c_type not in allowed or text.count("*") > 1:
        raise ValueError(
            f"{where}: cannot pass the parameter '{text}': use one of {', '.join(VALUES)}, or a "
            f"pointer to one of {', '.join(POINTERS)}"
        )
    return Parameter(words[-1], c_type, pointer, optional)
